package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/calibrate"
	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

const (
	t10Pairs    = 400 // of arms
	t10Requests = 300 // in an arm
	t10Slower   = 1.03
	t10Seed     = 1
	t10Longest  = 16384 // tokens of a prompt; longer ones are left out of the traffic
)

// t10Loads are shares of the request rate that the engine can keep up with.
var t10Loads = []struct {
	name   string
	share  float64
	target float64
}{{"load70", .7, 3}, {"saturated", .95, 10}}

// t10Cell is one trace at one load.
type t10Cell struct {
	trace, load       string
	target            float64
	saving, explained float64
	covered, plain    int // intervals that held the truth, of t10Pairs
}

// controlVariateBar prints how many times fewer requests a comparison needs when it takes off what the
// simulator says that each request would have taken anyway. The engine that is measured is the simulated
// one with its hidden truth; predictions come from a calibration on other requests of it. A router deals
// the requests of one stretch of the trace to both arms by chance, so each has arrivals of its own; the
// changed one is 3 % slower in every step.
func controlVariateBar(_ context.Context, _ string, out io.Writer) error {
	var cells []t10Cell
	var skipped []string
	for _, name := range []string{"azure_llm_2023_conv.csv", "mooncake_conversation.jsonl"} {
		trace, err := t9Trace(filepath.Join(dataFolder(), name))
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("BAR T10.%s skipped reason=%q", t9Short(name), err))
			continue
		}
		trace = slices.DeleteFunc(trace, func(r workload.Request) bool { return r.PromptTokens > t10Longest })
		bench, err := newT10Bench(trace)
		if err != nil {
			return err
		}
		for _, l := range t10Loads {
			c, err := bench.measure(l.share)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", name, l.name, err)
			}
			c.trace, c.load, c.target = t9Short(name), l.name, l.target
			cells = append(cells, c)
		}
	}
	printT10(out, cells)
	for _, line := range append(skipped, `BAR T10.cpu skipped reason="no recording of a real engine has two arms with one configuration changed"`) {
		fmt.Fprintln(out, line)
	}
	return nil
}

// printT10 prints the worst factor at 70 % load and then each cell.
func printT10(out io.Writer, cells []t10Cell) {
	if len(cells) == 0 {
		fmt.Fprintln(out, `BAR T10 skipped reason="no trace"`)
		return
	}
	worst := cells[0]
	for _, c := range cells {
		if c.target == worst.target && c.saving < worst.saving {
			worst = c
		}
	}
	fmt.Fprintf(out, "BAR T10 value=%.1f unit=factor target>=%g simulated=true worst=%s load=%s pairs=%d requests_per_arm=%d seed=%d\n",
		worst.saving, worst.target, worst.trace, worst.load, t10Pairs, t10Requests, t10Seed)
	for _, c := range cells {
		id := "BAR T10." + c.trace + "." + c.load
		fmt.Fprintf(out, "%s value=%.1f unit=factor target>=%g explained=%.3f\n", id, c.saving, c.target, c.explained)
		fmt.Fprintf(out, "%s.covered value=%s unit=percent target>=94 nominal=95 unadjusted=%s %s\n", id,
			percentOf(c.covered, t10Pairs), percentOf(c.plain, t10Pairs), r9Interval(c.covered, t10Pairs))
	}
}

// t10Bench is one trace with an engine that serves it.
type t10Bench struct {
	trace  []workload.Request // at one request per second
	cfg    des.Config
	truth  des.Truth
	cost   des.Cost // of the unchanged engine
	known  des.Cost
	front  time.Duration
	mostPS float64 // requests per second that it keeps up with
}

func newT10Bench(trace []workload.Request) (*t10Bench, error) {
	tables, err := perfmodel.Load()
	if err != nil {
		return nil, err
	}
	_, gpu, gpuErr := tables.GPU("h100-sxm")
	_, model, modelErr := tables.Model("llama-3.1-8b")
	if err := errors.Join(gpuErr, modelErr); err != nil {
		return nil, err
	}
	b := &t10Bench{
		cfg:   des.Config{MaxNumSeqs: 128, MaxBatchedTokens: 2048, ChunkedPrefill: true, KVTokens: 400_000, MaxModelLen: 2 * t10Longest},
		truth: des.Hidden(t10Seed, perfmodel.Prior()),
	}
	predictor, err := perfmodel.New(perfmodel.Setup{Model: model, GPU: gpu, MaxNumSeqs: b.cfg.MaxNumSeqs, MaxBatchedTokens: b.cfg.MaxBatchedTokens}, b.truth.Coefficients)
	if err != nil {
		return nil, err
	}
	b.cost = b.truth.Life(1, predictor)
	span := (trace[len(trace)-1].Offset - trace[0].Offset).Seconds()
	b.trace = workload.Scale(trace, span/float64(len(trace)))
	return b, b.prepare()
}

