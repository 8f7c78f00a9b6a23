package probation

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/pkg/mutant"
)

// Next decides. It has no side effect and depends on nothing but its arguments: the same state and
// event give the same answer. A caller that cannot carry out the Write among the actions keeps the
// old state and feeds an Unwritten event (a directive is then refused).
func Next(l Limits, s State, ev Event) (State, []Action) {
	m := &move{l: l.WithDefaults(), s: s, now: ev.at()}
	if _, boot := ev.(Boot); !s.Watch.Booted && !boot {
		if d, ok := ev.(Directed); ok {
			return s, []Action{notYet(d)}
		}
		return s, nil
	}
	m.take(ev)
	if _, void := ev.(Unwritten); !void {
		m.hurry()
	}
	m.judgeWell()
	m.keepCommitted()
	if !m.dirty || mutant.On(MutantI8Disk) && m.s.LKG.Epoch != s.LKG.Epoch {
		return m.s, m.acts
	}
	m.s.Watch.Unwritten = ""
	return m.s, append([]Action{Write{}}, m.acts...)
}

// move is one call of Next.
type move struct {
	l     Limits
	s     State
	now   Instant
	acts  []Action
	dirty bool // the record changed
}

func (m *move) add(a Action) { m.acts = append(m.acts, a) }

// enter begins a phase.
func (m *move) enter(p Phase) {
	m.s.Phase, m.s.Since, m.dirty = p, m.now, true
}

func (m *move) take(ev Event) {
	switch ev := ev.(type) {
	case Boot:
		m.boot(ev)
	case Tick:
		m.tick()
	case Directed:
		m.directed(ev)
	case Observed:
		if ev.Gen == m.s.Watch.Gen && !m.s.Watch.Busy {
			m.observed(ev.Engine)
		}
	case Probed:
		if ev.Gen == m.s.Watch.Gen && !m.s.Watch.Busy {
			m.probed(ev)
		}
	case Tokened:
		if ev.Gen == m.s.Watch.Gen && !m.s.Watch.Busy {
			m.tokened(ev)
		}
	case Loaded:
		if ev.Gen == m.s.Watch.Gen {
			m.loaded(ev.InFlight)
		}
	case Trafficked:
		if ev.Gen == m.s.Watch.Gen {
			m.trafficked(ev.Sample)
		}
	case Fatal:
		if ev.Gen == m.s.Watch.Gen && !m.s.Watch.Busy {
			m.fatal(ev.Words)
		}
	case Logged:
		m.logged(ev)
	case Done:
		if ev.Gen == m.s.Watch.Gen && m.s.Watch.Busy {
			m.done(ev)
		}
	case Committed:
		m.committed(ev)
	case Unwritten:
		m.s.Watch.Unwritten = ev.Err
	}
}

// tick lets deadlines pass and takes the steps that need no news.
func (m *move) tick() {
	s, now := &m.s, m.now.Boot
	m.dirty = s.Watch.Unwritten != "" // try the journal again
	switch s.Phase {
	case Accepted, Draining, Applying, Warming:
		if now >= s.ApplyBy {
			m.revert("not serving within the time allowed to apply it"+because(s.Watch.Why), s.Phase > Draining)
			return
		}
	case Probation:
		if now >= s.leaseEnd() {
			m.revert("the control plane neither confirmed nor renewed the lease in time", false)
			return
		}
	}
	if s.RevertAt != 0 && now >= s.RevertAt {
		m.revert(s.RevertCause, false)
		return
	}
	switch s.Phase {
	case Accepted:
		m.begin()
	case Draining:
		if m.drained() {
			m.apply()
		}
	case Reverting:
		m.tickReverting()
	}
}

// hurry takes an epoch back before its slot once the instance is out of rotation for another reason,
// a drain or a restart of the agent: it must not enter rotation again on an epoch that was aborted.
func (m *move) hurry() {
	if m.s.RevertAt == 0 {
		return
	}
	if serving, _ := m.s.Serving(); !serving {
		m.revert(m.s.RevertCause, false)
	}
}

// leaseEnd is when an unrenewed lease takes effect: changes that need a restart wait for their
// slot, since silence is no evidence of harm and a whole wave must not restart at once.
func (s State) leaseEnd() time.Duration {
	if s.Hot {
		return s.LeaseUntil
	}
	return s.LeaseUntil + time.Duration(s.Slot)*s.SlotDelay
}

// begin leaves Accepted.
func (m *move) begin() {
	if m.s.Hot {
		m.apply()
		return
	}
	m.enter(Draining)
	m.startDrain()
}

func (m *move) startDrain() {
	w := &m.s.Watch
	w.DrainFrom, w.Zeros = m.now.Boot, 0
}

