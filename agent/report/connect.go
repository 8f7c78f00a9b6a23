package report

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// settled is how long a stream must have lasted for its end to count as new trouble.
const settled = 5 * time.Second

// batchWindows bounds a message: at some 5 KB a window far under gRPC's 4 MiB.
const batchWindows = 64

var (
	errSilent       = errors.New("the control plane fell silent")
	errNoWelcome    = errors.New("the control plane did not answer the greeting")
	errOtherCluster = errors.New("this agent belongs to another cluster")
)

// connectForEver opens one stream after another until ctx ends.
func (r *Reporter) connectForEver(ctx context.Context, w *workers) {
	nodes := newNodes(r.cfg.Addresses, r.identity.GetAgentId())
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		err := r.session(ctx, nodes, w)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > settled {
			failures = 0
		} else {
			failures++
		}
		pause := r.pause(failures, err)
		r.disconnected(nodes.current(), err)
		if failures > 0 {
			nodes.next()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// pause before the next attempt: full jitter, so that a fleet does not come back in step.
func (r *Reporter) pause(failures int, err error) time.Duration {
	if refused(err) {
		return r.cfg.RefusedPause/2 + rand.N(r.cfg.RefusedPause/2+1)
	}
	ceiling := r.cfg.BackoffMin << min(failures, 16)
	return rand.N(min(ceiling, r.cfg.BackoffMax) + 1)
}

// refused tells a verdict from a failure: the node answered and will answer the same again.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.AlreadyExists, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	}
	return errors.Is(err, errOtherCluster)
}

// session is one stream, from Hello to its end. It always returns an error that says why it ended.
func (r *Reporter) session(ctx context.Context, nodes *nodes, w *workers) error {
	addr := nodes.current()
	conn, err := dial(addr, r.cfg.TLS)
	if err != nil {
		return err
	}
	defer conn.Close()
	live, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(r.cfg.Silence, func() { cancel(errNoWelcome) })
	defer watchdog.Stop()

	stream, err := agentv1.NewAgentServiceClient(conn).Connect(live)
	if err != nil {
		return because(live, err)
	}
	welcome, err := r.greet(stream)
	if err != nil {
		return because(live, err)
	}
	watchdog.Stop()
	nodes.learn(welcome.GetAgentAddrs(), r.cfg.TLS)
	r.connected(addr, welcome)
	r.windows.rewind()

	sender := make(chan error, 1)
	go func() {
		err := r.sendAll(live, stream)
		cancel(err)
		sender <- err
	}()
	silence := time.AfterFunc(r.cfg.Silence, func() { cancel(errSilent) })
	silence.Stop()
	err = r.receive(ctx, stream, w, silence)
	err = because(live, err)
	cancel(err)
	<-sender
	return err
}

// because prefers the reason for which we ended the stream ourselves.
func because(live context.Context, err error) error {
	if cause := context.Cause(live); cause != nil && !errors.Is(cause, io.EOF) {
		return cause
	}
	return err
}

type connectStream = interface {
	Send(*agentv1.ConnectRequest) error
	Recv() (*agentv1.ConnectResponse, error)
}

// greet introduces the agent and checks whose control plane this is.
func (r *Reporter) greet(stream connectStream) (*agentv1.Welcome, error) {
	if err := stream.Send(r.hello()); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("greet: %w", err) // io.EOF: the answer tells the reason
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return nil, errNoWelcome
	}
	known, named := r.cluster.ClusterID(), welcome.GetClusterId()
	if known != "" && named != known {
		return nil, fmt.Errorf("%w: it joined %s, the control plane is of %s; point it at its own control plane, or remove cluster-id from its data folder to let it join the new one",
			errOtherCluster, known, named)
	}
	if known == "" && named != "" {
		if err := r.cluster.SetClusterID(named); err != nil {
			return nil, fmt.Errorf("remember the cluster: %w", err)
		}
	}
	return welcome, nil
}

