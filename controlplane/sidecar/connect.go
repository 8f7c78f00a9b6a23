package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// helloTimeout bounds the wait for a stream's first message.
const helloTimeout = 5 * time.Second

type connectStream = grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]

// Connect implements agentv1.AgentServiceServer.
func (h *Hub) Connect(stream connectStream) error {
	s, err := h.admit(stream)
	if err != nil {
		h.count(func(c *Counts) { c.Refused++ })
		level := slog.LevelWarn
		if errors.Is(err, errNotReady) || errors.Is(err, errBusy) {
			level = slog.LevelDebug // every agent hears it while the cluster starts, and comes again
		}
		h.logger.Log(stream.Context(), level, "agent refused", "error", err)
		return toStatus(err)
	}
	h.logger.Info("agent attached", "agent", s.agent, "host", s.view.identity.GetHostname(), "instances", s.instances())
	err = h.serve(stream, s)
	h.detach(s, err)
	return toStatus(err)
}

// admit hears the agent's Hello, checks it and gives it a session.
func (h *Hub) admit(stream connectStream) (*session, error) {
	select {
	case h.handshakes <- struct{}{}:
		defer func() { <-h.handshakes }()
	default:
		return nil, errBusy
	}
	first, err := within(stream.Context(), helloTimeout, stream.Recv)
	if err != nil {
		return nil, fmt.Errorf("wait for hello: %w", err)
	}
	if first.GetHello() == nil {
		return nil, errNoHello
	}
	v, err := newView(first.GetHello())
	if err != nil {
		return nil, err
	}
	cluster := h.machine.Cluster()
	switch id := v.identity.GetClusterId(); {
	case cluster.ID == "":
		return nil, errNotReady
	case id != "" && id != cluster.ID:
		return nil, fmt.Errorf("%w: agent %s on %s was joined to %s and this is %s: correct its control-plane address, or delete cluster-id in its data folder to join it here",
			errWrongCluster, v.identity.GetAgentId(), v.identity.GetHostname(), id, cluster.ID)
	}
	s := newSession(v, h.cfg.Queue)
	s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{
		ClusterId: cluster.ID, NodeId: h.cfg.NodeID, Incarnation: cluster.Incarnation, AgentAddrs: h.cfg.AgentAddrs,
	}}})
	return s, h.enter(stream.Context(), s)
}

// within calls a blocking receive and gives up after a while; the receive ends with its stream.
func within[T any](ctx context.Context, timeout time.Duration, receive func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	got := make(chan result, 1)
	go func() {
		v, err := receive()
		got <- result{v, err}
	}()
	select {
	case r := <-got:
		return r.v, r.err
	case <-time.After(timeout):
		var none T
		return none, errNoHello
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// enter makes the session the agent's. The same process replaces its earlier stream; another
// process waits a moment for the first one's to end, as it does after a crash, and is then refused.
func (h *Hub) enter(ctx context.Context, s *session) error {
	deadline := time.NewTimer(h.cfg.TakeoverWait)
	defer deadline.Stop()
	for {
		held := h.place(s)
		if held == nil {
			return nil
		}
		if held.view.identity.GetSession() == s.view.identity.GetSession() {
			held.kill(errReplaced)
		}
		select {
		case <-held.ended:
		case <-deadline.C:
			return duplicate(s.agent, held.view)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// place puts the session in when the agent has none, and otherwise returns the one it has.
func (h *Hub) place(s *session) (held *session) {
	h.mu.Lock()
	if held = h.sessions[s.agent]; held == nil {
		h.sessions[s.agent] = s
	}
	l := h.lead
	h.mu.Unlock()
	if held != nil {
		return held
	}
	if l != nil {
		l.attach(h.cfg.NodeID, s.hello())
	} else {
		h.up.resend()
	}
	h.wakePush()
	return nil
}

// serve runs the stream and returns why it ended. Sending has a goroutine of its own, since it
// blocks while the agent does not read; it and the receiver end once this returns.
func (h *Hub) serve(stream connectStream, s *session) error {
	h.streams.Go(func() { h.receive(stream, s) })
	h.streams.Go(func() { forward(stream, s) })
	ping := time.NewTicker(h.cfg.PingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ping.C:
			if s.silence() > h.cfg.SilentAfter {
				return errSilent
			}
			s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ping{Ping: &agentv1.Ping{UnixMs: time.Now().UnixMilli()}}})
		case <-s.dead:
			return s.killed()
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-h.stopping:
			return errStopping
		}
	}
}

// forward is the stream's only sender.
func forward(stream connectStream, s *session) {
	for {
		select {
		case m := <-s.out:
			if err := stream.Send(m); err != nil {
				s.kill(err)
				return
			}
		case <-stream.Context().Done():
			return
		}
	}
}

// receive takes in the agent's messages until the stream ends.
func (h *Hub) receive(stream connectStream, s *session) {
	for {
		m, err := stream.Recv()
		if err != nil {
			s.kill(err)
			return
		}
		if s.killed() != nil {
			return // what a replaced stream still says is old
		}
		h.take(s, m)
	}
}

func (h *Hub) take(s *session, m *agentv1.ConnectRequest) {
	news := s.take(m)
	if b := m.GetWindows(); b != nil {
		h.keep(s.agent, b)
	}
	if a := m.GetAck(); a.GetResult() == agentv1.AckResult_ACK_RESULT_REFUSED && a.GetTestId() == "" {
		h.logger.Warn("agent refused a directive", "instance", a.GetInstanceId(), "fence", a.GetFence().GetIndex(), "detail", a.GetDetail())
	}
	if news != "" {
		h.wakePush()
	}
	if m.GetPong() != nil || news == "" && m.GetWindows() == nil && m.GetAck().GetTestId() == "" {
		return
	}
	if l := h.leading(); l != nil {
		l.message(h.cfg.NodeID, s.agent, m)
		return
	}
	h.up.message(s.agent, m)
}

// keep stores the windows of an agent. Broken windows and those of others are dropped and counted.
func (h *Hub) keep(agent string, b *agentv1.WindowBatch) {
	var good, bad uint64
	for _, pb := range b.GetWindows() {
		w, err := fleet.FromProto(pb)
		if err != nil || !owns(agent, pb.GetInstanceId()) {
			bad++
			continue
		}
		good++
		_ = h.windows.Add(w) // the store counts what it turns away
	}
	h.count(func(c *Counts) { c.Windows += good; c.BadWindows += bad })
}

// detach frees the agent's place and tells the leader.
func (h *Hub) detach(s *session, why error) {
	s.kill(why)
	h.mu.Lock()
	delete(h.sessions, s.agent)
	if errors.Is(why, errSlow) {
		h.counts.Slow++
	}
	l := h.lead
	h.mu.Unlock()
	close(s.ended)
	reason := "stream ended"
	if why != nil {
		reason = why.Error()
	}
	h.logger.Info("agent detached", "agent", s.agent, "reason", reason)
	if errors.Is(why, errReplaced) {
		return // its next stream is waiting for this place
	}
	if l != nil {
		l.gone(h.cfg.NodeID, s.agent)
		return
	}
	h.up.gone(s.agent, reason)
}
