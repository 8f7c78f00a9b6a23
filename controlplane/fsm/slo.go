package fsm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// How long points of five minutes and sums of hours are kept, in milliseconds.
const (
	pointsKeptMs = int64(3 * 24 * time.Hour / time.Millisecond)
	hoursKeptMs  = int64(30*24*time.Hour/time.Millisecond) + hourMs
	hourMs       = int64(time.Hour / time.Millisecond)
)

// DefaultBudgetPolicy is what a service gets that nobody has configured.
func DefaultBudgetPolicy(service string) *commandv1.BudgetPolicy {
	return &commandv1.BudgetPolicy{
		Service: service, Mode: commandv1.BudgetMode_BUDGET_MODE_ENFORCE, CarefulBelow: 0.50, RestrictedBelow: 0.25, SpendCap: 0.02,
	}
}

func (t *tx) putBudgetPolicy(cmd *commandv1.PutBudgetPolicy) (string, *Refusal) {
	p := proto.CloneOf(cmd.GetPolicy())
	if p.GetService() == "" {
		return "", refuse(Invalid, "an error-budget policy needs the name of its service")
	}
	old, ok := t.budgetPolicies.get(p.GetService())
	if cmd.GetIfMatch() != 0 && cmd.GetIfMatch() != old.GetModifyIndex() {
		return "", refuse(PreconditionFailed, "the error-budget policy of %s was changed meanwhile (it is at %d, you have %d): read it again", p.GetService(), old.GetModifyIndex(), cmd.GetIfMatch())
	}
	if !ok {
		old = DefaultBudgetPolicy(p.GetService())
	}
	p.Mode = cmp.Or(p.GetMode(), old.GetMode())
	p.CarefulBelow = cmp.Or(p.GetCarefulBelow(), old.GetCarefulBelow())
	p.RestrictedBelow = cmp.Or(p.GetRestrictedBelow(), old.GetRestrictedBelow())
	p.SpendCap = cmp.Or(p.GetSpendCap(), old.GetSpendCap())
	share := func(v float64) bool { return v > 0 && v <= 1 }
	switch {
	case p.GetMode() < commandv1.BudgetMode_BUDGET_MODE_ENFORCE || p.GetMode() > commandv1.BudgetMode_BUDGET_MODE_OFF:
		return "", refuse(Invalid, "mode %d is unknown: use enforce or off", p.GetMode())
	case !share(p.GetCarefulBelow()) || !share(p.GetRestrictedBelow()) || p.GetRestrictedBelow() > p.GetCarefulBelow():
		return "", refuse(Invalid, "careful_below %v and restricted_below %v are shares of the budget above 0, at most 1, the second no larger than the first", p.GetCarefulBelow(), p.GetRestrictedBelow())
	case !share(p.GetSpendCap()):
		return "", refuse(Invalid, "spend_cap %v is a share of a period's budget above 0, at most 1", p.GetSpendCap())
	}
	p.ModifyIndex = t.entry
	t.budgetPolicies.put(p.GetService(), p)
	t.event("slo", "", p.GetService(), "%s set the error-budget policy of %s: %s", cmp.Or(t.actor, "someone"), p.GetService(), policyWords(p))
	return p.GetService(), nil
}

func policyWords(p *commandv1.BudgetPolicy) string {
	if p.GetMode() == commandv1.BudgetMode_BUDGET_MODE_OFF {
		return "rollouts do not ask for it"
	}
	return fmt.Sprintf("careful below %g %%, restricted below %g %%, at most %g %% spent by one rollout", 100*p.GetCarefulBelow(), 100*p.GetRestrictedBelow(), 100*p.GetSpendCap())
}

// recordBudgets adds a point to each ledger. A point that is there already, is of an objective that
// is gone, or counted something else, is left out: the leader that sent it could not know.
func (t *tx) recordBudgets(cmd *commandv1.RecordBudgets) (string, *Refusal) {
	for _, p := range cmd.GetPoints() {
		if !counted(p.GetGood()) || !counted(p.GetBad()) || p.GetKnownMs() < 0 || p.GetFromMs() >= cmd.GetToMs() {
			return "", refuse(Invalid, "the point of objective %s is no count: %v good, %v bad", p.GetObjective(), p.GetGood(), p.GetBad())
		}
		if o := t.objective(p.GetObjective()); o != nil && Measure(o) == p.GetMeasure() {
			t.addPoint(p, cmd.GetToMs())
		}
	}
	for _, name := range t.ledgers.keys() {
		if t.objective(name) == nil {
			t.ledgers.remove(name)
		}
	}
	for _, s := range cmd.GetRollouts() {
		if r := t.rollouts.edit(s.GetRolloutId()); r != nil {
			r.Spent = s.GetSpends()
		}
	}
	return "", nil
}

