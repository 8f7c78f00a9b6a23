package canarysim

import (
	"errors"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"

	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/stats/canary"
)

// tick is what passes between two looks, in seconds; a block of the slow test is as long.
const tick = 5

// Observation spans of the simulated rollouts, in ticks.
const (
	windowTicks  = 60  // after the change: five minutes
	LeastBefore  = 24  // before it: two minutes, the fewest that count
	FullBefore   = 120 // ten minutes, as many as are used
	spanTicks    = 6   // half a minute, for the old methods
	placeboTicks = 12  // a minute, for ratios between unchanged replicas
)

// Row is a method of telling a bad canary.
type Row int

// Rows of the tables.
const (
	Threshold     Row = iota // p95 over 1.2 times the controls' in half a minute, more than three times
	RankEach                 // Mann-Whitney every half minute, 1 %
	RankOnce                 // Mann-Whitney once at the end, 1 %
	MedianTight              // T2 p50, margin 1.10, 1 %
	TailTight                // T2 p95, margin 1.10, 1 %
	EventsTight              // T1, margin 1.10, 1 %
	SlowPlain                // T3 without autocorrelation, 1 %
	Slow                     // T3, 1 %
	FastMedian               // T2 p50, margin 1.25, 0.1 %
	FastTail                 // T2 p95, margin 1.25, 0.1 %
	FastEvents               // T1, margin 2, 0.1 %
	PlaceboMedian            // the same three with margins from placebo
	PlaceboTail
	PlaceboEvents
	Proof // T3's upper bound below 1.25 at 1 %: not an alarm but a pass
	rows
)

var rowNames = [rows]string{
	"threshold", "rank_each", "rank_once", "t2_p50_tight", "t2_p95_tight", "t1_tight", "t3_plain", "t3",
	"fast_t2_p50", "fast_t2_p95", "fast_t1", "placebo_t2_p50", "placebo_t2_p95", "placebo_t1", "pass",
}

func (r Row) String() string { return rowNames[r] }

// Rollout is what each row said of one simulated canary: the second of its first alarm, 0 for none.
type Rollout struct {
	Alarm [rows]int
	// Unequal: placebo ratios were too large, so no comparison with these margins was made.
	Unequal bool
}

// trial is one canary being watched.
type trial struct {
	fleet     *Fleet
	out       Rollout
	all       [2]*stats.Sketch // canaries, controls: since the change
	threshold float64
	fast      map[Row]*stats.QuantileTest
	events    map[Row]*stats.EventTest
	before    []float64
	shift     *stats.Shift
	after     []float64
	raw       [2][][]float64 // of the last ticks, half a minute
	everRaw   [2][]float64   // since the change, for RankOnce
	strikes   int
	old       bool // the first rows are wanted
}

// Options of a simulation.
type Options struct {
	Factor float64 // by which the change makes the canaries slower
	Before int     // ticks before the change
	Old    bool    // also the rows that are only there to be beaten
}

// Watch simulates one canary and everything that watches it. Equal seeds give equal answers.
func Watch(s Scenario, o Options, seed uint64) (Rollout, error) {
	t := &trial{
		fleet: New(s, seed), all: [2]*stats.Sketch{stats.NewSketch(), stats.NewSketch()}, old: o.Old,
		fast: map[Row]*stats.QuantileTest{}, events: map[Row]*stats.EventTest{},
	}
	if err := t.settle(o.Before); err != nil {
		return Rollout{}, err
	}
	t.fleet.Regress(o.Factor)
	for n := 1; n <= windowTicks; n++ {
		if err := t.look(n); err != nil {
			return Rollout{}, err
		}
	}
	return t.out, nil
}

// ticked is what one tick showed.
type ticked struct {
	replicas []*stats.Sketch
	logs     [2]float64
	counted  [2]stats.Counted
}

// pass lets a tick pass.
func (t *trial) pass(keep func(arm int, ttft float64)) (k ticked, err error) {
	for range t.fleet.Canaries + t.fleet.Controls {
		k.replicas = append(k.replicas, nil)
	}
	for range tick {
		t.fleet.Second(func(replica int, ttft float64) {
			arm := 0
			if replica >= t.fleet.Canaries {
				arm = 1
			}
			k.logs[arm] += math.Log(ttft)
			k.counted[arm].Requests++
			if ttft > t.threshold {
				k.counted[arm].Events++
			}
			keep(arm, ttft)
			if t.shift != nil {
				return
			}
			if k.replicas[replica] == nil {
				k.replicas[replica] = stats.NewSketch()
			}
			if e := k.replicas[replica].Add(ttft); e != nil {
				err = e
			}
		})
	}
	return k, err
}

func (k ticked) difference() float64 {
	return k.logs[0]/k.counted[0].Requests - k.logs[1]/k.counted[1].Requests
}

// settle watches the time before the change: it sets the threshold, the margins and the slow test.
func (t *trial) settle(ticks int) error {
	t.threshold = math.Inf(1)
	everything := stats.NewSketch()
	var spans [][]*stats.Sketch
	for n := 0; len(t.before) < ticks; n++ { // with little traffic some blocks are empty
		k, err := t.pass(func(int, float64) {})
		if err != nil {
			return err
		}
		if d := k.difference(); !math.IsNaN(d) {
			t.before = append(t.before, d)
		}
		if n%placeboTicks == 0 {
			spans = append(spans, make([]*stats.Sketch, len(k.replicas)))
		}
		for i, s := range k.replicas {
			last := spans[len(spans)-1]
			if last[i] == nil {
				last[i] = stats.NewSketch()
			}
			if err := last[i].Merge(s); err != nil {
				return err
			}
			if err := everything.Merge(s); err != nil {
				return err
			}
		}
	}
	t.threshold = everything.Quantile(.95)
	shift, err := stats.NewShift(t.before)
	if err != nil {
		return err
	}
	t.shift = shift
	return t.arrange(spans)
}

