package calibrate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
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

// coverage calibrates on one start of each of n engines, predicts another start under another
// configuration and load, and returns the share of its figures that the intervals cover. The four
// figures of an engine mostly agree, so that its standard deviation at 90 % is about .27/√n.
func coverage(t *testing.T, n uint64, allowed spread) float64 {
	t.Helper()
	var covered, all float64
	for i := range n {
		rng := rand.New(rand.NewPCG(i, 0xc0))
		engine := drawTruth(rng)
		pace := engine.law.theta[termStep]
		a, b := engine.start(rng, machine), engine.start(rng, machine)
		c, err := FromRequests(config(4), serve(t, config(4), a.law.Cost(), a.front, traffic(t, .03/pace, 75, i)))
		if err != nil {
			t.Fatal(err)
		}
		cfg := config([]int{2, 8, 16, 32}[rng.IntN(4)])
		trace := traffic(t, (.01+.04*rng.Float64())/pace, 60, i+n)
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
	if got := coverage(t, 80, machine); got < .85 || got > .95 {
		t.Errorf("intervals of 90 %% cover %.1f %%, want 85 to 95", 100*got)
	} else {
		t.Logf("intervals of 90 %% cover %.1f %%", 100*got)
	}
	if got := coverage(t, 30, spread{}); got > .75 {
		t.Errorf("intervals that take every start for the same cover %.1f %%, want them found out", 100*got)
	}
}
