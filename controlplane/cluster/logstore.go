package cluster

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/raft"
)

// logStore counts what is written and puts failures into words. After a failed write Raft gives up
// leadership by itself.
type logStore struct {
	raft.LogStore
	logger *slog.Logger
	// written bytes since the last snapshot was asked for.
	written atomic.Int64
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	err := s.LogStore.StoreLogs(logs)
	if err != nil {
		s.complain(err)
		return err
	}
	for _, l := range logs {
		s.written.Add(int64(len(l.Data)))
	}
	return nil
}

func (s *logStore) complain(err error) {
	advice := "check the disk of the data folder"
	// Raft's cache keeps the words of the error below it and drops the error.
	if errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		advice = "the disk of the data folder is full: free some space"
	}
	s.logger.Error("the log cannot be written; this server does not lead until it can", "advice", advice, "error", err)
}

// IsMonotonic passes on what the store below promises (raft.MonotonicLogStore).
func (s *logStore) IsMonotonic() bool {
	m, ok := s.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// lastCommand is the index of the newest command at or before index, and applied when that is one
// already applied here. Barriers and elections take up indexes that the state machine never sees.
func (s *logStore) lastCommand(index, applied uint64) (uint64, error) {
	for i := index; i > applied; i-- {
		var l raft.Log
		switch err := s.GetLog(i, &l); {
		case errors.Is(err, raft.ErrLogNotFound):
			return applied, nil // a snapshot holds it
		case err != nil:
			return 0, err
		case l.Type == raft.LogCommand:
			return i, nil
		}
	}
	return applied, nil
}
