package probation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/agent/launch"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Launcher owns the engine process; launch.Client is one. Restart replaces what runs, and does
// nothing when that is the same configuration already; Commit makes a configuration the one that a
// restarted launcher starts.
type Launcher interface {
	Status(ctx context.Context) (launch.Status, error)
	Restart(ctx context.Context, s launch.Spec) (launch.Status, error)
	Stop(ctx context.Context, grace time.Duration) (launch.Status, error)
	Commit(ctx context.Context, s launch.Spec) (launch.Status, error)
	Log(ctx context.Context, since uint64) (launch.Log, error)
}

var _ Launcher = (*launch.Client)(nil)

// Adapter knows the engine. Validate returns words against a configuration, none when it is fine.
// Command builds what the launcher is to run; epoch and fingerprint are filled in by the caller.
// Hot reports whether the running engine can be changed from one configuration to the other
// without a restart; Apply does that.
type Adapter interface {
	Validate(ctx context.Context, c Config) ([]string, error)
	Command(ctx context.Context, c Config) (launch.Spec, error)
	Hot(ctx context.Context, from, to Config) bool
	Apply(ctx context.Context, from, to Config) error
}

// Prober asks the engine. Each method returns by itself, whatever the engine does; the string says
// in words what was wrong. InFlight is the number of requests running and waiting, the largest of
// all sources; known is false when no source could tell.
type Prober interface {
	Health(ctx context.Context) (Health, string)
	ServeToken(ctx context.Context) (Token, string)
	InFlight(ctx context.Context) (n int, known bool)
}

// Traffic tells what happened to requests in the last span; false when it does not know.
type Traffic interface {
	Sample(span time.Duration) (Sample, bool)
}

// LogReader knows failure signatures. Fatal returns words for the first fatal line of a piece of
// log, Explain for the last known failure in it, both an empty string when there is none.
type LogReader interface {
	Fatal(log string) string
	Explain(log string) string
}

// Settings of a machine.
type Settings struct {
	Instance string // "<agent id>/<name>"
	Group    string
	Limits   Limits
	// Allow is the operator's own list of what remote configuration may set: words against a
	// configuration, empty when it is fine. Nil allows what the adapter allows.
	Allow func(Config) string
	// Notify is called with each changed report, in order, from any goroutine. It must return at
	// once and not call the machine. May be nil.
	Notify func(*agentv1.StateReport)
	// RestartEstimate is the adapter's, which it may learn later; nil or zero: that of Limits.
	RestartEstimate func() time.Duration
	// Clock is SystemClock's in production.
	Clock func() Instant
	// Poll is the pace of looking; 250 ms when zero.
	Poll time.Duration
}

// Dependencies of a machine. Traffic and Log may be nil: their guards are then off.
type Dependencies struct {
	Journal  Journal
	Launcher Launcher
	Adapter  Adapter
	Prober   Prober
	Traffic  Traffic
	Log      LogReader
	Logger   *slog.Logger
}

// Machine drives one engine. Open, then Run; the other methods may be called from any goroutine.
type Machine struct {
	cfg Settings
	dep Dependencies
	log *slog.Logger

	view atomic.Pointer[view] // what readers see
	wake chan struct{}
	work sync.WaitGroup
	up   chan struct{} // closed once the journal was taken up

	mu      sync.Mutex // guards everything below
	state   State
	changes uint32
	pending []Action // decided and journaled, for Run to begin
}

type view struct {
	state  State
	report *agentv1.StateReport
}

// New returns a machine that has touched nothing yet.
func New(cfg Settings, dep Dependencies) *Machine {
	cfg.Limits = cfg.Limits.WithDefaults()
	def(&cfg.Poll, 250*time.Millisecond)
	m := &Machine{cfg: cfg, dep: dep, log: dep.Logger.With("component", "probation", "instance", cfg.Instance), wake: make(chan struct{}, 1), up: make(chan struct{})}
	m.state = Fresh(cfg.Instance, cfg.Group)
	m.view.Store(&view{state: m.state, report: Report(m.state, 0)})
	return m
}

// ErrOtherInstance: the journal belongs to another instance or group.
var ErrOtherInstance = errors.New("the journal belongs to another engine")

