package canarysim

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
)

// Cell is what many rollouts of one scenario came to.
type Cell struct {
	Scenario string
	Factor   float64
	Runs     int
	Unequal  int         // in which placebo ratios forbade a comparison
	times    [rows][]int // of alarms, sorted
}

// each calls one for seeds from seed up, on all processors, and keeps the results in order.
func each[T any](runs int, seed uint64, one func(seed uint64) (T, error)) ([]T, error) {
	results, errs := make([]T, runs), make([]error, runs)
	next := make(chan int)
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range next {
				results[i], errs[i] = one(seed + uint64(i))
			}
		})
	}
	for i := range runs {
		next <- i
	}
	close(next)
	group.Wait()
	return results, errors.Join(errs...)
}

// Run simulates rollouts of one canary wave on all processors. Equal seeds give equal cells.
func Run(s Scenario, o Options, runs int, seed uint64) (Cell, error) {
	results, err := each(runs, seed, func(seed uint64) (Rollout, error) { return Watch(s, o, seed) })
	c := Cell{Scenario: s.Name, Factor: o.Factor, Runs: runs}
	for _, r := range results {
		if r.Unequal {
			c.Unequal++
		}
		for row, at := range r.Alarm {
			if at > 0 {
				c.times[row] = append(c.times[row], at)
			}
		}
	}
	for _, t := range c.times {
		slices.Sort(t)
	}
	return c, err
}

// Alarms of a row.
func (c Cell) Alarms(r Row) int { return len(c.times[r]) }

// Share of the runs in which a row raised an alarm.
func (c Cell) Share(r Row) float64 { return float64(c.Alarms(r)) / float64(c.Runs) }

// By is the share of the runs in which a row raised an alarm within so many seconds.
func (c Cell) By(r Row, seconds float64) float64 {
	n, _ := slices.BinarySearchFunc(c.times[r], seconds, func(at int, s float64) int {
		if float64(at) <= s {
			return -1
		}
		return 1
	})
	return float64(n) / float64(c.Runs)
}

// After is the second by which a share q of a row's alarms had been raised, 0 without any.
func (c Cell) After(r Row, q float64) int {
	t := c.times[r]
	if len(t) == 0 {
		return 0
	}
	return t[min(int(q*float64(len(t))), len(t)-1)]
}

// Detection is a reference: how soon a row finds a regression. Medians and 90th percentiles count the
// runs in which it is found at all.
type Detection struct {
	Scenario    string
	Row         Row
	Factor      float64
	Median, P90 float64 // seconds; 0 where none is given
	Power       float64 // share of runs in which it is found within five minutes
}

// Detections are the acceptance table of the design.
var Detections = []Detection{
	{"A", FastMedian, 3, 10, 15, 1},
	{"B", FastMedian, 3, 15, 15, 1},
	{"E", FastMedian, 3, 5, 5, 1},
	{"A", FastMedian, 2, 20, 25, 1},
	{"B", FastMedian, 2, 20, 40, 1},
	{"E", FastMedian, 2, 5, 10, 1},
	{"A", FastMedian, 1.5, 65, 105, 1},
	{"B", FastMedian, 1.5, 55, 175, .92},
	{"E", FastMedian, 1.5, 15, 55, 1},
	{"A", FastEvents, 3, 10, 20, 1},
	{"B", FastEvents, 3, 10, 25, 1},
	{"E", FastEvents, 3, 5, 5, 1},
	{"A", FastEvents, 2, 25, 45, 1},
	{"B", FastEvents, 2, 30, 75, 1},
	{"E", FastEvents, 2, 10, 15, 1},
	{"A", FastEvents, 1.5, 115, 0, 1},
	{"B", FastEvents, 1.5, 80, 0, .76},
	{"E", FastEvents, 1.5, 35, 115, 1},
	{"A", Slow, 3, 15, 15, 1},
	{"B", Slow, 3, 20, 40, 1},
	{"E", Slow, 3, 15, 15, 1},
	{"A", Slow, 2, 15, 20, 1},
	{"B", Slow, 2, 35, 95, 1},
	{"E", Slow, 2, 15, 30, 1},
	{"A", Slow, 1.5, 30, 45, 1},
	{"B", Slow, 1.5, 75, 190, .72},
	{"E", Slow, 1.5, 35, 90, 1},
	{"A", Slow, 1.25, 110, 0, .85},
	{"B", Slow, 1.25, 120, 0, .27},
	{"E", Slow, 1.25, 80, 0, .62},
	{"C", FastMedian, 2, 95, 0, 0},
}

// Late says by how many looks a cell misses 1.2 times the reference, 0 when it meets it. Times are those
// by which as large a share of all runs had been found as in the reference, so that finding more, and the
// rest of it late, counts as no worse; a limit between two looks is met at
// the next one.
func (d Detection) Late(c Cell) (looks int) {
	power := d.Power
	if power == 0 {
		power = 1
	}
	for _, q := range []struct{ share, seconds float64 }{{.5, d.Median}, {.9, d.P90}} {
		if q.seconds > 0 {
			allowed := math.Ceil(1.2*q.seconds/tick - 1e-9)
			looks = max(looks, c.reaches(d.Row, q.share*power)/tick-int(allowed))
		}
	}
	return looks
}

// reaches is the second by which a row had found that share of all runs; far beyond the end if it never
// did.
func (c Cell) reaches(r Row, share float64) int {
	n := int(math.Ceil(share*float64(c.Runs))) - 1
	if t := c.times[r]; n < len(t) {
		return t[max(n, 0)]
	}
	return 10 * windowTicks * tick
}

// Weak says that a row finds less than the reference by more than 1.2 times.
func (d Detection) Weak(c Cell) bool { return c.Share(d.Row) < d.Power/1.2 }
