package fsm

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// View is what DirectiveFor needs of the state; *Machine is one.
type View interface {
	Cluster() Cluster
	Body(hash string) *commandv1.ConfigBody
}

// DirectiveFor returns what the instance should be told now, nil when it has journaled all that it
// was assigned. It is level-triggered: the node that the instance is attached to calls it after
// every change of the state and at every connection, and may push the same directive again, since
// an agent executes a fence once. An assignment and an operator's drain that are both outstanding
// come in the order in which they were decided.
func DirectiveFor(v View, i *commandv1.Instance) *agentv1.Directive {
	c := v.Cluster()
	assigned, drained := Pending(i, c.Incarnation), drainPending(i, c.Incarnation)
	if assigned && drained {
		assigned = i.GetAssignment().GetFenceIndex() < i.GetOperatorDrainIndex()
	}
	d := &agentv1.Directive{InstanceId: i.GetId(), ClusterId: c.ID, Group: i.GetGroup()}
	switch {
	case assigned:
		d.Fence = &agentv1.Fence{Incarnation: c.Incarnation, Index: i.GetAssignment().GetFenceIndex()}
		return act(v, i.GetAssignment(), d)
	case drained:
		d.Fence = &agentv1.Fence{Incarnation: c.Incarnation, Index: i.GetOperatorDrainIndex()}
		d.Action = &agentv1.Directive_Drain{Drain: operatorDrain(i)}
		return d
	}
	return nil
}

// operatorDrain is what an operator asked for. Lifting a drain does not lift that of a mitigation: it
// would put the replica back into rotation on an epoch that is being taken back.
func operatorDrain(i *commandv1.Instance) *agentv1.Drain {
	if a := i.GetAssignment(); a.GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE && !i.GetOperatorDrain() {
		return &agentv1.Drain{Drained: true, Reason: a.GetReason()}
	}
	return &agentv1.Drain{Drained: i.GetOperatorDrain(), Reason: "operator"}
}

// act puts the assignment's action into the directive; nil when the assignment asks for nothing or
// its body is not known.
func act(v View, a *commandv1.Assignment, d *agentv1.Directive) *agentv1.Directive {
	switch a.GetKind() {
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER:
		body := v.Body(a.GetBodyHash())
		if body == nil {
			return nil
		}
		d.Action = &agentv1.Directive_Offer{Offer: &agentv1.Offer{
			Epoch: a.GetEpoch(), BodyHash: a.GetBodyHash(), Body: body.GetBody(), ParentEpoch: a.GetParentEpoch(),
			ApplyBy: millis(a.GetApplyByMs()), Probation: millis(a.GetProbationMs()),
			Slot: a.GetSlot(), SlotDelay: millis(a.GetSlotDelayMs()),
		}}
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_CONFIRM:
		d.Action = &agentv1.Directive_Confirm{Confirm: &agentv1.Confirm{Epoch: a.GetEpoch()}}
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_PROMOTE:
		d.Action = &agentv1.Directive_Promote{Promote: &agentv1.Promote{Epoch: a.GetEpoch()}}
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE:
		d.Action = &agentv1.Directive_Drain{Drain: &agentv1.Drain{Drained: true, Reason: a.GetReason()}}
	case commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT:
		d.Action = &agentv1.Directive_Revert{Revert: &agentv1.Revert{
			Epoch: a.GetEpoch(), Reason: a.GetReason(), Slot: a.GetSlot(), SlotDelay: millis(a.GetSlotDelayMs()),
		}}
	default:
		return nil
	}
	return d
}

// millis is nil for zero, which leaves the choice to the agent.
func millis(ms int64) *durationpb.Duration {
	if ms == 0 {
		return nil
	}
	return durationpb.New(time.Duration(ms) * time.Millisecond)
}
