// Package report holds the agent's one stream to the control plane: windows, states and
// descriptions go up, directives come down. It knows how to stay connected and what to keep while
// it is not; what a directive does is the handler's business.
//
// Nothing here blocks the observer: what is handed over is buffered, within bounds, and the
// oldest windows go first when nobody takes them.
package report

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Directives carries out what the control plane asks. Handle is called from one goroutine per
// instance, in the order of arrival; lease, collect and load_test may come while another directive
// of the instance is running. The ack goes up on whatever stream is open by then. Handle returns
// nil when there is nothing to answer; it should journal and return, not wait for an engine.
type Directives interface {
	Handle(ctx context.Context, d *agentv1.Directive) *agentv1.Ack
}

// ClusterStore remembers which cluster this agent belongs to, across restarts.
type ClusterStore interface {
	// ClusterID is empty until the first Welcome.
	ClusterID() string
	SetClusterID(id string) error
}

// Config of a Reporter.
type Config struct {
	// Addresses of control-plane nodes, host:port. One is used at a time.
	Addresses []string
	TLS       TLS
	// BufferWindows bounds the windows held: 600 per instance are ten minutes.
	BufferWindows int
	// ResendSpan is how far back windows are sent again after a break.
	ResendSpan time.Duration
	// BackoffMin and BackoffMax bound the pause before reconnecting (full jitter).
	BackoffMin, BackoffMax time.Duration
	// RefusedPause is the pause after a refusal that another attempt will not cure soon.
	RefusedPause time.Duration
	// Silence is how long a control plane that pings may say nothing before it counts as gone.
	Silence time.Duration
}

// DefaultConfig holds the values used when nothing else is said.
func DefaultConfig() Config {
	return Config{
		BufferWindows: 600,
		ResendSpan:    15 * time.Second,
		BackoffMin:    200 * time.Millisecond,
		BackoffMax:    10 * time.Second,
		RefusedPause:  30 * time.Second,
		Silence:       10 * time.Second,
	}
}

// Status tells how the connection is.
type Status struct {
	Connected bool
	// Address in use or tried last.
	Address string
	NodeID  string
	Since   time.Time
	// Problem in words while not connected.
	Problem    string
	Reconnects int
	Unsent     int
	Dropped    uint64
}

// Reporter is the agent's side of the stream. Its methods may be called from any goroutine.
type Reporter struct {
	cfg      Config
	identity *agentv1.Identity
	handler  Directives
	cluster  ClusterStore
	log      *slog.Logger
	windows  buffer
	wake     chan struct{} // capacity 1: there is something to send

	mu      sync.Mutex // guards what follows
	engines map[string]*agentv1.EngineInfo
	states  map[string]*agentv1.StateReport
	order   []string                  // instances in the order they came
	out     []*agentv1.ConnectRequest // states, engines, acks, pongs not yet sent
	status  Status
}

// maxOut bounds what waits beside windows. States and engines need no place while disconnected,
// as each Hello carries them whole.
const maxOut = 1024

// New returns a reporter. identity's cluster id is filled in at each Hello.
func New(cfg Config, identity *agentv1.Identity, handler Directives, cluster ClusterStore, log *slog.Logger) *Reporter {
	return &Reporter{
		cfg: cfg, identity: identity, handler: handler, cluster: cluster, log: log,
		windows: buffer{limit: cfg.BufferWindows, keep: cfg.ResendSpan},
		wake:    make(chan struct{}, 1),
		engines: map[string]*agentv1.EngineInfo{},
		states:  map[string]*agentv1.StateReport{},
	}
}

// Window hands over a window for sending. It must not be changed afterwards. Without any address
// nobody will ever take it, and it is not kept.
func (r *Reporter) Window(w *agentv1.Window) {
	if len(r.cfg.Addresses) == 0 {
		return
	}
	r.windows.push(w)
	r.nudge()
}

// State hands over an instance's newest state.
func (r *Reporter) State(s *agentv1.StateReport) {
	r.mu.Lock()
	r.remember(s.GetInstanceId())
	r.states[s.GetInstanceId()] = s
	r.queue(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_State{State: s}})
	r.mu.Unlock()
	r.nudge()
}

// Engine hands over an instance's newest description.
func (r *Reporter) Engine(e *agentv1.EngineInfo) {
	r.mu.Lock()
	r.remember(e.GetInstanceId())
	first := r.engines[e.GetInstanceId()] == nil
	r.engines[e.GetInstanceId()] = e
	r.queue(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Engine{Engine: e}})
	if s := r.states[e.GetInstanceId()]; first && s != nil {
		r.queue(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_State{State: s}}) // it was left out of the Hello
	}
	r.mu.Unlock()
	r.nudge()
}

// Status tells how the connection is now.
func (r *Reporter) Status() Status {
	unsent, dropped := r.windows.state()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Unsent, s.Dropped = unsent, dropped
	return s
}

// Run keeps the agent connected until ctx ends. It returns an error only when it cannot ever
// connect because no address is usable.
func (r *Reporter) Run(ctx context.Context) error {
	var faults []error
	for _, a := range r.cfg.Addresses {
		faults = append(faults, CheckAddress(a, r.cfg.TLS))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if len(r.cfg.Addresses) == 0 {
		<-ctx.Done()
		return nil
	}
	workers := newWorkers(r)
	defer workers.wait()
	r.connectForEver(ctx, workers)
	return nil
}

// remember keeps the order in which instances were named. r.mu is held.
func (r *Reporter) remember(instance string) {
	if r.engines[instance] == nil && r.states[instance] == nil {
		r.order = append(r.order, instance)
	}
}

// queue adds a message for the open stream. r.mu is held.
func (r *Reporter) queue(m *agentv1.ConnectRequest) {
	if len(r.out) >= maxOut {
		r.out = r.out[1:]
	}
	r.out = append(r.out, m)
}

func (r *Reporter) send(m *agentv1.ConnectRequest) {
	r.mu.Lock()
	r.queue(m)
	r.mu.Unlock()
	r.nudge()
}

func (r *Reporter) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// hello builds the first message of a stream. What it carries need not be sent a second time, so
// only acks stay in the queue.
func (r *Reporter) hello() *agentv1.ConnectRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &agentv1.Hello{Identity: &agentv1.Identity{
		AgentId: r.identity.GetAgentId(), Session: r.identity.GetSession(), Hostname: r.identity.GetHostname(),
		Version: r.identity.GetVersion(), BootId: r.identity.GetBootId(), ClusterId: r.cluster.ClusterID(),
	}}
	for _, id := range r.order {
		e, s := r.engines[id], r.states[id]
		if e == nil {
			continue // a state means nothing before its engine is introduced; both follow together
		}
		h.Engines = append(h.Engines, e)
		if s != nil {
			h.States = append(h.States, s)
		}
	}
	var acks []*agentv1.ConnectRequest
	for _, m := range r.out {
		if m.GetAck() != nil {
			acks = append(acks, m)
		}
	}
	r.out = acks
	return &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: h}}
}

// drain takes what waits beside windows.
func (r *Reporter) drain() []*agentv1.ConnectRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.out
	r.out = nil
	return out
}
