// Package workflow drives the durable pipeline of one group from finding to learning: collect,
// diagnose, propose, screen, wait for approval, roll out, verify, learn.
//
// Next is pure: the record and what was observed in, one step out. The Controller runs on the
// leader, fetches what the present state needs and proposes the step; the record holds all that a
// new leader needs to go on. What to propose, how to roll out and what harm is, others decide.
package workflow

import (
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Short names for the states, which are long on the wire.
const (
	scheduled    = commandv1.WorkflowState_WORKFLOW_STATE_SCHEDULED
	collecting   = commandv1.WorkflowState_WORKFLOW_STATE_COLLECTING
	diagnosed    = commandv1.WorkflowState_WORKFLOW_STATE_DIAGNOSED
	proposed     = commandv1.WorkflowState_WORKFLOW_STATE_PROPOSED
	screened     = commandv1.WorkflowState_WORKFLOW_STATE_SCREENED
	awaiting     = commandv1.WorkflowState_WORKFLOW_STATE_AWAITING_APPROVAL
	decided      = commandv1.WorkflowState_WORKFLOW_STATE_DECIDED
	rollingOut   = commandv1.WorkflowState_WORKFLOW_STATE_ROLLING_OUT
	verifying    = commandv1.WorkflowState_WORKFLOW_STATE_VERIFYING
	learned      = commandv1.WorkflowState_WORKFLOW_STATE_LEARNED
	failed       = commandv1.WorkflowState_WORKFLOW_STATE_FAILED
	cancelled    = commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED
	experimental = commandv1.WorkflowState_WORKFLOW_STATE_EXPERIMENTING
)

// Ended reports whether a workflow has reached a terminal state.
func Ended(w *commandv1.Workflow) bool {
	switch w.GetState() {
	case learned, failed, cancelled:
		return true
	}
	return false
}

// Timing of the pipeline.
type Timing struct {
	// Collect is how much telemetry a diagnosis looks at.
	Collect time.Duration
	// Patience bounds waiting for enough data.
	Patience time.Duration
	// Verify is how much telemetry after the bake the result is measured on.
	Verify time.Duration
}

// Observation is what the controller found out for the state the workflow is in. Parts that the
// state does not need are zero.
type Observation struct {
	Now            time.Time
	Findings       []*commandv1.Finding
	Measured       *commandv1.Measured
	Recommendation *commandv1.Recommendation
	Rollout        *commandv1.Rollout
	// Budget is what the error budgets of the group allow; nil: nothing was promised.
	Budget *commandv1.BudgetGate
	// Quarantined says why the proposed configuration may not be offered; empty: it may.
	Quarantined string
	// Err is set when a question could not be answered now; the workflow waits.
	Err error
}

// Step is what to do next: move the record and, before that, start what Rollout or Recommendation
// name. A nil *Step means wait.
type Step struct {
	Command *commandv1.StepWorkflow
	// PutRecommendation keeps a proposal before the workflow points at it.
	PutRecommendation *commandv1.Recommendation
	// CreateRollout starts the rollout before the workflow points at it.
	CreateRollout *commandv1.CreateRollout
	// Decide records what became of the recommendation.
	Decide *commandv1.DecideRecommendation
}

// Next returns the next step of a workflow, nil to wait.
func Next(w *commandv1.Workflow, o Observation, t Timing) *Step {
	switch w.GetState() {
	case scheduled:
		return move(w, collecting, fmt.Sprintf("collecting %.0f s of telemetry", t.Collect.Seconds()))
	case collecting:
		return diagnose(w, o, t)
	case diagnosed:
		return propose(w, o, t)
	case proposed:
		return screen(w, o)
	case screened:
		return gate(w, o)
	case decided, experimental:
		return start(w, o)
	case rollingOut:
		return follow(w, o)
	case verifying:
		return learn(w, o, t)
	}
	return nil // awaiting a person, or ended
}

func move(w *commandv1.Workflow, next commandv1.WorkflowState, note string) *Step {
	return &Step{Command: &commandv1.StepWorkflow{Id: w.GetId(), Expect: w.GetState(), Next: next, Note: note}}
}

func end(w *commandv1.Workflow, state commandv1.WorkflowState, reason string) *Step {
	s := move(w, state, reason)
	s.Command.EndReason = reason
	return s
}

// patience ends a workflow that has waited too long for an answer about its group's telemetry.
func patience(w *commandv1.Workflow, o Observation, t Timing, waitedFor string) *Step {
	began := time.UnixMilli(max(w.GetCreatedMs(), w.GetCollectFromMs()))
	return giveUp(w, o, began.Add(t.Collect+t.Patience), waitedFor)
}

// giveUp ends a workflow once a time is over.
func giveUp(w *commandv1.Workflow, o Observation, at time.Time, waitedFor string) *Step {
	if o.Now.Before(at) {
		return nil
	}
	if o.Err != nil {
		waitedFor = o.Err.Error()
	}
	return end(w, failed, "gave up: "+waitedFor)
}

func diagnose(w *commandv1.Workflow, o Observation, t Timing) *Step {
	if len(o.Findings) == 0 {
		return patience(w, o, t, "no telemetry arrived")
	}
	primary := o.Findings[0]
	if analysis.Class(primary.GetClass()).Fault() {
		return patience(w, o, t, primary.GetSummary()) // it may pass, and nothing can be judged before
	}
	switch primary.GetClass() {
	case "not_enough_data":
		return patience(w, o, t, primary.GetSummary())
	case "none":
		s := end(w, learned, "kept the incumbent: "+primary.GetSummary())
		s.Command.Findings, s.Command.Before = o.Findings, o.Measured
		return s
	}
	s := move(w, diagnosed, primary.GetSummary())
	s.Command.Findings, s.Command.Before = o.Findings, o.Measured
	return s
}

func propose(w *commandv1.Workflow, o Observation, t Timing) *Step {
	r := o.Recommendation
	if r == nil {
		return patience(w, o, t, "no proposal could be computed")
	}
	var s *Step
	if r.GetStatus() == "kept_incumbent" {
		s = end(w, learned, r.GetTitle())
	} else {
		s = move(w, proposed, r.GetTitle())
	}
	s.PutRecommendation = r
	s.Command.RecommendationId = r.GetId()
	return s
}

// screen refuses what may not be offered to live engines, with the reason.
func screen(w *commandv1.Workflow, o Observation) *Step {
	r := o.Recommendation
	switch {
	case r == nil:
		return end(w, failed, "the recommendation has been removed")
	case r.GetLossy():
		return end(w, cancelled, "the proposal may change answers ("+r.GetTitle()+"): approve it by hand after a quality check")
	case len(r.GetPrerequisites()) > 0:
		return end(w, cancelled, "the proposal needs first: "+r.GetPrerequisites()[0])
	case o.Quarantined != "":
		return end(w, cancelled, "the proposed configuration is quarantined: "+o.Quarantined)
	}
	return move(w, screened, "nothing speaks against a canary")
}

// gate lets an auto workflow go on by itself as far as the error budgets allow; else a person decides, whose
// approval of a change in a freeze is their word that it repairs what burns the budget.
func gate(w *commandv1.Workflow, o Observation) *Step {
	budget := fsm.BudgetRefusal(o.Budget, fsm.Change{LowRisk: o.Recommendation.GetRisk() == "low"})
	switch w.GetMode() {
	case commandv1.Mode_MODE_AUTO:
		if budget != nil {
			return move(w, awaiting, budget.Message+". Waiting for a person: POST /workflows/"+w.GetId()+"/approve")
		}
		return move(w, decided, "the group's mode is auto: rolling out")
	case commandv1.Mode_MODE_APPROVE:
		why := ""
		if budget != nil {
			why = budget.Message + ". "
		}
		return move(w, awaiting, why+"waiting for approval: POST /workflows/"+w.GetId()+"/approve")
	}
	return end(w, learned, "advice only: the group's mode is advise; approve the recommendation to roll it out")
}

// start creates the rollout. Its id is the workflow's, so that a repeated step is the same command.
func start(w *commandv1.Workflow, o Observation) *Step {
	r := o.Recommendation
	if r == nil {
		return end(w, failed, "the recommendation has been removed")
	}
	id := "r" + w.GetId()[1:]
	s := move(w, rollingOut, "rollout "+id+" created")
	s.Command.RolloutId = id
	s.CreateRollout = &commandv1.CreateRollout{
		Id: id, Group: w.GetGroup(), Seed: seed(w), Reason: r.GetTitle(), RecommendationId: r.GetId(), WorkflowId: w.GetId(), ApprovedBy: w.GetApprovedBy(),
		Fix: w.GetApprovedBy() != "" && o.Budget.GetClass() == commandv1.BudgetClass_BUDGET_CLASS_FROZEN,
	}
	return s
}

// seed of the canary selection: from the workflow's record, so that every leader draws the same.
func seed(w *commandv1.Workflow) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(w.GetId()) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func follow(w *commandv1.Workflow, o Observation) *Step {
	r := o.Rollout
	if r == nil {
		return end(w, failed, "its rollout is gone")
	}
	switch r.GetState() {
	case commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
		return move(w, verifying, "promoted to all replicas; measuring the result")
	case commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK, commandv1.RolloutState_ROLLOUT_STATE_CANCELLED:
		s := end(w, failed, "the rollout was taken back: "+r.GetEndReason())
		s.Decide = &commandv1.DecideRecommendation{Id: w.GetRecommendationId(), Status: "rejected", Reason: r.GetEndReason(), RolloutId: r.GetId()}
		return s
	}
	return nil
}

func learn(w *commandv1.Workflow, o Observation, t Timing) *Step {
	ended := time.UnixMilli(o.Rollout.GetEndedMs())
	if o.Rollout == nil || o.Now.Sub(ended) < t.Verify {
		return nil
	}
	if o.Measured == nil {
		return giveUp(w, o, time.UnixMilli(o.Rollout.GetEndedMs()).Add(t.Verify+t.Patience), "the result could not be measured")
	}
	s := end(w, learned, "the rollout is measured: see before and after")
	s.Command.After = o.Measured
	s.Decide = &commandv1.DecideRecommendation{Id: w.GetRecommendationId(), Status: "applied", RolloutId: w.GetRolloutId(), Obtained: o.Measured.GetValues()}
	return s
}
