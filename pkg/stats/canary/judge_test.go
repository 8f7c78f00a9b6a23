package canary

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// traffic draws windows of both arms; the zero value of a factor is none.
type traffic struct {
	latency, errors float64 // factors of the canary's
	rate            float64 // requests per second on the canary, three times that on the controls
	share           float64 // that the canary really gets, 0 for a quarter
	silent          bool    // the canary's latencies are missing
	cost            float64 // factor of the canary's, 0: not measured
}

func (c traffic) window(r *rand.Rand) Window {
	w := Window{Share: .25}
	share := .25
	if c.share > 0 {
		share = c.share
	}
	arms := []*Arm{&w.Canary, &w.Control}
	for _, a := range arms {
		a.Latencies, a.Events = []*stats.Sketch{stats.NewSketch()}, []float64{0}
	}
	for range int(4 * c.rate) {
		arm, latency, failing := arms[1], 1., .01
		if r.Float64() < share {
			arm, latency, failing = arms[0], max(c.latency, 1), .01*max(c.errors, 1)
		}
		arm.Requests++
		if r.Float64() < failing {
			arm.Events[0]++
		}
		_ = arm.Latencies[0].Add(.3 * latency * math.Exp(.4*r.NormFloat64())) // never refused
	}
	if c.silent {
		w.Canary.Latencies = nil
	}
	if c.cost > 0 {
		w.Canary.Cost, w.Control.Cost = c.cost, 3
		w.Canary.Tokens, w.Control.Tokens = 1000*math.Exp(.05*r.NormFloat64()), 3000*math.Exp(.05*r.NormFloat64())
	}
	return w
}

// judged lets so many seconds pass before the change and after it, until the outcome is one of those
// wanted, and returns it with the second.
func judged(t *testing.T, cfg Config, before int, calm, changed traffic, after int) (Verdict, int) {
	t.Helper()
	j, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	for range before {
		j.Before(calm.window(r))
	}
	var v Verdict
	for n := 1; n <= after; n++ {
		j.Observe(changed.window(r))
		if v = j.Verdict(); v.Outcome != Inconclusive {
			return v, n
		}
	}
	return v, after
}

func config(canaries int) Config {
	return DefaultConfig([]Latency{{Name: "TTFT", Threshold: .6}}, []Event{{Name: "errors", Allowed: .05}}, canaries)
}

func TestJudge(t *testing.T) {
	calm := traffic{rate: 5, cost: 1}
	for _, c := range []struct {
		name          string
		canaries      int
		before, after int
		changed       traffic
		want          Outcome
		first, last   int    // seconds within which it is decided; 0, 0 for never
		because       string // part of the summary
	}{
		{"nothing changed", 1, 300, 300, calm, Pass, 120, 200, "proven less than 1.25 times worse"},
		{"twice the latency", 1, 300, 300, traffic{rate: 5, latency: 2, cost: 1}, Fail, 1, 25, "TTFT is worse"},
		{"errors", 1, 300, 300, traffic{rate: 5, errors: 20, cost: 1}, Fail, 1, 45, "errors is worse"},
		{"a fifth slower, one canary", 1, 600, 300, traffic{rate: 5, latency: 1.22, cost: 1}, Hold, 60, 300, "single canary"},
		{"a fifth slower, two canaries", 2, 600, 300, traffic{rate: 5, latency: 1.22, cost: 1}, Fail, 60, 300, "slow test"},
		{"dearer", 2, 300, 300, traffic{rate: 5, cost: 1.5}, Fail, 10, 120, "cost per token is worse"},
		{"a starved canary", 1, 300, 300, traffic{rate: 5, share: .12, cost: 1}, Invalid, 1, 60, "share of requests"},
		{"latency that vanished", 1, 300, 300, traffic{rate: 5, silent: true, cost: 1}, Inconclusive, 300, 300, "0 of 24 blocks"},
		{"no traffic", 1, 300, 300, traffic{rate: 0}, Inconclusive, 300, 300, "0 of 200 requests"},
		{"too little before", 1, 100, 300, calm, Inconclusive, 300, 300, "20 blocks before the change"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, at := judged(t, config(c.canaries), c.before, calm, c.changed, c.after)
			if v.Outcome != c.want || at < c.first || at > c.last || !strings.Contains(v.Summary, c.because) {
				t.Errorf("%v after %d s: %s; want %v between %d and %d s: %s", v.Outcome, at, v.Summary, c.want, c.first, c.last, c.because)
			}
		})
	}
}

