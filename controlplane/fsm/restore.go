package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Restore replaces the state by that of a snapshot. The snapshot is read and verified to its end
// first; on any error (ErrSnapshot, or the reader's own) the machine keeps the state it had.
func (m *Machine) Restore(r io.Reader) error {
	restored, err := readState(bufio.NewReader(r))
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = restored
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func readState(r *bufio.Reader) (*state, error) {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != snapshotMagic {
		return nil, fmt.Errorf("%w: it does not begin as a snapshot", ErrSnapshot)
	}
	s := newState()
	for count := uint32(0); ; count++ {
		rec, end, err := readRecord(r, count)
		if err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrSnapshot, count, err)
		}
		if end {
			if count == 0 {
				return nil, fmt.Errorf("%w: no header", ErrSnapshot)
			}
			s.commit()
			return s, nil
		}
		if (rec.GetHeader() != nil) != (count == 0) {
			return nil, fmt.Errorf("%w: record %d: the header is not where it belongs", ErrSnapshot, count)
		}
		if err := s.load(rec); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrSnapshot, count, err)
		}
	}
}

// readRecord reads one frame; end is true for the end mark.
func readRecord(r io.Reader, count uint32) (rec *commandv1.SnapshotRecord, end bool, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, fmt.Errorf("cut short: %w", err)
	}
	length, sum := binary.BigEndian.Uint32(head[:4]), binary.BigEndian.Uint32(head[4:])
	if length == 0 {
		if sum != count {
			return nil, false, fmt.Errorf("%d records were written, %d read", sum, count)
		}
		return nil, true, nil
	}
	if length > maxRecordBytes {
		return nil, false, fmt.Errorf("record of %d bytes, the limit is %d", length, maxRecordBytes)
	}
	var content bytes.Buffer // grows with what is there, not with what is claimed
	if _, err := io.CopyN(&content, r, int64(length)); err != nil {
		return nil, false, fmt.Errorf("cut short: %w", err)
	}
	raw := content.Bytes()
	if crc32.Checksum(raw, castagnoli) != sum {
		return nil, false, fmt.Errorf("checksum differs")
	}
	rec = &commandv1.SnapshotRecord{}
	if err := proto.Unmarshal(raw, rec); err != nil {
		return nil, false, err
	}
	return rec, false, nil
}

// load puts one record where it belongs.
func (s *state) load(rec *commandv1.SnapshotRecord) error {
	switch v := rec.GetRecord().(type) {
	case *commandv1.SnapshotRecord_Header:
		return s.loadHeader(v.Header)
	case *commandv1.SnapshotRecord_Group:
		return load(s.groups, v.Group.GetName(), v.Group)
	case *commandv1.SnapshotRecord_Instance:
		return load(s.instances, v.Instance.GetId(), v.Instance)
	case *commandv1.SnapshotRecord_KnobTable:
		return load(s.knobs, v.KnobTable.GetHash(), v.KnobTable)
	case *commandv1.SnapshotRecord_Body:
		return load(s.bodies, v.Body.GetHash(), v.Body)
	case *commandv1.SnapshotRecord_Epoch:
		return load(s.epochs, epochKey(v.Epoch.GetId()), v.Epoch)
	case *commandv1.SnapshotRecord_Rollout:
		return load(s.rollouts, v.Rollout.GetId(), v.Rollout)
	case *commandv1.SnapshotRecord_Quarantine:
		return load(s.quarantines, quarantineKey(v.Quarantine.GetGroup(), v.Quarantine.GetBodyHash()), v.Quarantine)
	case *commandv1.SnapshotRecord_Workflow:
		return load(s.workflows, v.Workflow.GetId(), v.Workflow)
	case *commandv1.SnapshotRecord_Recommendation:
		return load(s.recommendations, v.Recommendation.GetId(), v.Recommendation)
	case *commandv1.SnapshotRecord_Effect:
		return load(s.effects, v.Effect.GetId(), v.Effect)
	case *commandv1.SnapshotRecord_Experiment:
		return load(s.experiments, v.Experiment.GetId(), v.Experiment)
	case *commandv1.SnapshotRecord_Objective:
		return load(s.objectives, v.Objective.GetName(), v.Objective)
	case *commandv1.SnapshotRecord_Ledger:
		return load(s.ledgers, v.Ledger.GetObjective(), v.Ledger)
	case *commandv1.SnapshotRecord_BudgetPolicy:
		return load(s.budgetPolicies, v.BudgetPolicy.GetService(), v.BudgetPolicy)
	case *commandv1.SnapshotRecord_Violation:
		return load(s.violations, v.Violation.GetId(), v.Violation)
	case *commandv1.SnapshotRecord_Dedupe:
		s.requests = append(s.requests, v.Dedupe.GetRequestId())
		return load(s.dedupe, v.Dedupe.GetRequestId(), v.Dedupe)
	case *commandv1.SnapshotRecord_Event:
		s.publish([]*commandv1.Event{v.Event})
		return nil
	}
	return fmt.Errorf("a kind of record that this version does not know")
}

func (s *state) loadHeader(h *commandv1.SnapshotHeader) error {
	if h.GetSchema() != snapshotSchema {
		return fmt.Errorf("schema %d, this version reads %d", h.GetSchema(), snapshotSchema)
	}
	s.index, s.term, s.clock = h.GetIndex(), h.GetTerm(), h.GetLeaderTimeMs()
	s.clusterID, s.incarnation = h.GetClusterId(), h.GetIncarnation()
	return nil
}

func load[T record](t *table[T], key string, v T) error {
	if _, twice := t.get(key); twice {
		return fmt.Errorf("%T %q appears twice", v, key)
	}
	if key == "" {
		return fmt.Errorf("%T without a name", v)
	}
	t.put(key, v)
	return nil
}
