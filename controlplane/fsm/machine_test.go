package fsm_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const (
	putGroup = commandv1.CommandType_COMMAND_TYPE_PUT_GROUP
	stepType = commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT
)

func envelope(t *testing.T, e *commandv1.Envelope) []byte {
	t.Helper()
	raw, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestUnknownCommands(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"unknown type stops", envelope(t, &commandv1.Envelope{Type: 999}), fsm.ErrUnknownCommand},
		{"ignorable type is skipped", envelope(t, &commandv1.Envelope{Type: 999, Flags: 1}), nil},
		{"newer version stops", envelope(t, &commandv1.Envelope{Type: putGroup, Version: 99}), fsm.ErrUnknownCommand},
		{"no envelope stops", []byte{0xff}, fsm.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := fsm.New()
			if r := m.Apply(1, c.raw); !errors.Is(r.Fatal, c.want) {
				t.Errorf("fatal %v, want %v", r.Fatal, c.want)
			}
		})
	}
}

func TestReplayedIndexStops(t *testing.T) {
	w := fsmtest.New(1)
	if r := w.Machine.Apply(1, w.Log[0].Raw); !errors.Is(r.Fatal, fsm.ErrReplayed) {
		t.Errorf("fatal %v, want %v", r.Fatal, fsm.ErrReplayed)
	}
}

func TestDedupe(t *testing.T) {
	w := fsmtest.New(2)
	create := func(settings string) fsm.Result {
		return w.DoAs(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT,
			&commandv1.CreateRollout{Group: fsmtest.Group, Body: fsmtest.Body(settings)}, "req-1", "operator")
	}
	first := create("16")
	if first.Err() != nil || first.ObjectID == "" {
		t.Fatalf("first: %+v", first)
	}
	if again := create("16"); again.ObjectID != first.ObjectID || again.Index != first.Index {
		t.Errorf("repetition answered %+v, want %+v", again, first)
	}
	if n := len(w.Machine.Rollouts("")); n != 1 {
		t.Errorf("%d rollouts, want 1", n)
	}
	if other := create("32"); other.Refusal == nil || other.Refusal.Code != fsm.Conflict {
		t.Errorf("other request under the same id: %+v", other)
	}
	w.Advance(25 * time.Hour)
	if late := create("32"); late.Err() != nil {
		t.Errorf("after expiry: %v", late.Err())
	}
}

func TestRefusedCommandLeavesNoTrace(t *testing.T) {
	w := fsmtest.New(2)
	before := w.Machine.Group(fsmtest.Group)
	r := w.SetPolicy(&commandv1.Policy{MaxUnavailable: 2, Steps: []uint32{50, 20}})
	if r.Refusal == nil || r.Refusal.Code != fsm.Invalid {
		t.Fatalf("accepted: %+v", r)
	}
	if !proto.Equal(before, w.Machine.Group(fsmtest.Group)) {
		t.Error("the group was changed")
	}
}

func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy *commandv1.Policy
		words  string // of the refusal; empty: accepted
	}{
		{"zero keeps the defaults", &commandv1.Policy{}, ""},
		{"steps must end at 100", &commandv1.Policy{Steps: []uint32{5, 50}}, "must be 100"},
		{"steps must rise", &commandv1.Policy{Steps: []uint32{50, 50, 100}}, "must rise"},
		{"hard margin above margin", &commandv1.Policy{Margin: 3}, "hard_margin"},
		{"margin above the sketch's error", &commandv1.Policy{Margin: 1.01}, "1.03"},
		{"leases within probation", &commandv1.Policy{LeaseEveryMs: 100_000}, "three leases"},
		{"observe_max below observe_min", &commandv1.Policy{ObserveMaxMs: 1000}, "observe_max"},
		{"floor above replicas", &commandv1.Policy{Floor: 9}, "no change could ever be made"},
		{"reserve not checked", &commandv1.Policy{Reserve: -1}, ""},
		{"reserve out of range", &commandv1.Policy{Reserve: -2}, "share of the load"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := fsmtest.New(4).SetPolicy(c.policy)
			if got := r.Err(); (got == nil) != (c.words == "") || got != nil && !strings.Contains(got.Error(), c.words) {
				t.Errorf("error %v, want %q", got, c.words)
			}
		})
	}
}

