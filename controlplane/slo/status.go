package slo

import (
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// State of an objective.
type State string

// States, worst last.
const (
	// Met: the budget lasts.
	Met State = "met"
	// Burning: an alert fires.
	Burning State = "burning"
	// Exhausted: the period's budget is used up.
	Exhausted State = "exhausted"
	// Unknown: nothing was measured lately.
	Unknown State = "unknown"
)

// Status of an objective.
type Status struct {
	Objective *commandv1.Objective
	State     State
	Budget    Budget
	// Alerts as they stand; none where this node does not lead.
	Alerts []Alert
	// Through is up to when events are counted, Known when something was last measured; zero: never.
	Through, Known time.Time
	// AbsenceAfter is how long nothing may be known before that alerts.
	AbsenceAfter time.Duration
	// Open violations.
	Open []*commandv1.Violation
}

// Status of all objectives, by name.
func (s *Service) Status() []Status {
	var found []Status
	for _, o := range s.state.Objectives() {
		found = append(found, s.StatusOf(o))
	}
	return found
}

// StatusOf one objective.
func (s *Service) StatusOf(o *commandv1.Objective) Status {
	st := Status{Objective: o, AbsenceAfter: AbsenceAfter(o)}
	for _, v := range s.state.Violations(o.GetName()) {
		if v.GetEndMs() == 0 {
			st.Open = append(st.Open, v)
		}
	}
	s.mu.Lock()
	t := s.trackers[o.GetName()]
	if t == nil || t.measure != fsm.Measure(o) {
		t = newTracker(o, s.state.Ledger(o), s.cfg.Now())
	}
	st.Budget, st.Through, st.Known = t.budget(), t.at(), t.knownAt
	st.Alerts = append(st.Alerts, t.alerts...)
	s.mu.Unlock()
	st.State = stateOf(st)
	return st
}

func stateOf(st Status) State {
	burning := false
	for _, v := range st.Open {
		switch v.GetKind() {
		case commandv1.ViolationKind_VIOLATION_KIND_ABSENCE:
			return Unknown
		case commandv1.ViolationKind_VIOLATION_KIND_BURN:
			burning = true
		}
	}
	switch {
	case st.Through.Sub(st.Known) > leastAbsence:
		return Unknown
	case st.Budget.Left() <= rounding:
		return Exhausted
	case burning:
		return Burning
	}
	return Met
}