// An arm that lies about its counts breaks the comparison; it neither passes nor fails.
func TestNumbersThatCannotBe(t *testing.T) {
	j, err := New(config(1))
	if err != nil {
		t.Fatal(err)
	}
	calm, r := traffic{rate: 5}, rand.New(rand.NewPCG(6, 6))
	for range 300 {
		j.Before(calm.window(r))
	}
	for range 200 {
		w := calm.window(r)
		w.Canary.Events[0] = w.Canary.Requests + 1
		j.Observe(w)
	}
	if v := j.Verdict(); v.Outcome != Inconclusive || !strings.Contains(v.Summary, "comparison failed") {
		t.Errorf("%v: %s", v.Outcome, v.Summary)
	}
	// Even a panic in the numerics is only inconclusive.
	if v := (&Judge{latencies: []*latency{nil}}).Verdict(); v.Outcome != Inconclusive || !strings.Contains(v.Summary, "comparison failed") {
		t.Errorf("after a panic: %v: %s", v.Outcome, v.Summary)
	}
}

func TestPlacebo(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	spans := func(spread float64) (all [][]*stats.Sketch) {
		factors := []float64{1, 1, 1, math.Exp(spread)}
		for range 10 {
			var replicas []*stats.Sketch
			for _, f := range factors {
				s := stats.NewSketch()
				for range 300 {
					if err := s.Add(f * .3 * math.Exp(.5*r.NormFloat64())); err != nil {
						t.Fatal(err)
					}
				}
				replicas = append(replicas, s)
			}
			all = append(all, replicas)
		}
		return all
	}
	configured := Margins{Quantile: 1.25, Events: 2}
	if m, err := Placebo(spans(0), .7, configured); err != nil || m.Quantile > 1.35 || m.Events > 2.5 {
		t.Errorf("equal replicas: %+v, %v", m, err)
	}
	if m, err := Placebo(spans(.4), .7, configured); err != nil || m.Quantile < 1.4 || m.Quantile > 1.9 {
		t.Errorf("a slow replica: %+v, %v", m, err)
	}
	if _, err := Placebo(spans(.9), .7, configured); !errors.Is(err, ErrUnequal) {
		t.Errorf("a far slower replica: %v", err)
	}
	if _, err := Placebo([][]*stats.Sketch{{nil, stats.NewSketch()}}, .7, configured); !errors.Is(err, stats.ErrInput) {
		t.Errorf("no traffic: %v", err)
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no latency":   func(c *Config) { c.Latencies = nil },
		"no threshold": func(c *Config) { c.Latencies[0].Threshold = 0 },
		"no canary":    func(c *Config) { c.Canaries = 0 },
		"no wave":      func(c *Config) { c.Waves = 0 },
		"level":        func(c *Config) { c.Level = 1 },
		"margin":       func(c *Config) { c.PassMargin = 1 },
		"no blocks":    func(c *Config) { c.BlockWindows = 0 },
		"fast margin":  func(c *Config) { c.Margins.Quantile = 1 },
		"event margin": func(c *Config) { c.Margins.Events = -1 },
	} {
		c := config(1)
		change(&c)
		if _, err := New(c); !errors.Is(err, stats.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Level .5 % over six tests and four waves: evidence of 4,800 is needed, as the design says.
func TestLevelIsShared(t *testing.T) {
	c := DefaultConfig([]Latency{{Name: "TTFT", Threshold: 1}, {Name: "TPOT", Threshold: 1}}, []Event{{Name: "errors"}, {Name: "timeouts"}}, 1)
	if got := 1 / c.fastLevel(); math.Abs(got-4800) > 1e-6 {
		t.Errorf("evidence of %v is needed", got)
	}
}
