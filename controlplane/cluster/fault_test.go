package cluster

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// fullDisk is a log store whose disk can be filled.
type fullDisk struct {
	raft.LogStore
	full *atomic.Bool
}

func (f fullDisk) StoreLog(l *raft.Log) error { return f.StoreLogs([]*raft.Log{l}) }

func (f fullDisk) StoreLogs(logs []*raft.Log) error {
	if f.full.Load() {
		return &net.OpError{Op: "write", Err: syscall.ENOSPC} // any wrapping must do
	}
	return f.LogStore.StoreLogs(logs)
}

func TestFullDiskMovesLeadership(t *testing.T) {
	t.Parallel()
	full := map[string]*atomic.Bool{}
	var servers []*server
	for _, cfg := range configs(t, 3) {
		f := &atomic.Bool{}
		full[cfg.NodeID] = f
		servers = append(servers, start(t, cfg, func(n *Node) {
			n.wrapLog = func(s raft.LogStore) raft.LogStore { return fullDisk{s, f} }
		}))
	}
	leader := leaderOf(t, servers)
	put(t, leader, "before")
	full[leader.cfg.NodeID].Store(true)
	_, err := leader.Propose(t.Context(), commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: "x", Policy: &commandv1.Policy{}}, "r", "test")
	if !errors.Is(err, ErrDiskFull) {
		t.Errorf("got %v", err)
	}
	rest := others(servers, leader)
	next := leaderOf(t, rest)
	if next.machine.Group("before") == nil {
		t.Error("acknowledged write lost")
	}
	put(t, next, "after")
	full[leader.cfg.NodeID].Store(false)
	eventually(t, "the server with space again has caught up", func() bool { return leader.machine.Group("after") != nil })
}

// counted marks connections that went through Security.
type counted struct{ net.Conn }

func TestSecurityWrapsEveryConnection(t *testing.T) {
	t.Parallel()
	var served, dialled atomic.Int32
	var servers []*server
	for _, cfg := range configs(t, 3) {
		cfg.Security = &Security{
			Server: func(c net.Conn) net.Conn { served.Add(1); return counted{c} },
			Client: func(c net.Conn, _ string) net.Conn { dialled.Add(1); return counted{c} },
		}
		servers = append(servers, start(t, cfg))
	}
	put(t, leaderOf(t, servers), "chat")
	for _, s := range servers {
		s.stream.mu.Lock()
		for c := range s.stream.open {
			if _, ok := c.Conn.(counted); !ok {
				t.Errorf("%s has a bare connection", s.cfg.NodeID)
			}
		}
		s.stream.mu.Unlock()
	}
	if served.Load() == 0 || dialled.Load() == 0 {
		t.Errorf("%d served, %d dialled", served.Load(), dialled.Load())
	}
}
