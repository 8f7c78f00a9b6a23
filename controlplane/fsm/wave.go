package fsm

import (
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// WaveTarget is how many of n replicas shall have the configuration after a step: the floor of the
// share, but at least one, and two once the group has eight, since a single canary confounds the
// configuration with its hardware.
func WaveTarget(n int, percent uint32) int {
	least := 1
	if n >= 8 {
		least = 2
	}
	return min(max(n*int(percent)/100, least), n)
}

// CurrentWave is the last one planned, nil before the first.
func CurrentWave(r *commandv1.Rollout) *commandv1.Wave {
	if n := len(r.GetWaves()); n > 0 {
		return r.GetWaves()[n-1]
	}
	return nil
}

// LastWave reports whether the current wave is that of the last step.
func LastWave(r *commandv1.Rollout) bool { return len(r.GetWaves()) == len(r.GetPolicy().GetSteps()) }

// currentWave refuses a step that names another wave than the present one.
func currentWave(r *commandv1.Rollout, index uint32) (*commandv1.Wave, *Refusal) {
	w := CurrentWave(r)
	if w == nil || w.GetIndex() != index {
		return nil, refuse(Conflict, "rollout %s is not at wave %d", r.GetId(), index+1)
	}
	return w, nil
}

func (t *tx) planWave(r *commandv1.Rollout, cmd *commandv1.PlanWave) *Refusal {
	if refusal := in(r, preflight, observing); refusal != nil {
		return refusal
	}
	if w := CurrentWave(r); w != nil && !w.GetConfirmed() {
		return refuse(Conflict, "wave %d of rollout %s has not passed", w.GetIndex()+1, r.GetId())
	}
	if int(cmd.GetIndex()) != len(r.GetWaves()) || LastWave(r) {
		return refuse(Conflict, "wave %d is not the next wave of rollout %s", cmd.GetIndex()+1, r.GetId())
	}
	step := r.GetPolicy().GetSteps()[cmd.GetIndex()]
	if refusal := t.checkSelection(r, cmd, step); refusal != nil {
		return refusal
	}
	w := &commandv1.Wave{
		Index: cmd.GetIndex(), StepPercent: step, Selected: cmd.GetSelected(), Controls: cmd.GetControls(),
		PlannedMs: t.now, DeadlineMs: cmd.GetDeadlineMs(),
	}
	if w.DeadlineMs <= t.now {
		w.DeadlineMs = t.now + r.GetPolicy().GetWaveDeadlineMs()
	}
	if cmd.GetIndex() == 0 {
		r.Baseline = cmd.GetBaseline()
	}
	r.Waves = append(r.Waves, w)
	r.State, r.DeadlineMs = draining, w.GetDeadlineMs()
	if len(w.GetSelected()) == 0 {
		r.State = warming
		t.note(r, "%s: adds no replica; the %d changed ones are observed again", waveName(r, w), len(OfferedTo(r)))
		return nil
	}
	t.note(r, "%s: %d replicas selected, %d controls", waveName(r, w), len(w.GetSelected()), len(w.GetControls()))
	return nil
}

// checkSelection holds the wave to its share and to replicas that may be changed.
func (t *tx) checkSelection(r *commandv1.Rollout, cmd *commandv1.PlanWave, step uint32) *Refusal {
	n := len(t.members(r.GetGroup()))
	chosen := map[string]bool{}
	for _, w := range r.GetWaves() {
		for _, id := range w.GetSelected() {
			chosen[id] = true
		}
	}
	before := len(chosen)
	for _, id := range cmd.GetSelected() {
		if chosen[id] {
			return refuse(Invalid, "replica %s was selected before", id)
		}
		chosen[id] = true
		if refusal := t.changeable(r, id); refusal != nil {
			return refusal
		}
	}
	if cmd.GetIndex() == 0 && Careful(r) && len(chosen) > FirstWaveTarget(r, n, step) {
		return refuse(Invalid, "the first wave would change %d of %d replicas; it may change %d", len(chosen), n, FirstWaveTarget(r, n, step))
	}
	if len(chosen) > max(WaveTarget(n, step), before) {
		return refuse(Invalid, "wave %d would change %d of %d replicas; its step is %d %%", cmd.GetIndex()+1, len(chosen), n, step)
	}
	if len(chosen) == 0 {
		return refuse(NoCapacity, "no replica of group %s can be changed now: none is connected, serving and idle", r.GetGroup())
	}
	for _, id := range cmd.GetControls() {
		if i, ok := t.instances.get(id); chosen[id] || !ok || i.GetGroup() != r.GetGroup() {
			return refuse(Invalid, "replica %s cannot be a control", id)
		}
	}
	return nil
}

// changeable refuses a replica that cannot take a configuration now.
func (t *tx) changeable(r *commandv1.Rollout, id string) *Refusal {
	i, ok := t.instances.get(id)
	if !ok || i.GetGroup() != r.GetGroup() {
		return refuse(Invalid, "replica %q is not in group %s", id, r.GetGroup())
	}
	if !Changeable(r, i, t.incarnation) {
		return refuse(Conflict, "replica %s cannot be changed now: it must be connected, in rotation and idle", id)
	}
	return nil
}

// Changeable reports whether the rollout may offer its epoch to the instance now: connected, in
// rotation, idle, with nothing outstanding. A rollout that repairs an incomplete rollback may also
// take replicas that are out of rotation because their last-known-good does not start.
func Changeable(r *commandv1.Rollout, i *commandv1.Instance, incarnation uint64) bool {
	if !i.GetReachable() || i.GetOperatorDrain() || WasOffered(r, i.GetId()) {
		return false
	}
	if r.GetRollsForwardFrom() != "" && i.GetState().GetPhase() == agentv1.Phase_PHASE_QUARANTINED {
		return true
	}
	return i.GetState().GetPhase() == agentv1.Phase_PHASE_IDLE && i.GetState().GetServing() && !Pending(i, incarnation)
}

// nextBatch offers the epoch to part of the wave. The guards of capacity (I1) and headroom (I2) are
// those of this moment, not of the plan.
func (t *tx) nextBatch(r *commandv1.Rollout, cmd *commandv1.NextBatch) *Refusal {
	if refusal := in(r, draining, applying, warming); refusal != nil {
		return refusal
	}
	w, refusal := currentWave(r, cmd.GetWave())
	if refusal != nil {
		return refusal
	}
	if len(cmd.GetInstances()) == 0 {
		return refuse(Invalid, "a batch without replicas")
	}
	if refusal := t.checkBatch(r, w, cmd); refusal != nil {
		return refusal
	}
	for _, id := range cmd.GetInstances() {
		t.offer(r, w, id, cmd)
	}
	if mutant.On(MutantI10) {
		w.Offered = w.Offered[:len(w.Offered)-1]
	}
	t.note(r, "%s: offered to %s (%d of %d); %s", waveName(r, w), t.names(cmd.GetInstances()), len(w.GetOffered()), len(w.GetSelected()), cmd.GetHeadroom())
	t.follow(r)
	return nil
}

func (t *tx) checkBatch(r *commandv1.Rollout, w *commandv1.Wave, cmd *commandv1.NextBatch) *Refusal {
	out := 0
	seen := map[string]bool{}
	for _, id := range cmd.GetInstances() {
		if seen[id] || !slices.Contains(w.GetSelected(), id) {
			return refuse(Invalid, "replica %s is not in wave %d", id, w.GetIndex()+1)
		}
		seen[id] = true
		if refusal := t.changeable(r, id); refusal != nil {
			return refusal
		}
		if i, _ := t.instances.get(id); i.GetState().GetServing() {
			out++
		}
	}
	c := CapacityOf(r.GetPolicy(), t.members(r.GetGroup()), t.incarnation)
	if out > 0 && !c.Admits(out) && !mutant.On(MutantI1) {
		return refuse(NoCapacity, "%d of %d replicas are unavailable; taking %d more out would exceed max_unavailable %d or fall below the floor of %d",
			c.Unavailable, c.Replicas, out, c.MaxUnavailable, c.Floor)
	}
	if !cmd.GetHeadroomOk() && !mutant.On(MutantI2) {
		return refuse(NoCapacity, "not enough headroom to take %v out of rotation: %s", cmd.GetInstances(), cmd.GetHeadroom())
	}
	return nil
}

// offer assigns the epoch to one instance.
func (t *tx) offer(r *commandv1.Rollout, w *commandv1.Wave, id string, cmd *commandv1.NextBatch) {
	rank := uint32(slices.Index(w.GetSelected(), id))
	i := t.assign(id, r, commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER)
	a := i.GetAssignment()
	a.Wave = w.GetIndex()
	a.ParentEpoch = i.GetState().GetLkgEpoch()
	a.BodyHash = r.GetBodyHash()
	a.ApplyByMs = cmd.GetApplyByMs()
	a.ProbationMs = r.GetPolicy().GetProbationMs()
	if r.GetRestart() {
		a.Slot = rank / max(r.GetPolicy().GetMaxUnavailable(), 1)
		a.SlotDelayMs = cmd.GetSlotDelayMs()
		if a.SlotDelayMs == 0 {
			a.SlotDelayMs = t.slotDelay(r)
		}
	}
	w.Offered = append(w.Offered, id)
}

// assign gives an instance something to do on behalf of a rollout, under the fence of this entry.
// It returns nil when the instance was forgotten.
func (t *tx) assign(id string, r *commandv1.Rollout, kind commandv1.AssignmentKind) *commandv1.Instance {
	i := t.instances.edit(id)
	if i == nil {
		return nil
	}
	i.Assignment = &commandv1.Assignment{
		Kind: kind, FenceIndex: t.entry, AtMs: t.now, RolloutId: r.GetId(),
		Epoch: r.GetEpoch(), ParentEpoch: r.GetParentEpoch(), BodyHash: r.GetBodyHash(),
	}
	i.ModifyIndex = t.entry
	return i
}

// slotDelay is the time from one revert slot to the next: the longest usual restart of the group's
// engines, half as much again, and the limit of a drain.
func (t *tx) slotDelay(r *commandv1.Rollout) int64 {
	const drainLimitMs, unknownRestartMs = 30_000, 60_000
	var restart int64
	for _, i := range t.members(r.GetGroup()) {
		restart = max(restart, i.GetRestartEstimateMs())
	}
	if restart == 0 {
		restart = unknownRestartMs
	}
	return restart*3/2 + drainLimitMs
}

// warmDone opens observation: evidence counts from this entry's time on.
func (t *tx) warmDone(r *commandv1.Rollout, cmd *commandv1.WarmDone) *Refusal {
	if refusal := in(r, warming); refusal != nil {
		return refusal
	}
	w, refusal := currentWave(r, cmd.GetWave())
	if refusal != nil {
		return refusal
	}
	if open := Unsettled(r, t.members(r.GetGroup()), t.incarnation); len(open) > 0 {
		return refuse(Conflict, "%s: %v are not serving on the new configuration yet", waveName(r, w), open)
	}
	if t.serving(r) == 0 {
		return refuse(Conflict, "%s: no replica serves on the new configuration", waveName(r, w))
	}
	w.ObserveFromMs, w.WarmDoneIndex = t.now, t.entry
	r.State = observing
	r.DeadlineMs = t.now + r.GetPolicy().GetObserveMaxMs()
	t.note(r, "%s: %d replicas serve on the new configuration; observing for at least %d s", waveName(r, w), t.serving(r), r.GetPolicy().GetObserveMinMs()/1000)
	return nil
}

// Unsettled lists the replicas of the current wave that have still to be offered, or to come up.
// One that failed within the wave's quota is settled, and so is one that cannot be offered any more
// because it went away, fell ill or was drained by an operator.
func Unsettled(r *commandv1.Rollout, members []*commandv1.Instance, incarnation uint64) []string {
	w := CurrentWave(r)
	var open []string
	for _, i := range members {
		if !slices.Contains(w.GetSelected(), i.GetId()) || Failed(r, i) {
			continue
		}
		switch StageOf(r, i, incarnation) {
		case Serving:
		case Untouched:
			if Changeable(r, i, incarnation) {
				open = append(open, i.GetId())
			}
		default:
			open = append(open, i.GetId())
		}
	}
	return open
}

// serving counts the replicas in rotation on the rollout's epoch.
func (t *tx) serving(r *commandv1.Rollout) int {
	n := 0
	for _, i := range t.members(r.GetGroup()) {
		if StageOf(r, i, t.incarnation) == Serving {
			n++
		}
	}
	return n
}

// names of instances, for people.
func (t *tx) names(ids []string) string {
	var names []string
	for _, id := range ids {
		name := id
		if i, ok := t.instances.get(id); ok && i.GetName() != "" {
			name = i.GetName()
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
