package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// leadership follows Raft's notices of winning and losing.
type leadership struct {
	// notify is buffered: Raft blocks while it is full, and would miss heartbeats meanwhile.
	notify chan bool

	mu      sync.Mutex // guards what follows
	leading bool
	closed  bool
	changed chan struct{} // closed and renewed at each change
	// ready is the term in which a barrier has been applied by this server as leader.
	ready uint64
}

func newLeadership() *leadership {
	return &leadership{notify: make(chan bool, 64), changed: make(chan struct{})}
}

// follow reads notices until ctx ends; each is passed to then as well.
func (l *leadership) follow(ctx context.Context, then func(leading bool)) {
	for {
		select {
		case leading := <-l.notify:
			l.set(leading)
			then(leading)
		case <-ctx.Done():
			return
		}
	}
}

func (l *leadership) set(leading bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = leading
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.leading = true, false
	close(l.changed)
	l.changed = make(chan struct{})
}

// watch returns the present state and a channel that is closed when it changes.
func (l *leadership) watch() (leading, closed bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading, l.closed, l.changed
}

func (l *leadership) markReady(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = max(l.ready, term)
}

func (l *leadership) readyIn(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready == term
}

func (n *Node) leaderChanged(leading bool) {
	if leading {
		n.logger.Info("this server leads now", "term", n.raft.CurrentTerm())
		return
	}
	n.logger.Info("this server no longer leads")
}

// IsLeader tells whether this server believes to lead. Another may have been elected a moment ago:
// VerifyLeader asks.
func (n *Node) IsLeader() bool { return n.raft != nil && n.raft.State() == raft.Leader }

// Leader is the server that leads as far as this one knows; false while there is none.
func (n *Node) Leader() (Peer, bool) {
	if n.raft == nil {
		return Peer{}, false
	}
	addr, id := n.raft.LeaderWithID()
	if id == "" {
		return Peer{}, false
	}
	if string(id) == n.self.ID {
		return n.self, true
	}
	for _, p := range n.cfg.Peers {
		if p.ID == string(id) {
			return p, true
		}
	}
	return Peer{ID: string(id), RaftAddr: string(addr)}, true
}

// LeaderAgentAddr is where the leader's gRPC port is, "" while there is no leader, and whether the
// leader is this server.
func (n *Node) LeaderAgentAddr() (addr string, self bool) {
	p, ok := n.Leader()
	if !ok {
		return "", false
	}
	return p.AgentAddr, p.ID == n.self.ID && n.IsLeader()
}

// Self is this server.
func (n *Node) Self() Peer { return n.self }

// Peers are all configured servers, this one included.
func (n *Node) Peers() []Peer {
	if len(n.cfg.Peers) == 0 {
		return []Peer{n.self}
	}
	return append([]Peer(nil), n.cfg.Peers...)
}

// Term of the log, as this server knows it.
func (n *Node) Term() uint64 {
	if n.raft == nil {
		return 0
	}
	return n.raft.CurrentTerm()
}

// VerifyLeader asks a majority whether this server still leads. It returns nil or an error that
// matches ErrNotLeader, ErrUnknown (no answer before ctx ended) or ErrClosed.
func (n *Node) VerifyLeader(ctx context.Context) error {
	if !n.IsLeader() {
		return n.notLeader()
	}
	err := n.await(ctx, n.raft.VerifyLeader().Error)
	if errors.Is(err, raft.ErrLeadershipLost) {
		return n.notLeader()
	}
	return n.translate(err)
}

// Barrier returns once everything committed before it is in this server's state machine. Leader
// only.
func (n *Node) Barrier(ctx context.Context) error {
	if !n.IsLeader() {
		return n.notLeader()
	}
	return n.translate(n.await(ctx, n.raft.Barrier(0).Error))
}

// TransferLeadership hands leadership to the peer with this id, to the most up-to-date one when it
// is empty. Leader only.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	if !n.IsLeader() {
		return n.notLeader()
	}
	if to == "" {
		return n.translate(n.await(ctx, n.raft.LeadershipTransfer().Error))
	}
	for _, p := range n.cfg.Peers {
		if p.ID == to {
			return n.translate(n.await(ctx, n.raft.LeadershipTransferToServer(raft.ServerID(p.ID), raft.ServerAddress(p.RaftAddr)).Error))
		}
	}
	return fmt.Errorf("there is no server %q: choose one of %v", to, peerIDs(n.cfg.Peers))
}

// await waits for a Raft future. Futures cannot be cancelled: one that ctx left behind ends when Raft
// answers it, or with the process if Raft has shut down before.
func (n *Node) await(ctx context.Context, future func() error) error {
	answered := make(chan error, 1)
	go func() { answered <- future() }()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryPause separates attempts of leader work that ended early.
const retryPause = time.Second

// WhileLeader runs work that only the leader may do: whenever this server is elected, it waits for
// a barrier, so that the state machine holds everything committed before, and calls run with the
// term; when leadership is lost it cancels run's context and waits for run to return. It starts
// again at the next election, also after run failed, which is logged. It returns nil once ctx has
// ended or the node is closed, and run has returned.
func (n *Node) WhileLeader(ctx context.Context, run func(ctx context.Context, term uint64) error) error {
	for {
		leading, closed, changed := n.lead.watch()
		if closed || ctx.Err() != nil {
			return nil
		}
		if leading && n.leadOnce(ctx, changed, run) {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// leadOnce runs the work for one period of leadership, which ends when changed is closed. It reports
// whether the work should be tried again at once, leadership or not.
func (n *Node) leadOnce(ctx context.Context, changed <-chan struct{}, run func(context.Context, uint64) error) (again bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer cancel()
	go func() {
		defer close(ended)
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	term, err := n.ready(ctx)
	if err == nil {
		err = run(ctx, term)
	}
	if err == nil || ctx.Err() != nil {
		return false // done, or leadership is over: wait for the next change
	}
	if !errors.Is(err, ErrNotLeader) { // otherwise the notice of it is about to arrive
		n.logger.Error("leader work ended early; it is started again", "error", err)
	}
	select {
	case <-time.After(retryPause):
	case <-ctx.Done():
	}
	return true
}

// ready waits until this server, as leader, has applied everything committed before its term, and
// returns the term.
func (n *Node) ready(ctx context.Context) (uint64, error) {
	term := n.Term()
	if n.lead.readyIn(term) {
		return term, nil
	}
	if err := n.Barrier(ctx); err != nil {
		return 0, fmt.Errorf("barrier: %w", err)
	}
	if n.Term() != term || !n.IsLeader() {
		return 0, n.notLeader()
	}
	n.lead.markReady(term)
	return term, nil
}

// nameCluster gives a new cluster its id as soon as this server leads one without, and keeps the id
// on disk.
func (n *Node) nameCluster(ctx context.Context) {
	n.running.Go(func() { n.keepClusterID(ctx) })
	_ = n.WhileLeader(ctx, func(ctx context.Context, _ uint64) error {
		if n.machine.Cluster().ID != "" {
			return nil
		}
		_, err := n.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER, &commandv1.InitCluster{ClusterId: uuid.NewString()}, "", "leader")
		return err
	})
}
