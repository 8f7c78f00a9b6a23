package sim

import (
	"slices"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/rollout"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// checker remembers what the records said, to compare with what they say next.
type checker struct {
	flavours  map[string]flavour
	instances map[string]*commandv1.Instance // as of the last entry
	states    map[string]commandv1.RolloutState
	waves     map[string]int
	aborted   map[string]uint64 // index of the entry that began mitigation, by rollout
	given     map[uint64]string // aborted rollout by epoch
	epochs    map[uint64]string // body by epoch
	newest    map[string]uint64 // epoch by group
	promoted  map[uint64]bool
	lookAt    int64 // next look whether all is at rest
	restless  int64 // when it was not, last
}

func newChecker() checker {
	return checker{
		flavours: map[string]flavour{}, instances: map[string]*commandv1.Instance{}, states: map[string]commandv1.RolloutState{},
		waves: map[string]int{}, aborted: map[string]uint64{}, given: map[uint64]string{}, epochs: map[uint64]string{}, newest: map[string]uint64{},
		promoted: map[uint64]bool{0: true},
	}
}

// checkEntry holds the records to the invariants after an entry, and returns the agents that it
// gave something to do.
func (w *world) checkEntry(index uint64, p *proposal, res fsm.Result) []*agent {
	s, isStep := p.payload.(*commandv1.StepRollout)
	if isStep {
		w.checkGuardHeard(p, s)
	}
	if res.Refusal != nil {
		return nil
	}
	var now []*commandv1.Instance
	var changed []*agent
	for _, a := range w.agents {
		if i := w.rec.instances[a.id]; i != nil {
			now = append(now, i)
			if i.GetModifyIndex() == index {
				changed = append(changed, a)
			}
		}
	}
	w.checkCapacity(index, now)
	w.checkOffers(index, now)
	w.checkPromoted()
	for _, g := range w.groups {
		w.checkLock(g)
	}
	for _, all := range [][]*commandv1.Rollout{w.rec.open, w.rec.ended} {
		for _, r := range all {
			w.checkEpoch(r)
			w.checkAbort(index, r, now)
			w.checkFailures(r, now)
			w.count(r)
		}
	}
	if isStep && s.GetNextBatch() != nil && !s.GetNextBatch().GetHeadroomOk() {
		w.broke("I2", "a batch of %s left rotation although nobody measured its headroom", s.GetRolloutId())
	}
	w.check.instances = w.rec.instances
	return changed
}

func (w *world) count(r *commandv1.Rollout) {
	c := &w.check
	w.stats.Waves += len(r.GetWaves()) - c.waves[r.GetId()]
	c.waves[r.GetId()] = len(r.GetWaves())
	if c.states[r.GetId()] != r.GetState() {
		w.say("%s is %s", r.GetId(), fsm.StateName(r.GetState()))
		switch r.GetState() {
		case commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
			w.stats.Succeeded++
		case commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK:
			w.stats.RolledBack++
		case commandv1.RolloutState_ROLLOUT_STATE_CANCELLED:
			w.stats.Cancelled++
		}
	}
	c.states[r.GetId()] = r.GetState()
}

// pending tells whether the instance has not yet journaled its assignment.
func pending(i *commandv1.Instance) bool {
	a := i.GetAssignment()
	return a.GetKind() > commandv1.AssignmentKind_ASSIGNMENT_KIND_NONE && a.GetRefused() == "" && a.GetFenceIndex() > i.GetState().GetFence().GetIndex()
}

// available tells whether the records say that the instance is in rotation and stays there.
func available(i *commandv1.Instance) bool {
	st, a := i.GetState(), i.GetAssignment()
	if !i.GetReachable() || !st.GetServing() || i.GetOperatorDrain() {
		return false
	}
	if !pending(i) {
		return true
	}
	switch a.GetKind() {
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER, commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE:
		return false
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT:
		return a.GetSlot() > 0 || st.GetRunningEpoch() != a.GetEpoch()
	}
	return true
}

func offered(i *commandv1.Instance, index uint64) bool {
	return i.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER && i.GetAssignment().GetFenceIndex() == index
}

// checkCapacity (I1): no offer takes a replica out of rotation when more than max_unavailable would
// then be unavailable, or fewer than the floor be well.
func (w *world) checkCapacity(index uint64, now []*commandv1.Instance) {
	for _, g := range w.groups {
		members, healthy, leaving := 0, 0, 0
		for _, i := range now {
			if i.GetGroup() != g.name {
				continue
			}
			members++
			if available(i) {
				healthy++
			}
			if was := w.check.instances[i.GetId()]; offered(i, index) && was != nil && available(was) {
				leaving++
			}
		}
		if leaving == 0 {
			continue
		}
		if out := members - healthy; out > int(g.policy.GetMaxUnavailable()) || healthy < floor(g, members) {
			w.broke("I1", "entry %d takes %d replicas of %s out of rotation; then %d of %d are unavailable (max_unavailable %d), %d well (floor %d)",
				index, leaving, g.name, out, members, g.policy.GetMaxUnavailable(), healthy, floor(g, members))
		}
	}
}

func floor(g *group, members int) int {
	least := int(g.policy.GetFloor())
	if least == 0 {
		least = members - int(g.policy.GetMaxUnavailable())
	}
	if !g.policy.GetAllowOutage() {
		least = max(least, 1)
	}
	return max(least, 0)
}

// checkOffers (I10): nobody is offered a second body while a first is open, an epoch has one body,
// and whoever is offered a rollout's epoch is in that rollout's books.
func (w *world) checkOffers(index uint64, now []*commandv1.Instance) {
	for _, i := range now {
		if !offered(i, index) {
			continue
		}
		a, was := i.GetAssignment(), w.check.instances[i.GetId()]
		open := was != nil && pending(was) && was.GetAssignment().GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER
		if open && pending(i) && i.GetState().GetFence().GetIndex() < was.GetAssignment().GetFenceIndex() {
			w.broke("I10", "%s is offered epoch %d while the offer of epoch %d is open", i.GetId(), a.GetEpoch(), was.GetAssignment().GetEpoch())
		}
		if a.GetRolloutId() != "" && !slices.Contains(fsm.OfferedTo(w.rec.rollout(a.GetRolloutId())), i.GetId()) {
			w.broke("I10", "%s is offered epoch %d and rollout %s does not know of it", i.GetId(), a.GetEpoch(), a.GetRolloutId())
		}
	}
}

// checkLock (I5): no two rollouts hold one group.
func (w *world) checkLock(g *group) {
	var holders []string
	for _, r := range w.rec.open {
		if r.GetGroup() == g.name && r.GetEpoch() != 0 {
			holders = append(holders, r.GetId())
		}
		if r.GetGroup() == g.name && r.GetEpoch() == 0 && r.GetState() >= commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT &&
			r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_PAUSED {
			w.broke("I3", "rollout %s is %s without an epoch of its own", r.GetId(), fsm.StateName(r.GetState()))
		}
	}
	if len(holders) > 1 {
		w.broke("I5", "%v hold group %s", holders, g.name)
	}
}

// checkEpoch (I3): epochs rise within a group, and neither they nor bodies change.
func (w *world) checkEpoch(r *commandv1.Rollout) {
	if r.GetEpoch() == 0 {
		return
	}
	c := &w.check
	if hash, known := c.epochs[r.GetEpoch()]; known {
		if hash != r.GetBodyHash() {
			w.broke("I3", "epoch %d had body %s and has %s", r.GetEpoch(), hash, r.GetBodyHash())
		}
		return
	}
	if r.GetEpoch() <= c.newest[r.GetGroup()] {
		w.broke("I3", "rollout %s has epoch %d, and group %s had %d before", r.GetId(), r.GetEpoch(), r.GetGroup(), c.newest[r.GetGroup()])
	}
	if body := w.machine.Body(r.GetBodyHash()); fleet.BodyHash(body.GetBody()) != r.GetBodyHash() {
		w.broke("I3", "body %s has another content", r.GetBodyHash())
	}
	c.newest[r.GetGroup()], c.epochs[r.GetEpoch()] = r.GetEpoch(), r.GetBodyHash()
}

// checkPromoted (I6): the epoch of an aborted rollout is never promoted.
func (w *world) checkPromoted() {
	for _, g := range w.groups {
		epoch := w.rec.groups[g.name].GetPromotedEpoch()
		if id, aborted := w.check.given[epoch]; aborted && epoch != 0 {
			w.broke("I6", "epoch %d of the aborted rollout %s is promoted", epoch, id)
		}
		w.check.promoted[epoch] = true
	}
}

// checkAbort (I6): what was aborted never passes, and its epoch is neither offered nor confirmed nor
// promoted again.
func (w *world) checkAbort(index uint64, r *commandv1.Rollout, now []*commandv1.Instance) {
	c := &w.check
	since, aborted := c.aborted[r.GetId()]
	if !aborted {
		if r.GetAborted() {
			c.aborted[r.GetId()], c.given[r.GetEpoch()] = index, r.GetId()
		}
		return
	}
	if s := r.GetState(); !fsm.TakingBack(s) && s != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
		w.broke("I6", "rollout %s was aborted by entry %d and is %s", r.GetId(), since, fsm.StateName(s))
	}
	for _, i := range now {
		a := i.GetAssignment()
		if a.GetRolloutId() != r.GetId() || a.GetFenceIndex() <= since {
			continue
		}
		switch a.GetKind() {
		case commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER, commandv1.AssignmentKind_ASSIGNMENT_KIND_CONFIRM, commandv1.AssignmentKind_ASSIGNMENT_KIND_PROMOTE:
			w.broke("I6", "%s is told %s for epoch %d, which was aborted by entry %d", i.GetId(), a.GetKind(), a.GetEpoch(), since)
		}
	}
}