func counted(v float64) bool { return v >= 0 && !math.IsInf(v, 0) }

func (t *tx) addPoint(p *commandv1.BudgetPoint, to int64) {
	l := t.ledgers.edit(p.GetObjective())
	if l == nil || l.GetMeasure() != p.GetMeasure() {
		l = &commandv1.BudgetLedger{Objective: p.GetObjective(), Measure: p.GetMeasure(), SinceMs: p.GetFromMs()}
		t.ledgers.put(p.GetObjective(), l)
	}
	if to <= l.GetThroughMs() {
		return
	}
	l.ThroughMs = to
	l.PointEndMs = append(l.PointEndMs, to)
	l.PointGood, l.PointBad = append(l.PointGood, p.GetGood()), append(l.PointBad, p.GetBad())
	l.PointKnownMs = append(l.PointKnownMs, p.GetKnownMs())
	foldPoints(l)
}

// foldPoints sums points that are old up by the hour, and drops hours that are.
func foldPoints(l *commandv1.BudgetLedger) {
	n := 0
	for ; n < len(l.PointEndMs) && l.PointEndMs[n] <= l.ThroughMs-pointsKeptMs; n++ {
		hour := (l.PointEndMs[n] - 1) / hourMs * hourMs
		last := len(l.HourMs) - 1
		if last < 0 || l.HourMs[last] != hour {
			l.HourMs = append(l.HourMs, hour)
			l.HourGood, l.HourBad, l.HourKnownMs = append(l.HourGood, 0), append(l.HourBad, 0), append(l.HourKnownMs, 0)
			last++
		}
		l.HourGood[last] += l.PointGood[n]
		l.HourBad[last] += l.PointBad[n]
		l.HourKnownMs[last] += l.PointKnownMs[n]
	}
	l.PointEndMs, l.PointKnownMs = slices.Delete(l.PointEndMs, 0, n), slices.Delete(l.PointKnownMs, 0, n)
	l.PointGood, l.PointBad = slices.Delete(l.PointGood, 0, n), slices.Delete(l.PointBad, 0, n)
	old := 0
	for old < len(l.HourMs) && l.HourMs[old] <= l.ThroughMs-hoursKeptMs {
		old++
	}
	l.HourMs, l.HourKnownMs = slices.Delete(l.HourMs, 0, old), slices.Delete(l.HourKnownMs, 0, old)
	l.HourGood, l.HourBad = slices.Delete(l.HourGood, 0, old), slices.Delete(l.HourBad, 0, old)
}

func (t *tx) putViolation(cmd *commandv1.PutViolation) (string, *Refusal) {
	v := proto.CloneOf(cmd.GetViolation())
	if v.GetId() == "" {
		return "", refuse(Invalid, "a violation needs an id")
	}
	old, known := t.violations.get(v.GetId())
	switch {
	case known && old.GetEndMs() != 0:
		return "", refuse(Conflict, "violation %s is over", v.GetId())
	case !known && t.objective(v.GetObjective()) == nil:
		return "", refuse(NotFound, "there is no objective %q", v.GetObjective())
	}
	if open := t.openViolation(v.GetObjective(), v.GetKind()); open != nil && open.GetId() != v.GetId() {
		return "", refuse(Conflict, "violation %s of objective %s lasts already", open.GetId(), v.GetObjective())
	}
	v.ModifyIndex = t.entry
	t.violations.put(v.GetId(), v)
	if !known {
		t.event("slo", v.GetGroup(), v.GetObjective(), "objective %s is violated: %s", v.GetObjective(), v.GetSummary())
	}
	if v.GetEndMs() != 0 {
		t.violationOver(v)
	}
	return v.GetId(), nil
}

