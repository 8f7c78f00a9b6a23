package experiment

import (
	"cmp"
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// action is what to do now; the zero action is to wait.
type action struct {
	measure *want  // run it on the engine as it is
	offer   string // this arm
	endRun  bool   // take the trial back
	fail    string // in words: the test cannot go on
	refused string // in words: the candidate does not start
	finish  bool   // all runs are there
}

// patience is how long a test waits for its engine beyond three of its restarts.
const patience = 15 * time.Minute

// Next decides how a test comes to the run that it wants. i is nil for a twin, or when the engine is
// gone. It has no side effect.
func next(e *commandv1.Experiment, i *commandv1.Instance, incarnation uint64, w *want, now time.Time) action {
	switch {
	case w == nil:
		return action{finish: true}
	case e.GetTwin():
		return action{measure: w}
	case i == nil:
		return action{fail: "the engine is gone"}
	case overdue(e, i, now):
		return action{fail: fmt.Sprintf("the engine was not ready for the next run in time: %s", describe(i))}
	case !i.GetReachable() || fsm.Pending(i, incarnation):
		return action{} // it will come back, or learn what it shall do
	case e.GetTrialEpoch() != 0:
		return onTrial(e, i, w)
	}
	return onOwn(e, i, w)
}

// onTrial is for an engine that was offered an arm.
func onTrial(e *commandv1.Experiment, i *commandv1.Instance, w *want) action {
	st := i.GetState()
	arm := fsm.ArmBaseline
	if e.GetTrialHash() == e.GetCandidateHash() {
		arm = fsm.ArmCandidate
	}
	switch {
	case i.GetAssignment().GetRefused() != "":
		return startFailed(arm, i.GetAssignment().GetRefused())
	case st.GetFailedEpoch() == e.GetTrialEpoch():
		return startFailed(arm, cmp.Or(st.GetFailedReason(), "no reason given"))
	case st.GetPhase() != agentv1.Phase_PHASE_PROBATION || st.GetRunningEpoch() != e.GetTrialEpoch():
		return action{} // draining, restarting, warming up
	case arm == w.arm && (!w.fresh || lastEpoch(e) != e.GetTrialEpoch()):
		return action{measure: w}
	}
	return action{endRun: true}
}

func startFailed(arm, why string) action {
	if arm == fsm.ArmCandidate {
		return action{refused: why}
	}
	return action{fail: "the engine did not come up again with the settings that it runs: " + why}
}

// onOwn is for an engine on its last-known-good.
func onOwn(e *commandv1.Experiment, i *commandv1.Instance, w *want) action {
	st := i.GetState()
	switch {
	case st.GetPhase() == agentv1.Phase_PHASE_QUARANTINED:
		return action{fail: "the engine does not come up with its last-known-good: " + describe(i)}
	case st.GetPhase() != agentv1.Phase_PHASE_IDLE:
		return action{}
	case restarts(e) && (!i.GetOperatorDrain() || st.GetServing()):
		return action{} // the drain is on its way
	case w.arm == fsm.ArmCandidate:
		return action{offer: fsm.ArmCandidate}
	case w.fresh && lastOwn(e):
		return action{offer: fsm.ArmBaseline}
	}
	return action{measure: w}
}

// restarts: the engine was, or is being, drained for this test.
func restarts(e *commandv1.Experiment) bool { return e.GetDrainedHere() || e.GetCandidateHash() != "" }

// lastOwn: the last run of load was made in the process that runs the last-known-good now. For a
// comparison, the process that it found does not count as fresh either.
func lastOwn(e *commandv1.Experiment) bool {
	for k := len(e.GetRuns()) - 1; k >= 0; k-- {
		r := e.GetRuns()[k]
		if r.GetEpoch() != 0 {
			return false
		}
		if !r.GetQuality() {
			return true
		}
	}
	return e.GetKind() == commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE
}

// lastEpoch on which load was sent.
func lastEpoch(e *commandv1.Experiment) uint64 {
	for k := len(e.GetRuns()) - 1; k >= 0; k-- {
		if r := e.GetRuns()[k]; !r.GetQuality() {
			return r.GetEpoch()
		}
	}
	return 0
}

// overdue: nothing has come of the test for long.
func overdue(e *commandv1.Experiment, i *commandv1.Instance, now time.Time) bool {
	last := e.GetCreatedMs()
	for _, n := range e.GetNotes() {
		last = max(last, n.GetAtMs())
	}
	for _, r := range e.GetRuns() {
		last = max(last, r.GetAtMs())
	}
	return now.Sub(time.UnixMilli(last)) > patience+3*time.Duration(i.GetRestartEstimateMs())*time.Millisecond
}

// describe an engine's state in words.
func describe(i *commandv1.Instance) string {
	switch {
	case !i.GetReachable():
		return "its agent is not connected"
	case i.GetState().GetHealth() != "":
		return i.GetState().GetHealth()
	}
	return "it is " + i.GetState().GetPhase().String()
}
