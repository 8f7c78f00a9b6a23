package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// TestMain lets go of futures that Raft was asked for while it shut down: the library answers none of
// those, and whoever waits for one waits to the process's end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// server is one control-plane node of a test.
type server struct {
	*Node
	machine *fsm.Machine
	cfg     Config
	// siblings that put may turn to.
	siblings []*server
}

func quiet(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return slog.New(slog.DiscardHandler)
}

// reserve takes n loopback addresses; the listeners are handed to the nodes.
func reserve(t *testing.T, n int) []net.Listener {
	t.Helper()
	var all []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func configs(t *testing.T, n int) []Config {
	t.Helper()
	listeners := reserve(t, n)
	var peers []Peer
	for i, l := range listeners {
		peers = append(peers, Peer{
			ID: fmt.Sprintf("cp%d", i+1), RaftAddr: l.Addr().String(),
			HTTPAddr: fmt.Sprintf("127.0.0.1:%d", 8002+i), AgentAddr: fmt.Sprintf("127.0.0.1:%d", 9002+i),
		})
	}
	var all []Config
	for i, l := range listeners {
		all = append(all, Config{
			NodeID: peers[i].ID, DataDir: t.TempDir(), RaftAddr: peers[i].RaftAddr, Listener: l,
			HTTPAddr: peers[i].HTTPAddr, AgentAddr: peers[i].AgentAddr, Peers: peers, Heartbeat: 400 * time.Millisecond,
			Exit: func(code int) { t.Errorf("exit(%d)", code) },
		})
	}
	return all
}

func start(t *testing.T, cfg Config, before ...func(*Node)) *server {
	t.Helper()
	m := fsm.New()
	s := &server{Node: New(cfg, m, quiet(t)), machine: m, cfg: cfg}
	for _, f := range before {
		f(s.Node)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close %s: %v", cfg.NodeID, err)
		}
	})
	return s
}

// restart opens a server again on its folder and address.
func restart(t *testing.T, s *server) *server {
	t.Helper()
	cfg := s.cfg
	cfg.Listener = nil
	return start(t, cfg)
}

func startAll(t *testing.T, n int) []*server {
	t.Helper()
	var all []*server
	for _, cfg := range configs(t, n) {
		all = append(all, start(t, cfg))
	}
	for _, s := range all {
		s.siblings = all
	}
	return all
}

// eventually polls to a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}

