package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raftless stands in for the cluster: one log, applied at once on every node, and a leader that the
// test moves.
type raftless struct {
	mu      sync.Mutex // guards what follows
	leader  int        // −1: none
	term    uint64
	index   uint64
	nodes   []*node
	changed chan struct{}
	reports int   // entries about agents
	verify  error // answer of VerifyLeader
}

// node is one control-plane node of a test.
type node struct {
	*Hub
	all     *raftless
	number  int
	addr    string
	machine *fsm.Machine
	windows *memory
	stop    func()
}

func (c *raftless) lead(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader, c.term = n, c.term+1
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *raftless) watch() (leader int, term uint64, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader, c.term, c.changed
}

func (c *raftless) commit(typ commandv1.CommandType, payload proto.Message) (fsm.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, err := fsm.Encode(typ, payload, "", "test", time.Now().UnixMilli(), c.term)
	if err != nil {
		return fsm.Result{}, err
	}
	c.index++
	if typ == commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT {
		c.reports++
	}
	var r fsm.Result
	for _, n := range c.nodes {
		r = n.machine.Apply(c.index, raw)
	}
	return r, nil
}

var errNotLeading = errors.New("not leading")

func (n *node) Propose(_ context.Context, typ commandv1.CommandType, payload proto.Message, _, _ string) (fsm.Result, error) {
	if leader, _, _ := n.all.watch(); leader != n.number {
		return fsm.Result{}, errNotLeading
	}
	return n.all.commit(typ, payload)
}

func (n *node) LeaderAgentAddr() (string, bool) {
	leader, _, _ := n.all.watch()
	if leader < 0 {
		return "", false
	}
	return n.all.nodes[leader].addr, leader == n.number
}

func (n *node) VerifyLeader(context.Context) error {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	return n.all.verify
}

func (n *node) WhileLeader(ctx context.Context, run func(context.Context, uint64) error) error {
	for ctx.Err() == nil {
		leader, term, changed := n.all.watch()
		leading, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			select {
			case <-changed:
			case <-leading.Done():
			}
			cancel()
		}()
		if leader == n.number {
			_ = run(leading, term)
		}
		<-leading.Done()
		<-stop
	}
	return nil
}

// memory keeps every window.
type memory struct {
	mu   sync.Mutex // guards kept
	kept map[string][]*fleet.Window
}

func (m *memory) Add(w *fleet.Window) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kept[w.Instance] {
		if k.Start.Equal(w.Start) {
			return errors.New("known")
		}
	}
	m.kept[w.Instance] = append(m.kept[w.Instance], w)
	return nil
}

func (m *memory) Windows(instances []string, from, to time.Time) (found []*fleet.Window) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range instances {
		for _, w := range m.kept[id] {
			if !w.Start.Before(from) && w.Start.Before(to) {
				found = append(found, w)
			}
		}
	}
	return found
}

func (m *memory) count(instance string) int {
	return len(m.Windows([]string{instance}, time.Time{}, time.Now().Add(time.Hour)))
}

// quick is a configuration whose waits suit a test.
func quick(id string) Config {
	return Config{
		NodeID: id, PingEvery: 50 * time.Millisecond, SilentAfter: 400 * time.Millisecond,
		GraceMin: 200 * time.Millisecond, GraceMax: time.Second, ReportEvery: 10 * time.Millisecond,
		ResendEvery: 100 * time.Millisecond, TakeoverWait: 150 * time.Millisecond,
	}
}

// cluster starts n nodes, of which the first leads.
func cluster(t *testing.T, n int, configure ...func(*Config)) *raftless {
	t.Helper()
	c := &raftless{leader: 0, term: 1, changed: make(chan struct{})}
	listeners := make([]net.Listener, n)
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
		c.nodes = append(c.nodes, &node{
			all: c, number: i, addr: l.Addr().String(), machine: fsm.New(),
			windows: &memory{kept: map[string][]*fleet.Window{}},
		})
	}
	if _, err := c.commit(commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER, &commandv1.InitCluster{ClusterId: "c-1"}); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for i, nd := range c.nodes {
		cfg := quick(fmt.Sprintf("cp%d", i+1))
		for _, f := range configure {
			f(&cfg)
		}
		nd.Hub = New(cfg, nd, nd, nd.machine, nd.windows, logger.With("on", cfg.NodeID))
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- nd.Run(ctx, listeners[i]) }()
		nd.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
		t.Cleanup(nd.stop)
	}
	return c
}

// agent is a sidecar as a node sees it.
type agent struct {
	t       *testing.T
	id      string
	session string
	cluster string
	host    string
	engines []*agentv1.EngineInfo
	mute    bool // answers no pings

	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]

	sending    sync.Mutex // one sender at a time
	welcome    chan *agentv1.Welcome
	directives chan *agentv1.Directive
	ended      chan error
	sequence   uint64
	born       time.Time
}