// sendAll is the stream's only sender.
func (r *Reporter) sendAll(ctx context.Context, stream connectStream) error {
	for {
		if err := r.sendWaiting(stream); err != nil {
			return err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Reporter) sendWaiting(stream connectStream) error {
	out := r.drain()
	for i, m := range out {
		if err := stream.Send(m); err != nil {
			r.putBack(out[i:])
			return err
		}
	}
	for {
		windows, dropped := r.windows.take(batchWindows, time.Now())
		if len(windows) == 0 {
			return nil
		}
		batch := &agentv1.WindowBatch{Windows: windows, Dropped: dropped}
		if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Windows{Windows: batch}}); err != nil {
			return err
		}
	}
}

// putBack keeps the acks of messages that could not be sent; the next Hello carries the rest.
func (r *Reporter) putBack(unsent []*agentv1.ConnectRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out = append(slices.Clone(unsent), r.out...)
}

// receive answers pings and hands out directives until the stream ends. The silence timer runs
// only once the control plane has shown that it pings. Directives run under ctx, which outlives the
// stream.
func (r *Reporter) receive(ctx context.Context, stream connectStream, w *workers, silence *time.Timer) error {
	defer silence.Stop()
	pinged := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case m.GetPing() != nil:
			pinged = true
			r.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Pong{Pong: &agentv1.Pong{UnixMs: m.GetPing().GetUnixMs()}}})
		case m.GetDirective() != nil:
			w.dispatch(ctx, m.GetDirective())
		}
		if pinged {
			silence.Reset(r.cfg.Silence)
		}
	}
}

func (r *Reporter) connected(addr string, w *agentv1.Welcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.status.Since.IsZero() {
		r.status.Reconnects++
	}
	r.status.Connected, r.status.Address, r.status.NodeID = true, addr, w.GetNodeId()
	r.status.Since, r.status.Problem = time.Now(), ""
	r.log.Info("connected to the control plane", "address", addr, "node", w.GetNodeId(), "cluster", w.GetClusterId())
}

// disconnected notes why, and says each reason once.
func (r *Reporter) disconnected(addr string, err error) {
	words := r.words(err)
	r.mu.Lock()
	news := r.status.Connected || r.status.Problem != words
	r.status.Connected, r.status.Address, r.status.Problem = false, addr, words
	r.mu.Unlock()
	if news {
		r.log.Warn("not connected to the control plane; the engine is observed and guarded all the same", "address", addr, "reason", words)
	}
}

// words turns an error into what a person can act on.
func (r *Reporter) words(err error) string {
	s, _ := status.FromError(err)
	switch status.Code(err) {
	case codes.AlreadyExists:
		return fmt.Sprintf("another agent with the identity %s is connected; two agents must not share one: "+
			"if its data folder was copied, stop this agent and remove agent-id from the copy", r.identity.GetAgentId())
	case codes.Unavailable:
		return "no control plane answers: " + s.Message()
	case codes.Unauthenticated, codes.PermissionDenied:
		return "the control plane refuses this agent: " + s.Message()
	case codes.Unimplemented:
		return "this address answers gRPC but is no control plane's agent port"
	}
	if errors.Is(err, io.EOF) {
		return "the control plane ended the stream"
	}
	return err.Error()
}

// nodes is the list of control-plane addresses with a sticky choice.
type nodes struct {
	addrs []string
	at    int
}

// newNodes starts at an address drawn from the agent's id, so that a fleet spreads.
func newNodes(addrs []string, agentID string) *nodes {
	h := fnv.New32a()
	_, _ = h.Write([]byte(agentID)) // never fails
	return &nodes{addrs: slices.Clone(addrs), at: int(h.Sum32()) % len(addrs)}
}

func (n *nodes) current() string { return n.addrs[n.at] }

func (n *nodes) next() { n.at = (n.at + 1) % len(n.addrs) }

// learn adds addresses that the control plane names, as far as they may be used.
func (n *nodes) learn(addrs []string, t TLS) {
	for _, a := range addrs {
		if !slices.Contains(n.addrs, a) && CheckAddress(a, t) == nil {
			n.addrs = append(n.addrs, a)
		}
	}
}
