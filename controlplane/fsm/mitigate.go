package fsm

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// mitigationLimitMs is how long the replicas are given to leave rotation; then they are reverted
// all the same.
const mitigationLimitMs = 60_000

// harm is why a rollout is taken back.
type harm struct {
	reason string
	since  int64 // first sign, Unix milliseconds; 0: now
	blamed bool  // the configuration is at fault and will be quarantined
}

// mitigate is the terminal decision: the changed replicas leave rotation as far as the floor allows,
// and are reverted when they have. Nothing that comes later can make this rollout succeed.
func (t *tx) mitigate(r *commandv1.Rollout, h harm) {
	r.Aborted, r.PreviousState, r.EndReason = true, 0, tail(h.reason, 1024)
	r.HarmMs = min(cmp.Or(h.since, t.now), t.now)
	if len(OfferedTo(r)) == 0 {
		t.end(r, rolledBack, "rollout %s ended before any replica was changed: %s", r.GetId(), r.GetEndReason())
		t.settle(r.GetGroup())
		return
	}
	if h.blamed {
		t.quarantine(r)
	}
	r.State, r.DeadlineMs, r.DeadlineLeftMs = mitigating, t.now+mitigationLimitMs, 0
	t.note(r, "taking back: %s", r.GetEndReason())
	t.takeOut(r)
	t.clocks(r)
}

func (t *tx) quarantine(r *commandv1.Rollout) {
	until := t.now + r.GetPolicy().GetQuarantineMs()
	t.quarantines.put(quarantineKey(r.GetGroup(), r.GetBodyHash()), &commandv1.Quarantine{
		Group: r.GetGroup(), BodyHash: r.GetBodyHash(), UntilMs: until, Reason: r.GetEndReason(), RolloutId: r.GetId(),
	})
	t.event("quarantine", r.GetGroup(), r.GetBodyHash(), "configuration %s is quarantined in group %s for %d h",
		short(r.GetBodyHash()), r.GetGroup(), r.GetPolicy().GetQuarantineMs()/3_600_000)
}

// takeOut asks the changed replicas to leave rotation, newest first. Those that are out already, or
// never came in, are reverted at once. Those that are merely slow leave only down to the floor; the
// rest follow as others return.
func (t *tx) takeOut(r *commandv1.Rollout) {
	spare := CapacityOf(r.GetPolicy(), t.members(r.GetGroup()), t.incarnation).Spare()
	ids := OfferedTo(r)
	slices.Reverse(ids)
	for _, id := range ids {
		i, ok := t.instances.get(id)
		if !ok || t.leaving(r, i) {
			continue
		}
		switch {
		case StageOf(r, i, t.incarnation) != Serving:
			t.revert(r, id, 0)
		case hardFault(i):
			t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE).Assignment.Reason = r.GetEndReason()
		case spare > 0:
			t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE).Assignment.Reason = r.GetEndReason()
			spare--
		}
	}
}

// leaving reports whether the rollout has asked the instance to leave rotation or to revert.
func (t *tx) leaving(r *commandv1.Rollout, i *commandv1.Instance) bool {
	a := i.GetAssignment()
	return a.GetRolloutId() == r.GetId() && (a.GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE ||
		a.GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT)
}

// hardFault reports whether a replica that calls itself in rotation is broken rather than slow.
func hardFault(i *commandv1.Instance) bool { return i.GetState().GetUnrequestedExits() > 0 }

func (t *tx) revert(r *commandv1.Rollout, id string, slot uint32) {
	i := t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT)
	if i == nil {
		return
	}
	i.Assignment.Reason, i.Assignment.Slot = r.GetEndReason(), slot
	if slot > 0 {
		i.Assignment.SlotDelayMs = t.slotDelay(r)
	}
}

// bad reports whether the instance still serves users on the rollout's epoch.
func bad(r *commandv1.Rollout, i *commandv1.Instance) bool {
	return i.GetState().GetServing() && i.GetState().GetRunningEpoch() == r.GetEpoch() && WasOffered(r, i.GetId())
}

