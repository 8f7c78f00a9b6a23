package cluster

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

const (
	superviseEvery = time.Minute
	// snapshotBytes written since the last snapshot ask for another.
	snapshotBytes = 16 << 20
)

// superviseSnapshots complements Raft's own trigger, which counts entries alone: a cluster that
// writes little, or writes large entries, would otherwise never take a snapshot. It also reads the
// newest one back, since an unreadable snapshot keeps followers from catching up.
func (n *Node) superviseSnapshots(ctx context.Context) {
	tick := time.NewTicker(min(superviseEvery, n.cfg.SnapshotAge))
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if time.Since(last) >= n.cfg.SnapshotAge || n.logs.written.Load() >= snapshotBytes {
			n.snapshot()
			last = time.Now()
		}
		if err := n.checkSnapshot(); err != nil {
			n.logger.Error("newest snapshot cannot be read; a new one is taken", "error", err)
			n.snapshot()
		}
	}
}

func (n *Node) snapshot() {
	n.logs.written.Store(0)
	err := n.Snapshot()
	if err != nil {
		n.logger.Error("take snapshot; the log grows until it works", "error", err)
	}
}

// Snapshot writes the state machine to disk now; nil when there is nothing new.
func (n *Node) Snapshot() error {
	if n.raft == nil {
		return ErrClosed
	}
	err := n.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) || errors.Is(err, raft.ErrRaftShutdown) {
		return nil
	}
	return err
}

// checkSnapshot reads the newest snapshot; opening it compares the checksum.
func (n *Node) checkSnapshot() error {
	metas, err := n.snapshots.List()
	if err != nil || len(metas) == 0 {
		return err
	}
	_, r, err := n.snapshots.Open(metas[0].ID)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}
