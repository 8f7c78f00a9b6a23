package rollout

import (
	"testing"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// TestDecisionsUphold shows what Next proposes where a guard of its own must speak; planted (tag
// "mutants"), each bug must change the answer.
func TestDecisionsUphold(t *testing.T) {
	for _, c := range []struct {
		bug  mutant.Name
		name string
		bend func(w *fsmtest.World, o *Observation, r *commandv1.Rollout)
		ok   func(steps []*Step) bool
	}{
		{MutantI1, "no batch while a replica is unreachable", func(w *fsmtest.World, o *Observation, _ *commandv1.Rollout) {
			w.SetReachable(w.Agents[3], false)
			o.Members = w.Machine.Instances("")
		}, func(s []*Step) bool { return len(s) == 0 }},
		{
			MutantI2, "no batch without headroom", func(_ *fsmtest.World, o *Observation, _ *commandv1.Rollout) { o.Headroom.Load = 1e9 },
			func(s []*Step) bool { return len(s) == 0 },
		},
		{MutantI15, "a guard is heard while holding", func(_ *fsmtest.World, o *Observation, r *commandv1.Rollout) {
			r.State, o.Guard = commandv1.RolloutState_ROLLOUT_STATE_HOLDING, &Guard{Reason: "test", Since: o.Now}
		}, func(s []*Step) bool { return len(s) == 1 && s[0].GetGuardFailed() != nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(4)
			w.Create("r-1", "16")
			for range 4 {
				turn(t, w, nil) // Validate, Enqueue, Start, PlanWave
			}
			if fsm.CurrentWave(w.Machine.Rollout("r-1")) == nil {
				t.Fatal("no wave")
			}
			r, o := w.Machine.Rollout("r-1"), observation(w)
			c.bend(w, &o, r)
			if steps := Next(r, o); !c.ok(steps) {
				t.Errorf("proposed %v", steps)
			}
			if !mutant.Enabled {
				return
			}
			defer mutant.Plant(c.bug)()
			if steps := Next(r, o); c.ok(steps) {
				t.Errorf("planted %s changed nothing: %v", c.bug, steps)
			}
		})
	}
}
