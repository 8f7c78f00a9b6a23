package sim

import (
	"flag"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

var (
	oneSeed = flag.Int64("seed", -1, "run this seed alone")
	count   = flag.Int("seeds", 0, "how many seeds to run (default 10000; 300 under the race detector or with -short)")
	from    = flag.Uint64("from", 0, "the first of these seeds, to look where no run has looked before")
)

// shards run at the same time; each takes every shards-th seed.
const shards = 4

// TestInvariantsHold runs many seeds. One that fails is run again with -seed N.
func TestInvariantsHold(t *testing.T) {
	if *oneSeed >= 0 {
		stats, failure := Run(uint64(*oneSeed))
		t.Logf("%+v", stats)
		if failure != nil {
			t.Fatal(failure)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // runs are small and leave much behind: half as fast again
	n := seeds()
	began := time.Now()
	var failed atomic.Bool
	sums := make([]Stats, shards)
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := shard; seed < n && !failed.Load(); seed += shards {
					stats, failure := Run(*from + uint64(seed))
					sums[shard].add(stats)
					if failure != nil {
						failed.Store(true)
						t.Fatal(failure)
					}
				}
			})
		}
	})
	var sum Stats
	for _, s := range sums {
		sum.add(s)
	}
	t.Logf("%d seeds, %.0f a second: %+v", n, float64(n)/time.Since(began).Seconds(), sum)
	if !failed.Load() && (sum.Succeeded < n/10 || sum.RolledBack < n/10 || sum.Terms < n/10 || sum.Guards == 0) {
		t.Errorf("the runs are too empty to show anything: %+v", sum)
	}
}

// seeds is how many to run. Under the race detector the count matters little: a run is a single
// goroutine, and the shards share nothing.
func seeds() int {
	switch {
	case *count > 0:
		return *count
	case raced || testing.Short():
		return 300
	}
	return 10_000
}

// TestSameSeedSameRun: without it, a seed would not bring a failure back.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(20) {
		a, b := newWorld(seed), newWorld(seed)
		a.run()
		b.run()
		if a.machine.Hash() != b.machine.Hash() || a.now != b.now || a.stats != b.stats {
			t.Fatalf("seed %d: two runs differ: %+v, %+v", seed, a.stats, b.stats)
		}
	}
}

func (s *Stats) add(o Stats) {
	s.Entries += o.Entries
	s.Terms += o.Terms
	s.Waves += o.Waves
	s.Succeeded += o.Succeeded
	s.RolledBack += o.RolledBack
	s.Cancelled += o.Cancelled
	s.Crashes += o.Crashes
	s.Reverts += o.Reverts
	s.Guards += o.Guards
}
