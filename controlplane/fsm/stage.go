package fsm

import (
	"slices"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Stage is how far one instance has come with a rollout's epoch.
type Stage int

// Stages in the order in which an instance passes them.
const (
	// Untouched: not offered the epoch.
	Untouched Stage = iota
	// Offered: the offer is on its way, or may still be under way when it was overtaken.
	Offered
	// Draining: journaled and leaving rotation.
	Draining
	// Applying: the engine is being restarted or changed.
	Applying
	// Warming: applied, not proven, or out of rotation for another reason.
	Warming
	// Serving on the epoch: on probation, confirmed or promoted.
	Serving
	// Reverting to its last-known-good.
	Reverting
	// Stuck: its last-known-good does not start.
	Stuck
	// Restored: back on its last-known-good and in rotation (or drained by an operator).
	Restored
)

// StageOf tells how far an instance has come with the rollout's epoch. incarnation is the cluster's.
func StageOf(r *commandv1.Rollout, i *commandv1.Instance, incarnation uint64) Stage {
	if !WasOffered(r, i.GetId()) {
		return Untouched
	}
	st := i.GetState()
	switch st.GetPhase() {
	case agentv1.Phase_PHASE_ACCEPTED, agentv1.Phase_PHASE_DRAINING:
		return Draining
	case agentv1.Phase_PHASE_APPLYING:
		return Applying
	case agentv1.Phase_PHASE_REVERTING:
		return Reverting
	case agentv1.Phase_PHASE_QUARANTINED:
		return Stuck
	case agentv1.Phase_PHASE_WARMING:
		return Warming
	case agentv1.Phase_PHASE_PROBATION, agentv1.Phase_PHASE_CONFIRMED:
		return servingOr(Warming, st)
	}
	switch {
	case st.GetRunningEpoch() == r.GetEpoch() && st.GetLkgEpoch() == r.GetEpoch():
		return servingOr(Warming, st)
	case Pending(i, incarnation):
		return Offered
	case i.GetOperatorDrain() || st.GetServing():
		return Restored
	}
	return Reverting
}

func servingOr(other Stage, st *agentv1.StateReport) Stage {
	if st.GetServing() {
		return Serving
	}
	return other
}

// WasOffered reports whether the rollout has offered its epoch to the instance.
func WasOffered(r *commandv1.Rollout, instance string) bool {
	return slices.ContainsFunc(r.GetWaves(), func(w *commandv1.Wave) bool {
		return slices.Contains(w.GetOffered(), instance)
	})
}

// OfferedTo lists the instances that the rollout has offered its epoch to, in order.
func OfferedTo(r *commandv1.Rollout) []string {
	var ids []string
	for _, w := range r.GetWaves() {
		ids = append(ids, w.GetOffered()...)
	}
	return ids
}

// Failed reports whether the instance refused the rollout's epoch, or took it back without being
// asked to.
func Failed(r *commandv1.Rollout, i *commandv1.Instance) bool {
	if !WasOffered(r, i.GetId()) || i.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT {
		return false
	}
	st := i.GetState()
	refused := i.GetAssignment().GetRefused() != "" && i.GetAssignment().GetRolloutId() == r.GetId()
	return refused || st.GetFailedEpoch() == r.GetEpoch() ||
		st.GetPhase() == agentv1.Phase_PHASE_REVERTING || st.GetPhase() == agentv1.Phase_PHASE_QUARANTINED
}

// Pending reports whether the instance has an assignment that it has neither journaled nor refused.
func Pending(i *commandv1.Instance, incarnation uint64) bool {
	return i.GetAssignment().GetKind() > commandv1.AssignmentKind_ASSIGNMENT_KIND_NONE && i.GetAssignment().GetRefused() == "" &&
		behind(i.GetState().GetFence(), incarnation, i.GetAssignment().GetFenceIndex())
}

func drainPending(i *commandv1.Instance, incarnation uint64) bool {
	return i.GetOperatorDrainIndex() > 0 && behind(i.GetState().GetFence(), incarnation, i.GetOperatorDrainIndex())
}

// behind reports whether a fence is below (incarnation, index).
func behind(f *agentv1.Fence, incarnation, index uint64) bool {
	if f.GetIncarnation() != incarnation {
		return f.GetIncarnation() < incarnation
	}
	return f.GetIndex() < index
}

// Available reports whether the instance is in rotation and has not been asked to leave it. All
// others count as unavailable: draining, applying, warming, drained, faulty, unreachable.
func Available(i *commandv1.Instance, incarnation uint64) bool {
	st := i.GetState()
	if !i.GetReachable() || !st.GetServing() || i.GetOperatorDrain() {
		return false
	}
	switch st.GetPhase() {
	case agentv1.Phase_PHASE_ACCEPTED, agentv1.Phase_PHASE_DRAINING, agentv1.Phase_PHASE_APPLYING,
		agentv1.Phase_PHASE_WARMING, agentv1.Phase_PHASE_QUARANTINED:
		return false
	}
	if !Pending(i, incarnation) {
		return true
	}
	switch a := i.GetAssignment(); a.GetKind() {
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER, commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE:
		return false
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT:
		return a.GetSlot() > 0 || st.GetRunningEpoch() != a.GetEpoch()
	}
	return true
}

// Capacity of a group under a policy, in replicas.
type Capacity struct {
	Replicas       int
	Healthy        int
	Unavailable    int
	Floor          int // least number of healthy replicas
	MaxUnavailable int
}

// CapacityOf counts a group's instances under a policy.
func CapacityOf(p *commandv1.Policy, members []*commandv1.Instance, incarnation uint64) Capacity {
	c := Capacity{Replicas: len(members), MaxUnavailable: int(p.GetMaxUnavailable())}
	for _, i := range members {
		if Available(i, incarnation) {
			c.Healthy++
		}
	}
	c.Unavailable = c.Replicas - c.Healthy
	c.Floor = int(p.GetFloor())
	if c.Floor == 0 {
		c.Floor = c.Replicas - c.MaxUnavailable
	}
	if !p.GetAllowOutage() {
		c.Floor = max(c.Floor, 1)
	}
	c.Floor = max(c.Floor, 0)
	return c
}

// Admits reports whether that many healthy replicas may be taken out of rotation now (invariant I1).
func (c Capacity) Admits(out int) bool {
	return c.Unavailable+out <= c.MaxUnavailable && c.Healthy-out >= c.Floor
}

// Spare is how many healthy replicas may leave rotation before the group reaches its floor.
func (c Capacity) Spare() int { return max(c.Healthy-c.Floor, 0) }
