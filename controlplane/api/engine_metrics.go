package api

import (
	"context"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

type engineMetricsInput struct {
	ID            string  `path:"id" doc:"engine, by id or name"`
	WindowSeconds float64 `query:"window_seconds" minimum:"1" maximum:"540" default:"60"`
	Percentiles   string  `query:"percentiles" example:"50,90,99.9" doc:"further percentiles of latencies, between 0 and 100"`
}

// EngineMetrics is everything measured of one engine.
type EngineMetrics struct {
	Span
	Latest        *Moment            `json:"latest" doc:"its newest window; null when there is none"`
	Distributions []Distribution     `json:"distributions"`
	Counters      map[string]Counted `json:"counters"`
	Gauges        map[string]Level   `json:"gauges"`
}

// Moment is the newest second of an engine.
type Moment struct {
	At         time.Time `json:"at" doc:"begin of the second"`
	AgeSeconds float64   `json:"age_seconds" doc:"since the end of the second"`
	Phase      string    `json:"phase"`
	Serving    bool      `json:"serving"`
	Epoch      uint64    `json:"epoch"`
	StartSteps []string  `json:"start_steps,omitempty" doc:"what the engine's log shows of its start"`
	Sources    []Source  `json:"sources"`
}

// Source of measurements of one engine.
type Source struct {
	Name       string  `json:"name"`
	AgeSeconds float64 `json:"age_seconds" doc:"since it last answered, when the window was made"`
	LagSeconds float64 `json:"lag_seconds,omitempty" doc:"how long before its answer the engine last moved those of its numbers that it moves only now and then"`
	Stale      bool    `json:"stale"`
	Reason     string  `json:"reason,omitempty" doc:"why it is stale"`
	Warning    string  `json:"warning,omitempty" doc:"what it does not tell, and what cannot be known because of it"`
}

// Counted is a counter over a span.
type Counted struct {
	Total     float64 `json:"total"`
	PerSecond float64 `json:"per_second"`
	Source    string  `json:"source"`
	Help      string  `json:"help,omitempty"`
}

// Level is a gauge over a span.
type Level struct {
	Mean   float64 `json:"mean"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Last   float64 `json:"last"`
	Source string  `json:"source"`
	Help   string  `json:"help,omitempty"`
}

func (s *Server) engineMetrics(_ context.Context, in *engineMetricsInput) (*body[EngineMetrics], error) {
	wide := spanInput{Selection: Selection{Engine: in.ID}, WindowSeconds: in.WindowSeconds, Percentiles: in.Percentiles}
	percentiles, err := wide.percentiles()
	if err != nil {
		return nil, err
	}
	engine, err := s.findEngine(in.ID)
	if err != nil {
		return nil, err
	}
	span, a, err := s.aggregate(&wide)
	if err != nil {
		return nil, err
	}
	m := EngineMetrics{
		Span: span, Latest: momentOf(s.telemetry.Latest(engine.GetId())), Distributions: distributions(a, percentiles),
		Counters: map[string]Counted{}, Gauges: map[string]Level{},
	}
	for name, total := range a.Counters {
		info, _ := series.Of(name, series.Counter)
		m.Counters[name] = Counted{Total: total, PerSecond: a.Rate(name), Source: a.SourceOf(name), Help: info.Help}
	}
	for name, g := range a.Gauges {
		info, _ := series.Of(name, series.Gauge)
		m.Gauges[name] = Level{Mean: g.Mean(), Min: g.Min, Max: g.Max, Last: g.Last, Source: a.SourceOf(name), Help: info.Help}
	}
	return ok(s, m)
}

func momentOf(w *fleet.Window) *Moment {
	if w == nil {
		return nil
	}
	m := &Moment{
		At: w.Start.UTC(), AgeSeconds: max(0, time.Since(w.Start.Add(time.Second)).Seconds()), Phase: enumWord(w.Phase, "PHASE_"),
		Serving: w.Serving, Epoch: w.Epoch, StartSteps: w.StartSteps, Sources: []Source{},
	}
	for _, src := range w.Sources {
		m.Sources = append(m.Sources, Source{
			Name: src.GetName(), AgeSeconds: float64(src.GetAgeMs()) / 1000, LagSeconds: float64(src.GetLagMs()) / 1000,
			Stale: src.GetStale(), Reason: src.GetError(), Warning: src.GetWarning(),
		})
	}
	return m
}