// checkFailures (I9): a replica that took the epoch back by itself counts as failed, whatever it is
// told later; two of a wave, or its only one, end the rollout.
func (w *world) checkFailures(r *commandv1.Rollout, now []*commandv1.Instance) {
	if fsm.Ended(r.GetState()) || fsm.TakingBack(r.GetState()) || r.GetEpoch() == 0 {
		return
	}
	for _, wave := range r.GetWaves() {
		failed := 0
		for _, i := range now {
			if slices.Contains(wave.GetOffered(), i.GetId()) && i.GetState().GetFailedEpoch() == r.GetEpoch() &&
				i.GetAssignment().GetKind() != commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT {
				failed++
			}
		}
		if failed >= 2 || failed == 1 && len(wave.GetSelected()) == 1 {
			w.broke("I9", "%d replicas of wave %d took epoch %d back and rollout %s is %s", failed, wave.GetIndex()+1, r.GetEpoch(), r.GetId(), fsm.StateName(r.GetState()))
		}
	}
}

// checkGuardHeard (I15): after a guard of the present term no rollout goes on, whatever its state was.
func (w *world) checkGuardHeard(p *proposal, s *commandv1.StepRollout) {
	if s.GetGuardFailed() == nil || s.GetGuardFailed().GetTerm() != p.term {
		return
	}
	if r := w.rec.rollout(s.GetRolloutId()); r != nil && !fsm.Ended(r.GetState()) && !fsm.TakingBack(r.GetState()) {
		w.broke("I15", "a guard fired and rollout %s is %s", r.GetId(), fsm.StateName(r.GetState()))
	}
}

