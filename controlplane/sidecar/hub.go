// Package sidecar is the control plane's side of the agents' streams. An agent attaches to any
// node. That node checks who it is, keeps its recent windows, pushes the directives that follow
// from its own copy of the replicated state until the agent has journaled them, and passes what
// the agent says to the leader. The leader knows where every agent is attached, puts what changed
// about them into the log, in batches, and sends leases through the node that holds the stream.
//
// What a directive should be is decided in fsm and rollout; what windows mean, elsewhere.
//
// Ownership. A session belongs to its stream's handler; others reach it through kill and send. The
// leader's view (lead) exists while this node leads.
package sidecar

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Log commits commands. Propose is called on the leader alone, from one goroutine at a time.
type Log interface {
	Propose(ctx context.Context, typ commandv1.CommandType, payload proto.Message, requestID, actor string) (fsm.Result, error)
}

// Leader tells who leads.
type Leader interface {
	// LeaderAgentAddr is the gRPC address of the leader, "" while none is known, and whether the
	// leader is this node.
	LeaderAgentAddr() (addr string, self bool)
	// VerifyLeader returns nil once a majority has confirmed that this node leads.
	VerifyLeader(ctx context.Context) error
	// WhileLeader calls run whenever this node leads, cancels and waits for it when it no longer
	// does, and returns when ctx ends.
	WhileLeader(ctx context.Context, run func(ctx context.Context, term uint64) error) error
}

// Windows keeps recent windows.
type Windows interface {
	// Add takes a window over; an error says that it was not kept, which is no reason to stop.
	Add(w *fleet.Window) error
	// Windows returns what is kept of the instances within [from, to); they are shared and read-only.
	Windows(instances []string, from, to time.Time) []*fleet.Window
}

// Config of a Hub. Zero durations and bounds take the defaults.
type Config struct {
	// NodeID of this control-plane node.
	NodeID string
	// AgentAddrs of all nodes, told to agents for reconnecting.
	AgentAddrs []string
	// DialOptions for reaching the leader; they must hold the transport credentials.
	DialOptions []grpc.DialOption

	// PingEvery and SilentAfter: an agent that says nothing for SilentAfter is taken for gone.
	// Defaults 2 s and 6 s.
	PingEvery, SilentAfter time.Duration
	// GraceMin and GraceMax bound the time for which an agent without a stream still counts as
	// reachable, so that it can attach elsewhere. Defaults 3 s and 30 s.
	GraceMin, GraceMax time.Duration
	// ReportEvery separates entries about agents in the log. Default 100 ms.
	ReportEvery time.Duration
	// ResendEvery separates attempts to deliver a directive that the agent has not journaled.
	// Default 2 s.
	ResendEvery time.Duration
	// TakeoverWait is how long a second process with an agent's identity waits for the first one's
	// stream to end before it is refused. Default 1 s.
	TakeoverWait time.Duration
	// Backfill is how far back a node re-sends windows to a new leader. Default 10 min.
	Backfill time.Duration
	// Queue bounds the messages waiting for one agent; an agent that is slower is disconnected.
	// Default 256.
	Queue int
	// Handshakes bounds the streams that have not said Hello yet. Default 256.
	Handshakes int
}

func (c Config) withDefaults() Config {
	duration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	count := func(n *int, def int) {
		if *n == 0 {
			*n = def
		}
	}
	duration(&c.PingEvery, 2*time.Second)
	duration(&c.SilentAfter, 6*time.Second)
	duration(&c.GraceMin, 3*time.Second)
	duration(&c.GraceMax, 30*time.Second)
	duration(&c.ReportEvery, 100*time.Millisecond)
	duration(&c.ResendEvery, 2*time.Second)
	duration(&c.TakeoverWait, time.Second)
	duration(&c.Backfill, 10*time.Minute)
	count(&c.Queue, 256)
	count(&c.Handshakes, 256)
	return c
}

// Hub serves AgentService and RelayService on one node.
type Hub struct {
	agentv1.UnimplementedAgentServiceServer
	agentv1.UnimplementedRelayServiceServer

	cfg     Config
	log     Log
	leader  Leader
	machine *fsm.Machine
	windows Windows
	logger  *slog.Logger

	up         *uplink
	handshakes chan struct{}  // a token per stream before its Hello
	nudge      chan struct{}  // capacity 1: look for directives to push
	stopping   chan struct{}  // closed when Run's context ends
	streams    sync.WaitGroup // senders and receivers, which end with their stream

	mu       sync.Mutex // guards what follows
	sessions map[string]*session
	lead     *lead // nil while this node does not lead
	counts   Counts
}

// Counts since the hub's start.
type Counts struct {
	// Windows taken in; BadWindows could not be read or came from the wrong agent.
	Windows    uint64 `json:"windows"`
	BadWindows uint64 `json:"bad_windows"`
	// Refused greetings, and agents cut off because they did not keep up.
	Refused uint64 `json:"refused"`
	Slow    uint64 `json:"slow"`
	// RelayDropped messages did not fit the queue to the leader; the whole state was sent instead.
	RelayDropped uint64 `json:"relay_dropped"`
}

// New returns a hub that serves nothing before Run.
func New(cfg Config, log Log, leader Leader, machine *fsm.Machine, windows Windows, logger *slog.Logger) *Hub {
	cfg = cfg.withDefaults()
	h := &Hub{
		cfg: cfg, log: log, leader: leader, machine: machine, windows: windows,
		logger:     logger.With("component", "sidecar"),
		handshakes: make(chan struct{}, cfg.Handshakes),
		nudge:      make(chan struct{}, 1),
		stopping:   make(chan struct{}),
		sessions:   map[string]*session{},
	}
	h.up = newUplink(h)
	return h
}

// stopTimeout bounds how long the gRPC server waits for handlers that have been told to end.
const stopTimeout = 3 * time.Second

// Run serves the listener, which it closes, and does the node's part for attached agents until ctx
// ends. opts carry the transport credentials. All that it started has ended when it returns.
func (h *Hub) Run(ctx context.Context, listener net.Listener, opts ...grpc.ServerOption) error {
	server := grpc.NewServer(append(serverOptions(), opts...)...)
	agentv1.RegisterAgentServiceServer(server, h)
	agentv1.RegisterRelayServiceServer(server, h)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	loops.Go(func() { h.push(ctx) })
	loops.Go(func() { h.up.run(ctx) })
	loops.Go(func() { _ = h.leader.WhileLeader(ctx, h.whileLeading) })
	loops.Go(func() {
		<-ctx.Done()
		close(h.stopping) // handlers see it and return
		kill := time.AfterFunc(stopTimeout, server.Stop)
		defer kill.Stop()
		server.GracefulStop()
	})
	err := server.Serve(listener)
	cancel()
	loops.Wait()
	h.streams.Wait()
	return err
}

// Counts of the hub so far.
func (h *Hub) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

func (h *Hub) count(what func(*Counts)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what(&h.counts)
}

// leading returns the leader's view, nil while this node does not lead.
func (h *Hub) leading() *lead {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lead
}

func (h *Hub) session(agent string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[agent]
}

// attached returns all sessions of this node.
func (h *Hub) attached() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		all = append(all, s)
	}
	return all
}
