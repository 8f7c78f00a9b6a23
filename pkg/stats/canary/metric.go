package canary

import (
	"fmt"
	"math"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// latency is one metric under the fast tests and the slow one.
type latency struct {
	name            string
	index           int
	threshold       float64
	canary, control *stats.Sketch // all since the change
	median, tail    *stats.QuantileTest
	exceeds         *stats.EventTest
	slow            *slow
}

func newLatency(index int, l Latency, m Margins) (*latency, error) {
	median, err := stats.NewQuantileTest(.5, m.Quantile)
	if err != nil {
		return nil, err
	}
	tail, err := stats.NewQuantileTest(.95, m.Quantile)
	if err != nil {
		return nil, err
	}
	exceeds, err := stats.NewEventTest(m.Events)
	return &latency{
		name: l.Name, index: index, threshold: l.Threshold, canary: stats.NewSketch(), control: stats.NewSketch(),
		median: median, tail: tail, exceeds: exceeds, slow: &slow{},
	}, err
}

func (l *latency) observe(w Window) error {
	canary, control := w.Canary.latency(l.index), w.Control.latency(l.index)
	if err := l.canary.Merge(canary); err != nil {
		return err
	}
	if err := l.control.Merge(control); err != nil {
		return err
	}
	return l.exceeds.Add(l.over(canary), l.over(control))
}

func (l *latency) over(s *stats.Sketch) stats.Counted {
	if s == nil {
		return stats.Counted{}
	}
	return stats.Counted{Events: s.CountAbove(l.threshold), Requests: s.Count()}
}

// quantiles averages the evidence of median and tail into one test.
func (l *latency) quantiles() (stats.Evidence, error) {
	median, err := l.median.Evidence(l.canary, l.control)
	if err != nil {
		return 0, err
	}
	tail, err := l.tail.Evidence(l.canary, l.control)
	return stats.Merge(median, tail), err
}

// event is one kind of bad event.
type event struct {
	name          string
	index         int
	allowed       float64
	worse, better *stats.EventTest
	bad, requests float64 // of the canary
	seen          bool    // both arms were counted
}

func newEvent(index int, e Event, margin float64) (*event, error) {
	worse, err := stats.NewEventTest(margin)
	if err != nil {
		return nil, err
	}
	better, err := stats.NewEventTest(1 / margin)
	return &event{name: e.Name, index: index, allowed: e.Allowed, worse: worse, better: better}, err
}

func (e *event) observe(w Window) error {
	if e.index >= len(w.Canary.Events) || e.index >= len(w.Control.Events) {
		return nil
	}
	e.seen = true
	canary := stats.Counted{Events: w.Canary.Events[e.index], Requests: w.Canary.Requests}
	control := stats.Counted{Events: w.Control.Events[e.index], Requests: w.Control.Requests}
	if err := e.worse.Add(canary, control); err != nil {
		return err
	}
	e.bad += canary.Events
	e.requests += canary.Requests
	return e.better.Add(control, canary) // arms swapped
}

// proven says that the canary's rate is below the margin times that of the controls, or below what the
// objective allows.
func (e *event) proven(cfg Config) bool {
	if !e.seen {
		return false
	}
	if e.better.Evidence().Rejects(cfg.PassLevel) {
		return true
	}
	bound, err := stats.RateNeverAbove(e.bad, e.requests, cfg.PassLevel)
	return err == nil && bound < e.allowed
}

// slow is a metric under the slow test: the difference between both arms in blocks of windows.
type slow struct {
	before []float64
	shift  *stats.Shift
	why    error      // that there is no shift
	sum, n [2]float64 // of the block: canary, control
	ratio  bool       // sum and n are cost and tokens, compared by the logarithm of their ratio
}

const shiftTest = "slow test of the mean"

// addLogs adds the logarithms of both arms' values to the block.
func (s *slow) addLogs(canary, control *stats.Sketch) {
	for i, a := range []*stats.Sketch{canary, control} {
		if a != nil && a.Count() > 0 {
			s.sum[i] += a.MeanLog() * a.Count()
			s.n[i] += a.Count()
		}
	}
}

// addCost adds both arms' cost and tokens to the block.
func (s *slow) addCost(w Window) {
	for i, a := range []Arm{w.Canary, w.Control} {
		s.sum[i] += a.Cost
		s.n[i] += a.Tokens
	}
}

func (s *slow) measured() bool { return len(s.before) > 0 || s.shift != nil }

// close ends a block. Without values on both arms it counts for nothing.
func (s *slow) close() {
	canary, control := s.sum[0]/s.n[0], s.sum[1]/s.n[1]
	d := canary - control
	if s.ratio {
		d = math.Log(canary) - math.Log(control)
	}
	s.sum, s.n = [2]float64{}, [2]float64{}
	if math.IsNaN(d) || math.IsInf(d, 0) {
		return
	}
	if s.shift != nil {
		s.shift.Add(d)
	} else if s.why == nil {
		s.before = append(s.before, d)
	}
}

// begin ends the time before the change.
func (s *slow) begin() {
	s.sum, s.n = [2]float64{}, [2]float64{}
	s.shift, s.why = stats.NewShift(s.before)
}

func (s *slow) finding(name string, cfg Config) Finding {
	f := Finding{Metric: name, Test: shiftTest, Evidence: math.Inf(-1), Needed: math.Log(cfg.SlowMargin)}
	if s.shift != nil {
		f.Evidence = s.shift.AtLeast(cfg.slowLevel())
		f.Rejects = f.Evidence > f.Needed
	}
	return f
}

func (s *slow) missing(name string, cfg Config) []string {
	switch {
	case s.why != nil:
		return []string{name + ": " + s.why.Error()}
	case s.shift == nil || s.shift.Blocks() < stats.LeastBlocks:
		n := 0
		if s.shift != nil {
			n = s.shift.Blocks()
		}
		return []string{fmt.Sprintf("%s: %d of %d blocks after the change", name, n, stats.LeastBlocks)}
	case s.shift.AtMost(cfg.PassLevel) >= math.Log(cfg.PassMargin):
		return []string{fmt.Sprintf("%s: at most %.2f times worse, must prove %.2f", name, math.Exp(s.shift.AtMost(cfg.PassLevel)), cfg.PassMargin)}
	}
	return nil
}
