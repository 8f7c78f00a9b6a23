package fleet

import (
	"fmt"
	"math"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Window is what one instance did in one second. Build one with NewWindow.
type Window struct {
	Instance string
	Start    time.Time
	Sketches map[string]*stats.Sketch // by metric
	Origin   map[string]string        // source of each sketch
	Counters map[string]float64
	Gauges   map[string]float64
	Sources  []*agentv1.Source
	Epoch    uint64
	Phase    agentv1.Phase
	Serving  bool
	// StartSteps that the engine's log shows of its start, in order; only while not serving.
	StartSteps []string
}

// NewWindow returns an empty window of an instance.
func NewWindow(instance string, start time.Time) *Window {
	return &Window{
		Instance: instance,
		Start:    start,
		Sketches: map[string]*stats.Sketch{},
		Origin:   map[string]string{},
		Counters: map[string]float64{},
		Gauges:   map[string]float64{},
	}
}

// Stale reports whether any source of the window had gone stale.
func (w *Window) Stale() bool {
	for _, s := range w.Sources {
		if s.GetStale() {
			return true
		}
	}
	return false
}

// Proto returns the wire form.
func (w *Window) Proto() (*agentv1.Window, error) {
	pb := &agentv1.Window{
		InstanceId:  w.Instance,
		StartUnixMs: w.Start.UnixMilli(),
		Counters:    w.Counters,
		Gauges:      w.Gauges,
		Sources:     w.Sources,
		Epoch:       w.Epoch,
		Phase:       w.Phase,
		Serving:     w.Serving,
		StartSteps:  w.StartSteps,
	}
	for metric, s := range w.Sketches {
		raw, err := s.Marshal()
		if err != nil {
			return nil, fmt.Errorf("sketch %s: %w", metric, err)
		}
		pb.Sketches = append(pb.Sketches, &agentv1.Sketch{Metric: metric, Source: w.Origin[metric], Ddsketch: raw, Sum: s.Sum()})
	}
	return pb, nil
}

// FromProto reads the wire form. A broken sketch or a number that is not finite is an error: the
// window of a lying agent is dropped whole.
func FromProto(pb *agentv1.Window) (*Window, error) {
	w := NewWindow(pb.GetInstanceId(), time.UnixMilli(pb.GetStartUnixMs()))
	for _, s := range pb.GetSketches() {
		if !finite(s.GetSum()) {
			return nil, fmt.Errorf("sketch %s: sum is not finite", s.GetMetric())
		}
		sk, err := stats.UnmarshalSketch(s.GetDdsketch(), s.GetSum())
		if err != nil {
			return nil, fmt.Errorf("sketch %s: %w", s.GetMetric(), err)
		}
		w.Sketches[s.GetMetric()] = sk
		w.Origin[s.GetMetric()] = s.GetSource()
	}
	for k, v := range pb.GetCounters() {
		if !finite(v) || v < 0 {
			return nil, fmt.Errorf("counter %s: %v is not an increase", k, v)
		}
		w.Counters[k] = v
	}
	for k, v := range pb.GetGauges() {
		if !finite(v) {
			return nil, fmt.Errorf("gauge %s: not finite", k)
		}
		w.Gauges[k] = v
	}
	w.Sources, w.Epoch, w.Phase, w.Serving = pb.GetSources(), pb.GetEpoch(), pb.GetPhase(), pb.GetServing()
	w.StartSteps = pb.GetStartSteps()
	return w, nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// Aggregate is any number of windows merged: of one instance over time, of a group, of the fleet.
type Aggregate struct {
	From, To  time.Time
	Windows   int                      // instance-seconds merged
	Instances map[string]int           // windows by instance
	Sketches  map[string]*stats.Sketch // by metric
	Origin    map[string]string        // source of each metric; SourceMixed when windows differ
	Counters  map[string]float64       // increases over the span
	Gauges    map[string]Gauge
	StaleSecs int // instance-seconds with a stale source
}

// Gauge summarises a gauge over the merged windows.
type Gauge struct {
	Sum, Min, Max float64
	N             int
	Last          float64 // of the newest window
	last          time.Time
}

// Mean over instance-seconds; NaN when there are none.
func (g Gauge) Mean() float64 { return g.Sum / float64(g.N) }

// NewAggregate returns an empty aggregate.
func NewAggregate() *Aggregate {
	return &Aggregate{
		Instances: map[string]int{},
		Sketches:  map[string]*stats.Sketch{},
		Origin:    map[string]string{},
		Counters:  map[string]float64{},
		Gauges:    map[string]Gauge{},
	}
}

// Add merges one window.
func (a *Aggregate) Add(w *Window) error {
	end := w.Start.Add(time.Second)
	if a.Windows == 0 || w.Start.Before(a.From) {
		a.From = w.Start
	}
	if end.After(a.To) {
		a.To = end
	}
	a.Windows++
	a.Instances[w.Instance]++
	if w.Stale() {
		a.StaleSecs++
	}
	for m, s := range w.Sketches {
		if err := a.Sketch(m, w.Origin[m]).Merge(s); err != nil {
			return fmt.Errorf("%s of %s: %w", m, w.Instance, err)
		}
	}
	for k, v := range w.Counters {
		a.Counters[k] += v
	}
	for k, v := range w.Gauges {
		a.AddGauge(k, v, w.Start)
	}
	return nil
}

// Sketch of a metric to merge values of a source into, made when there is none.
func (a *Aggregate) Sketch(metric, source string) *stats.Sketch {
	s := a.Sketches[metric]
	switch {
	case s == nil:
		s = stats.NewSketch()
		a.Sketches[metric], a.Origin[metric] = s, source
	case a.Origin[metric] != source:
		a.Origin[metric] = SourceMixed
	}
	return s
}

// AddGauge takes one value of a gauge, as of a time.
func (a *Aggregate) AddGauge(metric string, v float64, at time.Time) {
	a.Gauges[metric] = a.Gauges[metric].add(v, at)
}

func (g Gauge) add(v float64, at time.Time) Gauge {
	if g.N == 0 {
		g.Min, g.Max = v, v
	}
	g.Min, g.Max = min(g.Min, v), max(g.Max, v)
	g.Sum += v
	g.N++
	if !at.Before(g.last) {
		g.Last, g.last = v, at
	}
	return g
}

// Seconds that the span covers.
func (a *Aggregate) Seconds() float64 { return a.To.Sub(a.From).Seconds() }

// Rate of a counter per second of the span.
func (a *Aggregate) Rate(counter string) float64 {
	if s := a.Seconds(); s > 0 {
		return a.Counters[counter] / s
	}
	return 0
}

// Quantile of a metric; NaN when nothing was observed.
func (a *Aggregate) Quantile(metric string, q float64) float64 {
	if s := a.Sketches[metric]; s != nil {
		return s.Quantile(q)
	}
	return math.NaN()
}

// Count of observations of a metric.
func (a *Aggregate) Count(metric string) float64 {
	if s := a.Sketches[metric]; s != nil {
		return s.Count()
	}
	return 0
}