// drained reports whether the engine may be stopped, and notes how many requests that cuts.
func (m *move) drained() bool {
	w := m.s.Watch
	passed := m.now.Boot - w.DrainFrom
	switch {
	case !w.Engine.alive():
		m.s.Cut = 0
	case passed < m.l.Settle:
		return false
	case w.Zeros >= m.l.ZeroReadings:
		m.s.Cut = 0
	case passed >= m.l.DrainLimit:
		m.s.Cut = w.InFlight
	default:
		return false
	}
	return true
}

// apply hands Current to the engine.
func (m *move) apply() {
	s := &m.s
	m.enter(Applying)
	s.Touched = true
	gen := m.engineAction("being given epoch " + fmt.Sprint(s.Current.Epoch))
	if !s.Hot {
		m.add(Start{Gen: gen, Config: s.Current})
		return
	}
	s.HotProcess, s.HotEpoch = s.Watch.Engine, s.Current.Epoch
	m.add(Apply{Gen: gen, From: s.LKG, To: s.Current})
}

// engineAction opens a new generation of observations.
func (m *move) engineAction(why string) (gen uint64) {
	w := &m.s.Watch
	w.Gen++
	w.Busy = true
	m.unwell(why)
	return w.Gen
}

// done ends the engine action that is out.
func (m *move) done(ev Done) {
	s := &m.s
	s.Watch.Busy = false
	s.Watch.Gen++
	s.Watch.Engine = ev.Engine
	switch {
	case s.Phase == Applying && m.replacedWhileChanged(ev.Engine):
		m.revert("the engine process was replaced while it was being changed", true)
	case s.Phase == Applying && ev.Err != "":
		m.revert("could not be applied: "+ev.Err, true)
	case s.Phase == Applying:
		m.enter(Warming)
		m.unwell("warming up")
	case s.Phase == Reverting && ev.Err == "":
		s.Step, m.dirty = StepWarm, true
		m.unwell("warming up on the last known good configuration")
	case s.Phase == Reverting && s.Hot:
		s.Hot, s.HotEpoch = false, unknownEpoch // it would not change back: it needs a new process
		m.restore()
	case s.Phase == Reverting:
		m.unwell(ev.Err)
		s.Watch.RetryAt = m.now.Boot + retryAfter
	}
}

// replacedWhileChanged reports whether another process runs than the one that was to be changed. It
// may have been given the change in place of that one, so that it must be changed back.
func (m *move) replacedWhileChanged(e Engine) bool {
	s := &m.s
	if !s.Hot || e.sameProcess(s.HotProcess) {
		return false
	}
	s.HotProcess, s.HotEpoch, m.dirty = e, unknownEpoch, true
	return true
}

// unknownEpoch is what a process runs that was changed halfway.
const unknownEpoch = math.MaxUint64

// retryAfter is the pause before a failed action is tried again.
const retryAfter = time.Second

// revert begins the way back to the last-known-good configuration. hard: requests in flight are
// lost already or worthless, so there is nothing to drain.
func (m *move) revert(cause string, hard bool) {
	s := &m.s
	s.Failed = Failure{Epoch: s.Current.Epoch, Reason: cause}
	s.RevertAt, s.RevertCause, s.LeaseUntil, s.ApplyBy = 0, "", 0, 0
	m.enter(Reverting)
	m.add(FetchLog{Epoch: s.Current.Epoch})
	s.RestoreBy = m.now.Boot + 3*m.l.RestartEstimate
	switch {
	case !s.Touched:
		s.Step = StepWarm // the engine was not touched
	case s.Hot, hard, !s.Watch.Engine.alive():
		m.restore()
	default:
		s.Step = StepDrain
		m.startDrain()
	}
}

// restore gives the engine its last-known-good configuration, unless it has it.
func (m *move) restore() {
	s := &m.s
	e := s.Watch.Engine
	m.dirty = true
	s.RestoreBy = m.now.Boot + 3*m.l.RestartEstimate
	switch {
	case s.Hot && e.alive() && e.sameProcess(s.HotProcess):
		s.Step, s.HotEpoch = StepRestore, s.LKG.Epoch
		gen := m.engineAction("being changed back")
		m.add(Apply{Gen: gen, From: s.Current, To: s.LKG, Restore: true})
	case s.runs(s.LKG, e) && e.alive() && !s.Watch.Busy:
		s.Step = StepWarm
	default:
		s.Step, s.Hot = StepRestore, false
		gen := m.engineAction("being restarted with the last known good configuration")
		force := s.HotProcess.PID != 0 && s.HotProcess.sameProcess(e)
		m.add(Start{Gen: gen, Config: s.LKG, Restore: true, Force: force})
	}
}

func (m *move) tickReverting() {
	s := &m.s
	switch {
	case s.Step == StepDrain:
		if m.drained() {
			m.restore()
		}
	case m.now.Boot >= s.RestoreBy:
		m.quarantine("the last known good configuration did not serve in time" + because(s.Watch.Why))
	case s.Step == StepRestore && !s.Watch.Busy && m.now.Boot >= s.Watch.RetryAt:
		m.restore()
	}
}

