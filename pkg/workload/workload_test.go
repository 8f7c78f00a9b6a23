package workload

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func near(got, want, share float64) bool { return math.Abs(got-want) <= share*want }

// TestPublishedStatistics compares generated traces with what is published of the originals. Busy periods
// make one hour a small sample, so the figures are means over several.
func TestPublishedStatistics(t *testing.T) {
	cases := []struct {
		name              string
		rate              float64
		prompt, output    [3]float64 // p50, p90, p99
		gapCV, dispersion float64    // 0: not published
	}{
		{"azure-conv", 5.53, [3]float64{1020, 2734, 4142}, [3]float64{129, 424, 601}, 1.1, 3.9},
		{"azure-code", 2.57, [3]float64{1469, 5188, 7436}, [3]float64{13, 55, 251}, 13.2, 72},
		{"arxiv-summary", 1, [3]float64{2730, 3702, 3933}, [3]float64{167, 372, 3271}, 1, 1},
	}
	const hours = 10
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			spec, err := Named(c.name)
			if err != nil {
				t.Fatal(err)
			}
			spec.Duration = hours * time.Hour
			long, err := Generate(spec, 1)
			if err != nil {
				t.Fatal(err)
			}
			s := Summarize(long)
			if !near(s.Rate, c.rate, .15) {
				t.Errorf("rate %.2f/s, published %.2f", s.Rate, c.rate)
			}
			for i, p := range []string{"p50", "p90", "p99"} {
				if !near(s.Prompt[i], c.prompt[i], .05) || !near(s.Output[i], c.output[i], .08) {
					t.Errorf("%s %.0f prompt and %.0f output tokens, published %.0f and %.0f", p, s.Prompt[i], s.Output[i], c.prompt[i], c.output[i])
				}
			}
			cv, dispersion := hourly(long)
			if !near(cv, c.gapCV, .25) || !near(dispersion, c.dispersion, .25) {
				t.Errorf("gap CV %.2f and dispersion %.1f, published %.2f and %.1f", cv, dispersion, c.gapCV, c.dispersion)
			}
		})
	}
}

// hourly is the mean of the burstiness of each hour of a trace.
func hourly(trace []Request) (gapCV, dispersion float64) {
	hours := 0.0
	for start := 0; start < len(trace); {
		end := start
		for end < len(trace) && trace[end].Offset/time.Hour == trace[start].Offset/time.Hour {
			end++
		}
		s := Summarize(trace[start:end])
		gapCV, dispersion, hours = gapCV+s.GapCV, dispersion+s.Dispersion, hours+1
		start = end
	}
	return gapCV / hours, dispersion / hours
}

func TestGenerateIsReproducible(t *testing.T) {
	spec, err := Named("azure-conv")
	if err != nil {
		t.Fatal(err)
	}
	spec.Duration, spec.Shared = time.Minute, Shared{Groups: 3, Tokens: 200, Share: .5}
	generate := func(seed uint64) []Request {
		trace, err := Generate(spec, seed)
		if err != nil {
			t.Fatal(err)
		}
		return trace
	}
	first := generate(1)
	if diff := cmp.Diff(first, generate(1)); diff != "" {
		t.Errorf("same seed, other trace:\n%s", diff)
	}
	if cmp.Equal(first, generate(2)) {
		t.Error("other seed, same trace")
	}
	spec.Shared = Shared{}
	plain := generate(1)
	for i := range first {
		first[i].Group, first[i].GroupTokens = 0, 0
	}
	if diff := cmp.Diff(first, plain); diff != "" {
		t.Errorf("sharing prefixes changed arrivals or lengths:\n%s", diff)
	}
}

