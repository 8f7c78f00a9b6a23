package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// pastInput asks for one metric over time.
type pastInput struct {
	Selection
	Metric      string    `query:"metric" default:"ttft_seconds" doc:"name of a measurement in windows, such as ttft_seconds, generation_tokens, kv_usage, gpu_sm_active_ratio"`
	Percentile  float64   `query:"percentile" minimum:"0" maximum:"100" default:"95" doc:"of a latency"`
	From        time.Time `query:"from" doc:"begin, RFC 3339; an hour before to when absent"`
	To          time.Time `query:"to" doc:"end, RFC 3339; now when absent"`
	StepSeconds float64   `query:"step_seconds" minimum:"0" default:"0" doc:"length of a point; 0: such that there are about 200"`
}

// Past is one metric over time.
type Past struct {
	Group       string     `json:"group,omitempty"`
	Agent       string     `json:"agent,omitempty"`
	Engine      string     `json:"engine,omitempty"`
	Metric      string     `json:"metric"`
	Kind        string     `json:"kind" enum:"counter,gauge,histogram" doc:"counter: points are rates per second; gauge: means over engines; histogram: the percentile of all engines' values together"`
	Percentile  *float64   `json:"percentile,omitempty"`
	Source      string     `json:"source,omitempty" doc:"who measured it: engine, probe, host, gpu or mixed"`
	From        time.Time  `json:"from"`
	To          time.Time  `json:"to"`
	StepSeconds float64    `json:"step_seconds"`
	Newest      *time.Time `json:"newest,omitempty" doc:"end of the newest point with a value"`
	Points      []Point    `json:"points"`
	Trend       *Trend     `json:"trend" doc:"null: fewer than eight points have a value"`
}

// Point of a metric over time.
type Point struct {
	At    time.Time `json:"at" doc:"end of the step"`
	Value *float64  `json:"value" doc:"null: nothing was measured in the step"`
	Count float64   `json:"count" doc:"values behind a percentile; engine-seconds behind a rate or a mean"`
}

// Trend of the points: a line, and how sure it is.
type Trend struct {
	PerHour    float64 `json:"per_hour" doc:"slope of the line, in the metric's unit per hour"`
	Low        float64 `json:"low_per_hour"`
	High       float64 `json:"high_per_hour"`
	Confidence float64 `json:"confidence" doc:"with which the true slope lies between low and high"`
	Points     int     `json:"points"`
	Direction  string  `json:"direction" enum:"rising,falling,none" doc:"none: the interval holds zero"`
}

const (
	defaultPoints    = 200
	trendConfidence  = 0.95
	minHistoryStep   = 10 * time.Second
	roundHistoryStep = 10 * time.Second
)

func (s *Server) past(_ context.Context, in *pastInput) (*body[Past], error) {
	ids, err := s.selectEngines(in.Selection)
	if err != nil {
		return nil, err
	}
	info, known := s.history.Find(in.Metric)
	if !known {
		return nil, newProblem(http.StatusUnprocessableEntity, fmt.Sprintf("metric %q is not known; GET /prometheus/api/v1/metadata lists all", in.Metric))
	}
	limits := spanInput{WindowSeconds: 3600, From: in.From, To: in.To}
	from, to, err := limits.limits(time.Now())
	if err != nil {
		return nil, err
	}
	step := in.step(from, to)
	from = from.Truncate(step)
	steps, err := s.history.Steps(ids, []string{in.Metric, fleet.RequestsOpen}, from, to, step)
	if err != nil {
		return nil, newProblem(http.StatusUnprocessableEntity, err.Error())
	}
	p := Past{
		Group: in.Group, Agent: in.Agent, Engine: in.Engine, Metric: in.Metric, Kind: info.Kind.String(),
		From: from.UTC(), To: to.UTC(), StepSeconds: step.Seconds(), Points: []Point{},
	}
	if info.Kind == series.Histogram {
		p.Percentile = &in.Percentile
	}
	p.fill(steps, info, in.Percentile/100)
	return ok(s, p)
}

func (in *pastInput) step(from, to time.Time) time.Duration {
	step := time.Duration(in.StepSeconds * float64(time.Second))
	if step == 0 {
		step = (to.Sub(from)/defaultPoints + roundHistoryStep - 1).Truncate(roundHistoryStep)
	}
	return max(step, minHistoryStep)
}

// fill points and trend from steps.
func (p *Past) fill(steps []*fleet.Aggregate, info series.Info, q float64) {
	var hours, values []float64
	for _, a := range steps {
		v, n := valueOf(a, info, q)
		point := Point{At: a.To.UTC(), Value: number(v), Count: n}
		p.Points = append(p.Points, point)
		hours, values = append(hours, a.To.Sub(steps[0].To).Hours()), append(values, v)
		if point.Value != nil {
			p.Newest = &point.At
			p.Source = joined(p.Source, a.SourceOf(info.Metric))
		}
	}
	slope, ok := stats.Trend(hours, values, trendConfidence)
	if !ok {
		return
	}
	p.Trend = &Trend{PerHour: slope.Value, Low: slope.Low, High: slope.High, Confidence: slope.Confidence, Points: slope.Points, Direction: "none"}
	switch {
	case slope.Low > 0:
		p.Trend.Direction = "rising"
	case slope.High < 0:
		p.Trend.Direction = "falling"
	}
}

// valueOf a metric in a step, NaN when there is none, and how much is behind it.
func valueOf(a *fleet.Aggregate, info series.Info, q float64) (v, n float64) {
	switch info.Kind {
	case series.Histogram:
		return a.Quantile(info.Metric, q), a.Count(info.Metric)
	case series.Counter:
		if total, there := a.Counters[info.Metric]; there {
			return total / a.Seconds(), float64(a.Windows)
		}
	case series.Gauge:
		if g, there := a.Gauges[info.Metric]; there {
			return g.Mean(), float64(a.Windows)
		}
	}
	return math.NaN(), 0
}

// joined source of two.
func joined(a, b string) string {
	if a == "" || a == b {
		return b
	}
	return fleet.SourceMixed
}
