package sidecar

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// wakePush asks for a look at what attached agents should be told.
func (h *Hub) wakePush() {
	select {
	case h.nudge <- struct{}{}:
	default:
	}
}

// push tells attached agents what follows from this node's copy of the replicated state, whenever
// that or an agent's own state changes, and again while an agent has not journaled it.
func (h *Hub) push(ctx context.Context) {
	again := time.NewTicker(h.cfg.ResendEvery / 2)
	defer again.Stop()
	for {
		changed := h.machine.Watch()
		began := time.Now()
		h.pushAll()
		if !rest(ctx, 4*time.Since(began)) { // bounds the cost to a fifth of a core
			return
		}
		select {
		case <-changed:
		case <-h.nudge:
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// rest waits; false when ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (h *Hub) pushAll() {
	for _, s := range h.attached() {
		for _, id := range s.instances() {
			h.pushOne(s, id)
		}
	}
}

func (h *Hub) pushOne(s *session, instance string) {
	record := h.machine.Instance(instance)
	if record == nil {
		return // its introduction is on the way to the log
	}
	// What the agent told this node is newer than what the log says it told.
	if st := s.state(instance); st.GetSequence() > record.GetState().GetSequence() {
		record.State = proto.CloneOf(st)
	}
	d := fsm.DirectiveFor(h.machine, record)
	if d == nil || !s.due(instance, d.GetFence().GetIndex(), h.cfg.ResendEvery) {
		return
	}
	if s.directive(d) {
		h.logger.Debug("directive sent", "instance", instance, "fence", d.GetFence().GetIndex(), "action", action(d))
	}
}

// action names what a directive asks for.
func action(d *agentv1.Directive) string {
	m := d.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("action")); f != nil {
		return string(f.Name())
	}
	return "nothing"
}
