package des

import (
	"fmt"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// TestClosedFormAgrees compares the closed form with the model that steps through every iteration, both
// with the same coefficients. They share the step time and nothing else: queueing, batching and prefill
// are formulas in one and events in the other.
func TestClosedFormAgrees(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	traffic := perfmodel.Traffic{PromptTokens: 1000, OutputTokens: 200}
	for _, c := range []struct {
		gpu          string
		seqs, budget int
		load         float64 // of the closed form's largest rate
	}{
		{"l40s", 8, 32, .3},
		{"l40s", 8, 32, .6},
		{"l40s", 4, 512, .5},
		{"l40s", 256, 2048, .3},
		{"h100-sxm", 64, 8192, .5},
		{"h100-sxm", 256, 8192, .3},
	} {
		t.Run(fmt.Sprintf("%s seqs %d budget %d load %.1f", c.gpu, c.seqs, c.budget, c.load), func(t *testing.T) {
			p, err := perfmodel.New(perfmodel.Setup{
				Model: tables.Models["llama-3.1-8b"], GPU: tables.GPUs[c.gpu], MaxNumSeqs: c.seqs, MaxBatchedTokens: c.budget,
			}, perfmodel.Prior())
			if err != nil {
				t.Fatal(err)
			}
			most, err := p.MaxRate(traffic)
			if err != nil {
				t.Fatal(err)
			}
			traffic := traffic
			traffic.Rate = most * c.load
			traffic.ServiceCV = .01 // fixed lengths
			want, err := p.OpenLoop(traffic)
			if err != nil {
				t.Fatal(err)
			}
			s := simulate(t, p, traffic)
			check := func(what string, closed, simulated, factor float64) {
				t.Logf("%s: closed form %.4f, simulated %.4f", what, closed, simulated)
				if closed > simulated*factor || simulated > closed*factor {
					t.Errorf("%s: closed form %.4f, simulated %.4f; want within a factor of %.2f", what, closed, simulated, factor)
				}
			}
			check("TPOT", want.TPOTSeconds, s.TPOT.Mean.Seconds(), 1.05)
			check("TTFT", want.TTFTSeconds, s.TTFT.Mean.Seconds(), 1.2)
			check("E2E", want.E2ESeconds, s.E2E.Mean.Seconds(), 1.05)
		})
	}
}

// simulate serves fixed lengths with Poisson arrivals on one engine.
func simulate(t *testing.T, p *perfmodel.Predictor, traffic perfmodel.Traffic) Summary {
	t.Helper()
	capacity, err := p.KVCapacityTokens()
	if err != nil {
		t.Fatal(err)
	}
	trace, err := workload.Generate(workload.Spec{
		Arrivals: workload.Arrivals{Rate: traffic.Rate}, Count: 1500,
		Prompt: workload.Fixed(int(traffic.PromptTokens)), Output: workload.Fixed(int(traffic.OutputTokens)),
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		MaxNumSeqs: p.Setup().MaxNumSeqs, MaxBatchedTokens: p.Setup().MaxBatchedTokens, ChunkedPrefill: true, KVTokens: capacity,
	}
	r, err := Run([]*Engine{New(cfg, p, 1)}, trace, Options{Warmup: trace[100].Offset})
	if err != nil {
		t.Fatal(err)
	}
	if r.Summary.Finished != 1400 {
		t.Fatalf("%d of 1400 requests finished in %s", r.Summary.Finished, r.Elapsed.Round(time.Second))
	}
	return r.Summary
}
