package history

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
)

// snapshotOf a head, as another node reads it.
func snapshotOf(t *testing.T, h *Head) *Head {
	t.Helper()
	var b bytes.Buffer
	if err := h.Write(&b); err != nil {
		t.Fatal(err)
	}
	other, err := Read(&b, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// TestAdopt: a new leader, which began at zero, goes on from where the former one ended; twice is as once.
func TestAdopt(t *testing.T) {
	former := newRig("")
	former.add(t, "e", 0, 100, .2)
	former.add(t, "gone", 0, 50, .2)
	former.until(120)

	now := newRig("")
	now.now = noon.Add(120 * time.Second)
	now.add(t, "e", 130, 300, .2)
	now.until(320)

	if n := now.Head.adopt(snapshotOf(t, former.Head)); n != 6 {
		t.Errorf("%d series adopted, want three of each engine", n)
	}
	if n := now.Head.adopt(snapshotOf(t, former.Head)); n != 0 {
		t.Errorf("%d series adopted again", n)
	}
	now.add(t, "e", 300, 320, .2)
	now.until(340)

	var want []point
	for sec := 10; sec <= 320; sec += 10 {
		switch {
		case sec <= 100:
			want = append(want, point{at(sec), float64(2 * sec)})
		case sec >= 140:
			want = append(want, point{at(sec), float64(200 + 2*(sec-130))})
		}
	}
	for _, name := range []string{finished, ttft} {
		got := points(t, now.Head, noon, noon.Add(time.Hour), equal(model.MetricNameLabel, name), equal("engine", "e"))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := points(t, now.Head, noon, noon.Add(time.Hour), equal(model.MetricNameLabel, finished), equal("engine", "gone")); len(got) != 6 || got[4].V != 100 {
		t.Errorf("an engine that only the former leader knew: %v", got)
	}
	before := now.Stats()
	again := snapshotOf(t, now.Head).Stats()
	if before.Series != again.Series || again.Bytes > before.Bytes*12/10 || again.Bytes < before.Bytes*8/10 {
		t.Errorf("bytes are told as %d, by count they are %d", before.Bytes, again.Bytes)
	}
}

// TestAdoptInRun goes by way of the recorder's goroutine, and ends with the caller's patience.
func TestAdoptInRun(t *testing.T) {
	former := newRig("")
	former.add(t, "e", 0, 100, .2)
	former.until(120)
	now := newRig("")
	gone, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := now.Adopt(gone, snapshotOf(t, former.Head)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody runs, yet it is %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- now.Run(ctx) }()
	if n, err := now.Adopt(ctx, snapshotOf(t, former.Head)); n != 3 || err != nil {
		t.Errorf("%d adopted, %v", n, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
