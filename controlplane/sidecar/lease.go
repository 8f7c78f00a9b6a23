package sidecar

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Lease extends the probation of an epoch on an instance, wherever its agent is attached. Leader
// only, and only once a majority has confirmed that it leads: a lease from a leader that has been
// replaced could outlive its successor's decision. Errors match ErrNotLeader, ErrUnknownInstance or
// ErrNotAttached; nil means sent, not received.
func (h *Hub) Lease(ctx context.Context, instanceID string, epoch uint64, extend time.Duration) error {
	return h.tell(ctx, instanceID, true, &agentv1.Directive{
		Action: &agentv1.Directive_Lease{Lease: &agentv1.Lease{Epoch: epoch, Extend: durationpb.New(extend)}},
	})
}

// Collect asks an instance for its current window at once; it arrives as all windows do. Leader
// only; errors as of Lease.
func (h *Hub) Collect(ctx context.Context, instanceID string) error {
	return h.tell(ctx, instanceID, false, &agentv1.Directive{
		Action: &agentv1.Directive_Collect{Collect: &agentv1.Collect{RequestId: uuid.NewString()}},
	})
}

// tell sends a directive that is not replicated; it carries the fence of the assignment it belongs
// to.
func (h *Hub) tell(ctx context.Context, instanceID string, verify bool, d *agentv1.Directive) error {
	l := h.leading()
	if l == nil {
		return ErrNotLeader
	}
	record := h.machine.Instance(instanceID)
	if record == nil {
		return fmt.Errorf("%w: %s", ErrUnknownInstance, instanceID)
	}
	if verify {
		if err := h.leader.VerifyLeader(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
	}
	cluster := h.machine.Cluster()
	d.InstanceId, d.Group, d.ClusterId = instanceID, record.GetGroup(), cluster.ID
	d.Fence = &agentv1.Fence{Incarnation: cluster.Incarnation, Index: record.GetAssignment().GetFenceIndex()}
	if !l.send(record.GetAgentId(), d) {
		return fmt.Errorf("%w: %s", ErrNotAttached, instanceID)
	}
	return nil
}

func (l *lead) send(agent string, d *agentv1.Directive) bool {
	l.mu.Lock()
	node, ok := l.owner[agent]
	l.mu.Unlock()
	return ok && l.deliver(node, &agentv1.RelayResponse{AgentId: agent, Directive: d})
}
