package fsm

import (
	"cmp"
	"fmt"

	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// maxSummary bounds a verdict's text in the log.
const maxSummary = 4096

// maxVerdicts bounds the verdicts kept of a wave; the newest are kept.
const maxVerdicts = 16

// giveVerdict judges the present wave: a pass confirms it, a failure mitigates, anything else holds.
func (t *tx) giveVerdict(r *commandv1.Rollout, cmd *commandv1.GiveVerdict) *Refusal {
	allowed := []commandv1.RolloutState{observing, holding}
	if mutant.On(MutantI6) {
		allowed = append(allowed, mitigating, rollingBack)
	}
	if refusal := in(r, allowed...); refusal != nil {
		return refusal
	}
	w, refusal := currentWave(r, cmd.GetWave())
	if refusal != nil {
		return refusal
	}
	v := cmd.GetVerdict()
	if refusal := t.checkEvidence(r, w, v); refusal != nil {
		return refusal
	}
	v.Summary, v.AtMs = tail(v.GetSummary(), maxSummary), t.now
	w.Verdicts = append(w.Verdicts, v)
	if over := len(w.Verdicts) - maxVerdicts; over > 0 {
		w.Verdicts = w.Verdicts[over:]
	}
	switch v.GetOutcome() {
	case commandv1.Outcome_OUTCOME_PASS:
		t.pass(r, w, v.GetSummary())
	case commandv1.Outcome_OUTCOME_FAIL:
		t.mitigate(r, harm{reason: "verdict: " + v.GetSummary(), since: v.GetEvidenceFromMs(), blamed: true})
	default:
		t.hold(r, w, v.GetSummary())
	}
	return nil
}

// checkEvidence holds a verdict to its leader's term and to evidence from after the warm-up.
func (t *tx) checkEvidence(r *commandv1.Rollout, w *commandv1.Wave, v *commandv1.Verdict) *Refusal {
	switch {
	case v.GetTerm() != t.from:
		return refuse(StaleTerm, "the verdict was reached in term %d and proposed in term %d: it must be reached again", v.GetTerm(), t.from)
	case v.GetOutcome() < commandv1.Outcome_OUTCOME_PASS || v.GetOutcome() > commandv1.Outcome_OUTCOME_INCONCLUSIVE:
		return refuse(Invalid, "a verdict passes, fails or is inconclusive")
	case w.GetConfirmed():
		return refuse(Conflict, "wave %d has passed already", w.GetIndex()+1)
	case v.GetOutcome() == commandv1.Outcome_OUTCOME_INCONCLUSIVE:
		return nil
	case v.GetEvidenceHash() == "":
		return refuse(Invalid, "a verdict needs evidence")
	case v.GetEvidenceFromMs() < w.GetObserveFromMs() || v.GetEvidenceToMs() < v.GetEvidenceFromMs():
		return refuse(Invalid, "the evidence is from before the replicas had warmed up")
	case v.GetOutcome() == commandv1.Outcome_OUTCOME_PASS && t.now-w.GetObserveFromMs() < r.GetPolicy().GetObserveMinMs():
		return refuse(Conflict, "no wave passes before it was observed for %d s", r.GetPolicy().GetObserveMinMs()/1000)
	case v.GetOutcome() == commandv1.Outcome_OUTCOME_PASS && t.serving(r) == 0:
		return refuse(Conflict, "no replica serves on the new configuration")
	}
	return nil
}

func (t *tx) hold(r *commandv1.Rollout, w *commandv1.Wave, why string) {
	if r.GetState() != holding {
		t.note(r, "%s: holding, not enough to judge by: %s", waveName(r, w), why)
	}
	r.State = holding
}

// pass confirms the wave's replicas and opens the way to the next wave, or to the bake.
func (t *tx) pass(r *commandv1.Rollout, w *commandv1.Wave, why string) {
	w.Confirmed = true
	for _, id := range w.GetOffered() {
		if i, ok := t.instances.get(id); ok && !Failed(r, i) {
			t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_CONFIRM).Assignment.Wave = w.GetIndex()
		}
	}
	t.note(r, "%s: passed: %s", waveName(r, w), why)
	if !LastWave(r) {
		r.State, r.DeadlineMs = observing, t.now+r.GetPolicy().GetWaveDeadlineMs()
		return
	}
	r.State, r.DeadlineMs = baking, 0
	r.BakeUntilMs = t.now + r.GetPolicy().GetBakeMs()
	t.note(r, "all waves have passed; baking for %d s before the configuration becomes the group's last-known-good", r.GetPolicy().GetBakeMs()/1000)
}

// promote is a person's decision not to wait for more evidence.
func (t *tx) promote(r *commandv1.Rollout, cmd *commandv1.Promote) *Refusal {
	if refusal := in(r, observing, holding, baking); refusal != nil {
		return refusal
	}
	why := cmp.Or(t.actor, "someone") + " decided" + because(cmd.GetReason())
	if r.GetState() == baking {
		t.note(r, "bake ended early: %s", why)
		t.succeed(r)
		return nil
	}
	w := CurrentWave(r)
	if w.GetConfirmed() {
		return refuse(Conflict, "wave %d has passed already; the next one is being planned", w.GetIndex()+1)
	}
	if t.serving(r) == 0 {
		return refuse(Conflict, "no replica serves on the new configuration: there is nothing to promote")
	}
	t.pass(r, w, why)
	return nil
}

func (t *tx) bakeDone(r *commandv1.Rollout) *Refusal {
	if refusal := in(r, baking); refusal != nil {
		return refusal
	}
	if t.now < r.GetBakeUntilMs() {
		return refuse(Conflict, "the bake lasts %d s more", (r.GetBakeUntilMs()-t.now+999)/1000)
	}
	t.succeed(r)
	return nil
}

// succeed makes the epoch the group's last-known-good. A replica that has yet to hear that it is
// confirmed refuses a Promote; it gets its own when it has reported, from settle.
func (t *tx) succeed(r *commandv1.Rollout) {
	kept := 0
	for _, id := range OfferedTo(r) {
		i, ok := t.instances.get(id)
		if !ok || Failed(r, i) {
			continue
		}
		kept++
		if i.GetState().GetPhase() == agentv1.Phase_PHASE_CONFIRMED {
			t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_PROMOTE)
		}
	}
	g := t.groups.edit(r.GetGroup())
	g.PromotedEpoch = r.GetEpoch()
	r.EndReason = fmt.Sprintf("promoted: epoch %d is the last-known-good of %d of %d replicas", r.GetEpoch(), kept, len(t.members(r.GetGroup())))
	t.end(r, succeeded, "rollout %s succeeded; %s", r.GetId(), r.GetEndReason())
	t.settle(r.GetGroup())
}
