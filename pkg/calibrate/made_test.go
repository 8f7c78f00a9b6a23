package calibrate

import (
	"math"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// hidden is the step time of a made-up engine, which no calibration is told.
type hidden struct{ step, sequence, token, context float64 }

// StepSeconds implements des.Cost.
func (h hidden) StepSeconds(s des.StepShape) float64 {
	t := h.step + h.sequence*float64(s.Decoding) + h.context*float64(s.ContextTokens)/1e3
	for _, c := range s.Chunks {
		t += h.token * float64(c.New)
	}
	return t
}

var engines = map[string]hidden{
	"steps cost most":   {step: 0.010, sequence: 0.0004, token: 0.00010, context: 0.0002},
	"prompts cost most": {step: 0.004, sequence: 0.0002, token: 0.00035, context: 0.0001},
	"a fast one":        {step: 0.002, sequence: 0.00005, token: 0.00002, context: 0.00005},
}

// outside is the time that the made-up engine's requests spend before and after it.
const outside = 8 * time.Millisecond

func config(seqs int) des.Config {
	return des.Config{MaxNumSeqs: seqs, MaxBatchedTokens: 2048, ChunkedPrefill: true, MaxModelLen: 2048, KVTokens: 1 << 16}
}

func traffic(t *testing.T, rate float64, count int, seed uint64) []workload.Request {
	t.Helper()
	return lengths(t, rate, count, seed, 400, 64)
}

// lengths is traffic with prompts and answers of at most so many tokens.
func lengths(t *testing.T, rate float64, count int, seed uint64, prompt, output float64) []workload.Request {
	t.Helper()
	between := func(low, high float64) workload.Quantiles {
		return workload.Quantiles{{P: 0, Tokens: low}, {P: 1, Tokens: high}}
	}
	trace, err := workload.Generate(workload.Spec{
		Arrivals: workload.Arrivals{Rate: rate, CV: 1.5}, Prompt: between(16, prompt), Output: between(8, output), Count: count,
	}, seed)
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// serve lets a made-up engine serve a trace and returns what clients saw that are outside away from it.
func serve(t *testing.T, cfg des.Config, cost des.Cost, outside time.Duration, trace []workload.Request) []Request {
	t.Helper()
	return serveLate(t, cfg, cost, outside, trace, false)
}

// serveLate is serve by an engine that shows tokens at the end of the step after theirs, if there is one.
func serveLate(t *testing.T, cfg des.Config, cost des.Cost, outside time.Duration, trace []workload.Request, late bool) []Request {
	t.Helper()
	tokens := map[uint64][]time.Duration{}
	after := map[time.Duration]time.Duration{} // ends of steps, by their start
	cfg.StepNoise = 0.03
	r, err := des.Run([]*des.Engine{des.New(cfg, cost, 7)}, trace, des.Options{OnStep: func(_ int, start time.Duration, s des.Step) {
		end := start + s.Duration
		after[start] = end
		for _, k := range s.Tokens {
			tokens[k.ID] = append(tokens[k.ID], end)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	var out []Request
	for _, o := range r.Outcomes {
		if !o.Done() {
			t.Fatalf("request %d was not served: %v", o.Request.ID, o.Err)
		}
		at := tokens[o.Request.ID]
		for i, end := range at {
			if next, ok := after[end]; ok && late {
				at[i] = next
			}
			at[i] += outside
		}
		q := Request{
			Arrival: o.Arrival, PromptTokens: o.Request.PromptTokens, OutputTokens: o.Tokens,
			FirstToken: at[0], End: at[len(at)-1],
		}
		for i := 1; i < len(at); i++ {
			q.Gaps = append(q.Gaps, at[i]-at[i-1])
		}
		out = append(out, q)
	}
	return out
}

// off are the errors of a prediction: what was predicted by what was seen, less one.
func off(p Prediction, seen Figures[float64]) map[string]float64 {
	return map[string]float64{
		"TTFT": p.TTFTMean.Value/seen.TTFTMean - 1, "TPOT": p.TPOTMean.Value/seen.TPOTMean - 1, "E2E": p.E2EMean.Value/seen.E2EMean - 1,
	}
}

// within reports errors above what is allowed.
func within(t *testing.T, p Prediction, seen Figures[float64], allowed map[string]float64) {
	t.Helper()
	for what, e := range off(p, seen) {
		if math.Abs(e) > allowed[what] {
			t.Errorf("%s is off by %+.1f %%, allowed %.0f", what, 100*e, 100*allowed[what])
		}
	}
}