func leaderOf(t *testing.T, servers []*server) *server {
	t.Helper()
	var leader *server
	eventually(t, "one server leads and is ready", func() bool {
		for _, s := range servers {
			if s.IsLeader() && s.Read(t.Context(), Default) == nil {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

func others(servers []*server, not *server) (rest []*server) {
	for _, s := range servers {
		if s != not {
			rest = append(rest, s)
		}
	}
	return rest
}

// put writes a group through the server or, when a busy machine has cost it its leadership, through
// one of its siblings, as a client would: again, under the same request id.
func put(t *testing.T, s *server, name string) (index uint64) {
	t.Helper()
	eventually(t, "group "+name+" is written", func() bool {
		for _, at := range append([]*server{s}, s.siblings...) {
			cmd := &commandv1.PutGroup{Name: name, Engine: "vllm", Policy: &commandv1.Policy{}}
			r, err := at.Propose(t.Context(), commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, cmd, "req-"+name, "test")
			if err == nil && r.Err() == nil {
				index = r.Index
				return true
			}
			if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrClosed) {
				t.Fatal(errors.Join(err, r.Err()))
			}
		}
		return false
	})
	return index
}

func TestThreeNodesElectAndReplicate(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	put(t, leader, "chat")
	eventually(t, "all have the group, the cluster's id and one hash", func() bool {
		for _, s := range servers {
			if s.machine.Group("chat") == nil || s.machine.Cluster().ID == "" || s.machine.Hash() != leader.machine.Hash() {
				return false
			}
		}
		return true
	})
	for _, s := range servers {
		eventually(t, "the cluster's id is on disk", func() bool {
			b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "cluster-id"))
			return err == nil && strings.TrimSpace(string(b)) == leader.machine.Cluster().ID
		})
	}
}

func TestFollowerNamesTheLeader(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	follower := others(servers, leader)[0]
	eventually(t, "the follower knows the leader", func() bool { _, ok := follower.Leader(); return ok })
	_, err := follower.Propose(t.Context(), commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: "x"}, "", "test")
	var not *NotLeaderError
	if !errors.Is(err, ErrNotLeader) || !errors.As(err, &not) || not.Leader == nil {
		t.Fatalf("got %v", err)
	}
	if not.Leader.HTTPAddr != leader.Self().HTTPAddr || not.Leader.AgentAddr != leader.Self().AgentAddr {
		t.Errorf("leader named as %+v, is %+v", *not.Leader, leader.Self())
	}
	if addr, self := follower.LeaderAgentAddr(); addr != leader.Self().AgentAddr || self {
		t.Errorf("LeaderAgentAddr = %s, %v", addr, self)
	}
	for what, err := range map[string]error{
		"verify":   follower.VerifyLeader(t.Context()),
		"barrier":  follower.Barrier(t.Context()),
		"transfer": follower.TransferLeadership(t.Context(), ""),
		"read":     follower.Read(t.Context(), Default),
	} {
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// kill stops a server as a crash would look to the others: no hand-over.
func (s *server) kill(t *testing.T) {
	t.Helper()
	s.closing.Do(func() { s.closed = s.shutdown() })
	if err := s.closed; err != nil {
		t.Fatal(err)
	}
}

func TestLeaderKilledAndBack(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	first := leaderOf(t, servers)
	put(t, first, "before")
	first.kill(t)
	rest := others(servers, first)
	second := leaderOf(t, rest)
	if second.machine.Group("before") == nil {
		t.Error("acknowledged write lost")
	}
	put(t, second, "after")
	back := restart(t, first)
	eventually(t, "the old leader has caught up", func() bool {
		return back.machine.Group("after") != nil && back.machine.Hash() == second.machine.Hash()
	})
	if back.IsLeader() {
		t.Error("the old leader leads again without an election")
	}
}

func TestNoMajorityNoWrite(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	for _, s := range others(servers, leader) {
		s.kill(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := leader.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: "x"}, "r", "test")
	if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNotLeader) {
		t.Errorf("got %v", err)
	}
	eventually(t, "it steps down", func() bool { return !leader.IsLeader() })
	if err := leader.Read(ctx, Linearizable); !errors.Is(err, ErrNotLeader) {
		t.Errorf("linearizable read without a majority: %v", err)
	}
	if err := leader.Read(ctx, Stale); err != nil {
		t.Errorf("stale read: %v", err)
	}
}

func TestWhileLeaderCancelsAndWaits(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	before := put(t, leader, "known")

	ctx, stop := context.WithCancel(t.Context())
	var running, runs atomic.Int32
	var lastTerm atomic.Uint64
	began := make(chan struct{}, 16)
	finished := make(chan error, len(servers))
	release := make(chan struct{})
	for _, s := range servers {
		go func() {
			finished <- s.WhileLeader(ctx, func(ctx context.Context, term uint64) error {
				if s.machine.Index() < before {
					t.Error("run before the barrier")
				}
				if running.Add(1) > 1 && s == leader {
					t.Error("run twice at once on one server")
				}
				runs.Add(1)
				lastTerm.Store(term)
				began <- struct{}{}
				<-ctx.Done()
				if s == leader {
					<-release // WhileLeader must wait for this
				}
				running.Add(-1)
				return ctx.Err()
			})
		}()
	}
	<-began
	firstTerm := lastTerm.Load()
	if err := leader.TransferLeadership(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	<-began // on the new leader
	if lastTerm.Load() <= firstTerm {
		t.Errorf("term %d after %d", lastTerm.Load(), firstTerm)
	}
	stop()
	for range len(servers) - 1 {
		if err := <-finished; err != nil {
			t.Error(err)
		}
	}
	select {
	case <-finished:
		t.Fatal("WhileLeader returned while its work was still running")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-finished; err != nil {
		t.Error(err)
	}
	if runs.Load() != 2 {
		t.Errorf("%d runs, want 2", runs.Load())
	}
}

func TestWhileLeaderRetriesFailedWork(t *testing.T) {
	t.Parallel()
	cfg := configs(t, 1)[0]
	s := start(t, cfg)
	var runs atomic.Int32
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error)
	go func() {
		done <- s.WhileLeader(ctx, func(context.Context, uint64) error {
			if runs.Add(1) == 2 {
				stop()
			}
			return errors.New("boom")
		})
	}()
	if err := <-done; err != nil || runs.Load() != 2 {
		t.Errorf("%v after %d runs", err, runs.Load())
	}
}

func TestLinearizableReadOnEveryNode(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	for i := range 20 {
		name := fmt.Sprintf("g%d", i)
		put(t, leader, name)
		for _, s := range servers {
			eventually(t, "the read is answered", func() bool { return s.Read(t.Context(), Linearizable) == nil })
			if s.machine.Group(name) == nil {
				t.Fatalf("%s answered without an acknowledged write", s.Self().ID)
			}
		}
	}
}

func TestSnapshotRestartKeepsState(t *testing.T) {
	t.Parallel()
	cfgs := configs(t, 3)
	var servers []*server
	for _, cfg := range cfgs {
		cfg.SnapshotEntries, cfg.TrailingLogs = 1<<20, 1
		servers = append(servers, start(t, cfg))
	}
	for _, s := range servers {
		s.siblings = servers
	}
	leader := leaderOf(t, servers)
	late := others(servers, leader)[0]
	late.kill(t)
	for i := range 30 {
		put(t, leader, fmt.Sprintf("g%d", i))
	}
	if err := leader.Snapshot(); err != nil {
		t.Fatal(err)
	}
	put(t, leader, "beyond")
	eventually(t, "the leader has it all", func() bool { return leader.machine.Group("beyond") != nil })
	hash := leader.machine.Hash()

	late = restart(t, late) // its log is gone at the leader: it needs the snapshot
	eventually(t, "the late server has the snapshot and the rest", func() bool { return late.machine.Hash() == hash })

	third := others(others(servers, leader), nil)
	for _, s := range third {
		if s.cfg.NodeID != late.cfg.NodeID {
			s.kill(t)
			again := restart(t, s)
			eventually(t, "the restarted server has its state", func() bool { return again.machine.Hash() == hash })
		}
	}
	leader.kill(t)
	back := restart(t, leader) // from its own snapshot
	eventually(t, "the old leader has its state", func() bool {
		return back.machine.Group("beyond") != nil && back.machine.Group("g0") != nil && back.machine.Cluster().ID != ""
	})
	if err := back.checkSnapshot(); err != nil {
		t.Error(err)
	}
}

// TestGracefulCloseHandsOver has a heartbeat so long that only a hand-over is in time.
func TestGracefulCloseHandsOver(t *testing.T) {
	t.Parallel()
	const heartbeat = 2 * time.Second
	var servers []*server
	for _, cfg := range configs(t, 3) {
		cfg.Heartbeat = heartbeat
		servers = append(servers, start(t, cfg))
	}
	leader := leaderOf(t, servers)
	rest := others(servers, leader)
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "another server leads", func() bool { return rest[0].IsLeader() || rest[1].IsLeader() })
	if took := time.Since(began); took > heartbeat/2 {
		t.Errorf("another server led after %v: elected, not handed over", took)
	}
}

func TestMembersSeesWhoIsDown(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	put(t, leader, "chat")
	down := others(servers, leader)[0]
	down.kill(t)
	for _, m := range leader.Members(t.Context()) {
		if alive := m.ID != down.cfg.NodeID; alive != (m.Status != nil) {
			t.Errorf("%s: status %v, error %q", m.ID, m.Status, m.Error)
		}
	}
	s := leader.Status()
	if s.State != "leader" || s.Leader.ID != leader.Self().ID || s.Term == 0 || s.MachineIndex == 0 || s.LastContactMs != 0 {
		t.Errorf("status %+v", s)
	}
}
