package rollout

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// purse is what budgets allow and what a rollout has cost.
type purse struct {
	gate *commandv1.BudgetGate
	over string
}

func (p *purse) Gate(string) *commandv1.BudgetGate { return p.gate }

// Overspent is told of rollouts that have replicas on their epoch only.
func (p *purse) Overspent(r *commandv1.Rollout) string {
	if len(fsm.OfferedTo(r)) == 0 {
		return ""
	}
	return p.over
}

// TestBudgetGates: a rollout that the budget does not allow is cancelled with the reason, and one that it
// allows with care takes a first wave of the least size and bakes twice as long.
func TestBudgetGates(t *testing.T) {
	for _, c := range []struct {
		name  string
		class commandv1.BudgetClass
		first int   // replicas of the first wave; 0: there is none
		bake  int64 // ms
	}{
		{"plenty", commandv1.BudgetClass_BUDGET_CLASS_NORMAL, 4, 10_000},
		{"half", commandv1.BudgetClass_BUDGET_CLASS_CAREFUL, 2, 20_000},
		{"used up", commandv1.BudgetClass_BUDGET_CLASS_FROZEN, 0, 10_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 8, 1)
				s.w.SetPolicy(&commandv1.Policy{Steps: []uint32{50, 100}})
				s.budget = &purse{gate: &commandv1.BudgetGate{Class: c.class, Reason: "the budget says so"}}
				s.w.Create("r-1", "16")
				stop := s.lead(1)
				for range 60 {
					if s.second(); len(s.rollout().GetWaves()) > 0 || fsm.Ended(s.rollout().GetState()) {
						break
					}
				}
				stop()
				r := s.rollout()
				if r.GetPolicy().GetBakeMs() != c.bake {
					t.Errorf("it bakes %d ms, want %d", r.GetPolicy().GetBakeMs(), c.bake)
				}
				if c.first > 0 {
					if got := len(fsm.CurrentWave(r).GetSelected()); got != c.first {
						t.Errorf("the first wave takes %d replicas, want %d", got, c.first)
					}
					return
				}
				if r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_CANCELLED || !strings.Contains(r.GetEndReason(), "the budget says so") {
					t.Errorf("it is %s: %s", r.GetState(), r.GetEndReason())
				}
			})
		})
	}
}

// TestSpendCapMitigates: a rollout that has cost too much is taken back, with that as its reason.
func TestSpendCapMitigates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 4, 1)
		s.budget = &purse{over: "it has cost 3 % of the error budget"}
		s.w.Create("r-1", "16")
		stop := s.lead(1)
		for range 600 {
			if s.second(); fsm.Ended(s.rollout().GetState()) {
				break
			}
		}
		stop()
		if r := s.rollout(); r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK || !strings.Contains(r.GetEndReason(), "3 % of the error budget") {
			t.Errorf("it is %s: %s", r.GetState(), r.GetEndReason())
		}
	})
}
