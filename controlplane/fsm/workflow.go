package fsm

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Statuses of a recommendation.
const (
	StatusOpen          = "open"
	StatusApproved      = "approved"
	StatusRejected      = "rejected"
	StatusApplied       = "applied"
	StatusSuperseded    = "superseded"
	StatusKeptIncumbent = "kept_incumbent"
)

// decisions lists what may follow on a status.
var decisions = map[string][]string{
	StatusOpen:     {StatusApproved, StatusRejected, StatusApplied, StatusSuperseded, StatusKeptIncumbent},
	StatusApproved: {StatusApplied, StatusRejected, StatusSuperseded, StatusKeptIncumbent},
	StatusApplied:  {StatusApplied, StatusKeptIncumbent},
}

func (t *tx) putRecommendation(cmd *commandv1.PutRecommendation) (string, *Refusal) {
	rec := proto.CloneOf(cmd.GetRecommendation())
	if rec == nil {
		return "", refuse(Invalid, "a recommendation without content")
	}
	if _, ok := t.groups.get(rec.GetGroup()); !ok {
		return "", refuse(NotFound, "group %q is unknown", rec.GetGroup())
	}
	rec.Id = cmp.Or(rec.GetId(), fmt.Sprintf("rec-%d", t.entry))
	if _, exists := t.recommendations.get(rec.GetId()); exists {
		return "", refuse(AlreadyExists, "recommendation %s exists", rec.GetId())
	}
	rec.Status = cmp.Or(rec.GetStatus(), StatusOpen)
	rec.CreatedMs, rec.ModifyIndex = t.now, t.entry
	t.recommendations.put(rec.GetId(), rec)
	forget(t.recommendations, func(o *commandv1.Recommendation) bool {
		return o.GetGroup() == rec.GetGroup() && o.GetStatus() != StatusOpen && o.GetStatus() != StatusApproved
	}, (*commandv1.Recommendation).GetCreatedMs)
	t.event("recommendation", rec.GetGroup(), rec.GetId(), "recommendation %s for group %s: %s", rec.GetId(), rec.GetGroup(), rec.GetTitle())
	return rec.GetId(), nil
}

func (t *tx) decideRecommendation(cmd *commandv1.DecideRecommendation) (string, *Refusal) {
	rec := t.recommendations.edit(cmd.GetId())
	if rec == nil {
		return "", refuse(NotFound, "recommendation %q is unknown", cmd.GetId())
	}
	if cmd.GetIfMatch() != 0 && cmd.GetIfMatch() != rec.GetModifyIndex() {
		return "", refuse(PreconditionFailed, "recommendation %s was changed meanwhile: read it again", rec.GetId())
	}
	if !slices.Contains(decisions[rec.GetStatus()], cmd.GetStatus()) {
		return "", refuse(Conflict, "recommendation %s is %s and cannot become %q", rec.GetId(), rec.GetStatus(), cmd.GetStatus())
	}
	rec.Status, rec.DecidedBy, rec.ModifyIndex = cmd.GetStatus(), t.actor, t.entry
	rec.DecisionReason = cmp.Or(cmd.GetReason(), rec.GetDecisionReason())
	rec.RolloutId = cmp.Or(cmd.GetRolloutId(), rec.GetRolloutId())
	if len(cmd.GetObtained()) > 0 {
		rec.Obtained = cmd.GetObtained()
	}
	t.event("recommendation", rec.GetGroup(), rec.GetId(), "recommendation %s is %s (%s)%s", rec.GetId(), rec.GetStatus(), cmp.Or(t.actor, "unknown"), because(cmd.GetReason()))
	return rec.GetId(), nil
}

// WorkflowEnded reports whether a workflow's state is terminal.
func WorkflowEnded(s commandv1.WorkflowState) bool {
	return s == commandv1.WorkflowState_WORKFLOW_STATE_LEARNED ||
		s == commandv1.WorkflowState_WORKFLOW_STATE_FAILED || s == commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED
}

func (t *tx) createWorkflow(cmd *commandv1.CreateWorkflow) (string, *Refusal) {
	id := cmp.Or(cmd.GetId(), fmt.Sprintf("w-%d", t.entry))
	if _, exists := t.workflows.get(id); exists {
		return "", refuse(AlreadyExists, "workflow %s exists", id)
	}
	g, ok := t.groups.get(cmd.GetGroup())
	if !ok {
		return "", refuse(NotFound, "group %q is unknown", cmd.GetGroup())
	}
	for _, w := range t.workflows.filter(func(w *commandv1.Workflow) bool { return w.GetGroup() == cmd.GetGroup() }) {
		if !WorkflowEnded(w.GetState()) {
			return "", refuse(Locked, "workflow %s is at work on group %s; cancel it or wait until it has ended", w.GetId(), w.GetGroup())
		}
	}
	w := &commandv1.Workflow{
		Id: id, Group: cmd.GetGroup(), Mode: cmp.Or(cmd.GetMode(), g.GetPolicy().GetMode()), State: commandv1.WorkflowState_WORKFLOW_STATE_SCHEDULED,
		Attempt: 1, DeadlineMs: cmd.GetDeadlineMs(), CollectFromMs: cmd.GetCollectFromMs(),
		CreatedMs: t.now, CreatedBy: t.actor, ModifyIndex: t.entry,
	}
	t.workflows.put(id, w)
	forget(t.workflows, func(o *commandv1.Workflow) bool { return o.GetGroup() == w.GetGroup() && WorkflowEnded(o.GetState()) }, (*commandv1.Workflow).GetCreatedMs)
	t.workflowNote(w, fmt.Sprintf("workflow %s looks at group %s in mode %s", id, w.GetGroup(), modeName(w.GetMode())))
	return id, nil
}

