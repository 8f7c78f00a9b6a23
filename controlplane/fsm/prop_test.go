package fsm_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// TestInvariants walks at random and holds I1, I2, I3, I5, I6, I9, I10, I15 and I18 after every
// step; then the log is replayed (I13).
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		choose := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "choice") }
		w, err := randomWalk(choose, 120)
		if err != nil {
			t.Fatal(err)
		}
		replay(t, w, choose(len(w.Log)))
	})
}

// replay applies the log once whole and once with a snapshot taken and restored on the way.
func replay(t rapid.TB, w *fsmtest.World, cut int) {
	whole, half := fsm.New(), fsm.New()
	for k, e := range w.Log {
		whole.Apply(e.Index, e.Raw)
		half.Apply(e.Index, e.Raw)
		if k != cut {
			continue
		}
		snap, err := half.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var raw bytes.Buffer
		if _, err := snap.WriteTo(&raw); err != nil {
			t.Fatal(err)
		}
		half = fsm.New()
		if err := half.Restore(&raw); err != nil {
			t.Fatal(err)
		}
	}
	if want := w.Machine.Hash(); whole.Hash() != want || half.Hash() != want {
		t.Fatalf("I13: replay gives %s, after a snapshot %s, want %s", whole.Hash(), half.Hash(), want)
	}
}

// seededWalks returns the first break in many seeded walks, and how many walks ended in promotion.
func seededWalks(seeds int) (promoted int, broke error) {
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		k := newWalker(rng.IntN)
		if err := k.walk(250); err != nil {
			return promoted, err
		}
		if err := k.finish(); err != nil {
			return promoted, err
		}
		for _, r := range k.w.Machine.Rollouts("") {
			if r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
				promoted++
			}
		}
	}
	return promoted, nil
}

// TestSeededWalks shows that the walks reach the end of rollouts, not just their beginning.
func TestSeededWalks(t *testing.T) {
	promoted, broke := seededWalks(40)
	if broke != nil {
		t.Fatal(broke)
	}
	if promoted == 0 {
		t.Error("no walk ended in a promotion: they prove little")
	}
}

// TestPlantedBugs shows that the walks see each planted break. It runs in builds with the tag
// "mutants".
func TestPlantedBugs(t *testing.T) {
	if !mutant.Enabled {
		return // the same walks, with nothing planted, are TestSeededWalks
	}
	for _, bug := range []mutant.Name{
		fsm.MutantI1, fsm.MutantI2, fsm.MutantI3, fsm.MutantI5, fsm.MutantI6, fsm.MutantI9, fsm.MutantI10, fsm.MutantI15, fsm.MutantI18,
	} {
		remove := mutant.Plant(bug)
		_, broke := seededWalks(600)
		remove()
		if broke == nil {
			t.Errorf("planted %s: nothing broke", bug)
			continue
		}
		t.Logf("planted %s: %v", bug, broke)
	}
}
