package report

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// controlPlane is a node that keeps what it hears. A window is kept once per instance and second,
// as the real one does.
type controlPlane struct {
	agentv1.UnimplementedAgentServiceServer
	clusterID string
	refuse    error

	mu      sync.Mutex
	hellos  []*agentv1.Hello
	windows map[int64]int // start → times received
	states  []*agentv1.StateReport
	acks    []*agentv1.Ack
	pongs   int
	dropped uint64
	stream  agentv1.AgentService_ConnectServer
	cut     context.CancelFunc

	server *grpc.Server
}

func (c *controlPlane) Connect(stream agentv1.AgentService_ConnectServer) error {
	if c.refuse != nil {
		return c.refuse
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cut := context.WithCancel(stream.Context())
	defer cut()
	c.mu.Lock()
	c.hellos, c.stream, c.cut = append(c.hellos, first.GetHello()), stream, cut
	c.mu.Unlock()
	welcome := &agentv1.Welcome{ClusterId: c.clusterID, NodeId: "n1"}
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			c.hear(m)
		}
	}()
	select {
	case <-ctx.Done():
		return status.Error(codes.Unavailable, "node is going down")
	case err := <-ended:
		return err
	}
}

func (c *controlPlane) hear(m *agentv1.ConnectRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.GetWindows() != nil:
		for _, w := range m.GetWindows().GetWindows() {
			c.windows[w.GetStartUnixMs()]++
		}
		c.dropped = m.GetWindows().GetDropped()
	case m.GetState() != nil:
		c.states = append(c.states, m.GetState())
	case m.GetAck() != nil:
		c.acks = append(c.acks, m.GetAck())
	case m.GetPong() != nil:
		c.pongs++
	}
}

func (c *controlPlane) send(t *testing.T, m *agentv1.ConnectResponse) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// serveAt starts the node; an empty address picks a free port.
func (c *controlPlane) serveAt(t *testing.T, addr string) string {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if c.windows == nil {
		c.windows = map[int64]int{}
	}
	c.server = grpc.NewServer()
	agentv1.RegisterAgentServiceServer(c.server, c)
	go func() { _ = c.server.Serve(l) }()
	t.Cleanup(c.server.Stop)
	return l.Addr().String()
}

func (c *controlPlane) seen(f func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}

type memory struct {
	mu sync.Mutex
	id string
}

func (m *memory) ClusterID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

func (m *memory) SetClusterID(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
	return nil
}

type handler func(context.Context, *agentv1.Directive) *agentv1.Ack

func (h handler) Handle(ctx context.Context, d *agentv1.Directive) *agentv1.Ack { return h(ctx, d) }

func quick() Config {
	cfg := DefaultConfig()
	cfg.BackoffMin, cfg.BackoffMax, cfg.RefusedPause = time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
	return cfg
}