// clocks stops the clock of mitigation once no changed replica that can be reached is in rotation.
func (t *tx) clocks(r *commandv1.Rollout) {
	if r.GetMitigatedMs() != 0 {
		return
	}
	for _, i := range t.members(r.GetGroup()) {
		if i.GetReachable() && bad(r, i) {
			return
		}
	}
	r.MitigatedMs = t.now
	t.note(r, "mitigated: no replica serves on epoch %d any more", r.GetEpoch())
}

// drained ends mitigation: all changed replicas are told to revert in this one step. Those out of
// rotation restart at once; those that had to stay in, to keep the floor, take their turns.
func (t *tx) drained(r *commandv1.Rollout) *Refusal {
	if refusal := in(r, mitigating); refusal != nil {
		return refusal
	}
	if open := StillDraining(r, t.members(r.GetGroup())); len(open) > 0 && t.now < r.GetDeadlineMs() {
		return refuse(Conflict, "%v have not left rotation yet", open)
	}
	slots := t.revertAll(r)
	r.State = rollingBack
	r.DeadlineMs = t.now + r.GetPolicy().GetProbationMs() + int64(slots)*t.slotDelay(r)
	t.note(r, "reverting %d replicas to their last-known-good", len(OfferedTo(r)))
	t.follow(r)
	return nil
}

// revertAll reverts every changed replica that is not reverting yet and returns how many slots the
// restarts take.
func (t *tx) revertAll(r *commandv1.Rollout) uint32 {
	width := max(r.GetPolicy().GetMaxUnavailable(), 1)
	out, waiting := false, []string{}
	for _, id := range OfferedTo(r) {
		i, ok := t.instances.get(id)
		switch {
		case !ok || i.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT && i.GetAssignment().GetRolloutId() == r.GetId():
		case bad(r, i) && r.GetRestart() && i.GetAssignment().GetKind() != commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE:
			waiting = append(waiting, id)
		default:
			t.revert(r, id, 0)
			out = true
		}
	}
	first := uint32(0)
	if out {
		first = 1 // after those that are out have come back
	}
	for k, id := range waiting {
		t.revert(r, id, first+uint32(k)/width)
	}
	return first + uint32(len(waiting)+int(width)-1)/width + 1
}

// hasten lets replicas that wait in rotation for their slot revert as soon as others have returned.
// The slot's own time is for the case that nobody can tell them so.
func (t *tx) hasten(r *commandv1.Rollout) {
	spare := CapacityOf(r.GetPolicy(), t.members(r.GetGroup()), t.incarnation).Spare()
	for _, id := range OfferedTo(r) {
		i, ok := t.instances.get(id)
		waits := ok && bad(r, i) && i.GetReachable() && i.GetAssignment().GetRolloutId() == r.GetId() &&
			i.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT && i.GetAssignment().GetSlot() > 0
		if waits && spare > 0 {
			t.revert(r, id, 0)
			spare--
		}
	}
}

// StillDraining lists the replicas that were asked to leave rotation, can be reached, and serve.
func StillDraining(r *commandv1.Rollout, members []*commandv1.Instance) []string {
	var open []string
	for _, i := range members {
		if i.GetReachable() && i.GetState().GetServing() && WasOffered(r, i.GetId()) &&
			i.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE {
			open = append(open, i.GetId())
		}
	}
	return open
}

// NotRestored lists the changed replicas that are not back on their last-known-good.
func NotRestored(r *commandv1.Rollout, members []*commandv1.Instance, incarnation uint64) []string {
	var open []string
	for _, i := range members {
		if s := StageOf(r, i, incarnation); s != Untouched && s != Restored {
			open = append(open, i.GetId())
		}
	}
	return open
}

