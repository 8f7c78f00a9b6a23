package sim

import (
	"github.com/optiinfra/performance-agent/agent/probation"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// truths are what an agent did, as the world saw it.
type truths struct {
	highest   probation.Fence         // of the directives executed
	applied   map[probation.Fence]int // times that an (incarnation, epoch) was given to the engine
	confirmed map[uint64]bool         // by an accepted Confirm
	gone      map[uint64]bool         // told to take back, and out of rotation since
	leaving   map[uint64]bool         // told to take back
}

func newTruths() truths {
	return truths{applied: map[probation.Fence]int{}, confirmed: map[uint64]bool{}, gone: map[uint64]bool{}, leaving: map[uint64]bool{}}
}

// checkStep holds one step of an agent to the invariants.
func (a *agent) checkStep(old probation.State, ev probation.Event, acts []probation.Action) {
	s := a.s
	if d, ok := ev.(probation.Directed); ok && d.Directive.GetLease() == nil && accepted(acts) {
		a.checkExecuted(old, d.Directive)
	}
	if back := old.Phase == probation.Reverting || old.RevertAt != 0; back && s.Phase == probation.Confirmed && old.Phase != s.Phase {
		a.w.broke("I6", "%s: epoch %d was being taken back and is confirmed", a.id, s.Current.Epoch)
	}
	a.checkJournaled()
	if !a.w.check.promoted[s.LKG.Epoch] {
		a.w.broke("I8", "%s: last-known-good is epoch %d, which nobody promoted", a.id, s.LKG.Epoch)
	}
	serving, _ := s.Serving()
	epoch := s.Running().Epoch
	if serving && a.seen.gone[epoch] && epoch != s.LKG.Epoch {
		a.w.broke("I6", "%s enters rotation on epoch %d after it was told to take it back", a.id, epoch)
	}
	if a.seen.leaving[epoch] && !serving {
		a.seen.gone[epoch] = true
	}
	rotates := s.Phase == probation.Idle || s.Phase == probation.Probation || s.Phase == probation.Confirmed
	if serving && !rotates {
		a.w.broke("I14", "%s is in rotation while %s", a.id, phase(s.Phase))
	}
	if serving && s.Drained {
		a.w.broke("I14", "%s is in rotation though drained", a.id)
	}
	if old.Phase == probation.Accepted && s.Phase == probation.Draining {
		a.checkDrains()
	}
}

// checkJournaled (I8, I9, I14): what an agent acts by is on its disk before it acts, so that a crash
// between any two steps leaves it where it was.
func (a *agent) checkJournaled() {
	s, k := a.s, a.kept
	switch {
	case s.LKG.Epoch != k.LKG.Epoch:
		a.w.broke("I8", "%s: last-known-good is epoch %d, on disk it is %d", a.id, s.LKG.Epoch, k.LKG.Epoch)
	case s.Fence != k.Fence:
		a.w.broke("I9", "%s: the highest fence is %d, on disk it is %d", a.id, s.Fence.Index, k.Fence.Index)
	case s.Phase != k.Phase || s.Drained != k.Drained:
		a.w.broke("I14", "%s is %s (drained %v), on disk it is %s (drained %v)", a.id, phase(s.Phase), s.Drained, phase(k.Phase), k.Drained)
	}
}

func accepted(acts []probation.Action) bool {
	for _, act := range acts {
		if r, ok := act.(probation.Reply); ok {
			return r.Result == agentv1.AckResult_ACK_RESULT_ACCEPTED
		}
	}
	return false
}

// checkExecuted (I9): fences of executed directives rise.
func (a *agent) checkExecuted(old probation.State, d *agentv1.Directive) {
	f := probation.Fence{Incarnation: d.GetFence().GetIncarnation(), Index: d.GetFence().GetIndex()}
	if f.Compare(old.Fence) <= 0 || f.Compare(a.seen.highest) <= 0 {
		a.w.broke("I9", "%s executes fence %d after %d", a.id, f.Index, max(old.Fence.Index, a.seen.highest.Index))
	}
	a.seen.highest = f
	a.w.say("%s executes fence %d", a.id, f.Index)
	switch {
	case d.GetConfirm() != nil:
		a.seen.confirmed[d.GetConfirm().GetEpoch()] = true
	case d.GetRevert() != nil:
		a.seen.leaving[d.GetRevert().GetEpoch()] = true
	case d.GetDrain().GetDrained() && d.GetDrain().GetReason() != "operator" && a.s.Current.Epoch != 0:
		a.seen.leaving[a.s.Current.Epoch] = true
	}
}

// checkDrains (I1, as the world sees it): no more replicas of a group leave rotation for a change at
// once than the policy allows. One that accepts an offer after all that it had refused is not
// counted: the log has written it off and cannot take the offer out of the network.
func (a *agent) checkDrains() {
	out := 0
	for _, other := range a.group.agents {
		writtenOff := a.w.rec.instances[other.id].GetAssignment().GetRefused() != ""
		if p := other.s.Phase; !writtenOff && (p == probation.Draining || p == probation.Applying || p == probation.Warming) {
			out++
		}
	}
	if out > int(a.group.policy.GetMaxUnavailable()) {
		a.w.broke("I1", "%d replicas of %s are draining, applying or warming at once; max_unavailable is %d", out, a.group.name, a.group.policy.GetMaxUnavailable())
	}
}

// checkStart (I4, I8, I14): an epoch is given to the engine once; what is restored is the
// last-known-good; nobody sends requests to an engine that is stopped for a change.
func (a *agent) checkStart(c probation.Config, restore, hot bool) {
	if restore {
		if c.Epoch != a.s.LKG.Epoch {
			a.w.broke("I8", "%s restores epoch %d; its last-known-good is %d", a.id, c.Epoch, a.s.LKG.Epoch)
		}
		return
	}
	id := probation.Fence{Incarnation: 1, Index: c.Epoch}
	if a.seen.applied[id]++; a.seen.applied[id] > 1 {
		a.w.broke("I4", "%s gives epoch %d to its engine %d times", a.id, c.Epoch, a.seen.applied[id])
	}
	if a.routed && !hot {
		a.w.broke("I14", "%s stops its engine for epoch %d while it is in rotation", a.id, c.Epoch)
	}
}

// checkCommit (I8): only a promoted or confirmed epoch becomes what a restarted launcher starts.
func (a *agent) checkCommit(c probation.Config) {
	if !a.w.check.promoted[c.Epoch] && !a.seen.confirmed[c.Epoch] {
		a.w.broke("I8", "%s: epoch %d becomes the restart source though nobody confirmed it", a.id, c.Epoch)
	}
}

// checkRelaunch (I8): a restart never lands on an unconfirmed epoch.
func (a *agent) checkRelaunch() {
	if e := a.engine.spec.Epoch; !a.w.check.promoted[e] && !a.seen.confirmed[e] {
		a.w.broke("I8", "%s: a restart lands on epoch %d, which nobody confirmed", a.id, e)
	}
}

// checkRouted (I14): the router sends requests only to replicas that are in rotation and alive.
func (a *agent) checkRouted() {
	if !a.routed {
		return
	}
	if p := a.s.Phase; p != probation.Idle && p != probation.Probation && p != probation.Confirmed {
		a.w.broke("I14", "requests are sent to %s while %s", a.id, phase(p))
	}
}
