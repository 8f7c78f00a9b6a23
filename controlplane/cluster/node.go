// Package cluster owns Raft: the replicated log in bbolt, elections, snapshots, membership as
// configured, and work that only the leader may do. It feeds committed entries to the state machine
// of controlplane/fsm and gives the rest of the control plane four things: Propose a command,
// ReadLinearizable, WhileLeader, and who leads.
//
// What the commands mean is left to fsm; what agents say and measure never comes here.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
)

// Node is this server's part in the cluster. After Open its methods may be called from any
// goroutine.
type Node struct {
	cfg     Config
	self    Peer
	machine *fsm.Machine
	logger  *slog.Logger

	dir       *dataDir
	bolt      *raftboltdb.BoltStore
	logs      *logStore
	snapshots *raft.FileSnapshotStore
	stream    *stream
	transport *raft.NetworkTransport
	raft      *raft.Raft
	applier   *applier
	lead      *leadership

	wrapLog func(raft.LogStore) raft.LogStore // a test's way to a failing disk
	opened  chan struct{}                     // closed when all fields above are set
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	closed  error
}

// New returns a node over the machine. Nothing is touched before Open.
func New(cfg Config, machine *fsm.Machine, logger *slog.Logger) *Node {
	return &Node{
		cfg:     cfg.withDefaults(),
		machine: machine,
		logger:  logger.With("component", "cluster"),
		lead:    newLeadership(),
		wrapLog: func(s raft.LogStore) raft.LogStore { return s },
		opened:  make(chan struct{}),
	}
}

// Open takes the data folder, joins the other servers and starts Raft in the background. It returns
// before there is a leader. ctx bounds the opening alone. Errors say what to do: ErrDataDir for the
// folder, otherwise the address or the configuration.
func (n *Node) Open(ctx context.Context) (err error) {
	if err := n.cfg.validate(); err != nil {
		return fmt.Errorf("cluster configuration: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	steps := []struct {
		name string
		do   func() error
	}{
		{"identity", n.openIdentity},
		{"log", n.openStores},
		{"port", n.openTransport},
		{"raft", n.openRaft},
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("open cluster: %w", err)
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("open cluster %s: %w", s.name, err)
		}
	}
	return nil
}

func (n *Node) openIdentity() (err error) {
	if n.dir, err = openDataDir(n.cfg.DataDir); err != nil {
		return err
	}
	configured := n.cfg.NodeID
	for _, p := range n.cfg.Peers {
		if configured == "" && p.RaftAddr == n.advertised() {
			configured = p.ID
		}
	}
	if len(n.cfg.Peers) > 0 && configured == "" {
		return fmt.Errorf("none of the peers has this server's Raft address %s: set the server's id to one of %v", n.advertised(), peerIDs(n.cfg.Peers))
	}
	id, err := n.dir.nodeID(configured)
	if err != nil {
		return err
	}
	n.self = Peer{ID: id, RaftAddr: n.advertised(), HTTPAddr: n.cfg.HTTPAddr, AgentAddr: n.cfg.AgentAddr}
	n.logger = n.logger.With("node", id)
	return nil
}

// advertised is the address by which peers know this server.
func (n *Node) advertised() string {
	switch {
	case n.cfg.AdvertiseRaft != "":
		return n.cfg.AdvertiseRaft
	case n.cfg.Listener != nil:
		return n.cfg.Listener.Addr().String()
	}
	return n.cfg.RaftAddr
}

func (n *Node) openStores() (err error) {
	n.bolt, err = raftboltdb.New(raftboltdb.Options{
		Path:                    n.dir.file("raft.db"),
		BoltOptions:             &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: time.Second},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return dirError(n.cfg.DataDir, err)
	}
	cache, err := raft.NewLogCache(512, n.bolt)
	if err != nil {
		return err
	}
	n.logs = &logStore{LogStore: n.wrapLog(cache), logger: n.logger}
	n.snapshots, err = raft.NewFileSnapshotStoreWithLogger(n.cfg.DataDir, 3, raftLogger(n.logger))
	if err != nil {
		return dirError(n.cfg.DataDir, err)
	}
	return nil
}

