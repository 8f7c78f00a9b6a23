package telemetry

import (
	"math/bits"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// FuzzUnpack: bytes that no packer wrote are refused or make a window, and never break anything. What
// makes a window packs and reads again.
func FuzzUnpack(f *testing.F) {
	n := newNames()
	s := stats.NewSketch()
	for _, v := range []float64{0, .1, .2, 30} {
		if err := s.Add(v); err != nil {
			f.Fatal(err)
		}
	}
	w := fleet.NewWindow("a/0", time.Unix(1_800_000_000, 0))
	w.Sketches[fleet.TTFT], w.Origin[fleet.TTFT] = s, fleet.SourceProbe
	w.Counters[fleet.RequestsFinished], w.Gauges[fleet.KVUsage] = 4, .25
	w.Sources = []*agentv1.Source{{Name: fleet.SourceEngine, AgeMs: 3, Error: "none"}}
	w.StartSteps = []string{"loads"}
	whole := []byte(n.pack(w))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := n.unpack("a/0", packed(raw))
		if err != nil {
			return
		}
		if err := fleet.NewAggregate().Add(got); err != nil {
			return // its sketch is no sketch of requests
		}
		again, err := n.unpack("a/0", n.pack(got))
		if err != nil {
			t.Fatalf("a window that was read does not read again: %v", err)
		}
		if len(again.Counters) != len(got.Counters) || len(again.Gauges) != len(got.Gauges) || len(again.Sketches) != len(got.Sketches) || !again.Start.Equal(got.Start) {
			t.Errorf("read %+v, then %+v", got, again)
		}
	})
}

// FuzzInflate: a block that is broken is refused, however it says it is laid out.
func FuzzInflate(f *testing.F) {
	b := &block{}
	for i := range int64(3) {
		if err := b.put(i, packed("window")); err != nil {
			f.Fatal(err)
		}
	}
	if err := b.seal(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.sealed, b.held)
	f.Add(b.sealed, ^uint32(0))
	f.Add([]byte{}, uint32(1))
	f.Fuzz(func(t *testing.T, sealed []byte, held uint32) {
		b := &block{sealed: sealed, held: held, n: bits.OnesCount32(held)}
		seen := 0
		if err := b.each(func(int64, packed) error { seen++; return nil }); err == nil && seen > b.n {
			t.Errorf("%d windows of %d", seen, b.n)
		}
	})
}
