package sim

import (
	"errors"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// limits of the probation machines, short enough for many changes in a run.
var limits = probation.Limits{RestartEstimate: restartMs * time.Millisecond, DrainLimit: 8 * time.Second}.WithDefaults()

// agent is a sidecar: the real probation machine, a journal, and hands that may be cut off between
// any two things they do.
type agent struct {
	w     *world
	group *group
	name  string
	id    string

	up   bool
	life int // raised by each crash: what an earlier life began is void
	s    probation.State
	disk []byte
	kept probation.Record // what the disk says
	full bool             // the disk is
	cut  bool             // from its node

	bootedAt int64 // the machine's
	boots    int
	engine   engine

	changes uint32
	shown   shown
	last    *agentv1.StateReport
	toldAt  int64
	reply   probation.Reply

	pending  []probation.Action
	acting   bool
	routed   bool // the router sends requests here
	inFlight int
	wellAt   int64 // when it came into rotation last
	lookAt   int64 // next look of a calm agent

	node seat
	mail []*agentv1.Directive // all directives ever sent to it
	seen truths
}

func newAgent(w *world, g *group, name string) *agent {
	a := &agent{w: w, group: g, name: name, id: name + "/vllm", bootedAt: w.now - 3_600_000, seen: newTruths()}
	a.engine.spawn(a, probation.Config{})
	a.engine.readyAt = w.now
	return a
}

func (a *agent) instant() probation.Instant {
	return probation.Instant{Boot: duration(a.w.now - a.bootedAt), BootID: bootIDs[a.boots%len(bootIDs)], Wall: time.UnixMilli(a.w.now).UTC()}
}

var bootIDs = []string{"boot-0", "boot-1", "boot-2", "boot-3", "boot-4", "boot-5", "boot-6", "boot-7", "boot-8", "boot-9"}

// boot starts the agent's process.
func (a *agent) boot() {
	a.up, a.pending, a.acting, a.changes = true, nil, false, 0
	a.s = probation.Fresh(a.id, a.group.name)
	if a.disk != nil {
		r, err := probation.Decode(a.disk)
		if err != nil {
			a.w.broke("sim", "%s: journal after a crash: %v", a.id, err)
			return
		}
		a.s = probation.Resume(r)
	}
	full := a.full
	a.full = false // the reserve of the journal is for the count of starts
	a.store(a.s.Record)
	a.full = full
	a.publish()
	a.feed(probation.Boot{Now: a.instant(), Engine: a.engine.status()})
}

// crash ends the agent's process; the engine goes on.
func (a *agent) crash() {
	if !a.up {
		return
	}
	a.w.say("%s: agent crashes while %s", a.id, phase(a.s.Phase))
	a.up, a.life = false, a.life+1
	a.w.after(a.w.between(100, 1000), func() {
		if !a.up {
			a.w.detach(a)
		}
	})
	pause := a.w.between(100, 3000)
	if a.w.chance(0.2) {
		pause = a.w.between(3000, 30_000)
	}
	a.w.after(pause, a.restart)
}

func (a *agent) restart() {
	if a.up {
		return
	}
	a.w.detach(a)
	a.boot()
	a.w.say("%s: agent is back, %s", a.id, phase(a.s.Phase))
	a.w.after(a.w.between(50, 1000), func() { a.w.attach(a) })
}

// store journals a record.
func (a *agent) store(r probation.Record) error {
	if a.full {
		return errors.New("the disk is full")
	}
	raw, err := probation.Encode(r)
	if err != nil {
		a.w.broke("sim", "%s: encode: %v", a.id, err)
		return err
	}
	a.disk, a.kept = raw, r
	return nil
}

// feed decides on one event, journals, publishes and leaves actions to act. false: the journal could
// not be written, and nothing happened.
func (a *agent) feed(ev probation.Event) bool {
	if a.w.failure != nil {
		return false
	}
	next, acts := probation.Next(limits, a.s, ev)
	a.reply = probation.Reply{}
	if len(acts) > 0 && acts[0] == (probation.Write{}) {
		acts = acts[1:]
		if a.w.chance(0.004) {
			a.crash() // before the record is on disk
			return false
		}
		if err := a.store(next.Record); err != nil {
			a.unwritten(ev, err, next.Phase != a.s.Phase)
			return false
		}
	}
	old := a.s
	a.s = next
	if old.Phase != next.Phase {
		a.told(old, next)
	}
	a.checkStep(old, ev, acts)
	a.publish()
	for _, act := range acts {
		if r, ok := act.(probation.Reply); ok {
			a.reply = r
		} else {
			a.pending = append(a.pending, act)
		}
	}
	if old.Phase != next.Phase && a.w.chance(0.02) {
		a.crash() // the record is on disk, nothing was done about it
		return true
	}
	a.act()
	return true
}

func (a *agent) told(old, next probation.State) {
	if next.Phase == probation.Reverting {
		a.w.stats.Reverts++
		a.w.say("%s: %s → %s, epoch %d: %s", a.id, phase(old.Phase), phase(next.Phase), next.Current.Epoch, next.Failed.Reason)
		return
	}
	a.w.say("%s: %s → %s, epoch %d, last-known-good %d", a.id, phase(old.Phase), phase(next.Phase), next.Running().Epoch, next.LKG.Epoch)
}

func (a *agent) unwritten(ev probation.Event, err error, moved bool) {
	if _, asked := ev.(probation.Directed); asked {
		a.reply = probation.Reply{Result: agentv1.AckResult_ACK_RESULT_REFUSED, Detail: err.Error()}
		return
	}
	if moved {
		a.s, _ = probation.Next(limits, a.s, probation.Unwritten{Now: a.instant(), Err: err.Error()})
		a.publish()
	}
}

// directed hands a directive over and returns the answer.
func (a *agent) directed(d *agentv1.Directive) (agentv1.AckResult, string) {
	ev := probation.Directed{Now: a.instant(), Directive: d}
	if o := d.GetOffer(); o != nil {
		ev.Hot = a.hot(o)
		if a.w.flavour(o.GetBodyHash()).refused {
			ev.Problem = "the allow-list forbids it"
		}
	}
	a.feed(ev)
	if d.GetLease() == nil && a.reply.Result == agentv1.AckResult_ACK_RESULT_REFUSED {
		a.w.say("%s: refuses fence %d: %s", a.id, d.GetFence().GetIndex(), a.reply.Detail)
	}
	return a.reply.Result, a.reply.Detail
}

// hot: only the log level differs from what runs.
func (a *agent) hot(o *agentv1.Offer) bool {
	was := a.s.LKG.Settings["max_num_seqs"]
	if was == "" {
		was = "8"
	}
	return o.GetBody().GetSettings()["max_num_seqs"] == was
}

// act carries out the oldest pending action, a moment later each.
func (a *agent) act() {
	if a.acting || len(a.pending) == 0 || !a.up {
		return
	}
	a.acting = true
	life := a.life
	a.w.after(a.w.between(0, 150), func() {
		if a.life != life || a.w.failure != nil {
			return
		}
		act := a.pending[0]
		a.pending = a.pending[1:]
		end := a.perform(act)
		if a.w.chance(0.03) {
			a.crash() // it is done, and nobody knows
			return
		}
		a.w.after(a.w.between(0, 150), func() { a.finish(life, end) })
	})
}

// finish feeds the end of an action; while the disk is full it tries again.
func (a *agent) finish(life int, end func() probation.Event) {
	if a.life != life || a.w.failure != nil {
		return
	}
	a.acting = false
	if !a.feed(end()) && a.life == life {
		a.acting = true
		a.w.after(500, func() { a.finish(life, end) })
		return
	}
	a.act()
}

// perform carries out one action and returns its end.
func (a *agent) perform(act probation.Action) func() probation.Event {
	switch act := act.(type) {
	case probation.Start:
		a.checkStart(act.Config, act.Restore, false)
		err := a.engine.start(a, act.Config)
		return func() probation.Event {
			return probation.Done{Now: a.instant(), Gen: act.Gen, Engine: a.engine.status(), Err: err}
		}
	case probation.Apply:
		a.checkStart(act.To, act.Restore, true)
		err := a.engine.change(a, act.To)
		return func() probation.Event {
			return probation.Done{Now: a.instant(), Gen: act.Gen, Engine: a.engine.status(), Err: err}
		}
	case probation.Commit:
		a.checkCommit(act.Config)
		a.engine.committed = act.Config
		return func() probation.Event { return probation.Committed{Now: a.instant(), Config: act.Config} }
	case probation.FetchLog:
		return func() probation.Event {
			return probation.Logged{Now: a.instant(), Epoch: act.Epoch, Tail: "last words"}
		}
	}
	a.w.broke("sim", "%s: unknown action %T", a.id, act)
	return nil
}

// shown is what a report says, comparable.
type shown struct {
	phase                agentv1.Phase
	fence                probation.Fence
	running, lkg, failed uint64
	serving, drained     bool
	why                  string
	exits, cut           int
}

// publish makes a report of what changed and sends it.
func (a *agent) publish() {
	serving, why := a.s.Serving()
	now := shown{
		a.s.Phase, a.s.Fence, a.s.Running().Epoch, a.s.LKG.Epoch, a.s.Failed.Epoch,
		serving, a.s.Drained, why, a.s.Watch.Engine.Exits, a.s.Cut,
	}
	if a.changes > 0 && now == a.shown {
		return
	}
	if serving && !a.shown.serving {
		a.wellAt = a.w.now
	}
	a.shown = now
	a.changes++
	a.last = probation.Report(a.s, a.changes)
	a.tell()
}

func (a *agent) report() *agentv1.StateReport { return a.last }

func phase(p agentv1.Phase) string {
	return []string{"nothing", "idle", "accepted", "draining", "applying", "warming", "probation", "confirmed", "reverting", "quarantined"}[p]
}

// tick is the agent's own pace: it lets deadlines pass and looks at the engine.
func (a *agent) tick() {
	w := a.w
	a.route()
	a.engine.age(a)
	a.w.after(500, a.tick)
	if !a.up || a.s.Watch.Booted && a.calm() && w.now < a.lookAt {
		return
	}
	a.lookAt = w.now + 2000
	if w.chance(0.001) {
		a.crash()
		return
	}
	if !a.s.Watch.Booted {
		a.feed(probation.Boot{Now: a.instant(), Engine: a.engine.status()})
	}
	for _, look := range looks {
		if ev := look(a); ev != nil {
			if a.feed(ev); !a.up {
				return
			}
		}
	}
	if w.now-a.toldAt > 3000 && a.node.state.GetSequence() != a.last.GetSequence() {
		a.tell()
	}
}

// calm: nothing is at stake and the engine is as it was.
func (a *agent) calm() bool {
	return a.s.Phase == probation.Idle && a.s.Watch.Well && a.s.Watch.Bad == 0 && a.s.Watch.Unwritten == "" && len(a.pending) == 0 &&
		a.engine.state == launch.Running && a.engine.pid == a.s.Watch.Engine.PID && !a.engine.dead
}

// looks at the engine, in order.
var looks = []func(a *agent) probation.Event{
	func(a *agent) probation.Event { return probation.Tick{Now: a.instant()} },
	func(a *agent) probation.Event {
		return probation.Observed{Now: a.instant(), Gen: a.s.Watch.Gen, Engine: a.engine.status()}
	},
	func(a *agent) probation.Event {
		if a.s.Watch.Busy {
			return nil
		}
		health, words := a.engine.health(a)
		return probation.Probed{Now: a.instant(), Gen: a.s.Watch.Gen, Health: health, Detail: words}
	},
	func(a *agent) probation.Event {
		if a.s.Watch.Busy || a.s.Watch.Token || a.s.Watch.Healthy == 0 {
			return nil
		}
		return probation.Tokened{Now: a.instant(), Gen: a.s.Watch.Gen, Token: a.engine.token(a)}
	},
	func(a *agent) probation.Event {
		if a.s.Phase != probation.Draining && a.s.Phase != probation.Reverting {
			return nil
		}
		return probation.Loaded{Now: a.instant(), Gen: a.s.Watch.Gen, InFlight: a.inFlight}
	},
	func(a *agent) probation.Event {
		f := a.w.flavour(a.engine.runs.Hash)
		if !a.routed || !f.failing || a.w.now-a.wellAt < 3000 {
			return nil
		}
		return probation.Trafficked{Now: a.instant(), Gen: a.s.Watch.Gen, Sample: probation.Sample{Span: time.Second, Requests: 20, Errors: 15}}
	},
}

// route is the router's look at the agent's readiness page; requests in flight end in their time.
func (a *agent) route() {
	serving, _ := a.s.Serving()
	a.routed = a.up && serving
	a.checkRouted()
	if a.routed {
		a.inFlight = 1 + a.w.rng.IntN(4)
	} else if a.inFlight > 0 && a.w.rng.IntN(3) > 0 {
		a.inFlight--
	}
}