// start runs a reporter until the test ends.
func start(t *testing.T, cfg Config, h Directives, store ClusterStore) *Reporter {
	t.Helper()
	r := New(cfg, &agentv1.Identity{AgentId: "agent-1", Session: "s1"}, h, store, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

func window(second int) *agentv1.Window {
	return &agentv1.Window{InstanceId: "agent-1/0", StartUnixMs: int64(second) * 1000}
}

func TestReportGoesUp(t *testing.T) {
	c := &controlPlane{clusterID: "c1"}
	cfg := quick()
	cfg.Addresses = []string{c.serveAt(t, "")}
	store := &memory{}
	r := start(t, cfg, handler(func(context.Context, *agentv1.Directive) *agentv1.Ack { return nil }), store)
	r.Engine(&agentv1.EngineInfo{InstanceId: "agent-1/0", Group: "chat"})
	eventually(t, "connected", func() bool { return r.Status().Connected })
	r.State(&agentv1.StateReport{InstanceId: "agent-1/0", Sequence: 1})
	r.State(&agentv1.StateReport{InstanceId: "agent-1/0", Sequence: 2})
	r.Window(window(1))
	eventually(t, "window and both states", func() bool {
		return c.seen(func() bool { return c.windows[1000] == 1 && len(c.states) == 2 && c.states[1].GetSequence() == 2 })
	})
	c.send(t, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ping{Ping: &agentv1.Ping{UnixMs: 5}}})
	eventually(t, "pong", func() bool { return c.seen(func() bool { return c.pongs == 1 }) })
	if store.ClusterID() != "c1" {
		t.Errorf("cluster id %q was not kept", store.ClusterID())
	}
}

// A node that dies and comes back has, in the end, every window: what was in flight is sent again,
// what gathered meanwhile follows, and the whole state is in the new Hello.
func TestReconnectLosesNothing(t *testing.T) {
	c := &controlPlane{clusterID: "c1"}
	addr := c.serveAt(t, "")
	cfg := quick()
	cfg.Addresses = []string{addr}
	r := start(t, cfg, handler(func(context.Context, *agentv1.Directive) *agentv1.Ack { return nil }), &memory{})
	r.Engine(&agentv1.EngineInfo{InstanceId: "agent-1/0"})
	r.State(&agentv1.StateReport{InstanceId: "agent-1/0", Sequence: 1})
	for i := range 20 {
		r.Window(window(i))
	}
	eventually(t, "first windows", func() bool { return c.seen(func() bool { return len(c.windows) == 20 }) })
	c.server.Stop()
	eventually(t, "noticed", func() bool { return !r.Status().Connected })
	for i := 20; i < 200; i++ {
		r.Window(window(i))
	}
	r.State(&agentv1.StateReport{InstanceId: "agent-1/0", Sequence: 2})
	c.serveAt(t, addr)
	eventually(t, "all windows", func() bool { return c.seen(func() bool { return len(c.windows) == 200 }) })
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.hellos[len(c.hellos)-1]
	if len(last.GetStates()) != 1 || last.GetStates()[0].GetSequence() != 2 || last.GetIdentity().GetClusterId() != "c1" || len(last.GetEngines()) != 1 {
		t.Errorf("second hello %v", last)
	}
	for start, n := range c.windows {
		if n > 2 || start >= 20000 && n != 1 {
			t.Errorf("window %d came %d times", start, n)
		}
	}
	if c.dropped != 0 {
		t.Errorf("dropped %d", c.dropped)
	}
}

func TestStickyChoiceMovesOnFailure(t *testing.T) {
	a, b := &controlPlane{clusterID: "c1"}, &controlPlane{clusterID: "c1"}
	cfg := quick()
	cfg.Addresses = []string{a.serveAt(t, ""), b.serveAt(t, "")}
	r := start(t, cfg, handler(func(context.Context, *agentv1.Directive) *agentv1.Ack { return nil }), &memory{})
	eventually(t, "connected", func() bool { return r.Status().Connected })
	first := r.Status().Address
	nodes := map[string]*controlPlane{cfg.Addresses[0]: a, cfg.Addresses[1]: b}
	nodes[first].server.Stop()
	eventually(t, "connected to the other node", func() bool { s := r.Status(); return s.Connected && s.Address != first })
	if r.Status().Reconnects != 1 {
		t.Errorf("reconnects %d", r.Status().Reconnects)
	}
}

func TestDirectivesKeepTheirOrderPerInstance(t *testing.T) {
	c := &controlPlane{clusterID: "c1"}
	cfg := quick()
	cfg.Addresses = []string{c.serveAt(t, "")}
	gate := make(chan struct{})
	r := start(t, cfg, handler(func(_ context.Context, d *agentv1.Directive) *agentv1.Ack {
		if d.GetInstanceId() == "agent-1/slow" && d.GetLease() == nil {
			<-gate
		}
		return &agentv1.Ack{InstanceId: d.GetInstanceId(), Fence: d.GetFence()}
	}), &memory{})
	eventually(t, "connected", func() bool { return r.Status().Connected })
	direct := func(instance string, index uint64, d *agentv1.Directive) {
		d.InstanceId, d.Fence = instance, &agentv1.Fence{Index: index}
		c.send(t, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Directive{Directive: d}})
	}
	direct("agent-1/slow", 1, &agentv1.Directive{Action: &agentv1.Directive_Confirm{Confirm: &agentv1.Confirm{}}})
	direct("agent-1/slow", 2, &agentv1.Directive{Action: &agentv1.Directive_Promote{Promote: &agentv1.Promote{}}})
	direct("agent-1/slow", 9, &agentv1.Directive{Action: &agentv1.Directive_Lease{Lease: &agentv1.Lease{}}})
	direct("agent-1/quick", 3, &agentv1.Directive{Action: &agentv1.Directive_Confirm{Confirm: &agentv1.Confirm{}}})
	eventually(t, "lease and the other instance are not held up", func() bool { return c.seen(func() bool { return len(c.acks) == 2 }) })
	close(gate)
	eventually(t, "all acks", func() bool { return c.seen(func() bool { return len(c.acks) == 4 }) })
	if c.acks[2].GetFence().GetIndex() != 1 || c.acks[3].GetFence().GetIndex() != 2 {
		t.Errorf("acks came as %v", c.acks)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		node *controlPlane
		mine string // cluster this agent belongs to
		says string
	}{
		{"two agents with one identity", &controlPlane{refuse: status.Error(codes.AlreadyExists, "in use")}, "", "another agent with the identity agent-1"},
		{"another cluster", &controlPlane{clusterID: "c2"}, "c1", "it joined c1, the control plane is of c2"},
		{"not admitted", &controlPlane{refuse: status.Error(codes.PermissionDenied, "no certificate")}, "", "refuses this agent: no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := quick()
			cfg.RefusedPause = time.Hour
			cfg.Addresses = []string{c.node.serveAt(t, "")}
			store := &memory{id: c.mine}
			r := start(t, cfg, handler(func(context.Context, *agentv1.Directive) *agentv1.Ack { return nil }), store)
			eventually(t, "refused in words", func() bool { return strings.Contains(r.Status().Problem, c.says) })
			if r.Status().Connected || store.ClusterID() != c.mine {
				t.Errorf("status %+v, cluster %q", r.Status(), store.ClusterID())
			}
		})
	}
}

