package probation_test

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/agent/launch"
	. "github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

const (
	instance = "agent-1/engine"
	group    = "chat"
	cluster  = "c1"
)

// world is one machine with a disk, a launcher and an engine, in virtual time. Decisions reach the
// launcher only through perform, so that a crash can come between any two steps.
type world struct {
	limits Limits
	s      State
	disk   []byte
	full   bool // the disk is full
	now    Instant

	engine    Engine
	committed Config
	pending   []Action
	finished  []Event // ends of actions, not yet delivered
	pids      int

	reply     Reply
	highest   Fence            // highest fence that was executed
	applied   map[Fence]int    // starts and hot applies of an (incarnation, epoch)
	promoted  map[uint64]bool  // by an accepted Promote
	confirmed map[uint64]bool  // by an accepted Confirm
	bodies    map[uint64]int32 // value of the one knob by epoch
	broken    error
}

func newWorld() *world {
	w := &world{
		limits: Limits{RestartEstimate: 10 * time.Second}, s: Fresh(instance, group),
		now:     Instant{Boot: time.Hour, BootID: "boot-0", Wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		applied: map[Fence]int{}, promoted: map[uint64]bool{0: true}, confirmed: map[uint64]bool{}, bodies: map[uint64]int32{},
	}
	w.spawn(Config{})
	w.feed(Boot{Now: w.now, Engine: w.status()})
	return w
}

func (w *world) failf(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format, args...)
	}
}

// spawn starts a process with a configuration.
func (w *world) spawn(c Config) {
	w.pids++
	w.engine = Engine{State: launch.Running, Epoch: c.Epoch, Fingerprint: c.Fingerprint(), PID: w.pids, StartedAt: w.now.Wall}
}

func (w *world) status() Engine {
	e := w.engine
	e.CommittedEpoch, e.CommittedFingerprint = w.committed.Epoch, w.committed.Fingerprint()
	return e
}

// feed is the driver: decide, journal, act.
func (w *world) feed(ev Event) (written bool) {
	next, acts := Next(w.limits, w.s, ev)
	w.reply = Reply{}
	if len(acts) > 0 && acts[0] == Action(Write{}) {
		acts = acts[1:]
		raw, err := Encode(next.Record)
		if err != nil {
			w.failf("encode: %w", err)
		}
		if w.full {
			err = errors.New("disk full")
		}
		if err != nil {
			if _, asked := ev.(Directed); asked {
				w.reply = Reply{Result: agentv1.AckResult_ACK_RESULT_REFUSED}
			} else if next.Phase != w.s.Phase {
				w.s, _ = Next(w.limits, w.s, Unwritten{Now: w.now, Err: err.Error()})
			}
			return false
		}
		w.disk = raw
	} else if !reflect.DeepEqual(next.Record, w.s.Record) {
		w.failf("%T changed the record without a Write", ev)
	}
	w.judgeStep(w.s, next, ev, acts)
	w.s = next
	for _, a := range acts {
		if r, ok := a.(Reply); ok {
			w.reply = r
			continue
		}
		w.pending = append(w.pending, a)
	}
	w.judge()
	return true
}

// judgeStep checks what may be said about one step.
func (w *world) judgeStep(before, after State, ev Event, acts []Action) {
	d, ok := ev.(Directed)
	if !ok || d.Directive.GetLease() != nil {
		return
	}
	for _, a := range acts {
		r, ok := a.(Reply)
		if !ok || r.Result != agentv1.AckResult_ACK_RESULT_ACCEPTED {
			continue
		}
		f := Fence{Incarnation: d.Directive.GetFence().GetIncarnation(), Index: d.Directive.GetFence().GetIndex()}
		if f.Compare(w.highest) <= 0 {
			w.failf("I9: fence %v executed after %v", f, w.highest)
		}
		w.highest = f
		if d.Directive.GetClusterId() != cluster || d.Directive.GetGroup() != group || d.Directive.GetInstanceId() != instance {
			w.failf("I9: a directive for somebody else was executed: %v", d.Directive)
		}
		if c := d.Directive.GetConfirm(); c != nil {
			w.confirmed[c.GetEpoch()] = true
			if before.Phase == Reverting || before.RevertAt != 0 {
				w.failf("I6: epoch %d confirmed while it was being taken back", c.GetEpoch())
			}
		}
		if p := d.Directive.GetPromote(); p != nil && (before.Phase == Confirmed || before.LKG.Epoch == p.GetEpoch()) {
			w.promoted[p.GetEpoch()] = true
		}
	}
}