// prepare finds what the engine keeps up with, and calibrates on the first requests of the trace.
func (b *t10Bench) prepare() error {
	first := slices.Clone(b.trace[:4*t10Requests])
	for i := range first {
		first[i].Offset = 0
	}
	result, err := des.Run([]*des.Engine{des.New(b.cfg, b.cost, t10Seed)}, first, des.Options{})
	if err != nil {
		return err
	}
	b.mostPS = float64(len(first)) / result.Elapsed.Seconds()
	seen, err := b.serve(b.stretch(0, t10Requests, .7*b.mostPS), b.cost, b.truth.StepNoise, 2)
	if err != nil {
		return err
	}
	var requests []calibrate.Request
	for _, o := range seen {
		requests = append(requests, calibrate.Request{
			Arrival: o.Arrival, PromptTokens: o.Request.PromptTokens, OutputTokens: o.Request.OutputTokens, FirstToken: o.FirstToken, End: o.End,
		})
	}
	cal, err := calibrate.FromRequests(b.cfg, requests)
	if err != nil {
		return err
	}
	b.known, b.front = cal.Law().Cost(), cal.Front()
	return nil
}

// stretch is so many requests of the trace from one on, at a share of what so many engines keep up with.
// Prefixes are left out: the bar is about queues.
func (b *t10Bench) stretch(from, n int, perSecond float64) []workload.Request {
	s := slices.Clone(b.trace[from : from+n])
	start := s[0].Offset
	for i := range s {
		s[i] = workload.Request{
			Offset:       time.Duration(float64(s[i].Offset-start) / perSecond),
			PromptTokens: s[i].PromptTokens, OutputTokens: s[i].OutputTokens,
		}
	}
	return s
}

// dealt is a stretch of the trace, dealt to two arms by chance.
func (b *t10Bench) dealt(rng *rand.Rand, share float64) (arms [2][]workload.Request) {
	const n = 2 * t10Requests
	whole := b.stretch(t10Requests+rng.IntN(len(b.trace)-t10Requests-n), n, 2*share*b.mostPS)
	for place, i := range rng.Perm(n) {
		arms[place%2] = append(arms[place%2], whole[i])
	}
	for _, a := range arms {
		slices.SortFunc(a, func(x, y workload.Request) int { return cmp.Compare(x.Offset, y.Offset) })
	}
	return arms
}

func (b *t10Bench) serve(trace []workload.Request, cost des.Cost, noise float64, seed uint64) ([]des.Outcome, error) {
	cfg := b.cfg
	cfg.StepNoise = noise
	r, err := des.Run([]*des.Engine{des.New(cfg, cost, seed)}, trace, des.Options{})
	return r.Outcomes, err
}

// slower is an engine whose steps take longer.
type slower struct{ des.Cost }

// StepSeconds implements des.Cost.
func (s slower) StepSeconds(shape des.StepShape) float64 {
	return t10Slower * s.Cost.StepSeconds(shape)
}

// measure compares pairs of arms at a load. An interval is right when it holds what the change does to the
// requests of its own stretch, which a simulation knows: it serves them with and without.
func (b *t10Bench) measure(share float64) (c t10Cell, err error) {
	rng := rand.New(rand.NewPCG(t10Seed, 0x10))
	var plain, adjusted []float64 // errors
	for i := range t10Pairs {
		var arms [2]stats.Arm
		var effect float64
		for k, trace := range b.dealt(rng, share) {
			changed, unchanged, err := b.both(trace, uint64(2*i+k+10))
			if err != nil {
				return c, err
			}
			after, _ := meanAndVariance(changed)
			before, _ := meanAndVariance(unchanged)
			effect += (after - before) / 2
			arms[k].Measured = unchanged
			if k == 0 {
				arms[k].Measured = changed
			}
			predicted, err := b.serve(trace, b.known, 0, 1)
			if err != nil {
				return c, err
			}
			arms[k].Predicted = ttftOf(predicted, b.front)
		}
		a, err := stats.ControlVariate(arms[0], arms[1], .95)
		if err != nil {
			return c, err
		}
		plain, adjusted = append(plain, a.Plain.Value-effect), append(adjusted, a.Adjusted.Value-effect)
		c.covered += count(a.Adjusted.Covers(effect))
		c.plain += count(a.Plain.Covers(effect))
		c.explained += a.Explained / t10Pairs
	}
	_, before := meanAndVariance(plain)
	_, after := meanAndVariance(adjusted)
	c.saving = before / after
	return c, nil
}

// both serves a trace by a changed and by an unchanged engine and returns the times to first token.
func (b *t10Bench) both(trace []workload.Request, seed uint64) (changed, unchanged []float64, err error) {
	seen, err := b.serve(trace, b.cost, b.truth.StepNoise, seed)
	if err != nil {
		return nil, nil, err
	}
	slow, err := b.serve(trace, slower{b.cost}, b.truth.StepNoise, seed)
	return ttftOf(slow, 0), ttftOf(seen, 0), err
}

func ttftOf(outcomes []des.Outcome, front time.Duration) (v []float64) {
	for _, o := range outcomes {
		v = append(v, (o.TTFT() + front).Seconds())
	}
	return v
}

func meanAndVariance(v []float64) (mean, variance float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		variance += math.Pow(x-mean, 2) / float64(len(v)-1)
	}
	return mean, variance
}
