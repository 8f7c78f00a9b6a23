package fsm

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Short names for the states of a rollout.
const (
	draft              = commandv1.RolloutState_ROLLOUT_STATE_DRAFT
	validated          = commandv1.RolloutState_ROLLOUT_STATE_VALIDATED
	queued             = commandv1.RolloutState_ROLLOUT_STATE_QUEUED
	preflight          = commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT
	draining           = commandv1.RolloutState_ROLLOUT_STATE_DRAINING
	applying           = commandv1.RolloutState_ROLLOUT_STATE_APPLYING
	warming            = commandv1.RolloutState_ROLLOUT_STATE_WARMING
	observing          = commandv1.RolloutState_ROLLOUT_STATE_OBSERVING
	holding            = commandv1.RolloutState_ROLLOUT_STATE_HOLDING
	paused             = commandv1.RolloutState_ROLLOUT_STATE_PAUSED
	baking             = commandv1.RolloutState_ROLLOUT_STATE_BAKING
	mitigating         = commandv1.RolloutState_ROLLOUT_STATE_MITIGATING
	rollingBack        = commandv1.RolloutState_ROLLOUT_STATE_ROLLING_BACK
	rollbackIncomplete = commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE
	succeeded          = commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED
	rolledBack         = commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK
	cancelled          = commandv1.RolloutState_ROLLOUT_STATE_CANCELLED
)

// Ended reports whether a rollout's state is terminal.
func Ended(s commandv1.RolloutState) bool {
	return s == succeeded || s == rolledBack || s == cancelled
}

// TakingBack reports whether a rollout has begun mitigation and has not ended.
func TakingBack(s commandv1.RolloutState) bool {
	return s == mitigating || s == rollingBack || s == rollbackIncomplete
}

// maxNotes bounds a rollout's own history.
const maxNotes = 200

// note adds a line to the rollout's history and to that of the fleet.
func (t *tx) note(r *commandv1.Rollout, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Notes = append(r.Notes, &commandv1.Note{AtMs: t.now, Index: t.entry, Text: text})
	if over := len(r.Notes) - maxNotes; over > 0 {
		r.Notes = r.Notes[over:]
	}
	t.event("rollout", r.GetGroup(), r.GetId(), "%s", text)
}

func (t *tx) createRollout(cmd *commandv1.CreateRollout) (string, *Refusal) {
	id := cmp.Or(cmd.GetId(), fmt.Sprintf("r-%d", t.entry))
	if _, exists := t.rollouts.get(id); exists {
		return "", refuse(AlreadyExists, "rollout %s exists", id)
	}
	g, ok := t.groups.get(cmd.GetGroup())
	if !ok {
		return "", refuse(NotFound, "group %q is unknown", cmd.GetGroup())
	}
	body := proto.CloneOf(cmd.GetBody())
	if body == nil {
		return "", refuse(Invalid, "a rollout needs a configuration: the settings to give to the engines of group %s", g.GetName())
	}
	body.Engine = cmp.Or(body.GetEngine(), g.GetEngine())
	hash := fleet.BodyHash(body)
	if q := t.quarantined(g.GetName(), hash); q != nil && !cmd.GetOverrideQuarantine() {
		return "", refuseQuarantined(q)
	}
	class, refusal := t.checkBody(g, body)
	if refusal != nil {
		return "", refusal
	}
	if _, known := t.bodies.get(hash); !known {
		t.bodies.put(hash, &commandv1.ConfigBody{Hash: hash, Body: body, CreatedIndex: t.entry})
	}
	r := &commandv1.Rollout{
		Id: id, Group: g.GetName(), State: draft, BodyHash: hash, Seed: cmd.GetSeed(), Policy: proto.CloneOf(g.GetPolicy()),
		CreatedMs: t.now, CreatedBy: t.actor, Reason: cmd.GetReason(), RecommendationId: cmd.GetRecommendationId(),
		WorkflowId: cmd.GetWorkflowId(), OverrideQuarantine: cmd.GetOverrideQuarantine(),
		RollsForwardFrom: cmd.GetRollsForwardFrom(), Restart: class.restart, Lossy: class.lossy, ModifyIndex: t.entry,
		Fix: cmd.GetFix(), ApprovedBy: cmd.GetApprovedBy(),
	}
	t.rollouts.put(id, r)
	forget(t.rollouts, func(o *commandv1.Rollout) bool { return o.GetGroup() == r.GetGroup() && Ended(o.GetState()) }, (*commandv1.Rollout).GetCreatedMs)
	t.note(r, "%s asks for configuration %s in group %s%s", cmp.Or(t.actor, "someone"), short(hash), g.GetName(), because(cmd.GetReason()))
	return id, nil
}

