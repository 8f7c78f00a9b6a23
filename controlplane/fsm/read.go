package fsm

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Cluster is what all records belong to.
type Cluster struct {
	ID string
	// Incarnation outranks every epoch given under a lower one.
	Incarnation uint64
	// LeaderTimeMs of the last entry applied, in Unix milliseconds.
	LeaderTimeMs int64
	// Term of the leader that proposed the last entry.
	Term uint64
	// Index of the last entry applied.
	Index uint64
}

// Cluster returns the cluster's identity and the position in its log.
func (m *Machine) Cluster() Cluster {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.state
	return Cluster{ID: s.clusterID, Incarnation: s.incarnation, LeaderTimeMs: s.clock, Term: s.term, Index: s.index}
}

// Index of the last entry applied.
func (m *Machine) Index() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.index
}

// Watch returns a channel that is closed when the next entry has been applied or a snapshot
// restored. Take it before reading, so that no change is missed.
func (m *Machine) Watch() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed
}

// one returns a copy of a row, nil when there is none.
func one[T record](m *Machine, of func(*state) *table[T], key string) T {
	m.mu.RLock()
	defer m.mu.RUnlock()
	row, ok := of(m.state).get(key)
	if !ok {
		return row
	}
	return proto.CloneOf(row)
}

// all returns copies of the rows that keep accepts, in order of their keys.
func all[T record](m *Machine, of func(*state) *table[T], keep func(T) bool) []T {
	m.mu.RLock()
	defer m.mu.RUnlock()
	rows := of(m.state).filter(keep)
	for i, row := range rows {
		rows[i] = proto.CloneOf(row)
	}
	return rows
}

func everything[T any](T) bool { return true }

func groups(s *state) *table[*commandv1.Group]                   { return s.groups }
func instances(s *state) *table[*commandv1.Instance]             { return s.instances }
func rollouts(s *state) *table[*commandv1.Rollout]               { return s.rollouts }
func workflows(s *state) *table[*commandv1.Workflow]             { return s.workflows }
func recommendations(s *state) *table[*commandv1.Recommendation] { return s.recommendations }

// Group by name, nil when unknown.
func (m *Machine) Group(name string) *commandv1.Group { return one(m, groups, name) }

// Groups in order of their names.
func (m *Machine) Groups() []*commandv1.Group { return all(m, groups, everything) }

// Instance by id, nil when unknown.
func (m *Machine) Instance(id string) *commandv1.Instance { return one(m, instances, id) }

// Instances of a group, of all groups when it is empty, in order of their ids.
func (m *Machine) Instances(group string) []*commandv1.Instance {
	return all(m, instances, func(i *commandv1.Instance) bool { return group == "" || i.GetGroup() == group })
}

// Rollout by id, nil when unknown.
func (m *Machine) Rollout(id string) *commandv1.Rollout { return one(m, rollouts, id) }

// Rollouts of a group, of all groups when it is empty, newest first.
func (m *Machine) Rollouts(group string) []*commandv1.Rollout {
	rows := all(m, rollouts, func(r *commandv1.Rollout) bool { return group == "" || r.GetGroup() == group })
	slices.SortStableFunc(rows, func(a, b *commandv1.Rollout) int { return cmp.Compare(b.GetCreatedMs(), a.GetCreatedMs()) })
	return rows
}

// OpenRollouts are those of all groups that have not ended, in order of their ids.
func (m *Machine) OpenRollouts() []*commandv1.Rollout {
	return all(m, rollouts, func(r *commandv1.Rollout) bool { return !Ended(r.GetState()) })
}

// ActiveRollout is the one that holds the group, nil when none does.
func (m *Machine) ActiveRollout(group string) *commandv1.Rollout {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.state.holder(group); r != nil {
		return proto.CloneOf(r)
	}
	return nil
}

// Workflow by id, nil when unknown.
func (m *Machine) Workflow(id string) *commandv1.Workflow { return one(m, workflows, id) }

