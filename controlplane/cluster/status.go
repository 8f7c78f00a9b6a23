package cluster

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Status of one server, as it sees itself.
type Status struct {
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"`
	// State: leader, follower, candidate, shutdown.
	State string `json:"state"`
	Term  uint64 `json:"term"`
	// Leader is nil while none is known.
	Leader *Peer `json:"leader,omitempty"`
	// LastIndex is the end of the log, CommitIndex what a majority has, AppliedIndex what Raft has
	// passed on, MachineIndex the last command in the state machine.
	LastIndex    uint64 `json:"last_index"`
	CommitIndex  uint64 `json:"commit_index"`
	AppliedIndex uint64 `json:"applied_index"`
	MachineIndex uint64 `json:"machine_index"`
	// LastContactMs is how long ago a leader was heard; 0 on the leader, −1 when never.
	LastContactMs int64  `json:"last_contact_ms"`
	Peers         []Peer `json:"peers"`
}

// Status of this server.
func (n *Node) Status() Status {
	s := Status{NodeID: n.self.ID, State: "closed", Peers: n.Peers()}
	if n.raft == nil {
		return s
	}
	cluster := n.machine.Cluster()
	s.ClusterID, s.MachineIndex = cluster.ID, cluster.Index
	s.State = strings.ToLower(n.raft.State().String())
	s.Term = n.raft.CurrentTerm()
	s.LastIndex, s.CommitIndex, s.AppliedIndex = n.raft.LastIndex(), n.raft.CommitIndex(), n.raft.AppliedIndex()
	if p, ok := n.Leader(); ok {
		s.Leader = &p
	}
	s.LastContactMs = n.lastContactMs()
	return s
}

func (n *Node) lastContactMs() int64 {
	at := n.raft.LastContact()
	switch {
	case n.raft.State() == raft.Leader:
		return 0
	case at.IsZero():
		return -1
	}
	return time.Since(at).Milliseconds()
}

// Member is a server as it answered just now.
type Member struct {
	Peer
	// Status is nil when the server did not answer; Error says why.
	Status *Status `json:"status,omitempty"`
	Error  string  `json:"error,omitempty"`
	// RoundTrip of the question.
	RoundTrip time.Duration `json:"round_trip_ns"`
}

// Members asks every server how it is, for at most half a second.
func (n *Node) Members(ctx context.Context) []Member {
	peers := n.Peers()
	members := make([]Member, len(peers))
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() { members[i] = n.member(ctx, p) })
	}
	wg.Wait()
	return members
}

func (n *Node) member(ctx context.Context, p Peer) Member {
	if p.ID == n.self.ID {
		s := n.Status()
		return Member{Peer: p, Status: &s}
	}
	if n.stream == nil {
		return Member{Peer: p, Error: ErrClosed.Error()}
	}
	began := time.Now()
	a, err := n.ask(ctx, p.RaftAddr, question{Ask: askState})
	if err != nil {
		return Member{Peer: p, Error: err.Error(), RoundTrip: time.Since(began)}
	}
	return Member{Peer: p, Status: &a.Status, RoundTrip: time.Since(began)}
}
