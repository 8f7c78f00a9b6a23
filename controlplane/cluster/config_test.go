package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
)

func TestConfigFaultsInWords(t *testing.T) {
	t.Parallel()
	three := []Peer{{ID: "cp1", RaftAddr: "127.0.0.1:1"}, {ID: "cp2", RaftAddr: "127.0.0.1:2"}, {ID: "cp3", RaftAddr: "127.0.0.1:3"}}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no folder":          {Config{RaftAddr: "127.0.0.1:0"}, "data folder is not set"},
		"no address":         {Config{DataDir: "d"}, "Raft address is not set"},
		"fast heartbeat":     {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Heartbeat: 60 * time.Millisecond}, "would lose leaders"},
		"open without TLS":   {Config{DataDir: "d", RaftAddr: "0.0.0.0:8003"}, "TLS is off"},
		"every interface":    {Config{DataDir: "d", RaftAddr: ":8003"}, "TLS is off"},
		"peer without TLS":   {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Peers: []Peer{{ID: "a", RaftAddr: "10.0.0.1:8003"}}}, "10.0.0.1:8003 for Raft can be reached"},
		"too few peers":      {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Peers: three[:2], Expect: 3}, "3 servers are expected but 2"},
		"peer without name":  {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Peers: []Peer{{RaftAddr: "127.0.0.1:1"}}}, "has no id"},
		"twice one name":     {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Peers: []Peer{three[0], {ID: "cp1", RaftAddr: "127.0.0.1:9"}}}, "two peers are called"},
		"twice one address":  {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", Peers: []Peer{three[0], {ID: "x", RaftAddr: "127.0.0.1:1"}}}, "two peers have the Raft address"},
		"not among peers":    {Config{DataDir: "d", RaftAddr: "127.0.0.1:0", NodeID: "cp9", Peers: three}, "not among its peers"},
		"all faults at once": {Config{RaftAddr: "0.0.0.0:1"}, "data folder is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.cfg.withDefaults().validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want …%s…", err, c.want)
			}
		})
	}
	good := Config{DataDir: "d", RaftAddr: "127.0.0.1:1", NodeID: "cp1", Peers: three}
	if err := good.withDefaults().validate(); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, cfg Config) error {
	t.Helper()
	n := New(cfg, fsm.New(), quiet(t))
	err := n.Open(t.Context())
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return err
}

func TestOpenFailsInWords(t *testing.T) {
	t.Parallel()
	single := func(t *testing.T) Config {
		return Config{DataDir: t.TempDir(), RaftAddr: "127.0.0.1:0", Heartbeat: 200 * time.Millisecond}
	}
	t.Run("port taken", func(t *testing.T) {
		l := reserve(t, 1)[0]
		defer l.Close()
		cfg := single(t)
		cfg.RaftAddr = l.Addr().String()
		if err := open(t, cfg); err == nil || !strings.Contains(err.Error(), "is taken by another process") {
			t.Error(err)
		}
	})
	t.Run("folder in use", func(t *testing.T) {
		cfg := single(t)
		start(t, cfg)
		if err := open(t, cfg); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "is in use by another server") {
			t.Error(err)
		}
	})
	t.Run("a file in the way", func(t *testing.T) {
		cfg := single(t)
		cfg.DataDir = filepath.Join(cfg.DataDir, "file")
		if err := os.WriteFile(cfg.DataDir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(t, cfg); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "in the way") {
			t.Error(err)
		}
	})
	t.Run("read-only folder", func(t *testing.T) {
		err := open(t, Config{DataDir: "/proc/self/performance-agent", RaftAddr: "127.0.0.1:0"})
		if !errors.Is(err, ErrDataDir) {
			t.Error(err)
		}
	})
	t.Run("another server's folder", func(t *testing.T) {
		cfg := single(t)
		cfg.NodeID = "cp1"
		if err := open(t, cfg); err != nil {
			t.Fatal(err)
		}
		cfg.NodeID = "cp2"
		if err := open(t, cfg); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), `belongs to server "cp1"`) {
			t.Error(err)
		}
	})
	t.Run("address of no peer", func(t *testing.T) {
		cfg := single(t)
		cfg.Peers = []Peer{{ID: "cp1", RaftAddr: "127.0.0.1:1"}}
		if err := open(t, cfg); err == nil || !strings.Contains(err.Error(), "none of the peers") {
			t.Error(err)
		}
	})
}

