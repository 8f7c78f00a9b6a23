package rollout

import (
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Bugs that a test build can plant in the decisions.
const (
	// MutantI1 plans batches without counting what is unavailable.
	MutantI1 mutant.Name = "rollout.I1"
	// MutantI2 claims headroom that is not there.
	MutantI2 mutant.Name = "rollout.I2"
	// MutantI15 does not look at guards while a rollout is held.
	MutantI15 mutant.Name = "rollout.I15"
)

// Step is one transition to propose.
type Step = commandv1.StepRollout

// Next derives from a record and an observation which steps to propose, in order; none when there
// is nothing to do but wait. It has no side effect, and the same input gives the same answer. Steps
// may be refused when the state has moved on; the next observation then gives the right ones.
func Next(r *commandv1.Rollout, o Observation) []*Step {
	step := next(r, o)
	if step == nil {
		return nil
	}
	step.RolloutId = r.GetId()
	return []*Step{step}
}

func next(r *commandv1.Rollout, o Observation) *Step {
	state := r.GetState()
	if fsm.Ended(state) {
		return nil
	}
	if fsm.TakingBack(state) {
		return takeBack(r, o)
	}
	deaf := state == commandv1.RolloutState_ROLLOUT_STATE_HOLDING && mutant.On(MutantI15)
	if g := o.Guard; g != nil && !deaf {
		return &Step{Step: &commandv1.StepRollout_GuardFailed{GuardFailed: &commandv1.GuardFailed{
			Reason: g.Reason, EvidenceHash: g.EvidenceHash, Term: o.Term, HarmMs: g.Since.UnixMilli(),
		}}}
	}
	if o.past(r.GetDeadlineMs()) {
		return &Step{Step: &commandv1.StepRollout_Deadline{Deadline: &commandv1.DeadlinePassed{}}}
	}
	return forward(r, o)
}

// forward moves a rollout that nothing speaks against.
func forward(r *commandv1.Rollout, o Observation) *Step {
	switch r.GetState() {
	case commandv1.RolloutState_ROLLOUT_STATE_DRAFT:
		return &Step{Step: &commandv1.StepRollout_Validate{Validate: &commandv1.Validate{}}}
	case commandv1.RolloutState_ROLLOUT_STATE_VALIDATED:
		return &Step{Step: &commandv1.StepRollout_Enqueue{Enqueue: &commandv1.Enqueue{}}}
	case commandv1.RolloutState_ROLLOUT_STATE_QUEUED:
		if o.First && (o.LockHolder == "" || o.LockHolder == r.GetRollsForwardFrom()) {
			return &Step{Step: &commandv1.StepRollout_Start{Start: &commandv1.Start{Budget: o.Budget}}}
		}
	case commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT:
		return planWave(r, o)
	case commandv1.RolloutState_ROLLOUT_STATE_DRAINING, commandv1.RolloutState_ROLLOUT_STATE_APPLYING,
		commandv1.RolloutState_ROLLOUT_STATE_WARMING:
		return bringUp(r, o)
	case commandv1.RolloutState_ROLLOUT_STATE_OBSERVING:
		if fsm.CurrentWave(r).GetConfirmed() {
			return planWave(r, o)
		}
		return verdict(r, o)
	case commandv1.RolloutState_ROLLOUT_STATE_HOLDING:
		if o.Verdict.GetOutcome() == commandv1.Outcome_OUTCOME_INCONCLUSIVE {
			return nil // said already
		}
		return verdict(r, o)
	case commandv1.RolloutState_ROLLOUT_STATE_BAKING:
		if o.past(r.GetBakeUntilMs()) {
			return &Step{Step: &commandv1.StepRollout_BakeDone{BakeDone: &commandv1.BakeDone{}}}
		}
	}
	return nil // paused, or waiting
}

// bringUp offers the next batch, or opens observation when the whole wave serves.
func bringUp(r *commandv1.Rollout, o Observation) *Step {
	if s := nextBatch(r, o); s != nil {
		return s
	}
	w := fsm.CurrentWave(r)
	if r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_WARMING || len(fsm.Unsettled(r, o.Members, o.Incarnation)) > 0 || !anyServing(r, o) {
		return nil
	}
	return &Step{Step: &commandv1.StepRollout_WarmDone{WarmDone: &commandv1.WarmDone{Wave: w.GetIndex()}}}
}

func anyServing(r *commandv1.Rollout, o Observation) bool {
	return len(Canaries(r, o.Members, o.Incarnation)) > 0
}

func verdict(r *commandv1.Rollout, o Observation) *Step {
	if o.Verdict == nil {
		return nil
	}
	return &Step{Step: &commandv1.StepRollout_Verdict{Verdict: &commandv1.GiveVerdict{
		Wave: fsm.CurrentWave(r).GetIndex(), Verdict: o.Verdict,
	}}}
}

// takeBack moves a rollout that is being taken back.
func takeBack(r *commandv1.Rollout, o Observation) *Step {
	switch r.GetState() {
	case commandv1.RolloutState_ROLLOUT_STATE_MITIGATING:
		if len(fsm.StillDraining(r, o.Members)) == 0 || o.past(r.GetDeadlineMs()) {
			return &Step{Step: &commandv1.StepRollout_Drained{Drained: &commandv1.Drained{}}}
		}
	case commandv1.RolloutState_ROLLOUT_STATE_ROLLING_BACK:
		if o.past(r.GetDeadlineMs()) {
			return &Step{Step: &commandv1.StepRollout_RollbackStalled{RollbackStalled: &commandv1.RollbackStalled{
				Reason: "they did not come back in the time that reverting takes",
			}}}
		}
	}
	return nil
}