func refuseQuarantined(q *commandv1.Quarantine) *Refusal {
	return refuse(Quarantined, "configuration %s failed in group %s (%s, rollout %s) and is quarantined; lift the quarantine, or override it for this rollout, once the cause is known",
		short(q.GetBodyHash()), q.GetGroup(), q.GetReason(), q.GetRolloutId())
}

func (t *tx) stepRollout(cmd *commandv1.StepRollout) (string, *Refusal) {
	r := t.rollouts.edit(cmd.GetRolloutId())
	if r == nil {
		return "", refuse(NotFound, "rollout %q is unknown", cmd.GetRolloutId())
	}
	if Ended(r.GetState()) {
		return "", refuse(Conflict, "rollout %s has ended: %s", r.GetId(), r.GetEndReason())
	}
	r.ModifyIndex = t.entry
	return r.GetId(), t.step(r, cmd)
}

// step carries out one transition of the machine, or says why not.
func (t *tx) step(r *commandv1.Rollout, cmd *commandv1.StepRollout) *Refusal {
	switch s := cmd.GetStep().(type) {
	case *commandv1.StepRollout_Validate:
		return t.validate(r)
	case *commandv1.StepRollout_Enqueue:
		return t.enqueue(r)
	case *commandv1.StepRollout_Start:
		return t.start(r, s.Start)
	case *commandv1.StepRollout_PlanWave:
		return t.planWave(r, s.PlanWave)
	case *commandv1.StepRollout_NextBatch:
		return t.nextBatch(r, s.NextBatch)
	case *commandv1.StepRollout_WarmDone:
		return t.warmDone(r, s.WarmDone)
	case *commandv1.StepRollout_Verdict:
		return t.giveVerdict(r, s.Verdict)
	case *commandv1.StepRollout_Pause:
		return t.pause(r, s.Pause)
	case *commandv1.StepRollout_Resume:
		return t.resume(r)
	case *commandv1.StepRollout_Deadline:
		return t.deadlinePassed(r)
	case *commandv1.StepRollout_GuardFailed:
		return t.guardFailed(r, s.GuardFailed)
	case *commandv1.StepRollout_Abort:
		return t.abort(r, s.Abort)
	case *commandv1.StepRollout_Drained:
		return t.drained(r)
	case *commandv1.StepRollout_BakeDone:
		return t.bakeDone(r)
	case *commandv1.StepRollout_RollbackStalled:
		return t.rollbackStalled(r, s.RollbackStalled)
	case *commandv1.StepRollout_Cancel:
		return t.cancel(r, s.Cancel)
	case *commandv1.StepRollout_Promote:
		return t.promote(r, s.Promote)
	}
	return refuse(Invalid, "a step without content")
}

// in refuses a step that does not belong to the rollout's state.
func in(r *commandv1.Rollout, states ...commandv1.RolloutState) *Refusal {
	if slices.Contains(states, r.GetState()) {
		return nil
	}
	if TakingBack(r.GetState()) {
		return refuse(Conflict, "rollout %s is being taken back (%s); that decision is final", r.GetId(), r.GetEndReason())
	}
	return refuse(Conflict, "rollout %s is %s, which does not allow this step", r.GetId(), StateName(r.GetState()))
}

func (t *tx) validate(r *commandv1.Rollout) *Refusal {
	if refusal := in(r, draft); refusal != nil {
		return refusal
	}
	g, _ := t.groups.get(r.GetGroup())
	body, _ := t.bodies.get(r.GetBodyHash())
	class, refusal := t.checkBody(g, body.GetBody())
	if refusal != nil {
		return refusal
	}
	if refusal := t.checkOutage(r); refusal != nil {
		return refusal
	}
	r.State, r.Restart, r.Lossy = validated, class.restart, class.lossy
	return nil
}