func TestNodeKeepsItsName(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir(), RaftAddr: "127.0.0.1:0", Heartbeat: 200 * time.Millisecond}
	first := start(t, cfg)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if again := start(t, cfg); again.Self().ID != first.Self().ID || again.Self().ID == "" {
		t.Errorf("%q became %q", first.Self().ID, again.Self().ID)
	}
}

// TestEmptyFolderJoinsExisting: a server whose folder was lost must not found a second cluster.
func TestEmptyFolderJoinsExisting(t *testing.T) {
	t.Parallel()
	servers := startAll(t, 3)
	leader := leaderOf(t, servers)
	put(t, leader, "chat")
	eventually(t, "the cluster has its id", func() bool { return leader.machine.Cluster().ID != "" })
	id := leader.machine.Cluster().ID
	lost := others(servers, leader)[0]
	lost.kill(t)
	lost.cfg.DataDir = t.TempDir()
	back := restart(t, lost)
	eventually(t, "it has the cluster's state", func() bool {
		return back.machine.Group("chat") != nil && back.machine.Cluster().ID == id
	})
}

// TestNoClusterBeforeAllAgree: two of three must not start a new cluster.
func TestNoClusterBeforeAllAgree(t *testing.T) {
	t.Parallel()
	cfgs := configs(t, 3)
	a, b := start(t, cfgs[0]), start(t, cfgs[1])
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := a.agree(ctx); err == nil || !strings.Contains(err.Error(), "cp3 does not answer") {
		t.Errorf("agreed without cp3: %v", err)
	}
	if a.Status().LastIndex != 0 || b.Status().LastIndex != 0 {
		t.Error("started without the third")
	}
	c := start(t, cfgs[2])
	leaderOf(t, []*server{a, b, c})
}

func TestPeersMustAgree(t *testing.T) {
	t.Parallel()
	cfgs := configs(t, 2)
	cfgs[1].Peers = append([]Peer{{ID: "other", RaftAddr: "127.0.0.1:1"}}, cfgs[1].Peers...)
	a, _ := start(t, cfgs[0]), start(t, cfgs[1])
	if err := a.agree(t.Context()); err == nil || !strings.Contains(err.Error(), "lists other peers") {
		t.Errorf("got %v", err)
	}
}

func TestFatalEntryStopsTheProcess(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir(), RaftAddr: "127.0.0.1:0", Heartbeat: 200 * time.Millisecond}
	exits := make(chan int, 1)
	cfg.Exit = func(code int) { exits <- code }
	s := start(t, cfg)
	leaderOf(t, []*server{s})
	if err := s.raft.Apply([]byte("\xffnot an envelope"), time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if code := <-exits; code != 70 {
		t.Errorf("exit code %d", code)
	}
}

// TestStrangersOnThePort: what is not a server of ours gets nothing and harms nothing.
func TestStrangersOnThePort(t *testing.T) {
	t.Parallel()
	s := start(t, Config{DataDir: t.TempDir(), RaftAddr: "127.0.0.1:0", Heartbeat: 200 * time.Millisecond})
	leaderOf(t, []*server{s})
	for _, say := range []string{"", "GET / HTTP/1.1\r\n\r\n", "A{", "Anull\n", "A[]\n", "R\xff\xff\xff", "A" + strings.Repeat("[", 1<<17)} {
		conn, err := net.Dial("tcp", s.stream.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(say)) // the server may hang up early
		conn.Close()
	}
	put(t, s, "still-works")
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"ask":"state"}`))
	f.Add([]byte(`{"ask":7}`))
	f.Add([]byte("\x00"))
	n := New(Config{DataDir: "unused"}, fsm.New(), slog.New(slog.DiscardHandler))
	close(n.opened)
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write(b)
			_, _ = bytes.NewBuffer(nil).ReadFrom(there)
		}()
		_ = here.SetDeadline(time.Now().Add(50 * time.Millisecond))
		n.answer(here, nil)
		here.Close()
		there.Close()
	})
}