// judge checks what must hold always.
func (w *world) judge() {
	s := w.s
	if !w.promoted[s.LKG.Epoch] {
		w.failf("I8: last known good is epoch %d, which was never promoted", s.LKG.Epoch)
	}
	if serving, _ := s.Serving(); serving && s.Phase != Idle && s.Phase != Probation && s.Phase != Confirmed {
		w.failf("I14: in rotation while %v", s.Phase)
	}
	if s.Drained && func() bool { ok, _ := s.Serving(); return ok }() {
		w.failf("I14: in rotation though drained")
	}
}

// perform carries out the oldest action; its end is delivered later, or never.
func (w *world) perform() {
	if len(w.pending) == 0 {
		return
	}
	a := w.pending[0]
	w.pending = w.pending[1:]
	switch a := a.(type) {
	case Start:
		w.count(a.Config, a.Restore)
		w.spawn(a.Config)
		w.finished = append(w.finished, Done{Gen: a.Gen})
	case Apply:
		w.count(a.To, a.Restore)
		w.finished = append(w.finished, Done{Gen: a.Gen})
	case Commit:
		if !w.promoted[a.Config.Epoch] && !w.confirmed[a.Config.Epoch] {
			w.failf("I8: epoch %d became a restart source without being confirmed", a.Config.Epoch)
		}
		w.committed = a.Config
		w.finished = append(w.finished, Committed{Config: a.Config})
	case FetchLog:
		w.finished = append(w.finished, Logged{Epoch: a.Epoch, Tail: "last words"})
	default:
		w.failf("unknown action %T", a)
	}
}

func (w *world) count(c Config, restore bool) {
	if restore {
		if c.Epoch != w.s.LKG.Epoch {
			w.failf("I8: restored epoch %d, last known good is %d", c.Epoch, w.s.LKG.Epoch)
		}
		return
	}
	id := Fence{Incarnation: 1, Index: c.Epoch}
	if w.applied[id]++; w.applied[id] > 1 {
		w.failf("I4: epoch %d applied %d times", c.Epoch, w.applied[id])
	}
}

// deliver hands the end of the oldest finished action to the machine.
func (w *world) deliver() {
	if len(w.finished) == 0 {
		return
	}
	ev := w.finished[0]
	switch e := ev.(type) {
	case Done:
		e.Now, e.Engine = w.now, w.status()
		ev = e
	case Committed:
		e.Now = w.now
		ev = e
	case Logged:
		e.Now = w.now
		ev = e
	}
	if w.feed(ev) {
		w.finished = w.finished[1:] // the driver tries again while the disk is full
	}
}

// crash kills the agent and starts it again.
func (w *world) crash() {
	w.pending, w.finished = nil, nil
	w.s = Fresh(instance, group)
	if w.disk != nil {
		r, err := Decode(w.disk)
		if err != nil {
			w.failf("journal after a crash: %w", err)
			return
		}
		w.s = Resume(r)
	}
	w.feed(Boot{Now: w.now, Engine: w.status()})
}

func (w *world) advance(d time.Duration) {
	w.now.Boot += d
	w.now.Wall = w.now.Wall.Add(d)
}

// reboot is a loss of power: the launcher starts what was committed.
func (w *world) reboot() {
	w.now.BootID = fmt.Sprintf("boot-%d", w.pids)
	w.now.Boot = time.Minute
	w.spawn(w.committed)
	w.crash()
}

func (w *world) tick() { w.feed(Tick{Now: w.now}) }

func (w *world) observe() { w.feed(Observed{Now: w.now, Gen: w.s.Watch.Gen, Engine: w.status()}) }

