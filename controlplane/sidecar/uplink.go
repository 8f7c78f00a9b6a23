package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

const (
	uplinkQueue      = 8192
	uplinkBackoffMin = 50 * time.Millisecond
	uplinkBackoffMax = time.Second
	backfillBatch    = 50
)

var errLeaderMoved = errors.New("another node leads now")

// uplink is this node's stream to the leader. While it is down nothing is kept for it: each stream
// begins with everything that is attached, and recent windows follow when there is room.
type uplink struct {
	hub  *Hub
	wake chan struct{} // capacity 1

	mu   sync.Mutex // guards what follows
	open bool
	// queue in the order in which things happened; nil stands for the whole attached set, as it is
	// when its turn comes.
	queue []*agentv1.RelayRequest
}

func newUplink(h *Hub) *uplink { return &uplink{hub: h, wake: make(chan struct{}, 1)} }

// message passes on what an agent said.
func (u *uplink) message(agent string, m *agentv1.ConnectRequest) {
	u.add(&agentv1.RelayRequest{Message: &agentv1.RelayRequest_Agent{Agent: &agentv1.AgentMessage{AgentId: agent, Message: m}}})
}

// gone tells that an agent's stream ended.
func (u *uplink) gone(agent, reason string) {
	u.add(&agentv1.RelayRequest{Message: &agentv1.RelayRequest_Gone{Gone: &agentv1.AgentGone{AgentId: agent, Reason: reason}}})
}

// resend sends the whole attached set again.
func (u *uplink) resend() { u.add(nil) }

func (u *uplink) add(m *agentv1.RelayRequest) {
	u.mu.Lock()
	dropped := u.put(m)
	u.mu.Unlock()
	if dropped > 0 {
		u.hub.count(func(c *Counts) { c.RelayDropped += uint64(dropped) })
	}
	u.signal()
}

// put holds mu. A full queue is emptied, since the whole set says it all but the windows.
func (u *uplink) put(m *agentv1.RelayRequest) (dropped int) {
	if !u.open {
		return 0
	}
	if len(u.queue) >= uplinkQueue {
		dropped, u.queue = len(u.queue), []*agentv1.RelayRequest{nil}
	}
	u.queue = append(u.queue, m)
	return dropped
}

func (u *uplink) signal() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// begin opens the queue for a new stream; end closes it.
func (u *uplink) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open, u.queue = true, []*agentv1.RelayRequest{nil}
	u.signal()
}

func (u *uplink) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open, u.queue = false, nil
}

func (u *uplink) take() []*agentv1.RelayRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	queue := u.queue
	u.queue = nil
	return queue
}

// run keeps a stream to whoever leads until ctx ends.
func (u *uplink) run(ctx context.Context) {
	backoff := uplinkBackoffMin
	for ctx.Err() == nil {
		addr, self := u.hub.leader.LeaderAgentAddr()
		if addr == "" || self {
			rest(ctx, uplinkBackoffMin)
			continue
		}
		began := time.Now()
		err := u.relay(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		u.hub.logger.Debug("relay to the leader ended", "leader", addr, "error", err)
		if time.Since(began) > uplinkBackoffMax {
			backoff = uplinkBackoffMin
		}
		rest(ctx, rand.N(backoff)+uplinkBackoffMin/2)
		backoff = min(2*backoff, uplinkBackoffMax)
	}
}

// relay runs one stream to the node at addr for as long as it leads.
func (u *uplink) relay(ctx context.Context, addr string) error {
	opts := u.hub.cfg.DialOptions
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(addr, opts...)
	if err != nil {
		return fmt.Errorf("dial leader: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := agentv1.NewRelayServiceClient(conn).Relay(ctx)
	if err != nil {
		return fmt.Errorf("open relay: %w", err)
	}
	u.begin()
	defer u.end()
	var helpers sync.WaitGroup
	helpers.Go(func() { cancel(u.receive(stream)) })
	helpers.Go(func() { cancel(u.watch(ctx, addr)) })
	defer helpers.Wait()
	defer cancel(nil)
	if err := u.send(ctx, stream); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// watch returns when another node leads. It can be the first to notice: a node that hangs keeps its
// streams.
func (u *uplink) watch(ctx context.Context, addr string) error {
	for rest(ctx, uplinkBackoffMin) {
		if now, self := u.hub.leader.LeaderAgentAddr(); self || now != "" && now != addr {
			return errLeaderMoved
		}
	}
	return nil
}

// send is the stream's only sender: news as it comes, beginning with the attached set, and recent
// windows, newest first, whenever there is no news. It returns nil once ctx has ended.
func (u *uplink) send(ctx context.Context, stream agentv1.RelayService_RelayClient) error {
	var old *backfill
	for {
		queue := u.take()
		for _, m := range queue {
			if m == nil {
				m = u.attached()
			}
			if old == nil && m.GetAttached() != nil {
				old = u.hub.newBackfill(m.GetAttached().GetAgents())
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		if len(queue) == 0 {
			if m := old.next(); m != nil {
				if err := stream.Send(m); err != nil {
					return err
				}
				u.signal()
			}
		} else {
			u.signal()
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (u *uplink) attached() *agentv1.RelayRequest {
	set := &agentv1.AttachedAgents{}
	for _, s := range u.hub.attached() {
		set.Agents = append(set.Agents, s.hello())
	}
	return &agentv1.RelayRequest{NodeId: u.hub.cfg.NodeID, Message: &agentv1.RelayRequest_Attached{Attached: set}}
}

// receive hands the leader's directives to agents attached here.
func (u *uplink) receive(stream agentv1.RelayService_RelayClient) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errLeaderMoved
		}
		if err != nil {
			return err
		}
		u.hub.fromLeader(m)
	}
}

// fromLeader carries out what the leader sent for an agent that is attached here.
func (h *Hub) fromLeader(m *agentv1.RelayResponse) bool {
	s := h.session(m.GetAgentId())
	switch {
	case s == nil:
		return false // it left a moment ago; the leader is being told
	case m.GetRefused() != "":
		s.kill(fmt.Errorf("%w: %s", errDuplicate, m.GetRefused()))
		return true
	}
	return s.directive(m.GetDirective())
}