func TestSilentNodeIsLeft(t *testing.T) {
	c := &controlPlane{clusterID: "c1"}
	cfg := quick()
	cfg.Silence = 50 * time.Millisecond
	cfg.Addresses = []string{c.serveAt(t, "")}
	r := start(t, cfg, handler(func(context.Context, *agentv1.Directive) *agentv1.Ack { return nil }), &memory{})
	eventually(t, "connected", func() bool { return r.Status().Connected })
	c.send(t, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ping{Ping: &agentv1.Ping{UnixMs: 5}}})
	eventually(t, "greeted anew", func() bool { return c.seen(func() bool { return len(c.hellos) > 1 }) })
}

func TestBufferDropsTheOldestAndCounts(t *testing.T) {
	b := buffer{limit: 5, keep: 10 * time.Second}
	now := time.Unix(100, 0)
	for i := range 8 {
		b.push(window(i))
	}
	got, dropped := b.take(3, now)
	if dropped != 3 || len(got) != 3 || got[0].GetStartUnixMs() != 3000 {
		t.Fatalf("took %v, dropped %d", got, dropped)
	}
	b.push(window(8)) // a sent one makes room: nothing is lost
	if unsent, dropped := b.state(); unsent != 3 || dropped != 3 {
		t.Errorf("unsent %d dropped %d, want 3 and 3", unsent, dropped)
	}
	b.rewind()
	if got, _ := b.take(100, now); len(got) != 5 || got[0].GetStartUnixMs() != 4000 {
		t.Errorf("after a break %v", got)
	}
	b.take(1, now.Add(11*time.Second))
	b.rewind()
	if got, _ := b.take(100, now); len(got) != 0 {
		t.Errorf("windows sent long ago came again: %v", got)
	}
}

func TestCheckAddress(t *testing.T) {
	for _, c := range []struct {
		addr string
		tls  TLS
		ok   bool
	}{
		{"127.0.0.1:8003", TLS{}, true},
		{"[::1]:8003", TLS{}, true},
		{"localhost:8003", TLS{}, true},
		{"10.0.0.5:8003", TLS{}, false},
		{"cp.example:8003", TLS{}, false},
		{"cp.example:8003", TLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem"}, true},
		{"127.0.0.1", TLS{}, false},
		{":8003", TLS{}, false},
	} {
		if err := CheckAddress(c.addr, c.tls); (err == nil) != c.ok {
			t.Errorf("%s with TLS %v: %v", c.addr, c.tls, err)
		}
	}
}

// A state is reported before its engine is described: the greeting leaves it out, since a control
// plane refuses a state of an engine it does not know, and it follows the description.
func TestStateWaitsForItsEngine(t *testing.T) {
	c := &controlPlane{clusterID: "c1"}
	cfg := quick()
	cfg.Addresses = []string{c.serveAt(t, "")}
	r := New(cfg, &agentv1.Identity{AgentId: "agent-1", Session: "s1"}, handler(nil), &memory{}, slog.New(slog.DiscardHandler))
	r.State(&agentv1.StateReport{InstanceId: "agent-1/0", Sequence: 7})
	if h := r.hello().GetHello(); len(h.GetStates()) != 0 {
		t.Fatalf("greeting has states %v of no engine", h.GetStates())
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	eventually(t, "connected", func() bool { return r.Status().Connected })
	r.Engine(&agentv1.EngineInfo{InstanceId: "agent-1/0", Group: "chat"})
	eventually(t, "the state follows", func() bool {
		return c.seen(func() bool { return len(c.states) == 1 && c.states[0].GetSequence() == 7 })
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}
