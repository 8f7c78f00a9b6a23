package fsm

import "github.com/optiinfra/performance-agent/pkg/mutant"

// Bugs that a test build can plant at the guards of the invariants, to show that the invariants'
// tests see them.
const (
	// MutantI1 offers a batch without counting what is already unavailable.
	MutantI1 mutant.Name = "fsm.I1"
	// MutantI2 offers a batch without the leader's measurement of headroom.
	MutantI2 mutant.Name = "fsm.I2"
	// MutantI3 gives a rollout its parent's epoch in place of a new one.
	MutantI3 mutant.Name = "fsm.I3"
	// MutantI5 starts a rollout on a group that another one holds.
	MutantI5 mutant.Name = "fsm.I5"
	// MutantI6 takes a verdict of a rollout that is being taken back.
	MutantI6 mutant.Name = "fsm.I6"
	// MutantI9 overlooks that a replica took the epoch back before its Confirm arrived.
	MutantI9 mutant.Name = "fsm.I9"
	// MutantI10 forgets the last replica of each batch.
	MutantI10 mutant.Name = "fsm.I10"
	// MutantI10Behind leaves replicas behind that were away while their group was promoted.
	MutantI10Behind mutant.Name = "fsm.I10.behind"
	// MutantI15 does not listen to guards while a rollout is paused.
	MutantI15 mutant.Name = "fsm.I15"
	// MutantI18 starts a configuration that is quarantined.
	MutantI18 mutant.Name = "fsm.I18"
)