func (t *tx) violationOver(v *commandv1.Violation) {
	t.event("slo", v.GetGroup(), v.GetObjective(), "violation %s of objective %s is over after %s", v.GetId(), v.GetObjective(),
		(time.Duration(v.GetEndMs()-v.GetStartMs()) * time.Millisecond).Round(time.Second))
	forget(t.violations, func(o *commandv1.Violation) bool {
		return o.GetObjective() == v.GetObjective() && o.GetEndMs() != 0
	}, (*commandv1.Violation).GetDetectedMs)
}

// openViolation of an objective, nil when none lasts.
func (s *state) openViolation(objective string, kind commandv1.ViolationKind) *commandv1.Violation {
	open := s.violations.filter(func(v *commandv1.Violation) bool {
		return v.GetObjective() == objective && v.GetKind() == kind && v.GetEndMs() == 0
	})
	if len(open) == 0 {
		return nil
	}
	return open[0]
}

// closeViolations of an objective that is gone or counts something else now.
func (t *tx) closeViolations(objective string) {
	for _, open := range t.violations.filter(func(v *commandv1.Violation) bool { return v.GetObjective() == objective && v.GetEndMs() == 0 }) {
		v := t.violations.edit(open.GetId())
		v.EndMs, v.ModifyIndex = t.now, t.entry
		for _, a := range v.GetAlerts() {
			a.UntilMs = cmp.Or(a.GetUntilMs(), t.now)
		}
		t.violationOver(v)
	}
}

// Change is what an error budget asks of a rollout.
type Change struct {
	// LowRisk: no engine restarts for it, and no answer can change.
	LowRisk bool
	// Fix: somebody says that it repairs what burns the budget.
	Fix bool
	// ApprovedBy names who accepted what it may cost; empty: nobody.
	ApprovedBy string
	// RollsForward: it ends an incomplete rollback.
	RollsForward bool
}

// BudgetRefusal is why what is left of the error budgets does not allow a change, nil when it does.
// A nil gate allows everything: nothing was promised.
func BudgetRefusal(gate *commandv1.BudgetGate, c Change) *Refusal {
	if c.RollsForward || c.Fix {
		return nil
	}
	switch gate.GetClass() {
	case commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED:
		if !c.LowRisk && c.ApprovedBy == "" {
			return refuse(OverBudget, "%s: only changes that restart no engine, and approved ones, may start. Approve it (approved), label it a repair (fix), or wait until the budget has recovered", gate.GetReason())
		}
	case commandv1.BudgetClass_BUDGET_CLASS_UNKNOWN:
		if c.ApprovedBy == "" {
			return refuse(OverBudget, "%s: nobody can tell what a change would do to users, so it needs approval (approved). Better bring the telemetry back first", gate.GetReason())
		}
	case commandv1.BudgetClass_BUDGET_CLASS_FROZEN:
		return refuse(OverBudget, "%s: changes are frozen. What repairs it may go on when it is labelled so (fix); rolling back and aborting always may", gate.GetReason())
	}
	return nil
}

// Careful reports whether the rollout began with so little error budget, or so little knowledge, that its
// first wave has the least size and its bake lasts twice as long.
func Careful(r *commandv1.Rollout) bool {
	return r.GetBudget().GetClass() > commandv1.BudgetClass_BUDGET_CLASS_NORMAL
}

// takeBudget holds a rollout that would start to what the error budgets allow.
func (t *tx) takeBudget(r *commandv1.Rollout, gate *commandv1.BudgetGate) *Refusal {
	refusal := BudgetRefusal(gate, Change{
		LowRisk: !r.GetRestart() && !r.GetLossy(), Fix: r.GetFix(), ApprovedBy: r.GetApprovedBy(), RollsForward: r.GetRollsForwardFrom() != "",
	})
	if refusal != nil {
		return refusal
	}
	r.Budget = gate
	if Careful(r) {
		r.Policy.BakeMs *= 2
		t.note(r, "%s; so the first wave has the least size and the bake lasts %d s", gate.GetReason(), r.GetPolicy().GetBakeMs()/1000)
	}
	return nil
}

// FirstWaveTarget is how many of n replicas the first wave may change.
func FirstWaveTarget(r *commandv1.Rollout, n int, percent uint32) int {
	if Careful(r) {
		percent = 0
	}
	return WaveTarget(n, percent)
}