// checkDecision holds the leader's decision to what it saw: batches need headroom (I2), and a guard
// is heard in every state (I15).
func (w *world) checkDecision(r *commandv1.Rollout, o rollout.Observation, steps []*commandv1.StepRollout) {
	heard := fsm.TakingBack(r.GetState()) || fsm.Ended(r.GetState()) || o.Guard == nil
	for _, s := range steps {
		heard = heard || s.GetGuardFailed() != nil
		if b := s.GetNextBatch(); b != nil {
			w.checkHeadroom(r, o, b.GetInstances())
		}
	}
	if !heard {
		w.broke("I15", "a guard fires (%s) and the leader does not hear it while rollout %s is %s", o.Guard.Reason, r.GetId(), fsm.StateName(r.GetState()))
	}
}

// checkHeadroom (I2): those that stay can carry the load of this moment and the reserve.
func (w *world) checkHeadroom(r *commandv1.Rollout, o rollout.Observation, leaving []string) {
	g := w.group(r.GetGroup())
	staying, out := 0, 0
	for _, i := range o.Members {
		switch {
		case slices.Contains(leaving, i.GetId()):
			if i.GetState().GetServing() {
				out++
			}
		case available(i) && i.GetState().GetPhase() != agentv1.Phase_PHASE_QUARANTINED:
			staying++
		}
	}
	if out == 0 || staying == 0 && g.policy.GetAllowOutage() {
		return
	}
	if can, need := float64(staying)*nominal, g.load*(1+g.policy.GetReserve()); g.deaf || can < need {
		w.broke("I2", "%v of %s leave rotation: the others carry %.0f tokens/s, needed are %.0f, measured: %v", leaving, g.name, can, need, !g.deaf)
	}
}
