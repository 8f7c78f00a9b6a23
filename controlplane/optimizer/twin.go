package optimizer

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Replay runs a plan on a model of one replica of the group, with settings on top of what runs, in
// virtual time. Each draw has other coefficients that agree with what the engines show.
func (v *Service) Replay(_ context.Context, group string, settings map[string]string, p load.Plan, draw int) (*load.Report, error) {
	s, err := v.scene(group, v.cfg.Span)
	if err != nil {
		return nil, err
	}
	t, err := s.traffic()
	if err != nil { // nobody uses it now: the plan's own lengths have to do
		t = traffic{rate: max(p.Rate, 1), prompt: max(p.Prompt.Mean(), 1), output: max(p.Output.Mean(), 1)}
	}
	neutral, err := s.neutralSettings(settings)
	if err != nil {
		return nil, err
	}
	s.Replicas = 1
	cal, err := v.calibrate(s, setupOf(s, nil), s.operatingPoint(t), t)
	if err != nil {
		return nil, err
	}
	trace, err := p.Traffic()
	if err != nil {
		return nil, err
	}
	sim := &simulator{scene: s, traffic: t, cal: cal, replicas: 1}
	result, err := sim.twin(neutral, draw%draws, trace, p)
	if err != nil {
		return nil, err
	}
	return twinReport(s, settings, p, result)
}

// twin runs a trace on one replica.
func (sim *simulator) twin(neutral map[string]string, n int, trace []workload.Request, p load.Plan) (des.Result, error) {
	setup := sim.setup(neutral)(sim.cal.gpu, sim.cal.model)
	cost, kv, err := sim.cost(neutral, setup, n)
	if err != nil {
		return des.Result{}, err
	}
	config := sim.scene.Config()
	for k, value := range neutral {
		config[k] = value
	}
	engine := des.New(des.Config{
		Dialect: dialects[sim.scene.Engine], MaxNumSeqs: setup.MaxNumSeqs, MaxBatchedTokens: setup.MaxBatchedTokens,
		ChunkedPrefill: config["chunked_prefill"] != "false", KVTokens: kv, AsyncScheduling: true,
	}, cost, uint64(n))
	o := des.Options{}
	if p.Arrivals == load.Closed {
		o.Clients, o.Until = p.Concurrency, p.Span()
	}
	return des.Run([]*des.Engine{engine}, trace, o)
}

// twinReport tells a simulated run as if a client had measured it.
func twinReport(s *Scene, settings map[string]string, p load.Plan, result des.Result) (*load.Report, error) {
	start := time.Unix(0, 0)
	c := load.NewCollector(p, start)
	for k, o := range result.Outcomes {
		if o.Replica < 0 || p.Arrivals == load.Closed && !o.Done() {
			continue // not sent, or still open when a closed loop ends
		}
		r := load.Record{
			Number: k, Target: "twin", Intended: start.Add(o.Arrival), Sent: start.Add(o.Arrival), FirstToken: start.Add(o.FirstToken),
			LastToken: start.Add(o.End), Done: start.Add(o.End), PromptTokens: o.Request.PromptTokens, Tokens: o.Tokens,
		}
		switch {
		case o.Err != nil:
			r.Fail("refused", o.Err.Error())
		case !o.Done():
			r.Fail(load.FailedUnfinished, "")
		}
		c.Add(r)
	}
	return c.Report(load.Subject{Kind: s.Engine, Model: s.Model, Hardware: s.Hardware, Settings: settings, Twin: true}, "")
}

// Live describes the traffic of one replica of the group now: its rate, the variation of requests
// between seconds, mean lengths in the shape of a public trace, and the share of prompts that repeats.
func (v *Service) Live(_ context.Context, group string) (load.Plan, error) {
	s, err := v.scene(group, v.cfg.Span)
	if err != nil {
		return load.Plan{}, err
	}
	t, err := s.traffic()
	if err != nil {
		return load.Plan{}, err
	}
	if t.rate <= 0 {
		return load.Plan{}, fmt.Errorf("group %s gets no requests", group)
	}
	spec, err := workload.Named(trafficShape)
	if err != nil {
		return load.Plan{}, err
	}
	p := load.Plan{
		Arrivals: load.Poisson, Rate: t.rate, LengthCorrelation: spec.LengthCorrelation,
		Prompt: scaleLengths(spec.Prompt, t.prompt), Output: scaleLengths(spec.Output, t.output),
	}
	if t.hit > 0 {
		p.Shared = workload.Shared{Groups: 4, Share: 1, Tokens: max(1, int(t.hit*t.prompt))}
	}
	if cv := s.burstiness(t.rate); cv > 0 {
		p.Arrivals, p.CV = load.Bursty, cv
	}
	return p, nil
}

// burstiness is the coefficient of variation of the rate itself: by how much counts of one second vary
// beyond what independent arrivals do; 0 when they do not.
func (s *Scene) burstiness(rate float64) float64 {
	var n, sum, squares float64
	for _, w := range s.Windows {
		c := w.Counters[fleet.RequestsFinished]
		n, sum, squares = n+1, sum+c, squares+c*c
	}
	const few, surely = 20, 1.3
	if n < few || sum == 0 {
		return 0
	}
	mean := sum / n
	dispersion := (squares/n - mean*mean) / mean
	if dispersion < surely {
		return 0
	}
	return math.Sqrt((dispersion - 1) / rate)
}