// Open reads the journal. Its errors say what to do.
func (m *Machine) Open() error {
	r, err := m.dep.Journal.Load()
	if errors.Is(err, ErrNoRecord) {
		m.journalStart()
		return nil
	}
	if err != nil {
		return err
	}
	if r.Instance != m.cfg.Instance || r.Group != m.cfg.Group {
		return fmt.Errorf("%w: it is of %s in group %s, this is %s in group %s; give each engine its own data folder, or empty this one",
			ErrOtherInstance, r.Instance, r.Group, m.cfg.Instance, m.cfg.Group)
	}
	m.mu.Lock()
	m.state = Resume(r)
	m.publish()
	m.mu.Unlock()
	m.journalStart()
	return nil
}

// journalStart makes report sequences rise across restarts. It may use the reserve: of two starts
// under one count, the control plane would not listen to the second. An agent that starts on a full
// disk may still have something to revert, so that it is no reason not to start.
func (m *Machine) journalStart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.dep.Journal.Append(m.state.Record, true); err != nil {
		m.log.Error("the journal cannot be written; offers will be refused until it can", "error", err)
	}
}

// Run looks after the engine until ctx ends; it may be called once. The engine is left running.
func (m *Machine) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer m.work.Wait()
	defer stop()
	m.boot(ctx)
	eyes, hands := newEyes(m), hands{m: m}
	ticker := time.NewTicker(m.cfg.Poll)
	defer ticker.Stop()
	for {
		m.step(Tick{Now: m.cfg.Clock()})
		hands.begin(ctx, m.take())
		eyes.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-m.wake:
		}
	}
}

