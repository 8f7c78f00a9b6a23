package main

import (
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
	t10Pairs    = 150 // of arms
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
// one with its hidden truth; predictions come from a calibration on other requests of it. Both arms have
// arrivals of their own, and the changed one is 3 % slower in every step.
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
	seen, err := b.serve(b.segment(0, .7), b.cost, b.truth.StepNoise, 2)
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

// segment is an arm's worth of the trace from a request on, at a share of what the engine keeps up with.
// Prefixes are left out: the bar is about queues.
func (b *t10Bench) segment(from int, share float64) []workload.Request {
	s := slices.Clone(b.trace[from : from+t10Requests])
	start := s[0].Offset
	for i := range s {
		s[i] = workload.Request{
			Offset:       time.Duration(float64(s[i].Offset-start) / (share * b.mostPS)),
			PromptTokens: s[i].PromptTokens, OutputTokens: s[i].OutputTokens,
		}
	}
	return s
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

// measure compares pairs of arms at a load.
func (b *t10Bench) measure(share float64) (c t10Cell, err error) {
	rng := rand.New(rand.NewPCG(t10Seed, 0x10))
	var plain, adjusted, truth []float64
	var results []stats.Adjusted
	for i := range t10Pairs {
		changed, effect, err := b.arm(rng, share, true, uint64(4*i+10))
		if err != nil {
			return c, err
		}
		unchanged, _, err := b.arm(rng, share, false, uint64(4*i+12))
		if err != nil {
			return c, err
		}
		a, err := stats.ControlVariate(changed, unchanged, .95)
		if err != nil {
			return c, err
		}
		results = append(results, a)
		plain, adjusted, truth = append(plain, a.Plain.Value), append(adjusted, a.Adjusted.Value), append(truth, effect)
		c.explained += a.Explained / t10Pairs
	}
	effect, _ := meanAndVariance(truth)
	for _, a := range results {
		c.covered += count(a.Adjusted.Covers(effect))
		c.plain += count(a.Plain.Covers(effect))
	}
	_, before := meanAndVariance(plain)
	_, after := meanAndVariance(adjusted)
	c.saving = before / after
	return c, nil
}

// arm serves a stretch of the trace of its own. For a changed arm, effect is by how much the change made
// the mean time to first token of these very requests longer.
func (b *t10Bench) arm(rng *rand.Rand, share float64, changed bool, seed uint64) (arm stats.Arm, effect float64, err error) {
	trace := b.segment(t10Requests+rng.IntN(len(b.trace)-2*t10Requests), share)
	seen, err := b.serve(trace, b.cost, b.truth.StepNoise, seed)
	if err != nil {
		return arm, 0, err
	}
	calm := ttftOf(seen, 0)
	arm.Measured = calm
	if changed {
		if seen, err = b.serve(trace, slower{b.cost}, b.truth.StepNoise, seed); err != nil {
			return arm, 0, err
		}
		arm.Measured = ttftOf(seen, 0)
		after, _ := meanAndVariance(arm.Measured)
		before, _ := meanAndVariance(calm)
		effect = after - before
	}
	predicted, err := b.serve(trace, b.known, 0, 1)
	arm.Predicted = ttftOf(predicted, b.front)
	return arm, effect, err
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
