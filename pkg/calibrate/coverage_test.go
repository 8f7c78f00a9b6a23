package calibrate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// truth is a made-up engine of which the model is right: its coefficients, and what only its next start
// will show.
type truth struct {
	law   Law
	front time.Duration
}

// drawTruth is an engine as fast or as slow as they come. Its terms are a step's shares, as on real
// hardware, so that none of them hides the others.
func drawTruth(rng *rand.Rand) truth {
	between := func(low, high float64) float64 { return low * math.Pow(high/low, rng.Float64()) }
	step := between(3e-3, 2e-2)
	return truth{
		law: Law{scale: 1, beyond: 1, seen: 4, theta: features{
			step, between(.01, .06) * step, between(.05, .3) * step, between(.003, .012) * step,
			between(.01, .05) * step, between(.02, .1) * step, between(.1, .5) * step, between(.05, .3) * step,
		}},
		front: time.Duration(between(3e6, 2e7)),
	}
}

// start is one life of the engine: each differs from the next, so that two differ by s.
func (t truth) start(rng *rand.Rand, s spread) truth {
	t.law.scale *= math.Exp(s.law / math.Sqrt2 * rng.NormFloat64())
	t.law.beyond *= math.Exp(s.beyond * rng.NormFloat64())
	t.front = time.Duration(float64(t.front) * math.Exp(s.front/math.Sqrt2*rng.NormFloat64()))
	return t
}

// truths is how many engines are drawn. Their share that an interval covers has a standard deviation
// of 3 points.
const truths = 100

// coverage calibrates on one start of each engine, predicts another start under another configuration
// and load, and returns the share of its figures that the intervals cover.
func coverage(t *testing.T, allowed spread) float64 {
	t.Helper()
	var covered, all float64
	for i := range uint64(truths) {
		rng := rand.New(rand.NewPCG(i, 0xc0))
		engine := drawTruth(rng)
		pace := engine.law.theta[termStep]
		a, b := engine.start(rng, machine), engine.start(rng, machine)
		c, err := FromRequests(config(4), serve(t, config(4), a.law.Cost(), a.front, traffic(t, .03/pace, 75, i)))
		if err != nil {
			t.Fatal(err)
		}
		cfg := config([]int{2, 8, 16, 32}[rng.IntN(4)])
		trace := traffic(t, (.01+.04*rng.Float64())/pace, 60, i+truths)
		seen := Observed(serve(t, cfg, b.law.Cost(), b.front, trace))
		p, err := c.predict(cfg, trace, i, allowed)
		if err != nil {
			t.Fatal(err)
		}
		for _, ok := range []bool{
			p.TTFTMean.Covers(seen.TTFTMean), p.TTFTP99.Covers(seen.TTFTP99), p.TPOTMean.Covers(seen.TPOTMean), p.E2EMean.Covers(seen.E2EMean),
		} {
			all++
			if ok {
				covered++
			}
		}
	}
	return covered / all
}

// TestIntervalsCover: where engines differ from start to start as machine says, intervals of 90 % cover
// 90 %; intervals that allow for no difference do not.
func TestIntervalsCover(t *testing.T) {
	if got := coverage(t, machine); got < .86 || got > .94 {
		t.Errorf("intervals of 90 %% cover %.1f %%, want 86 to 94", 100*got)
	} else {
		t.Logf("intervals of 90 %% cover %.1f %%", 100*got)
	}
	if got := coverage(t, spread{}); got > .75 {
		t.Errorf("intervals that take every start for the same cover %.1f %%, want them found out", 100*got)
	}
}

// serve lets a made-up engine serve a trace and returns what clients saw that are outside away from it.
func serve(t *testing.T, cfg des.Config, cost des.Cost, outside time.Duration, trace []workload.Request) []Request {
	t.Helper()
	tokens := map[uint64][]time.Duration{}
	cfg.StepNoise = 0.03
	r, err := des.Run([]*des.Engine{des.New(cfg, cost, 7)}, trace, des.Options{OnStep: func(_ int, start time.Duration, s des.Step) {
		for _, k := range s.Tokens {
			tokens[k.ID] = append(tokens[k.ID], start+s.Duration)
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
		q := Request{
			Arrival: o.Arrival, PromptTokens: o.Request.PromptTokens, OutputTokens: o.Tokens,
			FirstToken: o.FirstToken + outside, End: o.End + outside,
		}
		at := tokens[o.Request.ID]
		for i := 1; i < len(at); i++ {
			q.Gaps = append(q.Gaps, at[i]-at[i-1])
		}
		out = append(out, q)
	}
	return out
}
