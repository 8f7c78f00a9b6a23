package optimizer

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// TestHeldBack tells senders that wait for answers from independent arrivals.
func TestHeldBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	poisson := func(mean float64) (n float64) { // of small means, by exponential gaps
		for at := rng.ExpFloat64(); at < mean; at += rng.ExpFloat64() {
			n++
		}
		return n
	}
	for name, c := range map[string]struct {
		running, waiting func(i int) float64
		want             int
	}{
		"independent arrivals":        {func(int) float64 { return poisson(20) }, func(int) float64 { return 0 }, 0},
		"always the same, no queue":   {func(i int) float64 { return 31 + float64(i%2) }, func(int) float64 { return 0 }, 32},
		"always the same, a queue":    {func(int) float64 { return 2 }, func(int) float64 { return 30 }, 32},
		"a queue that grows":          {func(int) float64 { return 2 }, func(i int) float64 { return 1 + 3*float64(i) }, 0},
		"one request after the other": {func(int) float64 { return 1 }, func(int) float64 { return 0 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Scene{Totals: fleet.NewAggregate()}
			for i := range 30 {
				w := fleet.NewWindow("a/0", time.Unix(int64(i), 0))
				w.Gauges[fleet.RequestsRunning], w.Gauges[fleet.RequestsWaiting] = c.running(i), c.waiting(i)
				w.Counters[fleet.RequestsFinished] = 3
				s.Windows = append(s.Windows, w)
				if err := s.Totals.Add(w); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.heldBack(); got != c.want {
				t.Errorf("held back at %d, want %d", got, c.want)
			}
		})
	}
}
