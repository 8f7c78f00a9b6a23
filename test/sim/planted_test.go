//go:build mutants

package sim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/rollout"
	"github.com/optiinfra/performance-agent/pkg/mutant"
)

// plantedSeeds is within how many seeds a planted bug must be caught.
const plantedSeeds = 500

// TestPlanted plants one bug after the other and wants each caught by the assertion of the invariant
// that it breaks. It prints how many seeds that took.
func TestPlanted(t *testing.T) {
	var table strings.Builder
	for _, c := range []struct {
		invariant string
		bug       mutant.Name
	}{
		{"I1", fsm.MutantI1},
		{"I2", fsm.MutantI2},
		{"I2", rollout.MutantI2},
		{"I3", fsm.MutantI3},
		{"I4", probation.MutantI4},
		{"I5", fsm.MutantI5},
		{"I6", fsm.MutantI6},
		{"I6", probation.MutantI6},
		{"I8", probation.MutantI8},
		{"I8", probation.MutantI8Disk},
		{"I9", fsm.MutantI9},
		{"I9", probation.MutantI9},
		{"I10", fsm.MutantI10},
		{"I10", fsm.MutantI10Behind},
		{"I14", probation.MutantI14},
		{"I15", fsm.MutantI15},
		{"I15", rollout.MutantI15},
	} {
		t.Run(c.invariant+"/"+string(c.bug), func(t *testing.T) {
			defer mutant.Plant(c.bug)()
			others := map[string]int{}
			for seed := range uint64(plantedSeeds) {
				_, failure := Run(seed)
				switch {
				case failure == nil:
				case failure.Invariant == c.invariant:
					fmt.Fprintf(&table, "%-4s %-14s %5d seeds  %s", c.invariant, c.bug, seed+1, failure.Message)
					if len(others) > 0 {
						fmt.Fprintf(&table, " (others before: %v)", others)
					}
					table.WriteByte('\n')
					return
				default:
					others[failure.Invariant]++
				}
			}
			t.Errorf("not caught in %d seeds; other assertions: %v", plantedSeeds, others)
		})
	}
	t.Logf("track record:\n%s", table.String())
}
