package cluster

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
)

// applier feeds committed entries to the state machine and tells waiters how far it is.
type applier struct {
	machine *fsm.Machine
	fatal   func(error)

	mu      sync.Mutex // guards what follows
	applied uint64     // index of the last command in the machine
	moved   chan struct{}
}

var _ raft.BatchingFSM = (*applier)(nil)

func newApplier(m *fsm.Machine, fatal func(error)) *applier {
	return &applier{machine: m, fatal: fatal, moved: make(chan struct{})}
}

// Apply implements raft.FSM.
func (a *applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (a *applier) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	var last uint64
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		r := a.machine.Apply(l.Index, l.Data)
		if r.Fatal != nil {
			a.fatal(r.Fatal)
		}
		answers[i], last = r, l.Index
	}
	if last > 0 {
		a.move(last)
	}
	return answers
}

func (a *applier) move(to uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applied = to
	close(a.moved)
	a.moved = make(chan struct{})
}

// position is the index of the last command applied and a channel closed when it moves.
func (a *applier) position() (uint64, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied, a.moved
}

// Snapshot implements raft.FSM; it only captures pointers.
func (a *applier) Snapshot() (raft.FSMSnapshot, error) {
	captured, err := a.machine.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture state: %w", err)
	}
	return persister{captured}, nil
}

// Restore implements raft.FSM.
func (a *applier) Restore(from io.ReadCloser) error {
	if err := a.machine.Restore(from); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	a.move(a.machine.Index())
	return nil
}

// persister writes a captured state.
type persister struct{ captured io.WriterTo }

// Persist implements raft.FSMSnapshot.
func (p persister) Persist(sink raft.SnapshotSink) error {
	if _, err := p.captured.WriteTo(sink); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (p persister) Release() {}
