package probation

import (
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/mutant"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Results, under short names.
const (
	accepted  = agentv1.AckResult_ACK_RESULT_ACCEPTED
	duplicate = agentv1.AckResult_ACK_RESULT_DUPLICATE
	stale     = agentv1.AckResult_ACK_RESULT_STALE
	refused   = agentv1.AckResult_ACK_RESULT_REFUSED
	reverted  = agentv1.AckResult_ACK_RESULT_REVERTED
)

func notYet(Directed) Action {
	return Reply{Result: refused, Detail: "the agent has not yet asked the launcher what runs; send it again"}
}

func fenceOf(d *agentv1.Directive) Fence {
	return Fence{Incarnation: d.GetFence().GetIncarnation(), Index: d.GetFence().GetIndex()}
}

func (m *move) reply(r agentv1.AckResult, format string, args ...any) {
	m.add(Reply{Result: r, Detail: fmt.Sprintf(format, args...)})
}

// directed answers one directive. A refused, stale or duplicate one changes nothing.
func (m *move) directed(ev Directed) {
	d := ev.Directive
	if why := m.misaddressed(d); why != "" {
		m.reply(refused, "%s", why)
		return
	}
	if l := d.GetLease(); l != nil {
		m.lease(d, l)
		return
	}
	f := fenceOf(d)
	switch c := f.Compare(m.s.Fence); {
	case f == Fence{}:
		m.reply(refused, "the directive has no fence")
		return
	case c == 0 && !mutant.On(MutantI9):
		m.reply(duplicate, "fence %d/%d is journaled already", f.Incarnation, f.Index)
		return
	case c < 0 && !mutant.On(MutantI9):
		m.reply(stale, "fence %d/%d is below the journaled %d/%d", f.Incarnation, f.Index, m.s.Fence.Incarnation, m.s.Fence.Index)
		return
	}
	switch a := d.GetAction().(type) {
	case *agentv1.Directive_Offer:
		m.offer(f, a.Offer, ev)
	case *agentv1.Directive_Confirm:
		m.confirm(f, a.Confirm.GetEpoch())
	case *agentv1.Directive_Promote:
		m.promote(f, a.Promote.GetEpoch())
	case *agentv1.Directive_Revert:
		m.revertAsked(f, a.Revert)
	case *agentv1.Directive_Drain:
		m.drain(f, a.Drain)
	default:
		m.reply(refused, "the directive asks for nothing that this agent knows")
		return
	}
	if m.dirty && m.s.ClusterID == "" {
		m.s.ClusterID = d.GetClusterId()
	}
}

func (m *move) misaddressed(d *agentv1.Directive) string {
	s := m.s
	switch {
	case d.GetInstanceId() != s.Instance:
		return fmt.Sprintf("the directive is for instance %q, this is %q", d.GetInstanceId(), s.Instance)
	case d.GetGroup() != s.Group:
		return fmt.Sprintf("the directive is for group %q, this instance is in %q", d.GetGroup(), s.Group)
	case s.ClusterID != "" && d.GetClusterId() != s.ClusterID:
		return fmt.Sprintf("the directive is from cluster %q, this instance belongs to %q; to move it, empty its data folder", d.GetClusterId(), s.ClusterID)
	}
	return ""
}

// raise journals the fence of a directive that is being executed.
func (m *move) raise(f Fence) { m.s.Fence, m.dirty = f, true }

func (m *move) offer(f Fence, o *agentv1.Offer, ev Directed) {
	s := &m.s
	epoch := Fence{Incarnation: f.Incarnation, Index: o.GetEpoch()}
	switch hash := fleet.BodyHash(o.GetBody()); {
	case o.GetEpoch() == 0 || o.GetBody() == nil:
		m.reply(refused, "the offer has no epoch or no body")
	case hash != o.GetBodyHash():
		m.reply(refused, "the body does not have the hash that the offer names")
	case epoch.Compare(s.Newest) <= 0 && !mutant.On(MutantI4) && s.wasReverted(o.GetEpoch()):
		m.reply(reverted, "epoch %d was taken back: %s", o.GetEpoch(), s.Failed.Reason)
	case epoch.Compare(s.Newest) <= 0 && !mutant.On(MutantI4):
		m.reply(duplicate, "epoch %d is not newer than epoch %d, which this instance has seen", o.GetEpoch(), s.Newest.Index)
	case s.Phase != Idle && s.Phase != Quarantined:
		m.reply(refused, "busy: epoch %d is %s", s.Running().Epoch, phaseWord(s.Phase))
	case ev.Problem != "":
		m.reply(refused, "%s", ev.Problem)
	default:
		m.raise(f)
		s.Newest = epoch
		m.accept(o, ev.Hot && s.Phase == Idle && s.Watch.Engine.alive())
		m.reply(accepted, "")
	}
}

func (m *move) accept(o *agentv1.Offer, hot bool) {
	s := &m.s
	m.enter(Accepted)
	s.Current, s.Parent, s.Hot, s.OfferFence = configOf(o.GetEpoch(), o.GetBody()), o.GetParentEpoch(), hot, s.Fence
	s.Before, s.Touched, s.Cut = s.Watch.Engine, false, 0
	s.Slot, s.SlotDelay = o.GetSlot(), max(0, o.GetSlotDelay().AsDuration())
	applyBy := o.GetApplyBy().AsDuration()
	if applyBy <= 0 {
		applyBy = 3 * m.l.RestartEstimate
	}
	s.ApplyBy = m.now.Boot + applyBy
	s.Lease = o.GetProbation().AsDuration()
	if s.Lease <= 0 {
		s.Lease = m.l.Probation
	}
	s.LeaseUntil, s.RevertAt, s.RevertCause = 0, 0, ""
}

// wasReverted: the epoch was taken back, is being, or is about to be.
func (s State) wasReverted(epoch uint64) bool {
	return s.Failed.Epoch == epoch || s.Current.Epoch == epoch && (s.Phase == Reverting || s.RevertAt != 0)
}

func (m *move) confirm(f Fence, epoch uint64) {
	s := &m.s
	switch {
	case mutant.On(MutantI6) && s.Current.Epoch == epoch && s.wasReverted(epoch):
		m.raise(f)
		s.RevertAt = 0
		m.enter(Confirmed)
		m.reply(accepted, "")
	case s.wasReverted(epoch):
		m.reply(reverted, "epoch %d was taken back: %s", epoch, orElse(s.Failed.Reason, s.RevertCause))
	case s.Phase == Probation && s.Current.Epoch == epoch:
		m.raise(f)
		m.enter(Confirmed)
		s.LeaseUntil, s.ApplyBy = 0, 0
		if mutant.On(MutantI8) {
			s.LKG = s.Current
		}
		m.reply(accepted, "")
	case s.holds(epoch):
		m.raise(f)
		m.reply(accepted, "epoch %d is confirmed already", epoch)
	default:
		m.reply(refused, "epoch %d is not on probation here: %s", epoch, phaseWord(s.Phase))
	}
}

// holds: the epoch is confirmed or promoted here.
func (s State) holds(epoch uint64) bool {
	return s.Phase == Confirmed && s.Current.Epoch == epoch || s.Phase == Idle && s.LKG.Epoch == epoch
}

func (m *move) promote(f Fence, epoch uint64) {
	s := &m.s
	switch {
	case s.wasReverted(epoch):
		m.reply(reverted, "epoch %d was taken back: %s", epoch, orElse(s.Failed.Reason, s.RevertCause))
	case s.Phase == Confirmed && s.Current.Epoch == epoch:
		m.raise(f)
		s.LKG = s.Current
		m.idle()
		m.reply(accepted, "")
	case s.holds(epoch):
		m.raise(f)
		m.reply(accepted, "epoch %d is promoted already", epoch)
	default:
		m.reply(refused, "epoch %d is not confirmed here: %s", epoch, phaseWord(s.Phase))
	}
}

// revertAsked takes an epoch back. Its fence is journaled even when the epoch was never seen, so
// that a delayed Offer of it is stale.
func (m *move) revertAsked(f Fence, r *agentv1.Revert) {
	s := &m.s
	epoch := r.GetEpoch()
	cause := orElse(r.GetReason(), "the control plane took it back")
	switch {
	case s.Phase >= Accepted && s.Phase <= Confirmed && s.Current.Epoch == epoch:
		m.raise(f)
		m.pace(r, cause)
		m.reply(accepted, "")
	case s.Phase == Quarantined:
		m.raise(f)
		m.retryLKG()
		m.reply(accepted, "trying the last known good configuration again")
	case s.Phase == Reverting:
		m.raise(f)
		m.reply(accepted, "epoch %d is being taken back already", s.Current.Epoch)
	case s.Failed.Epoch == epoch:
		m.raise(f)
		m.reply(reverted, "epoch %d was taken back: %s", epoch, s.Failed.Reason)
	case s.LKG.Epoch == epoch:
		m.reply(refused, "epoch %d is the last known good configuration", epoch)
	default:
		m.raise(f)
		m.reply(accepted, "epoch %d is not held here", epoch)
	}
}

// pace reverts at once or, for an instance still in rotation that needs a restart, in its slot.
func (m *move) pace(r *agentv1.Revert, cause string) {
	s := &m.s
	wait := time.Duration(r.GetSlot()) * max(0, r.GetSlotDelay().AsDuration())
	serving, _ := s.Serving()
	if !serving || s.Hot || wait == 0 || s.Phase < Probation {
		m.revert(cause, s.Phase == Applying || s.Phase == Warming)
		return
	}
	s.RevertAt, s.RevertCause = m.now.Boot+wait, cause
}

// retryLKG leaves quarantine for another try.
func (m *move) retryLKG() {
	m.enter(Reverting)
	m.s.Touched = true
	m.restore()
}

// drain takes the instance out of rotation and leaves the engine running. A drain during a change
// is the mitigation of that change and ends when it has been taken back; any other lasts until it is
// lifted.
func (m *move) drain(f Fence, d *agentv1.Drain) {
	s := &m.s
	m.raise(f)
	s.Drained, s.DrainReason, s.DrainEpoch = d.GetDrained(), "", 0
	if s.Drained {
		s.DrainReason, s.DrainEpoch = d.GetReason(), s.Current.Epoch
	}
	if !s.Drained && s.Phase == Quarantined {
		m.retryLKG()
	}
	m.reply(accepted, "")
}

// lease extends probation. It does not raise the fence; it must belong to the offer being tried.
func (m *move) lease(d *agentv1.Directive, l *agentv1.Lease) {
	s := &m.s
	f := fenceOf(d)
	switch {
	case s.wasReverted(l.GetEpoch()):
		m.reply(reverted, "epoch %d was taken back: %s", l.GetEpoch(), orElse(s.Failed.Reason, s.RevertCause))
	case f.Incarnation != s.OfferFence.Incarnation || f.Compare(s.OfferFence) < 0 || s.Current.Epoch != l.GetEpoch():
		if s.holds(l.GetEpoch()) {
			m.reply(accepted, "epoch %d needs no lease any more", l.GetEpoch())
			return
		}
		m.reply(stale, "no epoch %d of this fence is being tried", l.GetEpoch())
	case s.Phase == Probation:
		extend := l.GetExtend().AsDuration()
		if extend <= 0 || extend > s.Lease {
			extend = s.Lease
		}
		s.LeaseUntil, m.dirty = m.now.Boot+extend, true
		m.reply(accepted, "")
	default:
		m.reply(accepted, "%s", phaseWord(s.Phase))
	}
}