// checkOutage refuses to touch a group that could not be changed without going down.
func (t *tx) checkOutage(r *commandv1.Rollout) *Refusal {
	n := len(t.members(r.GetGroup()))
	if n == 0 {
		return refuse(Conflict, "group %s has no replicas", r.GetGroup())
	}
	if n == 1 && !r.GetPolicy().GetAllowOutage() {
		return refuse(NoCapacity, "group %s has one replica: a change would take the whole group out of service while the engine restarts. "+
			"Add a replica, or set allow_outage in the group's policy to accept that", r.GetGroup())
	}
	if c := CapacityOf(r.GetPolicy(), t.members(r.GetGroup()), t.incarnation); c.Floor >= n && n > 1 {
		return refuse(NoCapacity, "group %s has %d replicas and a floor of %d: none may ever leave rotation. Lower the floor, or add a replica", r.GetGroup(), n, c.Floor)
	}
	return nil
}

func (t *tx) enqueue(r *commandv1.Rollout) *Refusal {
	if refusal := in(r, validated); refusal != nil {
		return refusal
	}
	if _, ok := t.groups.get(r.GetGroup()); !ok {
		return refuse(NotFound, "group %q is unknown", r.GetGroup())
	}
	r.State = queued
	return nil
}

// start takes the group's lock and gives the configuration its epoch.
func (t *tx) start(r *commandv1.Rollout, cmd *commandv1.Start) *Refusal {
	if refusal := in(r, queued); refusal != nil {
		return refusal
	}
	g := t.groups.edit(r.GetGroup())
	if refusal := t.checkOutage(r); refusal != nil {
		return refusal
	}
	if q := t.quarantined(r.GetGroup(), r.GetBodyHash()); q != nil && !r.GetOverrideQuarantine() && !mutant.On(MutantI18) {
		return refuseQuarantined(q)
	}
	if refusal := t.takeLock(g, r); refusal != nil {
		return refusal
	}
	if refusal := t.takeBudget(r, cmd.GetBudget()); refusal != nil {
		return refusal
	}
	r.Epoch, r.ParentEpoch = t.entry, g.GetPromotedEpoch()
	if mutant.On(MutantI3) {
		r.Epoch = g.GetPromotedEpoch()
	}
	t.epochs.put(epochKey(r.GetEpoch()), &commandv1.Epoch{
		Id: r.GetEpoch(), Group: r.GetGroup(), BodyHash: r.GetBodyHash(), Parent: r.GetParentEpoch(),
		RolloutId: r.GetId(), ProbationMs: r.GetPolicy().GetProbationMs(),
	})
	r.State = preflight
	r.DeadlineMs = t.now + r.GetPolicy().GetWaveDeadlineMs()
	t.note(r, "rollout %s holds group %s; its configuration %s is epoch %d", r.GetId(), r.GetGroup(), short(r.GetBodyHash()), r.GetEpoch())
	return nil
}

// takeLock moves the group's lock to the rollout, from nobody or from the incomplete rollback that
// it repairs.
func (t *tx) takeLock(g *commandv1.Group, r *commandv1.Rollout) *Refusal {
	if old := g.GetLockHolder(); old != "" && !mutant.On(MutantI5) {
		held := t.rollouts.edit(old)
		if old != r.GetRollsForwardFrom() || held.GetState() != rollbackIncomplete {
			return refuse(Locked, "group %s is held by %s; this rollout waits until it has ended", g.GetName(), old)
		}
		t.end(held, rolledBack, "rollout %s takes over from the incomplete rollback of %s", r.GetId(), old)
	}
	g.LockHolder, g.ModifyIndex = r.GetId(), t.entry
	return nil
}

// end closes the rollout and releases what it holds.
func (t *tx) end(r *commandv1.Rollout, state commandv1.RolloutState, format string, args ...any) {
	r.State, r.EndedMs, r.DeadlineMs, r.ModifyIndex = state, t.now, 0, t.entry
	if r.GetEndReason() == "" {
		r.EndReason = fmt.Sprintf(format, args...)
	}
	if g := t.groups.edit(r.GetGroup()); g.GetLockHolder() == r.GetId() {
		g.LockHolder, g.ModifyIndex = "", t.entry
	}
	t.note(r, format, args...)
	t.addEffect("rollout_report", r.GetId())
}

func (t *tx) cancel(r *commandv1.Rollout, cmd *commandv1.Cancel) *Refusal {
	if refusal := in(r, draft, validated, queued); refusal != nil {
		return refusal
	}
	r.EndReason = cmp.Or(cmd.GetReason(), "cancelled by "+cmp.Or(t.actor, "someone"))
	t.end(r, cancelled, "rollout %s is cancelled: %s", r.GetId(), r.GetEndReason())
	return nil
}