func TestIfMatch(t *testing.T) {
	w := fsmtest.New(2)
	at := w.Machine.Group(fsmtest.Group).GetModifyIndex()
	put := func(match uint64) fsm.Result {
		return w.Do(putGroup, &commandv1.PutGroup{Name: fsmtest.Group, IfMatch: match, Policy: &commandv1.Policy{BakeMs: 1000}})
	}
	if r := put(at); r.Err() != nil {
		t.Fatal(r.Err())
	}
	if r := put(at); r.Refusal == nil || r.Refusal.Code != fsm.PreconditionFailed {
		t.Errorf("stale if_match: %+v", r)
	}
}

func TestReadersGetCopies(t *testing.T) {
	w := fsmtest.New(2)
	hash := w.Machine.Hash()
	w.Machine.Group(fsmtest.Group).Engine = "changed"
	w.Machine.Instances("")[0].Group = "changed"
	w.Machine.Events(0, 0)[0].Text = "changed"
	if w.Machine.Hash() != hash {
		t.Error("a reader changed the state")
	}
}

func TestWatchAndEvents(t *testing.T) {
	w := fsmtest.New(1)
	changed := w.Machine.Watch()
	since := w.Machine.Index()
	select {
	case <-changed:
		t.Fatal("closed before anything changed")
	default:
	}
	w.SetPolicy(&commandv1.Policy{BakeMs: 1000})
	select {
	case <-changed:
	default:
		t.Fatal("not closed by a change")
	}
	events := w.Machine.Events(since, 1)
	if len(events) != 1 || !strings.Contains(events[0].GetText(), "policy of group chat") {
		t.Errorf("events %v", events)
	}
}

func TestSnapshotRestores(t *testing.T) {
	w := fsmtest.New(8)
	promote(t, w, "r-1", "16")
	snap, err := w.Machine.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	hash := w.Machine.Hash()
	w.SetPolicy(&commandv1.Policy{BakeMs: 1000}) // the snapshot must not see this
	var raw bytes.Buffer
	if _, err := snap.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	restored := fsm.New()
	if err := restored.Restore(bytes.NewReader(raw.Bytes())); err != nil {
		t.Fatal(err)
	}
	if restored.Hash() != hash {
		t.Error("restored state differs")
	}
	for _, cut := range []int{0, 1, 8, 20, raw.Len() / 2, raw.Len() - 1} {
		if err := restored.Restore(bytes.NewReader(raw.Bytes()[:cut])); !errors.Is(err, fsm.ErrSnapshot) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	flipped := bytes.Clone(raw.Bytes())
	flipped[raw.Len()/2] ^= 0x10
	if err := restored.Restore(bytes.NewReader(flipped)); !errors.Is(err, fsm.ErrSnapshot) {
		t.Errorf("flipped bit: %v", err)
	}
	if restored.Hash() != hash {
		t.Error("a failed restore changed the state")
	}
}

func FuzzRestore(f *testing.F) {
	w := fsmtest.New(2)
	snap, err := w.Machine.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := snap.WriteTo(&raw); err != nil {
		f.Fatal(err)
	}
	f.Add(raw.Bytes())
	f.Add([]byte("perfsnp1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fsm.New()
		before := m.Hash()
		if err := m.Restore(bytes.NewReader(b)); err != nil && m.Hash() != before {
			t.Error("a failed restore changed the state")
		}
	})
}

func FuzzApply(f *testing.F) {
	for _, e := range fsmtest.New(2).Log {
		f.Add(e.Raw)
	}
	f.Add([]byte{8, 6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, b := fsmtest.New(2), fsmtest.New(2)
		next := uint64(len(a.Log) + 1)
		ra, rb := a.Machine.Apply(next, raw), b.Machine.Apply(next, raw)
		if (ra.Err() == nil) != (rb.Err() == nil) || a.Machine.Hash() != b.Machine.Hash() {
			t.Errorf("two machines differ: %+v, %+v", ra, rb)
		}
	})
}
