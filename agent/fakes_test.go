package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// httpEngine is an engine's HTTP server on a fixed address, so that it can go and come back.
type httpEngine struct {
	addr string

	mu      sync.Mutex // guards what follows
	tokens  float64
	running float64
	server  *http.Server
}

func (e *httpEngine) start(t *testing.T) {
	t.Helper()
	l := listen(t, e.addr)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /probe", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"text":"Paris"}`) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "# TYPE f:running gauge\nf:running %v\n# TYPE f:tokens_total counter\nf:tokens_total %v\n", e.running, e.tokens)
	})
	e.mu.Lock()
	e.server = &http.Server{Handler: mux}
	e.mu.Unlock()
	go func() { _ = e.server.Serve(l) }()
	t.Cleanup(func() { e.server.Close() })
}

// stop ends the server and forgets its counters, as the end of a process does.
func (e *httpEngine) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server.Close()
	e.tokens = 0
}

func (e *httpEngine) generate(n float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens += n
}

// listen waits for an address to be free again.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(t, "free "+addr, func() bool {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return l
}

// freeAddr is a loopback address that nobody uses now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	defer l.Close()
	return l.Addr().String()
}

// fakeAdapter is a struct of functions; those that are nil answer with nothing.
type fakeAdapter struct {
	describe func(*engine.Target) (*engine.Description, error)
	validate func(engine.Settings) []*engine.Problem
	command  func(*engine.Target, engine.Settings) *engine.CommandLine
	apply    func(engine.Settings) []*engine.KnobResult
}

func (f fakeAdapter) Describe(_ context.Context, t *engine.Target) (*engine.Description, error) {
	return f.describe(t)
}

func (f fakeAdapter) Validate(_ context.Context, _ *engine.Target, s engine.Settings) ([]*engine.Problem, error) {
	return f.validate(s), nil
}

func (f fakeAdapter) Command(_ context.Context, t *engine.Target, s engine.Settings) (*engine.CommandLine, error) {
	return f.command(t, s), nil
}

func (f fakeAdapter) Apply(_ context.Context, _ *engine.Target, s engine.Settings) ([]*engine.KnobResult, error) {
	return f.apply(s), nil
}

// fakeAdapters by name; a nil one cannot be used.
type fakeAdapters map[string]engine.Adapter

func (f fakeAdapters) Names() []string {
	var names []string
	for _, n := range []string{"broken", "other", "fake"} {
		if _, ok := f[n]; ok {
			names = append(names, n)
		}
	}
	return names
}

func (f fakeAdapters) Adapter(_ context.Context, name string) (engine.Adapter, error) {
	if f[name] == nil {
		return nil, errors.New("engine adapter was changed: " + name)
	}
	return f[name], nil
}

// describeFake is an adapter's answer for httpEngine.
func describeFake(t *engine.Target) (*engine.Description, error) {
	return &engine.Description{
		Engine: "fake", Version: "1.2.3", VersionSource: "/version", Model: "tiny",
		Knobs: []*engine.Knob{{Name: "seats", Env: "FAKE_SEATS", Hot: true}, {Name: "size"}},
		Signals: []*engine.Signal{
			{Signal: fleet.RequestsRunning, Series: "f:running", Kind: engine.Gauge},
			{Signal: fleet.GenerationTokens, Series: "f:tokens_total", Kind: engine.Counter},
		},
		Probes: &engine.Probes{
			HealthPath: "/health", MetricsPath: "/metrics",
			TokenPath: "/probe", TokenBody: `{"prompt":"x"}`, TokenTextPointer: "/text",
		},
		Effective: map[string]string{"seats": "8", "argv": strings.Join(t.GetArgv(), " ")},
	}, nil
}

// nodeServer is a control-plane node on a fixed address.
type nodeServer struct {
	agentv1.UnimplementedAgentServiceServer
	addr string

	mu      sync.Mutex // guards what follows
	windows map[int64]*agentv1.Window
	engine  *agentv1.EngineInfo
	states  []*agentv1.StateReport
	acks    []*agentv1.Ack
	stream  agentv1.AgentService_ConnectServer
	server  *grpc.Server
}

func (n *nodeServer) start(t *testing.T) {
	t.Helper()
	l := listen(t, n.addr)
	n.mu.Lock()
	if n.windows == nil {
		n.windows = map[int64]*agentv1.Window{}
	}
	n.server = grpc.NewServer()
	agentv1.RegisterAgentServiceServer(n.server, n)
	server := n.server
	n.mu.Unlock()
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
}

func (n *nodeServer) Connect(stream agentv1.AgentService_ConnectServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.stream = stream
	for _, e := range first.GetHello().GetEngines() {
		n.engine = e
	}
	n.states = append(n.states, first.GetHello().GetStates()...)
	n.mu.Unlock()
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{ClusterId: "c1", NodeId: "n1"}}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return status.Error(codes.Unavailable, "gone")
		}
		n.hear(m)
	}
}

func (n *nodeServer) hear(m *agentv1.ConnectRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range m.GetWindows().GetWindows() {
		n.windows[w.GetStartUnixMs()] = w
	}
	switch {
	case m.GetEngine() != nil:
		n.engine = m.GetEngine()
	case m.GetState() != nil:
		n.states = append(n.states, m.GetState())
	case m.GetAck() != nil:
		n.acks = append(n.acks, m.GetAck())
	}
}

// direct sends a directive and returns the ack of its fence.
func (n *nodeServer) direct(t *testing.T, d *agentv1.Directive) *agentv1.Ack {
	t.Helper()
	n.mu.Lock()
	err := n.stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Directive{Directive: d}})
	n.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var ack *agentv1.Ack
	eventually(t, fmt.Sprintf("ack of fence %d", d.GetFence().GetIndex()), func() bool {
		return n.sees(func() bool {
			for _, a := range n.acks {
				if a.GetFence().GetIndex() == d.GetFence().GetIndex() {
					ack = a
				}
			}
			return ack != nil
		})
	})
	return ack
}

func (n *nodeServer) sees(f func() bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return f()
}

// total adds up a counter over all windows.
func (n *nodeServer) total(counter string) (sum float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.windows {
		sum += w.GetCounters()[counter]
	}
	return sum
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