// quarantine leaves the instance out of rotation: not even its last-known-good serves.
func (m *move) quarantine(why string) {
	s := &m.s
	m.enter(Quarantined)
	s.Trouble = why
	s.Current, s.Touched, s.Hot, s.Step = Config{}, false, false, StepDrain
	m.unwell(why)
	s.Watch.RetryAt = m.now.Boot + m.l.RestartEstimate
	m.add(FetchLog{Epoch: s.Failed.Epoch})
}

// idle ends a change, one way or the other.
func (m *move) idle() {
	s := &m.s
	if s.Phase == Reverting && s.DrainEpoch != 0 && s.DrainEpoch == s.Current.Epoch {
		s.Drained, s.DrainReason = false, "" // what it was drained for is gone
	}
	m.enter(Idle)
	s.Trouble, s.DrainEpoch = "", 0
	s.Current, s.Parent, s.Touched, s.Hot, s.Step = Config{}, 0, false, false, StepDrain
	s.LeaseUntil, s.ApplyBy, s.RestoreBy, s.Lease, s.Slot, s.SlotDelay = 0, 0, 0, 0, 0, 0
}

// boot takes up the journal after a start of the agent. What the engine runs decides whether the
// change is finished or taken back; nothing is applied a second time.
func (m *move) boot(ev Boot) {
	s := &m.s
	s.Watch = Watch{Booted: true, Gen: 1, Engine: ev.Engine, Why: "the agent has just started"}
	rebooted := s.Since.BootID != "" && s.Since.BootID != m.now.BootID
	if rebooted {
		s.Since.BootID, s.Since.Boot, m.dirty = m.now.BootID, m.now.Boot, true
		s.RestoreBy = m.now.Boot + 3*m.l.RestartEstimate
		if s.RevertAt != 0 {
			s.RevertAt = m.now.Boot
		}
	}
	m.startDrain()
	switch {
	case rebooted && s.Phase >= Accepted && s.Phase <= Probation:
		s.Touched = true
		m.revert("the machine was restarted before the configuration was confirmed", true)
	case s.Phase == Applying && mutant.On(MutantI4):
		m.apply()
	case s.Phase == Applying && s.Hot:
		m.replacedWhileChanged(ev.Engine)
		m.revert("the agent was restarted while it applied the configuration", true)
	case s.Phase >= Accepted && s.Phase <= Applying && !s.Hot && s.runs(s.Current, ev.Engine):
		s.Touched = true
		m.enter(Warming)
	case s.Phase == Applying:
		m.revert("the agent was restarted while it applied the configuration", true)
	case s.Phase == Reverting && s.Step == StepRestore:
		m.restore()
	default:
		m.observed(ev.Engine)
	}
}

// keepCommitted sees to it that a restarted launcher starts what it should: the last-known-good
// configuration or a confirmed one, never one on probation.
func (m *move) keepCommitted() {
	s, w := &m.s, &m.s.Watch
	if w.Committing || w.Engine.State == "" || m.now.Boot < w.RetryAt {
		return
	}
	want := s.committable()
	if w.Engine.CommittedEpoch == want.Epoch && orElse(w.Engine.CommittedFingerprint, BaseFingerprint) == want.Fingerprint() {
		return
	}
	w.Committing = true
	m.acts = append([]Action{Commit{Config: want}}, m.acts...) // before any start
}

func (m *move) committed(ev Committed) {
	w := &m.s.Watch
	w.Committing = false
	if ev.Err != "" {
		w.RetryAt = m.now.Boot + retryAfter
		return
	}
	w.Engine.CommittedEpoch, w.Engine.CommittedFingerprint = ev.Config.Epoch, ev.Config.Fingerprint()
}

// logged keeps the engine's last words with the failure they belong to.
func (m *move) logged(ev Logged) {
	f := &m.s.Failed
	if m.s.Phase == Quarantined && ev.Words != "" && !strings.Contains(m.s.Trouble, ev.Words) {
		m.s.Trouble, m.dirty = m.s.Trouble+": "+ev.Words, true
	}
	if f.Epoch == 0 || f.Epoch != ev.Epoch || f.Log != "" || ev.Tail == "" {
		return
	}
	f.Log, m.dirty = ev.Tail, true
	if ev.Words != "" {
		f.Reason += ": " + ev.Words
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// broken says in words that the launcher gave up on the engine, or nothing.
func broken(e Engine) string {
	switch e.State {
	case launch.CrashLoop:
		return "the engine ends each time it is started" + because(e.Error)
	case launch.Failed:
		return "the engine cannot be started" + because(e.Error)
	}
	return ""
}