func (w *world) health(h Health) {
	w.feed(Probed{Now: w.now, Gen: w.s.Watch.Gen, Health: h, Detail: "asked"})
}

func (w *world) token(t Token) { w.feed(Tokened{Now: w.now, Gen: w.s.Watch.Gen, Token: t}) }

func (w *world) load(n int) { w.feed(Loaded{Now: w.now, Gen: w.s.Watch.Gen, InFlight: n}) }

// second lets a second pass in which all goes well.
func (w *world) second() {
	if !w.s.Watch.Booted {
		w.feed(Boot{Now: w.now, Engine: w.status()}) // the driver tries again while the disk is full
	}
	for range 2 {
		w.advance(500 * time.Millisecond)
		w.tick()
		for len(w.pending) > 0 {
			w.perform()
		}
		for range len(w.finished) {
			w.deliver()
		}
		w.observe()
		w.load(0)
		w.health(Healthy)
		w.token(TokenServed)
	}
}

// until lets time pass until the machine is in the phase.
func (w *world) until(p Phase) {
	for range 1000 {
		if w.s.Phase == p {
			return
		}
		w.second()
	}
	w.failf("never came to %v: %v, %s", p, w.s.Phase, w.s.Watch.Why)
}

// settle lets time pass, with all well and nobody giving orders, until every deadline is over.
func (w *world) settle() {
	w.full = false
	w.engine.State = launch.Running
	calm := 0
	for range 900 {
		if calm++; calm > 10 {
			return
		}
		w.second()
		if w.s.Phase != Idle && w.s.Phase != Confirmed || w.s.RevertAt != 0 {
			calm = 0
		}
	}
}

func directive(f Fence) *agentv1.Directive {
	return &agentv1.Directive{InstanceId: instance, Group: group, ClusterId: cluster, Fence: &agentv1.Fence{Incarnation: f.Incarnation, Index: f.Index}}
}

func at(index uint64) Fence { return Fence{Incarnation: 1, Index: index} }

func body(epoch uint64) *agentv1.Body {
	return &agentv1.Body{Engine: "vllm", Settings: map[string]string{"max_num_seqs": fmt.Sprint(epoch)}}
}

func offer(f Fence, epoch uint64) *agentv1.Directive {
	d := directive(f)
	b := body(epoch)
	d.Action = &agentv1.Directive_Offer{Offer: &agentv1.Offer{
		Epoch: epoch, Body: b, BodyHash: fleet.BodyHash(b), Slot: 1,
		ApplyBy: durationpb.New(2 * time.Minute), Probation: durationpb.New(2 * time.Minute), SlotDelay: durationpb.New(30 * time.Second),
	}}
	return d
}

func confirm(f Fence, epoch uint64) *agentv1.Directive {
	d := directive(f)
	d.Action = &agentv1.Directive_Confirm{Confirm: &agentv1.Confirm{Epoch: epoch}}
	return d
}

func promote(f Fence, epoch uint64) *agentv1.Directive {
	d := directive(f)
	d.Action = &agentv1.Directive_Promote{Promote: &agentv1.Promote{Epoch: epoch}}
	return d
}

func revert(f Fence, epoch uint64, slot uint32) *agentv1.Directive {
	d := directive(f)
	d.Action = &agentv1.Directive_Revert{Revert: &agentv1.Revert{Epoch: epoch, Reason: "slower than its controls", Slot: slot, SlotDelay: durationpb.New(20 * time.Second)}}
	return d
}

func lease(f Fence, epoch uint64) *agentv1.Directive {
	d := directive(f)
	d.Action = &agentv1.Directive_Lease{Lease: &agentv1.Lease{Epoch: epoch, Extend: durationpb.New(2 * time.Minute)}}
	return d
}

func drain(f Fence, drained bool) *agentv1.Directive {
	d := directive(f)
	d.Action = &agentv1.Directive_Drain{Drain: &agentv1.Drain{Drained: drained, Reason: "maintenance"}}
	return d
}

// direct hands over a directive and returns the answer.
func (w *world) direct(d *agentv1.Directive) agentv1.AckResult {
	w.feed(Directed{Now: w.now, Directive: d})
	return w.reply.Result
}
