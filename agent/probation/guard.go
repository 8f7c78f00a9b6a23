package probation

import (
	"fmt"

	"github.com/optiinfra/performance-agent/agent/launch"
)

// unwell takes the instance out of rotation until health and a token have passed again.
func (m *move) unwell(why string) {
	w := &m.s.Watch
	w.Well, w.Why, w.Healthy, w.Token = false, why, 0, false
}

// judgeWell puts an instance that passed its probes on its way.
func (m *move) judgeWell() {
	s, w := &m.s, &m.s.Watch
	if w.Busy || !w.Engine.alive() {
		return
	}
	if !w.Well && w.Healthy >= m.l.WarmProbes && w.Token {
		w.Well, w.Why, w.Bad, w.WellSince = true, "", 0, m.now.Boot
	}
	if !w.Well {
		return
	}
	switch {
	case s.Phase == Warming:
		m.enter(Probation)
		s.LeaseUntil = m.now.Boot + s.Lease
		w.WellSince = m.now.Boot
	case s.Phase == Reverting && s.Step == StepWarm,
		s.Phase == Quarantined && s.runs(s.LKG, w.Engine):
		m.idle()
	}
}

// trying: a fault now is the fault of the configuration being tried.
func (s State) trying() bool {
	return s.Phase == Warming || s.Phase == Probation || s.Phase == Confirmed
}

// fault answers a hard guard: an epoch being tried goes back at once, anything else leaves rotation.
func (m *move) fault(cause string, hard bool) {
	if m.s.trying() {
		m.revert(cause, hard)
		return
	}
	m.unwell(cause)
}

// observed judges the launcher's status.
func (m *move) observed(e Engine) {
	s, w := &m.s, &m.s.Watch
	if e.State == "" {
		return // the launcher did not answer: no news of the engine
	}
	if w.Engine.State != "" && !w.Engine.sameProcess(e) {
		m.unwell("the engine process was replaced")
	}
	w.Engine = e
	switch {
	case s.trying():
		m.observedTrying(e)
	case s.Phase == Reverting:
		m.observedReverting(e)
	case s.Phase == Idle:
		m.observedIdle(e)
	case s.Phase == Quarantined && e.alive() && !s.runs(s.LKG, e) && m.now.Boot >= w.RetryAt:
		m.retryLKG() // something else runs, so this is not the last-known-good failing
	}
}

func (m *move) observedTrying(e Engine) {
	s := m.s
	allowed := 0
	if s.Hot {
		allowed = s.Before.Exits
	}
	switch {
	case broken(e) != "":
		m.revert(broken(e), true)
	case e.Exits > allowed:
		m.revert("the engine ended without being asked to", true)
	case !s.runs(s.Current, e):
		m.revert(fmt.Sprintf("the engine no longer runs epoch %d", s.Current.Epoch), true)
	case !e.alive():
		m.unwell("the engine is " + string(e.State))
	}
}

func (m *move) observedReverting(e Engine) {
	s := &m.s
	switch {
	case s.Step == StepDrain:
	case broken(e) != "" && s.runs(s.LKG, e):
		m.quarantine("last known good: " + broken(e))
	case s.Step == StepWarm && !s.runs(s.LKG, e),
		s.Step == StepWarm && e.State == launch.Stopped:
		m.restore()
	}
}

func (m *move) observedIdle(e Engine) {
	s := &m.s
	switch {
	case broken(e) != "" && s.runs(s.LKG, e):
		m.quarantine("last known good: " + broken(e))
	case !s.runs(s.LKG, e) && e.alive():
		m.enter(Reverting)
		s.Current = Config{Epoch: e.Epoch, Hash: e.Fingerprint}
		s.Touched, s.Hot, s.Step = true, false, StepDrain
		s.RestoreBy = m.now.Boot + 3*m.l.RestartEstimate
		m.startDrain()
	case !e.alive():
		m.unwell("the engine is " + string(e.State))
	}
}

// probed counts answers of the health endpoint.
func (m *move) probed(ev Probed) {
	w := &m.s.Watch
	if ev.Health == Healthy {
		w.Healthy++
		w.Bad = 0
		return
	}
	w.Healthy = 0
	if !w.Well {
		w.Why = orElse(ev.Detail, "the engine is not healthy")
	}
	if w.Bad > 0 && m.now.Boot-w.LastBad < m.l.BadSpacing {
		return
	}
	w.Bad++
	w.LastBad = m.now.Boot
	if w.Bad < m.l.BadProbes || m.s.Phase == Warming {
		return
	}
	m.fault(fmt.Sprintf("health failed %d times in a row: %s", w.Bad, ev.Detail), true)
}

// tokened judges an answer to the probe prompt. What the last-known-good configuration answers is
// by definition normal, an empty text included.
func (m *move) tokened(ev Tokened) {
	s := &m.s
	switch ev.Token {
	case TokenServed:
		s.Watch.Token = true
	case TokenNaN:
		m.fault("the probe prompt was answered with a value that is not a number", true)
	case TokenEmpty:
		switch {
		case !s.trying():
			m.dirty = m.dirty || !s.EmptyIsNormal
			s.EmptyIsNormal, s.Watch.Token = true, true
		case s.EmptyIsNormal:
			s.Watch.Token = true
		default:
			m.fault("the probe prompt was answered with an empty text", true)
		}
	case TokenFailed:
		if !s.Watch.Well {
			s.Watch.Why = "the probe prompt was not answered" + because(ev.Detail)
		}
	}
}

// loaded counts readings of no load, once balancers have had time to notice.
func (m *move) loaded(inFlight int) {
	w := &m.s.Watch
	w.InFlight = inFlight
	if inFlight > 0 {
		w.Zeros = 0
	} else if m.now.Boot-w.DrainFrom >= m.l.Settle {
		w.Zeros++
	}
}

// trafficked holds the guards on what happens to requests.
func (m *move) trafficked(t Sample) {
	s := m.s
	if !s.trying() || !s.Watch.Well || m.now.Boot-s.Watch.WellSince < t.Span {
		return
	}
	switch {
	case t.Requests >= m.l.ErrorRequests && t.Errors > m.l.ErrorRate*t.Requests:
		m.fault(fmt.Sprintf("%.0f of %.0f requests failed", t.Errors, t.Requests), false)
	case t.Preemptions >= m.l.StormPreemptions && t.Preemptions >= m.l.StormPerRequest*t.Requests:
		m.fault(fmt.Sprintf("KV preemption storm: %.0f preemptions while %.0f requests ended in %v", t.Preemptions, t.Requests, t.Span), false)
	}
}

// fatal answers a log line that the adapter calls fatal.
func (m *move) fatal(words string) {
	m.fault("the engine's log: "+words, true)
}
