package load

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

func plan(change func(*Plan)) Plan {
	p := Plan{Arrivals: Poisson, Rate: 10, Prompt: workload.Fixed(100), Output: workload.Fixed(20), Duration: 60, WarmUp: 5, Seed: 3}
	if change != nil {
		change(&p)
	}
	return p
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Plan)
		words  string
	}{
		"no rate":          {func(p *Plan) { p.Rate = 0 }, "need a rate"},
		"infinite rate":    {func(p *Plan) { p.Rate = math.Inf(1) }, "finite"},
		"no duration":      {func(p *Plan) { p.Duration = 0 }, "duration_seconds"},
		"too long":         {func(p *Plan) { p.Duration = 1e4; p.Rate = .1 }, "longer than"},
		"too many":         {func(p *Plan) { p.Rate = 1000 }, "more than 20000"},
		"gamma without cv": {func(p *Plan) { p.Arrivals = Gamma }, "need a cv"},
		"no clients":       {func(p *Plan) { p.Arrivals = Closed }, "concurrency"},
		"no trace":         {func(p *Plan) { p.Arrivals = Trace }, "1 to 20000 requests"},
		"trace out of order": {func(p *Plan) {
			p.Arrivals = Trace
			p.Requests = []workload.Request{{Offset: 2, PromptTokens: 1, OutputTokens: 1}, {Offset: 1, PromptTokens: 1, OutputTokens: 1}}
		}, "before the one before"},
		"empty request": {func(p *Plan) { p.Arrivals = Trace; p.Requests = []workload.Request{{PromptTokens: 1}} }, "0 output tokens"},
		"unknown":       {func(p *Plan) { p.Arrivals = "waves" }, `"waves"`},
		"no lengths":    {func(p *Plan) { p.Prompt = nil }, "prompt"},
		"share":         {func(p *Plan) { p.Stop.FailedShare = 2 }, "failed_share"},
	} {
		if err := plan(c.change).Validate(); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := plan(nil).Validate(); err != nil {
		t.Error(err)
	}
}

// TestTraffic: the rate is met, and gaps vary as each kind of arrivals promises.
func TestTraffic(t *testing.T) {
	cv := func(rs []workload.Request) float64 {
		var sum, squares float64
		for i := 1; i < len(rs); i++ {
			g := (rs[i].Offset - rs[i-1].Offset).Seconds()
			sum, squares = sum+g, squares+g*g
		}
		n := float64(len(rs) - 1)
		return math.Sqrt(squares/n-sum*sum/n/n) / (sum / n)
	}
	for name, c := range map[string]struct {
		change   func(*Plan)
		low, top float64
	}{
		"constant": {func(p *Plan) { p.Arrivals = Constant }, 0, 0.001},
		"poisson":  {nil, .95, 1.05},
		"gamma":    {func(p *Plan) { p.Arrivals, p.CV = Gamma, 2 }, 1.8, 2.2},
		"bursty":   {func(p *Plan) { p.Arrivals, p.CV = Bursty, 1.5 }, 1.2, 4},
	} {
		p := plan(c.change)
		p.Duration, p.Rate = 400, 20
		rs, err := p.Traffic()
		if err != nil {
			t.Fatal(name, err)
		}
		if n := float64(len(rs)); name != "bursty" && math.Abs(n/(20*405)-1) > .06 {
			t.Errorf("%s: %v requests", name, n)
		}
		if got := cv(rs); got < c.low || got > c.top {
			t.Errorf("%s: cv of gaps %.3f", name, got)
		}
		if last := rs[len(rs)-1].Offset; last >= p.Span() {
			t.Errorf("%s: due at %v", name, last)
		}
		again, _ := p.Traffic()
		if len(again) != len(rs) || again[7].Offset != rs[7].Offset || again[7].PromptTokens != rs[7].PromptTokens {
			t.Errorf("%s: not the same again", name)
		}
	}
}

func TestTraceAndClosedTraffic(t *testing.T) {
	p := plan(func(p *Plan) { p.Arrivals, p.Duration, p.WarmUp = Trace, 2, 0 })
	for i := range 5 {
		p.Requests = append(p.Requests, workload.Request{Offset: time.Duration(i) * time.Second, PromptTokens: 1, OutputTokens: 1})
	}
	if rs, err := p.Traffic(); err != nil || len(rs) != 2 {
		t.Errorf("%d requests within 2 s, %v", len(rs), err)
	}
	closed := plan(func(p *Plan) { p.Arrivals, p.Concurrency = Closed, 4 })
	if rs, err := closed.Traffic(); err != nil || len(rs) != MaxRequests {
		t.Errorf("%d requests to draw from, %v", len(rs), err)
	}
}