func (t *tx) workflowNote(w *commandv1.Workflow, text string) {
	w.Notes = append(w.Notes, &commandv1.Note{AtMs: t.now, Index: t.entry, Text: text})
	if over := len(w.Notes) - maxNotes; over > 0 {
		w.Notes = w.Notes[over:]
	}
	t.event("workflow", w.GetGroup(), w.GetId(), "%s", text)
}

// stepWorkflow moves a workflow on when it is where the command expects it. States only rise; a
// repetition of the present state adds a note or a later deadline.
func (t *tx) stepWorkflow(cmd *commandv1.StepWorkflow) (string, *Refusal) {
	w := t.workflows.edit(cmd.GetId())
	if w == nil {
		return "", refuse(NotFound, "workflow %q is unknown", cmd.GetId())
	}
	if WorkflowEnded(w.GetState()) {
		return "", refuse(Conflict, "workflow %s has ended: %s", w.GetId(), w.GetEndReason())
	}
	if cmd.GetExpect() != w.GetState() {
		return "", refuse(Conflict, "workflow %s is in state %d, not %d", w.GetId(), w.GetState(), cmd.GetExpect())
	}
	if cmd.GetNext() < w.GetState() || cmd.GetNext() > commandv1.WorkflowState_WORKFLOW_STATE_CANCELLED {
		return "", refuse(Conflict, "workflow %s cannot go from state %d back to %d", w.GetId(), w.GetState(), cmd.GetNext())
	}
	if w.GetState() == commandv1.WorkflowState_WORKFLOW_STATE_AWAITING_APPROVAL && cmd.GetNext() == commandv1.WorkflowState_WORKFLOW_STATE_DECIDED {
		w.ApprovedBy = t.actor
	}
	w.State, w.ModifyIndex = cmd.GetNext(), t.entry
	w.RecommendationId = cmp.Or(cmd.GetRecommendationId(), w.GetRecommendationId())
	w.RolloutId = cmp.Or(cmd.GetRolloutId(), w.GetRolloutId())
	w.DeadlineMs = cmp.Or(cmd.GetDeadlineMs(), w.GetDeadlineMs())
	if len(cmd.GetFindings()) > 0 {
		w.Findings = cmd.GetFindings()
	}
	if cmd.GetBefore() != nil {
		w.Before = cmd.GetBefore()
	}
	if cmd.GetAfter() != nil {
		w.After = cmd.GetAfter()
	}
	if WorkflowEnded(w.GetState()) {
		w.EndedMs, w.DeadlineMs = t.now, 0
		w.EndReason = cmp.Or(cmd.GetEndReason(), cmd.GetNote())
	}
	if text := cmp.Or(cmd.GetNote(), cmd.GetEndReason()); text != "" {
		t.workflowNote(w, text)
	}
	return w.GetId(), nil
}

// maxEffectsDone bounds the finished rows of the outbox.
const maxEffectsDone = 256

// addEffect asks the leader to do something outside of the log.
func (t *tx) addEffect(kind, target string) {
	id := fmt.Sprintf("%s/%s", kind, target)
	t.effects.put(id, &commandv1.Effect{Id: id, Kind: kind, Target: target, CreatedIndex: t.entry})
}

func (t *tx) effectDone(cmd *commandv1.EffectDone) (string, *Refusal) {
	e := t.effects.edit(cmd.GetId())
	if e == nil {
		return "", refuse(NotFound, "effect %q is unknown", cmd.GetId())
	}
	if e.GetDone() {
		return e.GetId(), nil
	}
	e.Done, e.DoneTerm, e.Result = true, cmd.GetTerm(), cmd.GetResult()
	done := t.effects.filter(func(e *commandv1.Effect) bool { return e.GetDone() })
	slices.SortStableFunc(done, func(a, b *commandv1.Effect) int { return cmp.Compare(a.GetCreatedIndex(), b.GetCreatedIndex()) })
	for len(done) > maxEffectsDone {
		t.effects.remove(done[0].GetId())
		done = done[1:]
	}
	return e.GetId(), nil
}