func TestGeneratedProperties(t *testing.T) {
	base := Spec{Arrivals: Arrivals{Rate: 20}, Prompt: Fixed(100), Output: Quantiles{{0, 10}, {1, 1000}}, Count: 20000}
	with := func(f func(*Spec)) Summary {
		spec := base
		f(&spec)
		trace, err := Generate(spec, 3)
		if err != nil {
			t.Fatal(err)
		}
		return Summarize(trace)
	}
	poisson := with(func(*Spec) {})
	if !near(poisson.Rate, 20, .03) || !near(poisson.GapCV, 1, .03) || !near(poisson.Dispersion, 1, .15) {
		t.Errorf("Poisson: %+v", poisson)
	}
	if want := base.Output.Mean(); !near(poisson.MeanOutput, want, .03) || !near(want, 990/math.Log(100), .001) {
		t.Errorf("mean output %.1f, of the distribution %.1f", poisson.MeanOutput, want)
	}
	if smooth := with(func(s *Spec) { s.Arrivals.CV = .2 }); !near(smooth.GapCV, .2, .05) || smooth.Dispersion > .2 {
		t.Errorf("regular gaps: %+v", smooth)
	}
	if bursty := with(func(s *Spec) { s.Arrivals.CV = 3 }); !near(bursty.GapCV, 3, .1) || !near(bursty.Rate, 20, .1) {
		t.Errorf("gamma gaps: %+v", bursty)
	}
	groups := with(func(s *Spec) { s.Arrivals.BatchMean, s.Arrivals.BatchGap = 10, time.Millisecond })
	if !near(groups.Rate, 20, .1) || !near(groups.Dispersion, 19, .3) {
		t.Errorf("groups of ten: %+v", groups)
	}
	if shared := with(func(s *Spec) { s.Shared = Shared{Groups: 2, Tokens: 50, Share: .5} }); !near(shared.SharedPrefixRate, .25, .05) {
		t.Errorf("shared prefixes: %+v", shared)
	}
}

func TestLengthCorrelation(t *testing.T) {
	spec := Spec{
		Arrivals: Arrivals{Rate: 1}, Count: 4000, LengthCorrelation: .8,
		Prompt: Quantiles{{0, 10}, {1, 1000}}, Output: Quantiles{{0, 10}, {1, 1000}},
	}
	trace, err := Generate(spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	agree := 0
	for _, r := range trace {
		if (r.PromptTokens > 100) == (r.OutputTokens > 100) {
			agree++
		}
	}
	// Two normal scores of correlation .8 have the same sign with probability 1/2 + asin(.8)/π.
	if got, want := float64(agree)/float64(len(trace)), .5+math.Asin(.8)/math.Pi; !near(got, want, .04) {
		t.Errorf("both above or below the median in %.2f of the requests, want %.2f", got, want)
	}
}

func TestScale(t *testing.T) {
	trace := []Request{{Offset: 0, PromptTokens: 1}, {Offset: 3 * time.Second, PromptTokens: 2}}
	got := Scale(trace, 1.5)
	if got[1].Offset != 2*time.Second || got[1].PromptTokens != 2 || trace[1].Offset != 3*time.Second {
		t.Errorf("scaled %+v from %+v", got, trace)
	}
}

func TestGenerateRefuses(t *testing.T) {
	good := Spec{Arrivals: Arrivals{Rate: 1}, Prompt: Fixed(1), Output: Fixed(1), Count: 1}
	for name, change := range map[string]func(*Spec){
		"no end":             func(s *Spec) { s.Count = 0 },
		"no rate":            func(s *Spec) { s.Arrivals.Rate = 0 },
		"negative variation": func(s *Spec) { s.Arrivals.CV = -1 },
		"no memory":          func(s *Spec) { s.Arrivals.Modulation.CV = 1 },
		"groups too long":    func(s *Spec) { s.Arrivals.BatchMean, s.Arrivals.BatchGap = 10, 2*time.Second },
		"no prompt":          func(s *Spec) { s.Prompt = nil },
		"quantile order":     func(s *Spec) { s.Output = Quantiles{{0, 5}, {.5, 4}, {1, 9}} },
		"below one token":    func(s *Spec) { s.Output = Quantiles{{0, 0}, {1, 9}} },
		"correlation":        func(s *Spec) { s.LengthCorrelation = 1 },
		"shared share":       func(s *Spec) { s.Shared = Shared{Groups: 1, Tokens: 5, Share: 2} },
	} {
		spec := good
		change(&spec)
		if _, err := Generate(spec, 1); !errors.Is(err, ErrSpec) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Generate(good, 1); err != nil {
		t.Errorf("the unchanged description: %v", err)
	}
	if _, err := Named("nobody"); !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), "azure-conv") {
		t.Errorf("an unknown name should be refused with the known ones, got %v", err)
	}
}

func TestSummarizeShortTraces(t *testing.T) {
	if got := Summarize(nil); got != (Summary{}) {
		t.Errorf("no requests: %+v", got)
	}
	same := []Request{{PromptTokens: 5, OutputTokens: 2}, {PromptTokens: 5, OutputTokens: 2}}
	if got := Summarize(same); got.Requests != 2 || got.Rate != 0 || got.GapCV != 0 {
		t.Errorf("two requests at one instant: %+v", got)
	}
}
