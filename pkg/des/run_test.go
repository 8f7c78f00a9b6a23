package des

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

func TestRunRecordsOneRequest(t *testing.T) {
	e := New(Config{ChunkedPrefill: true, MaxBatchedTokens: 8}, oneSecond, 1)
	trace := []workload.Request{{Offset: 5 * time.Second, PromptTokens: 12, OutputTokens: 3}}
	r, err := Run([]*Engine{e}, trace, Options{Objective: Objective{TTFT: 2 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	o := r.Outcomes[0]
	got := []time.Duration{o.Arrival, o.TTFT(), o.TPOT(), o.E2E(), o.MaxGap, r.Elapsed}
	want := []time.Duration{5 * time.Second, 2 * time.Second, time.Second, 4 * time.Second, time.Second, 9 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	if s := r.Summary; s.GoodShare != 1 || s.Finished != 1 || s.TTFT.P99 != 2*time.Second {
		t.Errorf("summary %+v", s)
	}
}

func TestRunRefusesNothingToDo(t *testing.T) {
	if _, err := Run(nil, []workload.Request{{PromptTokens: 1, OutputTokens: 1}}, Options{}); err == nil {
		t.Error("a run without engines should be refused")
	}
	if _, err := Run([]*Engine{New(Config{}, oneSecond, 1)}, nil, Options{}); err == nil {
		t.Error("a run without requests should be refused")
	}
}

func TestSimultaneousArrivalsShareAStep(t *testing.T) {
	trace := []workload.Request{{PromptTokens: 4, OutputTokens: 1}, {PromptTokens: 4, OutputTokens: 1}}
	r, err := Run([]*Engine{New(Config{ChunkedPrefill: true}, oneSecond, 1)}, trace, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Stats[0].Steps != 1 {
		t.Errorf("%d steps, want 1", r.Stats[0].Steps)
	}
}

func TestRouters(t *testing.T) {
	// The first request is long, so a router that looks at load avoids its replica.
	trace := []workload.Request{{PromptTokens: 4, OutputTokens: 50}}
	for i := range 4 {
		trace = append(trace, workload.Request{Offset: time.Duration(10*i+5) * time.Second, PromptTokens: 4, OutputTokens: 1})
	}
	for name, c := range map[string]struct {
		router Router
		want   []int
	}{
		"round robin":  {&RoundRobin{}, []int{0, 1, 0, 1, 0}},
		"least loaded": {LeastLoaded{}, []int{0, 1, 1, 1, 1}},
	} {
		cfg := Config{ChunkedPrefill: true}
		r, err := Run([]*Engine{New(cfg, oneSecond, 1), New(cfg, oneSecond, 2)}, trace, Options{Router: c.router})
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, o := range r.Outcomes {
			got = append(got, o.Replica)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestClosedLoopKeepsItsClients(t *testing.T) {
	trace, err := workload.Generate(workload.Spec{
		Arrivals: workload.Arrivals{Rate: 1}, Prompt: workload.Fixed(10), Output: workload.Fixed(20), Count: 100,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	e := New(Config{ChunkedPrefill: true}, oneSecond, 1)
	r, err := Run([]*Engine{e}, trace, Options{Clients: 7, OnStep: func(_ int, _ time.Duration, s Step) {
		most = max(most, s.Shape.Decoding+len(s.Shape.Chunks))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if most != 7 || r.Summary.Finished != 100 {
		t.Errorf("at most %d at once, %d finished; want 7 and 100", most, r.Summary.Finished)
	}
}

func TestUntilStopsWithRequestsInside(t *testing.T) {
	trace := []workload.Request{{PromptTokens: 4, OutputTokens: 100}}
	r, err := Run([]*Engine{New(Config{ChunkedPrefill: true}, oneSecond, 1)}, trace, Options{Until: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if o := r.Outcomes[0]; o.Done() || o.Tokens != 10 || r.Elapsed != 10*time.Second {
		t.Errorf("elapsed %s, %+v", r.Elapsed, o)
	}
}

func TestHidden(t *testing.T) {
	prior := perfmodel.Prior()
	a, again, b := Hidden(1, prior), Hidden(1, prior), Hidden(2, prior)
	if a != again || a == b {
		t.Error("a truth should depend on its seed alone")
	}
	for seed := range uint64(50) {
		c := Hidden(seed, prior).Coefficients
		for name, ratio := range map[string]float64{"weights": c.Weights / prior.Weights, "fixed": c.FixedSeconds / prior.FixedSeconds} {
			if off := max(ratio-1, 1-ratio); off < .1 || off > .3 {
				t.Errorf("seed %d: %s is off the prior by %.0f %%", seed, name, 100*off)
			}
		}
	}
	shape := StepShape{Decoding: 1}
	first, second := a.Life(1, oneSecond).StepSeconds(shape), a.Life(2, oneSecond).StepSeconds(shape)
	if first == second || first != a.Life(1, oneSecond).StepSeconds(shape) {
		t.Errorf("two lives take %g and %g s per step", first, second)
	}
}

// replicas builds engines of one hidden truth: an 8B model on 48 GB cards.
func replicas(tb testing.TB, n, seqs, budget int) (engines []*Engine) {
	tb.Helper()
	tables, err := perfmodel.Load()
	if err != nil {
		tb.Fatal(err)
	}
	truth := Hidden(1, perfmodel.Prior())
	setup := perfmodel.Setup{
		Model: tables.Models["llama-3.1-8b"], GPU: tables.GPUs["l40s"], MaxNumSeqs: seqs, MaxBatchedTokens: budget,
	}
	p, err := perfmodel.New(setup, truth.Coefficients)
	if err != nil {
		tb.Fatal(err)
	}
	capacity, err := p.KVCapacityTokens()
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{
		MaxNumSeqs: seqs, MaxBatchedTokens: budget, ChunkedPrefill: true, PrefixCaching: true, KVTokens: capacity,
		MaxModelLen: 16384, ReserveFullPrompt: true, AsyncScheduling: true, StepNoise: truth.StepNoise,
	}
	for i := range uint64(n) {
		engines = append(engines, New(cfg, truth.Life(i, p), i))
	}
	return engines
}

// conversation is traffic at a factor of the published rate of a conversation service.
func conversation(tb testing.TB, factor float64, length time.Duration) []workload.Request {
	tb.Helper()
	spec, err := workload.Named("azure-conv")
	if err != nil {
		tb.Fatal(err)
	}
	spec.Duration = time.Duration(float64(length) * factor)
	trace, err := workload.Generate(spec, 7)
	if err != nil {
		tb.Fatal(err)
	}
	return workload.Scale(trace, factor)
}

// TestSmallBudgetWastesGoodput holds the case that the demonstration rests on: with a token budget far too
// small, replicas at little more than half of their capacity miss the objective for most requests, and
// the engine's usual settings meet it on the same traffic.
func TestSmallBudgetWastesGoodput(t *testing.T) {
	trace := conversation(t, .55, 15*time.Minute)
	objective := Objective{TTFT: 500 * time.Millisecond, TPOT: 50 * time.Millisecond}
	serve := func(seqs, budget int) Summary {
		r, err := Run(replicas(t, 8, seqs, budget), trace, Options{Objective: objective, Warmup: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seqs %d, budget %d: good %.2f, TTFT p95 %s, TPOT p95 %s, E2E p95 %s, busy %.2f",
			seqs, budget, r.Summary.GoodShare, r.Summary.TTFT.P95, r.Summary.TPOT.P95, r.Summary.E2E.P95, r.Summary.Busy)
		return r.Summary
	}
	small, usual := serve(8, 24), serve(256, 2048)
	if usual.GoodShare < 4*small.GoodShare || usual.GoodShare < .95 {
		t.Errorf("good share %.2f with a small budget and %.2f with the usual one; want a factor of 4", small.GoodShare, usual.GoodShare)
	}
	if small.Queue.P50 > 2*time.Second {
		t.Errorf("half the requests wait %s: the small budget is overloaded, not just slow", small.Queue.P50)
	}
}

func BenchmarkRun(b *testing.B) {
	trace := conversation(b, 1, 5*time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Run(replicas(b, 8, 256, 2048), trace, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(trace)*b.N)/b.Elapsed().Seconds(), "requests/s")
}
