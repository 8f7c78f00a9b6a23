package fsm

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Objective by name, one that a group's policy sets included; nil when unknown.
func (m *Machine) Objective(name string) *commandv1.Objective {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if o := m.state.objective(name); o != nil {
		return proto.CloneOf(o)
	}
	return nil
}

// Objectives in order of their names, those that groups' policies set included.
func (m *Machine) Objectives() []*commandv1.Objective {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []*commandv1.Objective
	for _, o := range m.state.objectives.filter(everything) {
		found = append(found, proto.CloneOf(o))
	}
	for _, g := range m.state.groups.filter(everything) {
		for _, o := range derived(g) {
			if _, put := m.state.objectives.get(o.GetName()); !put {
				found = append(found, o)
			}
		}
	}
	slices.SortFunc(found, func(a, b *commandv1.Objective) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return found
}

// Ledger of an objective as it counts now, nil when nothing has been counted yet.
func (m *Machine) Ledger(o *commandv1.Objective) *commandv1.BudgetLedger {
	l := one(m, func(s *state) *table[*commandv1.BudgetLedger] { return s.ledgers }, o.GetName())
	if l.GetMeasure() != Measure(o) {
		return nil
	}
	return l
}

// BudgetPolicy of a service, the default when nobody has set one.
func (m *Machine) BudgetPolicy(service string) *commandv1.BudgetPolicy {
	if p := one(m, func(s *state) *table[*commandv1.BudgetPolicy] { return s.budgetPolicies }, service); p != nil {
		return p
	}
	return DefaultBudgetPolicy(service)
}

// Violations of an objective, of all when it is empty, newest first.
func (m *Machine) Violations(objective string) []*commandv1.Violation {
	rows := all(m, func(s *state) *table[*commandv1.Violation] { return s.violations }, func(v *commandv1.Violation) bool {
		return objective == "" || v.GetObjective() == objective
	})
	slices.SortStableFunc(rows, func(a, b *commandv1.Violation) int { return cmp.Compare(b.GetDetectedMs(), a.GetDetectedMs()) })
	return rows
}

// LowRisk reports whether a configuration would restart no engine of the group and change no answer; the
// refusal says why the group could not take it at all.
func (m *Machine) LowRisk(cmd *commandv1.CreateRollout) (bool, *Refusal) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	g, ok := m.state.groups.get(cmd.GetGroup())
	if !ok {
		return false, refuse(NotFound, "group %q is unknown", cmd.GetGroup())
	}
	t := &tx{state: m.state} // checkBody reads alone
	c, refusal := t.checkBody(g, cmd.GetBody())
	return !c.restart && !c.lossy, refusal
}
