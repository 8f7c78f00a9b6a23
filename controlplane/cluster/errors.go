package cluster

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/hashicorp/raft"
)

// Sentinels of this package.
var (
	// ErrNotLeader: the write was not made; go to the leader. errors.As to *NotLeaderError tells
	// where it is.
	ErrNotLeader = errors.New("this server is not the leader")
	// ErrUnknown: the write may or may not have been made. Ask again with the same request id.
	ErrUnknown = errors.New("outcome unknown: the leader changed or the time ran out while the write was being made; repeat it with the same request id")
	// ErrDataDir: the data folder cannot be used. The text says why and what to do.
	ErrDataDir = errors.New("data folder cannot be used")
	// ErrDiskFull: the log could not be written for want of space.
	ErrDiskFull = errors.New("disk of the data folder is full: free some space; another server takes over meanwhile")
	// ErrBusy: the write was not made, because too many wait already.
	ErrBusy = errors.New("too many writes are waiting: try again in a moment")
	// ErrClosed: the node is not open.
	ErrClosed = errors.New("this server's Raft node is closed")
)

// NotLeaderError says where the leader is. It matches ErrNotLeader.
type NotLeaderError struct {
	// Leader is nil while none is known.
	Leader *Peer
}

func (e *NotLeaderError) Error() string {
	if e.Leader == nil {
		return ErrNotLeader.Error() + " and none is known now: an election is going on or most servers are down; try again"
	}
	return fmt.Sprintf("%v: it is %s at %s", ErrNotLeader, e.Leader.ID, e.Leader.HTTPAddr)
}

// Is makes errors.Is(err, ErrNotLeader) true.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// translate turns an error of a Raft future into ours.
func (n *Node) translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w (%w)", ErrUnknown, err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrClosed
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w (%w)", ErrDiskFull, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w (%w)", ErrUnknown, err)
	}
	return fmt.Errorf("raft: %w", err)
}

func (n *Node) notLeader() error {
	if p, ok := n.Leader(); ok {
		return &NotLeaderError{Leader: &p}
	}
	return &NotLeaderError{}
}
