package fsm

import (
	"cmp"
	"fmt"

	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// StateName in words.
func StateName(s commandv1.RolloutState) string {
	switch s {
	case draft:
		return "a draft"
	case validated:
		return "validated"
	case queued:
		return "queued"
	case preflight:
		return "in preflight"
	case draining:
		return "draining replicas"
	case applying:
		return "applying the configuration"
	case warming:
		return "warming replicas up"
	case observing:
		return "observing"
	case holding:
		return "holding"
	case paused:
		return "paused"
	case baking:
		return "baking"
	case mitigating:
		return "mitigating"
	case rollingBack:
		return "rolling back"
	case rollbackIncomplete:
		return "an incomplete rollback"
	case succeeded:
		return "succeeded"
	case rolledBack:
		return "rolled back"
	case cancelled:
		return "cancelled"
	}
	return "in no state"
}

func waveName(r *commandv1.Rollout, w *commandv1.Wave) string {
	return fmt.Sprintf("wave %d/%d (%d %%)", w.GetIndex()+1, len(r.GetPolicy().GetSteps()), w.GetStepPercent())
}

// follow lets a rollout's state follow what its replicas reported.
func (t *tx) follow(r *commandv1.Rollout) {
	switch r.GetState() {
	case mitigating:
		t.takeOut(r)
		t.clocks(r)
	case rollingBack, rollbackIncomplete:
		t.hasten(r)
		t.clocks(r)
		t.restored(r)
	default:
		if reason, failed := t.tooManyFailed(r); failed {
			t.mitigate(r, harm{reason: reason, blamed: true})
			return
		}
		t.followWave(r)
	}
}

// tooManyFailed reports whether a wave has lost more replicas than it may: two, or its only one.
// It needs no statistics, and no leader.
func (t *tx) tooManyFailed(r *commandv1.Rollout) (string, bool) {
	if mutant.On(MutantI9) {
		return "", false
	}
	for _, w := range r.GetWaves() {
		failed, why := 0, ""
		for _, id := range w.GetOffered() {
			if i, ok := t.instances.get(id); ok && Failed(r, i) {
				failed++
				why = fmt.Sprintf("%s: %s", id, orUnknown(cmp.Or(i.GetAssignment().GetRefused(), i.GetState().GetFailedReason())))
			}
		}
		if failed >= 2 || failed == 1 && len(w.GetSelected()) == 1 {
			return fmt.Sprintf("guard: %d of %d replicas of wave %d refused the configuration or took it back by themselves; %s", failed, len(w.GetOffered()), w.GetIndex()+1, why), true
		}
	}
	return "", false
}

// followWave moves between Draining, Applying and Warming as the offered replicas do; under a pause
// it moves the state to return to.
func (t *tx) followWave(r *commandv1.Rollout) {
	state := &r.State
	if r.GetState() == paused {
		state = &r.PreviousState
	}
	if *state != draining && *state != applying && *state != warming {
		return
	}
	next := t.waveState(r)
	if next != *state {
		*state = next
		w := CurrentWave(r)
		t.note(r, "%s: %s (%d replicas serve on it)", waveName(r, w), StateName(next), t.serving(r))
	}
	r.ModifyIndex = t.entry
}

func (t *tx) waveState(r *commandv1.Rollout) commandv1.RolloutState {
	w := CurrentWave(r)
	if len(w.GetSelected()) > 0 && len(w.GetOffered()) == 0 {
		return draining
	}
	next := warming
	for _, id := range w.GetOffered() {
		i, ok := t.instances.get(id)
		if !ok {
			continue
		}
		switch StageOf(r, i, t.incarnation) {
		case Offered, Draining:
			return draining
		case Applying:
			next = applying
		}
	}
	return next
}

// restored ends a rollback once every changed replica is back on its last-known-good.
func (t *tx) restored(r *commandv1.Rollout) {
	if len(NotRestored(r, t.members(r.GetGroup()), t.incarnation)) > 0 {
		return
	}
	r.RestoredMs = t.now
	t.end(r, rolledBack, "rollout %s is rolled back: %s; mitigated after %.1f s, restored after %.1f s", r.GetId(), r.GetEndReason(),
		float64(r.GetMitigatedMs()-r.GetHarmMs())/1000, float64(r.GetRestoredMs()-r.GetHarmMs())/1000)
	t.settle(r.GetGroup())
}

// settle brings replicas that no rollout cares for to the group's last-known-good: newcomers and
// those that were away are offered it, within max_unavailable, while no rollout holds the group;
// those on an epoch that nobody promoted are reverted. A replica that took the promoted epoch or a
// newer one back is left alone: it would not apply the promoted one any more.
func (t *tx) settle(group string) {
	g, ok := t.groups.get(group)
	if !ok {
		return
	}
	t.settleExperiments(group)
	r := t.holder(group)
	for _, i := range t.members(group) {
		st := i.GetState()
		if st == nil || t.onTrial(i) || !i.GetReachable() || Pending(i, t.incarnation) || r != nil && WasOffered(r, i.GetId()) {
			continue
		}
		switch st.GetPhase() {
		case agentv1.Phase_PHASE_PROBATION, agentv1.Phase_PHASE_CONFIRMED:
			t.finishStray(g, i)
		case agentv1.Phase_PHASE_IDLE:
			if r == nil && !mutant.On(MutantI10Behind) {
				t.offerPromoted(g, i)
			}
		}
	}
}

// finishStray leads a replica on an unfinished epoch to its end: the promoted one is confirmed and
// promoted, any other is reverted.
func (t *tx) finishStray(g *commandv1.Group, i *commandv1.Instance) {
	st := i.GetState()
	kind := commandv1.AssignmentKind_ASSIGNMENT_KIND_CONFIRM
	switch {
	case st.GetRunningEpoch() != g.GetPromotedEpoch():
		if !t.admits(g, i) {
			return
		}
		kind = commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT
		t.event("instance", g.GetName(), i.GetId(), "replica %s runs epoch %d, which nobody promoted; it is reverted", i.GetId(), st.GetRunningEpoch())
	case st.GetPhase() == agentv1.Phase_PHASE_CONFIRMED:
		kind = commandv1.AssignmentKind_ASSIGNMENT_KIND_PROMOTE
	case !st.GetServing():
		return
	}
	t.assignAlone(i.GetId(), &commandv1.Assignment{
		Kind: kind, Epoch: st.GetRunningEpoch(), ParentEpoch: st.GetLkgEpoch(), BodyHash: st.GetRunningHash(), Reason: "no rollout holds this epoch",
	})
}

// offerPromoted catches a replica up that is behind the group.
func (t *tx) offerPromoted(g *commandv1.Group, i *commandv1.Instance) {
	st := i.GetState()
	epoch, known := t.epochs.get(epochKey(g.GetPromotedEpoch()))
	if !known || st.GetLkgEpoch() >= epoch.GetId() || st.GetFailedEpoch() >= epoch.GetId() || refusedEpoch(i, epoch.GetId()) ||
		!st.GetServing() || i.GetOperatorDrain() || !t.admits(g, i) {
		return
	}
	t.event("instance", g.GetName(), i.GetId(), "replica %s is behind its group: it is offered epoch %d", i.GetId(), epoch.GetId())
	t.assignAlone(i.GetId(), &commandv1.Assignment{
		Kind: commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER, Epoch: epoch.GetId(), ParentEpoch: st.GetLkgEpoch(),
		BodyHash: epoch.GetBodyHash(), ProbationMs: g.GetPolicy().GetProbationMs(),
	})
}

func refusedEpoch(i *commandv1.Instance, epoch uint64) bool {
	return i.GetAssignment().GetRefused() != "" && i.GetAssignment().GetEpoch() == epoch
}

// admits reports whether the replica may be taken out of rotation now.
func (t *tx) admits(g *commandv1.Group, i *commandv1.Instance) bool {
	return !i.GetState().GetServing() || CapacityOf(g.GetPolicy(), t.members(g.GetName()), t.incarnation).Admits(1)
}

// assignAlone gives an instance something to do outside of any rollout.
func (t *tx) assignAlone(id string, a *commandv1.Assignment) {
	i := t.instances.edit(id)
	a.FenceIndex, a.AtMs = t.entry, t.now
	i.Assignment, i.ModifyIndex = a, t.entry
}
