package slo

import (
	"fmt"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Gate is what the error budgets allow of a rollout in a group now; nil when no objective that gates
// rollouts covers the group. The strictest objective decides.
func (s *Service) Gate(group string) *commandv1.BudgetGate {
	var strictest *commandv1.BudgetGate
	for _, o := range s.state.Objectives() {
		policy := s.state.BudgetPolicy(o.GetService())
		if o.GetAdvisory() || policy.GetMode() == commandv1.BudgetMode_BUDGET_MODE_OFF || !s.covers(o, group) {
			continue
		}
		g := gateOf(o, policy, s.budget(o), s.absent(o))
		if strictest == nil || g.GetClass() > strictest.GetClass() || g.GetClass() == strictest.GetClass() && g.GetLeft() < strictest.GetLeft() {
			strictest = g
		}
	}
	return strictest
}

// rounding of shares: a budget that is spent to the last event is used up.
const rounding = 1e-9

// gateOf one objective.
func gateOf(o *commandv1.Objective, p *commandv1.BudgetPolicy, b Budget, absent bool) *commandv1.BudgetGate {
	g := &commandv1.BudgetGate{Class: commandv1.BudgetClass_BUDGET_CLASS_NORMAL, Objective: o.GetName(), Left: b.Left()}
	left := fmt.Sprintf("%s of the error budget of objective %s is left (%s)", percent(b.Left()), o.GetName(), fsm.Promise(o))
	g.Reason = left
	switch {
	case b.Left() <= rounding:
		g.Class = commandv1.BudgetClass_BUDGET_CLASS_FROZEN
		g.Reason = fmt.Sprintf("the error budget of objective %s is used up: %s of it is spent (%s)", o.GetName(), percent(b.Spent), fsm.Promise(o))
	case absent:
		g.Class = commandv1.BudgetClass_BUDGET_CLASS_UNKNOWN
		g.Reason = fmt.Sprintf("objective %s has not been measured lately", o.GetName())
	case b.Left() <= p.GetRestrictedBelow()+rounding:
		g.Class = commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED
	case b.Left() <= p.GetCarefulBelow()+rounding:
		g.Class = commandv1.BudgetClass_BUDGET_CLASS_CAREFUL
	}
	return g
}

// budget of an objective: with what this node has counted since the last entry, where it leads.
func (s *Service) budget(o *commandv1.Objective) Budget {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trackers[o.GetName()]; t != nil && t.measure == fsm.Measure(o) {
		t.objective = o
		return t.budget()
	}
	return s.recorded(o)
}

// recorded budget, as the log tells.
func (s *Service) recorded(o *commandv1.Objective) Budget {
	l := s.state.Ledger(o)
	if l == nil {
		return BudgetOf(o, Counts{})
	}
	t := newTracker(o, l, s.cfg.Now())
	return t.budget()
}

// absent reports whether the alert that nothing is known of the objective fires.
func (s *Service) absent(o *commandv1.Objective) bool {
	for _, v := range s.state.Violations(o.GetName()) {
		if v.GetEndMs() == 0 && v.GetKind() == commandv1.ViolationKind_VIOLATION_KIND_ABSENCE {
			return true
		}
	}
	return false
}
