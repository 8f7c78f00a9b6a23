package fsmtest

import (
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Agent is a model of a sidecar with one engine: the phases and fences of the real one, no engine.
type Agent struct {
	ID        string
	Reachable bool
	State     *agentv1.StateReport
	// FailNext makes the next configuration fail while it warms up.
	FailNext bool
	// RefuseNext makes the agent refuse the next offer.
	RefuseNext bool
	// Offers counts the epochs that the agent began to apply, by epoch.
	Offers map[uint64]int

	agent      string
	epoch      uint64 // being tried
	hash       string
	revertAtMs int64 // of a revert that waits for its slot; 0: none
}

// execute answers a directive; the text says why it is refused.
func (a *Agent) execute(d *agentv1.Directive, nowMs int64) (refused string) {
	f, s := d.GetFence(), a.State
	if f.GetIncarnation() < s.Fence.GetIncarnation() || f.GetIncarnation() == s.Fence.GetIncarnation() && f.GetIndex() <= s.Fence.GetIndex() {
		return "" // journaled before
	}
	switch act := d.GetAction().(type) {
	case *agentv1.Directive_Offer:
		return a.offer(f, act.Offer)
	case *agentv1.Directive_Confirm:
		if s.Phase != agentv1.Phase_PHASE_PROBATION || act.Confirm.GetEpoch() != a.epoch {
			return ""
		}
		s.Phase = agentv1.Phase_PHASE_CONFIRMED
	case *agentv1.Directive_Promote:
		if s.Phase != agentv1.Phase_PHASE_CONFIRMED || act.Promote.GetEpoch() != a.epoch {
			return ""
		}
		s.Phase, s.LkgEpoch, s.LkgHash, a.epoch = agentv1.Phase_PHASE_IDLE, a.epoch, a.hash, 0
	case *agentv1.Directive_Revert:
		a.pace(act.Revert, nowMs)
	case *agentv1.Directive_Drain:
		s.Drained = act.Drain.GetDrained()
		a.rotate()
	}
	s.Fence = f
	s.Sequence++
	return ""
}

func (a *Agent) offer(f *agentv1.Fence, o *agentv1.Offer) string {
	switch {
	case a.RefuseNext:
		a.RefuseNext = false
		return "the allow-list forbids it"
	case a.State.Phase != agentv1.Phase_PHASE_IDLE:
		return "busy"
	}
	if a.Offers == nil {
		a.Offers = map[uint64]int{}
	}
	a.Offers[o.GetEpoch()]++
	a.epoch, a.hash = o.GetEpoch(), o.GetBodyHash()
	a.State.Phase, a.State.Fence = agentv1.Phase_PHASE_DRAINING, f
	a.State.Sequence++
	a.rotate()
	return ""
}

// pace reverts at once or, while in rotation, in its slot.
func (a *Agent) pace(r *agentv1.Revert, nowMs int64) {
	if a.epoch == 0 || r.GetEpoch() != a.epoch || a.State.Phase == agentv1.Phase_PHASE_REVERTING {
		return
	}
	if wait := int64(r.GetSlot()) * r.GetSlotDelay().AsDuration().Milliseconds(); wait > 0 && a.State.Serving {
		a.revertAtMs = nowMs + wait
		return
	}
	a.Revert("asked to")
}

// Revert begins the way back to the last-known-good.
func (a *Agent) Revert(reason string) {
	a.revertAtMs = 0
	a.State.FailedEpoch, a.State.FailedReason = a.epoch, reason
	a.State.Phase = agentv1.Phase_PHASE_REVERTING
	a.State.Sequence++
	a.rotate()
}

// work takes one step of a change and reports whether anything changed.
func (a *Agent) work(nowMs int64) bool {
	s := a.State
	if a.revertAtMs != 0 && nowMs >= a.revertAtMs {
		a.Revert("asked to")
		return true
	}
	switch s.Phase {
	case agentv1.Phase_PHASE_DRAINING:
		s.Phase = agentv1.Phase_PHASE_APPLYING
	case agentv1.Phase_PHASE_APPLYING:
		s.Phase, s.RunningEpoch, s.RunningHash = agentv1.Phase_PHASE_WARMING, a.epoch, a.hash
	case agentv1.Phase_PHASE_WARMING:
		if a.FailNext {
			a.FailNext = false
			a.Revert("out of memory")
			return true
		}
		s.Phase = agentv1.Phase_PHASE_PROBATION
	case agentv1.Phase_PHASE_REVERTING:
		s.Phase, s.RunningEpoch, s.RunningHash, a.epoch = agentv1.Phase_PHASE_IDLE, s.LkgEpoch, s.LkgHash, 0
	default:
		return false
	}
	s.Sequence++
	a.rotate()
	return true
}

// rotate sets whether the replica is in rotation.
func (a *Agent) rotate() {
	switch a.State.Phase {
	case agentv1.Phase_PHASE_IDLE, agentv1.Phase_PHASE_PROBATION, agentv1.Phase_PHASE_CONFIRMED:
		a.State.Serving = !a.State.Drained
	default:
		a.State.Serving = false
	}
}
