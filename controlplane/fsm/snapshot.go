package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// A snapshot is a magic number, framed records and an end mark. A frame is the record's length and
// CRC-32C, four big-endian bytes each, and the record; the first is the header. The end mark is a
// frame of length zero with the number of records in place of the checksum.
const (
	snapshotMagic  = "perfsnp1"
	snapshotSchema = 1
	maxRecordBytes = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrSnapshot is returned by Restore for a snapshot that is damaged, cut short or of a newer schema.
var ErrSnapshot = errors.New("snapshot cannot be restored")

// Snapshot is a captured state. It stays as it was while the machine goes on.
type Snapshot struct{ state *state }

// Snapshot captures the state: the cost is that of copying maps of pointers.
func (m *Machine) Snapshot() (Snapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Snapshot{state: m.state.capture()}, nil
}

// Index of the last entry in the snapshot.
func (s Snapshot) Index() uint64 { return s.state.index }

// WriteTo writes the snapshot. The same state gives the same bytes.
func (s Snapshot) WriteTo(w io.Writer) (int64, error) { return s.state.writeTo(w) }

func (s *state) writeTo(w io.Writer) (int64, error) {
	fw := &frameWriter{w: bufio.NewWriter(w)}
	fw.raw([]byte(snapshotMagic))
	fw.record(&commandv1.SnapshotRecord{Record: &commandv1.SnapshotRecord_Header{Header: &commandv1.SnapshotHeader{
		Schema: snapshotSchema, Index: s.index, Term: s.term, ClusterId: s.clusterID,
		Incarnation: s.incarnation, LeaderTimeMs: s.clock,
	}}})
	s.eachRecord(fw.record)
	fw.end()
	return fw.n, fw.err
}

// eachRecord visits all records but the header in an order that depends on the records alone.
func (s *state) eachRecord(visit func(*commandv1.SnapshotRecord)) {
	type rec = commandv1.SnapshotRecord
	each(s.groups, func(v *commandv1.Group) { visit(&rec{Record: &commandv1.SnapshotRecord_Group{Group: v}}) })
	each(s.instances, func(v *commandv1.Instance) { visit(&rec{Record: &commandv1.SnapshotRecord_Instance{Instance: v}}) })
	each(s.knobs, func(v *commandv1.KnobTable) { visit(&rec{Record: &commandv1.SnapshotRecord_KnobTable{KnobTable: v}}) })
	each(s.bodies, func(v *commandv1.ConfigBody) { visit(&rec{Record: &commandv1.SnapshotRecord_Body{Body: v}}) })
	each(s.epochs, func(v *commandv1.Epoch) { visit(&rec{Record: &commandv1.SnapshotRecord_Epoch{Epoch: v}}) })
	each(s.rollouts, func(v *commandv1.Rollout) { visit(&rec{Record: &commandv1.SnapshotRecord_Rollout{Rollout: v}}) })
	each(s.quarantines, func(v *commandv1.Quarantine) {
		visit(&rec{Record: &commandv1.SnapshotRecord_Quarantine{Quarantine: v}})
	})
	each(s.workflows, func(v *commandv1.Workflow) { visit(&rec{Record: &commandv1.SnapshotRecord_Workflow{Workflow: v}}) })
	each(s.recommendations, func(v *commandv1.Recommendation) {
		visit(&rec{Record: &commandv1.SnapshotRecord_Recommendation{Recommendation: v}})
	})
	each(s.effects, func(v *commandv1.Effect) { visit(&rec{Record: &commandv1.SnapshotRecord_Effect{Effect: v}}) })
	each(s.experiments, func(v *commandv1.Experiment) {
		visit(&rec{Record: &commandv1.SnapshotRecord_Experiment{Experiment: v}})
	})
	each(s.objectives, func(v *commandv1.Objective) { visit(&rec{Record: &commandv1.SnapshotRecord_Objective{Objective: v}}) })
	each(s.ledgers, func(v *commandv1.BudgetLedger) { visit(&rec{Record: &commandv1.SnapshotRecord_Ledger{Ledger: v}}) })
	each(s.budgetPolicies, func(v *commandv1.BudgetPolicy) {
		visit(&rec{Record: &commandv1.SnapshotRecord_BudgetPolicy{BudgetPolicy: v}})
	})
	each(s.violations, func(v *commandv1.Violation) { visit(&rec{Record: &commandv1.SnapshotRecord_Violation{Violation: v}}) })
	for _, id := range s.requests {
		if row, ok := s.dedupe.get(id); ok {
			visit(&rec{Record: &commandv1.SnapshotRecord_Dedupe{Dedupe: row}})
		}
	}
	for _, e := range s.events {
		visit(&rec{Record: &commandv1.SnapshotRecord_Event{Event: e}})
	}
}

func each[T record](t *table[T], visit func(T)) {
	for _, k := range t.keys() {
		v, _ := t.get(k)
		visit(v)
	}
}

type frameWriter struct {
	w     *bufio.Writer
	n     int64
	count uint32
	err   error // the first one; nothing is written after it
}

func (f *frameWriter) raw(b []byte) {
	if f.err != nil {
		return
	}
	n, err := f.w.Write(b)
	f.n += int64(n)
	f.err = err
}

func (f *frameWriter) frame(length, sum uint32) {
	f.raw(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), sum))
}

func (f *frameWriter) record(r *commandv1.SnapshotRecord) {
	if f.err != nil {
		return
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		f.err = fmt.Errorf("marshal snapshot record: %w", err)
		return
	}
	if len(raw) > maxRecordBytes {
		f.err = fmt.Errorf("snapshot record of %d bytes, the limit is %d", len(raw), maxRecordBytes)
		return
	}
	f.frame(uint32(len(raw)), crc32.Checksum(raw, castagnoli))
	f.raw(raw)
	f.count++
}

func (f *frameWriter) end() {
	f.frame(0, f.count)
	if f.err == nil {
		f.err = f.w.Flush()
	}
}