// rollbackStalled gives up waiting for replicas that cannot be reached or do not start. The group
// stays locked, but a rollout that names this one may take over.
func (t *tx) rollbackStalled(r *commandv1.Rollout, cmd *commandv1.RollbackStalled) *Refusal {
	if refusal := in(r, rollingBack); refusal != nil {
		return refusal
	}
	open := NotRestored(r, t.members(r.GetGroup()), t.incarnation)
	stuck := !slices.ContainsFunc(open, func(id string) bool {
		i, _ := t.instances.get(id)
		return i.GetState().GetPhase() != agentv1.Phase_PHASE_QUARANTINED
	})
	if !stuck && t.now < r.GetDeadlineMs() {
		return refuse(Conflict, "the replicas have until %d ms to come back", r.GetDeadlineMs())
	}
	r.State, r.DeadlineMs = rollbackIncomplete, 0
	t.note(r, "rollback incomplete: %v are not back on their last-known-good%s. Bring them back, remove them, or start a rollout that rolls forward from %s",
		open, because(cmd.GetReason()), r.GetId())
	return nil
}

func (t *tx) guardFailed(r *commandv1.Rollout, cmd *commandv1.GuardFailed) *Refusal {
	if cmd.GetTerm() != t.from {
		return refuse(StaleTerm, "the guard fired in term %d and was proposed in term %d: look again", cmd.GetTerm(), t.from)
	}
	if r.GetState() == paused && mutant.On(MutantI15) {
		return refuse(Conflict, "rollout %s is paused", r.GetId())
	}
	if TakingBack(r.GetState()) {
		return nil // being done already
	}
	t.mitigate(r, harm{reason: "guard: " + cmd.GetReason(), since: cmd.GetHarmMs(), blamed: true})
	return nil
}

func (t *tx) abort(r *commandv1.Rollout, cmd *commandv1.Abort) *Refusal {
	if TakingBack(r.GetState()) {
		return nil // being done already
	}
	t.mitigate(r, harm{reason: fmt.Sprintf("aborted by %s%s", cmp.Or(t.actor, "someone"), because(cmd.GetReason()))})
	return nil
}

func (t *tx) deadlinePassed(r *commandv1.Rollout) *Refusal {
	if TakingBack(r.GetState()) {
		return refuse(Conflict, "rollout %s is being taken back already", r.GetId())
	}
	if r.GetDeadlineMs() == 0 || t.now < r.GetDeadlineMs() {
		return refuse(Conflict, "the deadline of rollout %s has not passed", r.GetId())
	}
	t.mitigate(r, harm{reason: "deadline: " + StateName(r.GetState()) + " took too long without a verdict"})
	return nil
}

func (t *tx) pause(r *commandv1.Rollout, cmd *commandv1.Pause) *Refusal {
	if r.GetState() == paused {
		return refuse(Conflict, "rollout %s is paused already", r.GetId())
	}
	if TakingBack(r.GetState()) {
		return in(r)
	}
	r.PreviousState, r.State = r.GetState(), paused
	if r.GetDeadlineMs() != 0 {
		r.DeadlineLeftMs, r.DeadlineMs = max(r.GetDeadlineMs()-t.now, 1), 0
	}
	t.note(r, "paused by %s%s; guards keep running", cmp.Or(t.actor, "someone"), because(cmd.GetReason()))
	return nil
}

// resume goes on where a pause interrupted, or sends a held wave back to observation.
func (t *tx) resume(r *commandv1.Rollout) *Refusal {
	if refusal := in(r, paused, holding); refusal != nil {
		return refusal
	}
	if r.GetState() == holding {
		r.State = observing
		t.note(r, "observation goes on")
		return nil
	}
	r.State, r.PreviousState = r.GetPreviousState(), 0
	if r.GetDeadlineLeftMs() != 0 {
		r.DeadlineMs, r.DeadlineLeftMs = t.now+r.GetDeadlineLeftMs(), 0
	}
	t.note(r, "resumed by %s", cmp.Or(t.actor, "someone"))
	t.follow(r)
	return nil
}