// Workflows of a group, of all groups when it is empty, newest first.
func (m *Machine) Workflows(group string) []*commandv1.Workflow {
	rows := all(m, workflows, func(w *commandv1.Workflow) bool { return group == "" || w.GetGroup() == group })
	slices.SortStableFunc(rows, func(a, b *commandv1.Workflow) int { return cmp.Compare(b.GetCreatedMs(), a.GetCreatedMs()) })
	return rows
}

// Recommendation by id, nil when unknown.
func (m *Machine) Recommendation(id string) *commandv1.Recommendation {
	return one(m, recommendations, id)
}

// Recommendations for a group, for all groups when it is empty, newest first.
func (m *Machine) Recommendations(group string) []*commandv1.Recommendation {
	rows := all(m, recommendations, func(r *commandv1.Recommendation) bool { return group == "" || r.GetGroup() == group })
	slices.SortStableFunc(rows, func(a, b *commandv1.Recommendation) int { return cmp.Compare(b.GetCreatedMs(), a.GetCreatedMs()) })
	return rows
}

// Body by hash, nil when unknown.
func (m *Machine) Body(hash string) *commandv1.ConfigBody {
	return one(m, func(s *state) *table[*commandv1.ConfigBody] { return s.bodies }, hash)
}

// Epoch by number, nil when unknown.
func (m *Machine) Epoch(id uint64) *commandv1.Epoch {
	return one(m, func(s *state) *table[*commandv1.Epoch] { return s.epochs }, epochKey(id))
}

// KnobTable by hash, nil when unknown.
func (m *Machine) KnobTable(hash string) *commandv1.KnobTable {
	return one(m, func(s *state) *table[*commandv1.KnobTable] { return s.knobs }, hash)
}

// Quarantines that have not expired at the present leader time.
func (m *Machine) Quarantines() []*commandv1.Quarantine {
	now := m.Cluster().LeaderTimeMs
	return all(m, func(s *state) *table[*commandv1.Quarantine] { return s.quarantines },
		func(q *commandv1.Quarantine) bool { return q.GetUntilMs() > now })
}

// Effects of the outbox, oldest first: those still to be done, or all.
func (m *Machine) Effects(pending bool) []*commandv1.Effect {
	rows := all(m, func(s *state) *table[*commandv1.Effect] { return s.effects },
		func(e *commandv1.Effect) bool { return !pending || !e.GetDone() })
	slices.SortStableFunc(rows, func(a, b *commandv1.Effect) int { return cmp.Compare(a.GetCreatedIndex(), b.GetCreatedIndex()) })
	return rows
}

// Events after an index, oldest first, about limit of them (0: all that are kept): the events of
// one entry are never parted, so the last index returned is where to go on.
func (m *Machine) Events(since uint64, limit int) []*commandv1.Event {
	m.mu.RLock()
	defer m.mu.RUnlock()
	kept := m.state.events
	from, _ := slices.BinarySearchFunc(kept, since, func(e *commandv1.Event, since uint64) int {
		if e.GetIndex() <= since {
			return -1
		}
		return 1
	})
	var out []*commandv1.Event
	for _, e := range kept[from:] {
		if limit > 0 && len(out) >= limit && e.GetIndex() != out[len(out)-1].GetIndex() {
			break
		}
		out = append(out, proto.CloneOf(e))
	}
	return out
}

// EventsCompacted is the index up to which events may have been dropped. A watcher that has seen
// less must list the records again.
func (m *Machine) EventsCompacted() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.state.events) < maxEvents {
		return 0
	}
	return m.state.events[0].GetIndex()
}

// Hash over all records and the position in the log; equal on all nodes that applied the same log.
func (m *Machine) Hash() string {
	m.mu.RLock()
	captured := m.state.capture()
	m.mu.RUnlock()
	h := sha256.New()
	if _, err := captured.writeTo(h); err != nil {
		panic(err) // a hash never fails to be written, and records always marshal
	}
	return hex.EncodeToString(h.Sum(nil))
}