// arrange sets up the fast tests.
func (t *trial) arrange(spans [][]*stats.Sketch) (err error) {
	configured := canary.Margins{Quantile: 1.25, Events: 2}
	margins, placebo := canary.Placebo(spans, t.threshold, configured)
	t.out.Unequal = placebo != nil
	add := func(row Row, p, margin float64) {
		if err == nil {
			t.fast[row], err = stats.NewQuantileTest(p, margin)
		}
	}
	count := func(row Row, margin float64) {
		if err == nil {
			t.events[row], err = stats.NewEventTest(margin)
		}
	}
	add(FastMedian, .5, configured.Quantile)
	add(FastTail, .95, configured.Quantile)
	count(FastEvents, configured.Events)
	if !t.out.Unequal {
		add(PlaceboMedian, .5, margins.Quantile)
		add(PlaceboTail, .95, margins.Quantile)
		count(PlaceboEvents, margins.Events)
	}
	if t.old {
		add(MedianTight, .5, 1.10)
		add(TailTight, .95, 1.10)
		count(EventsTight, 1.10)
	}
	return err
}

func (t *trial) alarm(row Row, n int, yes bool) {
	if yes && t.out.Alarm[row] == 0 {
		t.out.Alarm[row] = n * tick
	}
}

// levelOf a fast test in its row.
func levelOf(r Row) float64 {
	if r == MedianTight || r == TailTight || r == EventsTight {
		return .01
	}
	return .001
}

// look lets the n-th tick after the change pass and asks every row.
func (t *trial) look(n int) error {
	var failed error
	for arm := range t.raw {
		t.raw[arm] = append(t.raw[arm], nil)
	}
	k, err := t.pass(func(arm int, ttft float64) {
		if e := t.all[arm].Add(ttft); e != nil {
			failed = e
		}
		if t.old {
			last := len(t.raw[arm]) - 1
			t.raw[arm][last] = append(t.raw[arm][last], ttft)
		}
	})
	if err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	for row, test := range t.fast {
		if t.out.Alarm[row] > 0 {
			continue
		}
		e, err := test.Evidence(t.all[0], t.all[1])
		if err != nil {
			return err
		}
		t.alarm(row, n, e.Rejects(levelOf(row)))
	}
	for row, test := range t.events {
		if err := test.Add(k.counted[0], k.counted[1]); err != nil {
			return err
		}
		t.alarm(row, n, test.Evidence().Rejects(levelOf(row)))
	}
	t.shift.Add(k.difference())
	t.alarm(Slow, n, t.shift.AtLeast(.01) > math.Log(1.10))
	t.alarm(Proof, n, t.shift.AtMost(.01) < math.Log(1.25))
	if t.old {
		return t.lookOld(n, k.difference())
	}
	return nil
}

// lookOld asks the rows that are there to be beaten.
func (t *trial) lookOld(n int, difference float64) error {
	if !math.IsNaN(difference) {
		t.after = append(t.after, difference)
	}
	t.alarm(SlowPlain, n, t.plainBound() > math.Log(1.10))
	var span [2][]float64
	for arm, ticks := range t.raw {
		t.raw[arm] = ticks[max(0, len(ticks)-spanTicks):]
		span[arm] = slices.Concat(t.raw[arm]...)
	}
	if n < spanTicks || len(span[0]) == 0 || len(span[1]) == 0 {
		return nil
	}
	if quantile(span[0], .95) > 1.2*quantile(span[1], .95) {
		t.strikes++
	}
	t.alarm(Threshold, n, t.strikes > 3)
	if n%spanTicks > 0 {
		return nil
	}
	worse, err := rankedWorse(span)
	if err != nil {
		return err
	}
	t.alarm(RankEach, n, worse)
	for arm := range span {
		t.everRaw[arm] = append(t.everRaw[arm], span[arm]...)
	}
	if n < windowTicks {
		return nil
	}
	worse, err = rankedWorse(t.everRaw)
	t.alarm(RankOnce, n, worse)
	return err
}

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(int(q*float64(len(v))), len(v)-1)]
}

// rankedWorse says that the canary's values are larger, at 1 %.
func rankedWorse(v [2][]float64) (bool, error) {
	r, err := stats.MannWhitney(v[0], v[1])
	if err != nil {
		return false, err
	}
	return r.P < .01 && quantile(v[0], .5) > quantile(v[1], .5), nil
}

// plainBound is the lower bound of T3 as if blocks were independent and the mean before the change known.
func (t *trial) plainBound() float64 {
	if len(t.after) < 3 {
		return math.Inf(-1)
	}
	mean, variance := stat.MeanVariance(t.before, nil)
	n, r2 := float64(len(t.after)), 1./8
	radius := math.Sqrt(variance * 2 * (n*r2 + 1) / (n * n * r2) * math.Log(1+math.Sqrt(n*r2+1)/.02))
	return stat.Mean(t.after, nil) - mean - radius
}
