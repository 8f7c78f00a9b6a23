package cluster

import (
	"context"
	"fmt"
	"time"
)

// Level of consistency of a read.
type Level string

// Levels. Stale is answered by any server at once; Default by the leader while it holds its lease;
// Linearizable by any server once it has everything that was acknowledged before the read began.
const (
	Stale        Level = "stale"
	Default      Level = "default"
	Linearizable Level = "linearizable"
)

// Read waits until a read of this level may be served from the local state machine. It returns an
// error that matches ErrNotLeader when it must be served elsewhere or by no one now.
func (n *Node) Read(ctx context.Context, level Level) error {
	switch level {
	case Stale:
		return nil
	case Default, "":
		if !n.IsLeader() {
			return n.notLeader()
		}
		// A leader whose lease holds may still be behind in applying: its first barrier settles it.
		_, err := n.ready(ctx)
		return err
	case Linearizable:
		return n.ReadLinearizable(ctx)
	}
	return fmt.Errorf("unknown read level %q: use stale, default or linearizable", level)
}

// Staleness is how long this server has not heard from a leader; 0 on the leader.
func (n *Node) Staleness() time.Duration {
	if n.raft == nil || n.IsLeader() {
		return 0
	}
	return time.Since(n.raft.LastContact())
}

// ReadLinearizable returns once the local state machine holds everything that any server had
// acknowledged before the call. On a follower the leader is asked for the index to wait for. An
// index is never used for a second read.
func (n *Node) ReadLinearizable(ctx context.Context) error {
	index, err := n.readIndex(ctx)
	if err != nil {
		return fmt.Errorf("linearizable read: %w", err)
	}
	if err := n.waitApplied(ctx, index); err != nil {
		return fmt.Errorf("linearizable read: wait for index %d: %w", index, err)
	}
	return nil
}

func (n *Node) readIndex(ctx context.Context) (uint64, error) {
	if n.IsLeader() {
		return n.leaderReadIndex(ctx)
	}
	p, ok := n.Leader()
	if !ok {
		return 0, n.notLeader()
	}
	a, err := n.ask(ctx, p.RaftAddr, question{Ask: askReadIndex})
	if err != nil {
		return 0, fmt.Errorf("ask %s: %w", p.ID, err)
	}
	if a.NotLeader {
		return 0, n.notLeader()
	}
	return a.Index, nil
}

// leaderReadIndex follows the Raft dissertation, §6.4: everything of earlier terms is applied; note
// the commit index; hear from a majority that this term still rules; it did the whole time.
func (n *Node) leaderReadIndex(ctx context.Context) (uint64, error) {
	term, err := n.ready(ctx)
	if err != nil {
		return 0, err
	}
	commit := n.raft.CommitIndex()
	if err := n.VerifyLeader(ctx); err != nil {
		return 0, err
	}
	if n.Term() != term {
		return 0, n.notLeader()
	}
	applied, _ := n.applier.position()
	return n.logs.lastCommand(commit, applied)
}

// waitApplied waits until the command at index is in the local state machine.
func (n *Node) waitApplied(ctx context.Context, index uint64) error {
	for {
		applied, moved := n.applier.position()
		if applied >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