func (n *Node) openTransport() (err error) {
	if n.stream, err = listen(n.cfg, n.answer, n.logger); err != nil {
		return err
	}
	n.self.RaftAddr = n.stream.Addr().String()
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  n.stream,
		ServerAddressProvider:   n,
		MaxPool:                 3,
		Timeout:                 10 * time.Second,
		Logger:                  raftLogger(n.logger),
		MsgpackUseNewTimeFormat: true,
	})
	return nil
}

// ServerAddr implements raft.ServerAddressProvider: a server keeps its name when its address
// changes, so the configured address beats the one recorded in the log.
func (n *Node) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	for _, p := range n.Peers() {
		if p.ID == string(id) {
			return raft.ServerAddress(p.RaftAddr), nil
		}
	}
	return "", fmt.Errorf("no address is configured for server %q", id)
}

func (n *Node) openRaft() (err error) {
	known, err := raft.HasExistingState(n.logs, n.bolt, n.snapshots)
	if err != nil {
		return err
	}
	n.applier = newApplier(n.machine, n.fatal)
	if n.raft, err = raft.NewRaft(n.raftConfig(), n.applier, n.logs, n.bolt, n.snapshots, n.transport); err != nil {
		return err
	}
	close(n.opened)
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.running.Go(func() { n.lead.follow(ctx, n.leaderChanged) })
	n.running.Go(func() { n.superviseSnapshots(ctx) })
	n.running.Go(func() { n.nameCluster(ctx) })
	if !known {
		n.running.Go(func() { n.bootstrap(ctx) })
	}
	return nil
}

func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.self.ID)
	c.HeartbeatTimeout = n.cfg.Heartbeat
	c.ElectionTimeout = n.cfg.Heartbeat
	c.LeaderLeaseTimeout = n.cfg.Heartbeat / 2
	c.CommitTimeout = 25 * time.Millisecond
	c.MaxAppendEntries = 256
	c.BatchApplyCh = true
	c.ShutdownOnRemove = true
	c.SnapshotThreshold = n.cfg.SnapshotEntries
	c.SnapshotInterval = 30 * time.Second
	c.TrailingLogs = n.cfg.TrailingLogs
	c.NotifyCh = n.lead.notify
	c.Logger = raftLogger(n.logger)
	c.NoLegacyTelemetry = true
	return c
}

// fatalExit is EX_SOFTWARE of sysexits: restarting does not help, someone must act.
const fatalExit = 70

// fatal ends the process: going on would make this server's state part from the others'.
func (n *Node) fatal(err error) {
	n.logger.Error("this server must stop: its state would part from the other servers'", "error", err)
	n.cfg.Exit(fatalExit)
}

// transferTimeout bounds the hand-over of leadership when a server stops.
const transferTimeout = 2 * time.Second

// Close hands leadership over when this server has it, stops Raft and releases the data folder.
// Everything that Open started has ended when it returns. Further calls return the first's result.
func (n *Node) Close() error {
	n.closing.Do(func() {
		if n.raft != nil {
			n.handOver()
		}
		n.closed = n.shutdown()
	})
	return n.closed
}

// shutdown without a hand-over is what the other servers see of a crash.
func (n *Node) shutdown() error {
	var errs []error
	step := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", name, err))
		}
	}
	if n.raft != nil {
		step("raft", n.raft.Shutdown().Error())
		n.stop()
	}
	n.lead.close()
	if n.transport != nil {
		step("transport", n.transport.Close())
		step("port", n.stream.Close())
	}
	n.running.Wait()
	if n.bolt != nil {
		step("log", n.bolt.Close())
	}
	if n.dir != nil {
		step("data folder", n.dir.close())
	}
	return errors.Join(errs...)
}

// handOver makes a planned stop cheaper than a crash: the next leader is there in milliseconds.
func (n *Node) handOver() {
	if n.raft.State() != raft.Leader || len(n.cfg.Peers) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), transferTimeout)
	defer cancel()
	if err := n.TransferLeadership(ctx, ""); err != nil {
		n.logger.Warn("leadership could not be handed over before stopping; the others will elect a leader", "error", err)
	}
}
