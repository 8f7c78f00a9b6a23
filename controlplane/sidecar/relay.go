package sidecar

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// link is the leader's end of another node's stream.
type link struct {
	node string
	out  chan *agentv1.RelayResponse
	dead chan struct{} // closed when another link of the node has taken over
}

const linkQueue = 4096

// send queues without waiting; what does not fit is lost, as it would be on the way.
func (k *link) send(m *agentv1.RelayResponse) bool {
	select {
	case k.out <- m:
		return true
	default:
		return false
	}
}

type relayStream = grpc.BidiStreamingServer[agentv1.RelayRequest, agentv1.RelayResponse]

var errRelayOrder = errors.New("a relay begins with the node's id and its attached agents")

// Relay implements agentv1.RelayServiceServer, on the leader.
func (h *Hub) Relay(stream relayStream) error {
	l := h.leading()
	if l == nil {
		return toStatus(ErrNotLeader)
	}
	first, err := within(stream.Context(), helloTimeout, stream.Recv)
	if err != nil {
		return toStatus(fmt.Errorf("wait for attached agents: %w", err))
	}
	if first.GetNodeId() == "" || first.GetAttached() == nil {
		return toStatus(fmt.Errorf("%w: %w", errNoHello, errRelayOrder))
	}
	k := l.link(first.GetNodeId())
	defer l.unlink(k)
	l.attachAll(k.node, first.GetAttached())
	h.logger.Info("node relays its agents", "from", k.node, "agents", len(first.GetAttached().GetAgents()))
	h.streams.Go(func() { h.receiveRelay(stream, l, k) })
	return toStatus(h.serveRelay(stream, l, k))
}

func (h *Hub) serveRelay(stream relayStream, l *lead, k *link) error {
	for {
		select {
		case m := <-k.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-k.dead:
			return errReplaced
		case <-l.over:
			return ErrNotLeader
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-h.stopping:
			return errStopping
		}
	}
}

func (h *Hub) receiveRelay(stream relayStream, l *lead, k *link) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		switch m := m.GetMessage().(type) {
		case *agentv1.RelayRequest_Attached:
			l.attachAll(k.node, m.Attached)
		case *agentv1.RelayRequest_Gone:
			l.gone(k.node, m.Gone.GetAgentId())
		case *agentv1.RelayRequest_Agent:
			agent := m.Agent.GetAgentId()
			if b := m.Agent.GetMessage().GetWindows(); b != nil && l.owned(k.node, agent) {
				h.keep(agent, b)
				continue
			}
			l.message(k.node, agent, m.Agent.GetMessage())
		}
	}
}

// link makes the newest stream of a node the one that counts.
func (l *lead) link(node string) *link {
	k := &link{node: node, out: make(chan *agentv1.RelayResponse, linkQueue), dead: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.links[node]; old != nil {
		close(old.dead)
	}
	l.links[node] = k
	return k
}

func (l *lead) unlink(k *link) {
	l.mu.Lock()
	current := l.links[k.node] == k
	if current {
		delete(l.links, k.node)
	}
	l.mu.Unlock()
	if current {
		l.nodeLost(k.node)
	}
}
