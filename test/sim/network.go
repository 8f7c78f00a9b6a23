package sim

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// seat is an agent's place at its node: what the node knows of it.
type seat struct {
	attached  bool
	session   int // stale messages are those of an earlier one
	introduce bool
	dirty     bool // the log may lack something
	state     *agentv1.StateReport
	refusal   uint64 // fence of the directive refused last
	why       string
	sent      uint64 // fence of the directive sent last
	sentAt    int64
	owes      bool // a directive is due
}

// resendMs is the pause before a directive that is still due is sent again.
const resendMs = 2000

// carry takes a message over the network: late, twice or never.
func (w *world) carry(deliver func()) {
	if w.chance(0.03) {
		return
	}
	delay := w.between(1, 40)
	if w.chance(0.1) {
		delay = w.between(40, 3000)
	}
	w.after(delay, deliver)
	if w.chance(0.05) {
		w.after(delay+w.between(1, 5000), deliver)
	}
}

// attach opens an agent's stream to its node.
func (w *world) attach(a *agent) {
	if a.node.attached || a.cut || !a.up {
		return
	}
	n := &a.node
	n.session++
	*n = seat{attached: true, session: n.session, introduce: true, dirty: true, state: proto.CloneOf(a.report())}
	w.say("%s is connected", a.id)
	w.pushTo(a)
}

// detach ends the stream; the node notices.
func (w *world) detach(a *agent) {
	if !a.node.attached {
		return
	}
	a.node.attached, a.node.dirty = false, true
	w.say("%s is disconnected", a.id)
}

// tell sends the agent's newest state to its node.
func (a *agent) tell() {
	if !a.node.attached || a.cut {
		return
	}
	session, st := a.node.session, a.last
	a.toldAt = a.w.now
	a.w.carry(func() { a.w.heard(a, session, st) })
}

// heard is the arrival of a state at the node.
func (w *world) heard(a *agent, session int, st *agentv1.StateReport) {
	n := &a.node
	if !n.attached || n.session != session || n.state != nil && st.GetSequence() <= n.state.GetSequence() {
		return
	}
	n.state, n.dirty = st, true
}

// pushTo sends an attached agent the directive that is due, unless it was sent a moment ago.
func (w *world) pushTo(a *agent) {
	n := &a.node
	i := w.rec.instances[a.id]
	if !n.attached || i == nil {
		return
	}
	if n.state.GetSequence() > i.GetState().GetSequence() {
		i = proto.CloneOf(i)
		i.State = n.state
	}
	d := fsm.DirectiveFor(w.machine, i)
	if n.owes = d != nil; d == nil || d.GetFence().GetIndex() == n.sent && w.now-n.sentAt < resendMs {
		return
	}
	n.sent, n.sentAt = d.GetFence().GetIndex(), w.now
	a.mail = append(a.mail, d)
	w.send(a, d)
}

// send carries a directive to the agent and its answer back.
func (w *world) send(a *agent, d *agentv1.Directive) {
	session := a.node.session
	w.carry(func() {
		if !a.up || a.cut {
			return
		}
		result, why := a.directed(d)
		if result != agentv1.AckResult_ACK_RESULT_REFUSED || d.GetLease() != nil {
			return // the state says it all
		}
		st := a.last
		w.carry(func() {
			if a.node.attached && a.node.session == session {
				a.node.refusal, a.node.why, a.node.dirty = d.GetFence().GetIndex(), why, true
				w.heard(a, session, st)
			}
		})
	})
}

// lease carries one renewal; it has the fence of the assignment that it belongs to.
func (w *world) lease(a *agent, i *commandv1.Instance, r *commandv1.Rollout) {
	if !a.node.attached {
		return
	}
	w.send(a, &agentv1.Directive{
		InstanceId: a.id, Group: i.GetGroup(), ClusterId: clusterID,
		Fence: &agentv1.Fence{Incarnation: 1, Index: i.GetAssignment().GetFenceIndex()},
		Action: &agentv1.Directive_Lease{Lease: &agentv1.Lease{
			Epoch: r.GetEpoch(), Extend: durationpb.New(duration(r.GetPolicy().GetProbationMs())),
		}},
	})
}