func newAgent(t *testing.T, id string) *agent {
	return &agent{
		t: t, id: id, session: "s-1", host: "host-of-" + id, born: time.Now().Truncate(time.Second),
		engines: []*agentv1.EngineInfo{{InstanceId: id + "/e", Name: "e", Group: "chat", Url: "http://127.0.0.1:1"}},
	}
}

func (a *agent) instance() string { return a.id + "/e" }

// dial opens a stream and says Hello; whether it is accepted shows in welcome or ended.
func (a *agent) dial(to *node) *agent {
	a.t.Helper()
	conn, err := grpc.NewClient(to.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		a.t.Fatal(err)
	}
	a.conn = conn
	a.t.Cleanup(func() { conn.Close() })
	if a.stream, err = agentv1.NewAgentServiceClient(conn).Connect(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.welcome, a.directives, a.ended = make(chan *agentv1.Welcome, 1), make(chan *agentv1.Directive, 64), make(chan error, 1)
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
		Identity: &agentv1.Identity{AgentId: a.id, Session: a.session, Hostname: a.host, Version: "v0", ClusterId: a.cluster},
		Engines:  a.engines,
	}}})
	go a.receive(a.stream, a.welcome, a.directives, a.ended)
	return a
}

// attach is dial that must succeed.
func (a *agent) attach(to *node) *agent {
	a.t.Helper()
	a.dial(to)
	select {
	case w := <-a.welcome:
		if w.GetClusterId() != "c-1" {
			a.t.Errorf("welcome %v", w)
		}
	case err := <-a.ended:
		a.t.Fatalf("agent %s: %v", a.id, err)
	}
	return a
}

// refused is dial that must fail with a code.
func (a *agent) refused(to *node, want codes.Code) string {
	a.t.Helper()
	a.dial(to)
	select {
	case <-a.welcome:
		a.t.Fatalf("agent %s was welcome", a.id)
	case err := <-a.ended:
		if status.Code(err) != want {
			a.t.Fatalf("agent %s: %v, want %v", a.id, err, want)
		}
		return err.Error()
	}
	return ""
}

func (a *agent) receive(stream grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse],
	welcome chan<- *agentv1.Welcome, directives chan<- *agentv1.Directive, ended chan<- error,
) {
	for {
		m, err := stream.Recv()
		if err != nil {
			ended <- err
			return
		}
		switch {
		case m.GetWelcome() != nil:
			welcome <- m.GetWelcome()
		case m.GetDirective() != nil:
			directives <- m.GetDirective()
		case m.GetPing() != nil && !a.mute:
			a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Pong{Pong: &agentv1.Pong{}}})
		}
	}
}

func (a *agent) send(m *agentv1.ConnectRequest) {
	a.sending.Lock()
	defer a.sending.Unlock()
	_ = a.stream.Send(m) // its end shows in ended
}

// report sends a state.
func (a *agent) report(change func(*agentv1.StateReport)) {
	a.sequence++
	s := &agentv1.StateReport{InstanceId: a.instance(), Sequence: a.sequence, Phase: agentv1.Phase_PHASE_IDLE, Serving: true}
	if change != nil {
		change(s)
	}
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_State{State: s}})
}

// window sends one window that began so many seconds before the agent did.
func (a *agent) window(ago int) {
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Windows{Windows: &agentv1.WindowBatch{Windows: []*agentv1.Window{{
		InstanceId: a.instance(), StartUnixMs: a.born.Add(-time.Duration(ago) * time.Second).UnixMilli(),
		Counters: map[string]float64{fleet.RequestsFinished: 1},
	}}}}})
}

// next directive, which must come.
func (a *agent) next() *agentv1.Directive {
	a.t.Helper()
	select {
	case d := <-a.directives:
		return d
	case err := <-a.ended:
		a.t.Fatalf("agent %s: stream ended: %v", a.id, err)
	case <-time.After(5 * time.Second):
		a.t.Fatalf("agent %s: no directive", a.id)
	}
	return nil
}

// end is why the stream ended, which it must.
func (a *agent) end() error {
	a.t.Helper()
	select {
	case err := <-a.ended:
		return err
	case <-time.After(5 * time.Second):
		a.t.Fatalf("agent %s: stream goes on", a.id)
	}
	return nil
}

func (a *agent) leave() {
	a.conn.Close()
	<-a.ended
}

// eventually polls to a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}

func (c *raftless) instance(id string) *commandv1.Instance { return c.nodes[0].machine.Instance(id) }

func (c *raftless) reachable(t *testing.T, id string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says reachable=%v of %s", want, id), func() bool {
		i := c.instance(id)
		return i != nil && i.GetReachable() == want
	})
}

func (c *raftless) drain(t *testing.T, id string, drained bool) {
	t.Helper()
	r, err := c.commit(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: id, Drained: drained})
	if err := errors.Join(err, r.Err()); err != nil {
		t.Fatal(err)
	}
}
