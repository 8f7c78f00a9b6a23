package experiment

import (
	"encoding/csv"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// made is a run whose requests take a mean of about meanE2E seconds, times what its restart drew.
func made(rng *rand.Rand, meanE2E, restart float64, objectives load.Objectives) *load.Report {
	p := load.Plan{Arrivals: load.Constant, Rate: 10, Duration: 20, Prompt: workload.Fixed(10), Output: workload.Fixed(11), Objectives: objectives}
	start := time.Unix(1000, 0)
	c := load.NewCollector(p, start)
	factor := meanE2E * math.Exp(restart*rng.NormFloat64())
	for k := range 200 {
		due := start.Add(time.Duration(k) * 100 * time.Millisecond)
		total := factor * math.Exp(.4*rng.NormFloat64()-.08)
		at := func(s float64) time.Time { return due.Add(time.Duration(s * float64(time.Second))) }
		c.Add(load.Record{Number: k, Intended: due, Sent: due, FirstToken: at(total / 4), LastToken: at(total), Done: at(total), Tokens: 11, PromptTokens: 10})
	}
	r, err := c.Report(load.Subject{Kind: "vllm"}, "")
	if err != nil {
		panic(err)
	}
	return r
}

// judged compares as a test does: the noise first, then the candidate, run by run.
func judged(seed uint64, ratio, restart float64, rules load.Rules) load.Comparison {
	rng := rand.New(rand.NewPCG(seed, 1))
	var base, cand []*load.Report
	for range noiseRuns {
		base = append(base, made(rng, 1, restart, load.Objectives{}))
	}
	for {
		c, decided := Compare(base, cand, rules, false)
		if decided {
			return c
		}
		if cand = append(cand, made(rng, 1/ratio, restart, load.Objectives{})); len(cand) > 1 {
			base = append(base, made(rng, 1, restart, load.Objectives{}))
		}
	}
}

// TestVerdictsHoldTheirLevels: an unchanged engine is hardly ever called better or worse, a large change
// is found, whichever way it goes.
func TestVerdictsHoldTheirLevels(t *testing.T) {
	rules := load.Rules{Primary: e2e, Margin: .1, Replicates: 6}
	count := func(ratio, restart float64) map[string]int {
		n := map[string]int{}
		for seed := range uint64(60) {
			n[judged(seed, ratio, restart, rules).Verdict]++
		}
		return n
	}
	if n := count(1, .03); n[Better] > 1 || n[Worse] > 4 || n[KeepIncumbent] < 54 {
		t.Errorf("nothing changed: %v", n)
	}
	if n := count(1.6, .03); n[Better] < 57 || n[Worse] > 0 {
		t.Errorf("1.6 times as fast: %v", n)
	}
	if n := count(.6, .03); n[Worse] < 57 || n[Better] > 0 {
		t.Errorf("0.6 times as fast: %v", n)
	}
}

func TestNoiseIsAskedFirst(t *testing.T) {
	c := judged(1, 1.3, .2, load.Rules{Primary: e2e, Margin: .1, Replicates: 6, MinEffect: .05})
	if c.Verdict != NotComparable || c.Tries != 0 || !strings.Contains(c.Words, "ask for at least") || c.Noise < .025 {
		t.Errorf("%+v", c)
	}
	if c := judged(1, 1.3, .2, load.Rules{Primary: e2e, Margin: .1, Replicates: 6}); c.MinEffect != 2*c.Noise {
		t.Errorf("an effect of %v is asked for at a noise of %v", c.MinEffect, c.Noise)
	}
}

func TestObjectivesAndFailures(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	o := load.Objectives{E2E: 3 * time.Second}
	var base, good, bad, failing []*load.Report
	for range 4 {
		base = append(base, made(rng, 1, .01, o))
	}
	for range 3 {
		good = append(good, made(rng, .8, .01, o))
		bad = append(bad, made(rng, 2.5, .01, o))
		f := made(rng, .8, .01, o)
		f.Requests.Failed = map[int]string{}
		for k := range 60 {
			f.Requests.Failed[3*k] = load.FailedCut
		}
		f.Summary.Succeeded, f.Summary.Failed = 140, 60
		failing = append(failing, f)
	}
	attained := func(rs []*load.Report) string {
		c, _ := Compare(base, rs, load.Rules{Primary: e2e, Margin: .1, Replicates: 3}, false)
		for _, m := range c.Metrics {
			if m.Name == e2e {
				return m.Attained
			}
		}
		return ""
	}
	if a, b := attained(good), attained(bad); a != "yes" || b != "no" {
		t.Errorf("objective attained: %q by the fast, %q by the slow", a, b)
	}
	c, decided := Compare(base, failing, load.Rules{Primary: e2e, Margin: .1, Replicates: 3}, false)
	if !decided || c.Verdict != Worse || !strings.Contains(c.Words, "success") {
		t.Errorf("a candidate that fails requests and is quick with the others: %+v", c)
	}
}

func TestMannWhitney(t *testing.T) {
	a := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	b := []float64{6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	// By hand: U = 12.5, its variance with ties 174.34, z = 2.840.
	if p := mannWhitney(a, b); math.Abs(p-.00451) > 2e-5 {
		t.Errorf("p = %v", p)
	}
	if p := mannWhitney(a, a); p != 1 || mannWhitney(nil, a) != 1 || mannWhitney([]float64{2, 2}, []float64{2}) != 1 {
		t.Errorf("of equals: %v", p)
	}
}

// TestBlocksCarryDependence: where neighbours are alike, bounds from blocks are wider than from single
// requests.
func TestBlocksCarryDependence(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	v, x := make([]float64, 400), 0.
	for k := range v {
		x = .95*x + rng.NormFloat64()
		v[k] = 10 + x
	}
	sums := prefixSums(v)
	spread := func(block int) float64 {
		means := make([]float64, 400)
		for k := range means {
			means[k] = resampledMean(sums, len(v), block, rng)
		}
		_, sd := moments(means)
		return sd
	}
	if one, many := spread(1), spread(40); many < 2*one {
		t.Errorf("standard error %v from blocks, %v from single requests", many, one)
	}
}

func TestExports(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := made(rng, 1, 0, load.Objectives{})
	d := &load.Document{
		ID: "t-1", Kind: "validate", Group: `<script>alert(1)</script>`, State: "done", Verdict: Better, Summary: "e2e improves",
		Comparison: &load.Comparison{Metrics: []load.Metric{{Name: e2e, Unit: "s", Ratio: 1.5}}},
		Runs:       []load.Finished{{Number: 1, Arm: "baseline", Load: `10 "requests"`, Report: r}, {Number: 2, Arm: "candidate", Missing: true}},
	}
	page, err := webPage(d)
	if err != nil {
		t.Fatal(err)
	}
	html := string(page)
	for _, bad := range []string{"<script", "http://", "https://", "src=", "@import"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if strings.Count(html, "<svg") != 3 || strings.Count(html, "<polyline") != 3 || !strings.Contains(html, "Serving Benchmark Result") || !strings.Contains(html, "another node") {
		t.Errorf("%d plots", strings.Count(html, "<svg"))
	}
	raw, err := table(d)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(raw))).ReadAll()
	if err != nil || len(rows) != 201 || rows[1][1] != "baseline" || rows[1][2] != `10 "requests"` {
		t.Errorf("%d rows, %v, %q", len(rows), err, rows[1])
	}
}