// boot waits for the launcher and takes up the journal; it gives up when ctx ends.
func (m *Machine) boot(ctx context.Context) {
	said := false
	for {
		status, err := m.dep.Launcher.Status(ctx)
		if err == nil {
			if _, ok := m.step(Boot{Now: m.cfg.Clock(), Engine: EngineOf(status)}); ok {
				close(m.up)
				return
			}
		} else if !said {
			said = true
			m.log.Warn("the launcher does not answer; is `perf-agent launch` running beside the engine, on the same socket?", "error", err)
		}
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// Handle carries out a directive as far as to the journal and answers it. It waits for Run to have
// asked the launcher what runs; until then, when ctx ends, directives are refused. ctx also bounds
// what the adapter is asked.
func (m *Machine) Handle(ctx context.Context, d *agentv1.Directive) *agentv1.Ack {
	select {
	case <-m.up:
	case <-ctx.Done():
	}
	ev := Directed{Now: m.cfg.Clock(), Directive: d}
	if o := d.GetOffer(); o != nil && m.wouldAccept(ev) {
		ev.Problem, ev.Hot = m.judge(ctx, configOf(o.GetEpoch(), o.GetBody()))
		ev.Now = m.cfg.Clock()
	}
	reply, _ := m.step(ev)
	m.log.Info("directive answered", "fence", d.GetFence().GetIndex(), "result", reply.Result.String(), "detail", reply.Detail)
	return &agentv1.Ack{InstanceId: m.cfg.Instance, Fence: d.GetFence(), Result: reply.Result, Detail: text(reply.Detail), State: m.State()}
}

// wouldAccept asks the pure machine first, so that a stale or duplicate offer costs nothing.
func (m *Machine) wouldAccept(ev Directed) bool {
	_, acts := Next(m.limits(), m.view.Load().state, ev)
	for _, a := range acts {
		if r, ok := a.(Reply); ok {
			return r.Result == accepted
		}
	}
	return false
}

// judge has the adapter's and the operator's word on a configuration.
func (m *Machine) judge(ctx context.Context, c Config) (problem string, hot bool) {
	if m.cfg.Allow != nil {
		if why := m.cfg.Allow(c); why != "" {
			return why, false
		}
	}
	problems, err := m.dep.Adapter.Validate(ctx, c)
	switch {
	case err != nil:
		return "the engine's adapter could not judge the settings: " + err.Error(), false
	case len(problems) > 0:
		return joinWords(problems), false
	}
	if _, err := m.dep.Adapter.Command(ctx, c); err != nil {
		return "no command line can be built: " + err.Error(), false
	}
	return "", m.dep.Adapter.Hot(ctx, m.view.Load().state.LKG, c)
}

// State is the newest report.
func (m *Machine) State() *agentv1.StateReport {
	return proto.CloneOf(m.view.Load().report)
}

// Serving reports whether the instance is in rotation, and when not, why. It never blocks.
func (m *Machine) Serving() (bool, string) { return m.view.Load().state.Serving() }

// Snapshot is the machine's whole state, for people who look for a fault.
func (m *Machine) Snapshot() State { return m.view.Load().state }

// step decides on one event, journals, publishes and leaves the actions to Run. ok is false when the
// journal could not be written, and nothing happened.
func (m *Machine) step(ev Event) (reply Reply, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, acts := Next(m.limits(), m.state, ev)
	moved := next.Phase != m.state.Phase
	if len(acts) > 0 && acts[0] == (Write{}) {
		acts = acts[1:]
		if err := m.dep.Journal.Append(next.Record, urgent(ev, next)); err != nil {
			m.unwritten(ev, err, moved)
			return Reply{Result: refused, Detail: err.Error()}, false
		}
	}
	before := m.state
	m.state = next
	m.publish()
	if moved {
		m.tell(before, next)
		crashPoint(next.Phase, false)
	}
	for _, a := range acts {
		if r, ok := a.(Reply); ok {
			reply = r
		} else {
			m.pending = append(m.pending, a)
		}
	}
	if moved && !actsOnEngine(acts) {
		crashPoint(next.Phase, true)
	}
	if moved || len(m.pending) > 0 {
		m.nudge()
	}
	return reply, true
}

// take hands the pending actions over.
func (m *Machine) take() []Action {
	m.mu.Lock()
	defer m.mu.Unlock()
	acts := m.pending
	m.pending = nil
	return acts
}

// urgent: not a request that may be refused, and not a step further into a change.
func urgent(ev Event, next State) bool {
	_, asked := ev.(Directed)
	return !asked && next.Phase != Draining && next.Phase != Applying
}

// unwritten keeps the old state. Where a step could not be taken that nobody can be told to ask for
// again, the instance leaves rotation until it can: what must be undone cannot be.
func (m *Machine) unwritten(ev Event, err error, moved bool) {
	if m.state.Watch.Unwritten != err.Error() {
		m.log.Error("the journal cannot be written", "error", err)
	}
	if _, asked := ev.(Directed); asked || !moved {
		return
	}
	m.state, _ = Next(m.limits(), m.state, Unwritten{Now: ev.at(), Err: err.Error()})
	m.publish()
}

// publish shows the state to readers and, when it changed, to the control plane.
func (m *Machine) publish() {
	last := m.view.Load().report
	report := Report(m.state, m.changes)
	if report.Sequence = last.Sequence; proto.Equal(report, last) {
		m.view.Store(&view{state: m.state, report: last})
		return
	}
	m.changes++
	report.Sequence = Report(m.state, m.changes).Sequence
	m.view.Store(&view{state: m.state, report: report})
	if m.cfg.Notify != nil {
		m.cfg.Notify(proto.CloneOf(report))
	}
}

// tell logs what an operator wants to know.
func (m *Machine) tell(before, after State) {
	level, attrs := slog.LevelInfo, []any{"from", phaseWord(before.Phase), "to", phaseWord(after.Phase), "epoch", after.Running().Epoch, "lkg", after.LKG.Epoch}
	switch after.Phase {
	case Reverting:
		level, attrs = slog.LevelWarn, append(attrs, "reason", after.Failed.Reason)
	case Quarantined:
		level, attrs = slog.LevelError, append(attrs, "reason", after.Trouble)
	}
	m.log.Log(context.Background(), level, "phase changed", attrs...)
}

// limits are the configured ones with the adapter's own restart estimate.
func (m *Machine) limits() Limits {
	l := m.cfg.Limits
	if m.cfg.RestartEstimate != nil {
		if d := m.cfg.RestartEstimate(); d > 0 {
			l.RestartEstimate = d
		}
	}
	return l
}

// nudge makes Run look at once.
func (m *Machine) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// pause waits for d, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
