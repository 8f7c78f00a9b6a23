package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// Published: Clopper and Pearson's limits as tabulated everywhere, and closed forms for 0 and n events.
func TestClopperPearson(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		low, high float64
	}{
		{0, 10, 0, .30850}, {1, 10, .00253, .44502}, {5, 10, .18709, .81291}, {10, 10, .69150, 1}, {81, 263, .25271, .36762},
	} {
		b, err := ClopperPearson(c.k, c.n, .95)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "low", b.Low, c.low, 6e-5)
		near(t, "high", b.High, c.high, 6e-5)
	}
	for _, n := range []int{1, 7, 1000, 1_000_000} {
		high, err := RateAtMost(0, n, .99)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "bound without events, relative", high/(-math.Expm1(math.Log(.01)/float64(n))), 1, 1e-6)
	}
}

// The table of the design: requests that prove attainment at 95 %.
func TestAttainmentRequests(t *testing.T) {
	for rate, want := range map[float64][]int{.01: {299, 473, 628, 773}, .05: {59, 93, 124, 153}} {
		for violations, n := range want {
			got, err := AttainmentRequests(violations, rate, .95)
			if err != nil || got != n {
				t.Errorf("%d violations, rate %v: %d requests, %v, want %d", violations, rate, got, err, n)
			}
		}
	}
}

// Coverage is a sum over all outcomes, so it needs no simulation.
func TestClopperPearsonCovers(t *testing.T) {
	const n = 40
	bounds := make([]Bounds, n+1)
	for k := range bounds {
		var err error
		if bounds[k], err = ClopperPearson(k, n, .9); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []float64{.001, .01, .1, .3, .5, .77, .95} {
		var covered float64
		for k, b := range bounds {
			if b.Low <= p && p <= b.High {
				covered += math.Exp(float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p) - logBeta(float64(k)+1, float64(n-k)+1) - math.Log(n+1))
			}
		}
		if covered < .9 {
			t.Errorf("rate %v is covered in %v of cases, want .9", p, covered)
		}
	}
}

func TestRateNeverAboveHoldsAtEveryMoment(t *testing.T) {
	const rate, alpha, runs, requests = .02, .05, 400, 1500
	r := rand.New(rand.NewPCG(21, 1))
	missed := 0
	for range runs {
		k := 0.0
		for n := 1.0; n <= requests; n++ {
			if r.Float64() < rate {
				k++
			}
			// The bound is below the rate exactly when the mixture rejects it.
			if k/n < rate {
				if e, err := against(k, n, rate, rateStrength, atLeast); err != nil || e.Rejects(alpha) {
					missed++
					break
				}
			}
		}
	}
	if low, err := RateAtLeast(missed, runs, .999); err != nil || low > alpha || missed == 0 {
		t.Errorf("missed the rate in %d of %d runs, allowed %v", missed, runs, alpha)
	}
}

func TestRateNeverAbove(t *testing.T) {
	last := 1.0
	for _, n := range []float64{1, 10, 100, 1000, 10_000} {
		bound, err := RateNeverAbove(0, n, .01)
		if err != nil {
			t.Fatal(err)
		}
		exact, err := RateAtMost(0, int(n), .99)
		if err != nil {
			t.Fatal(err)
		}
		if bound < exact || bound > last || n >= 100 && bound > 1.4*exact {
			t.Errorf("%v requests without an event: bound %v, at one look %v, before %v", n, bound, exact, last)
		}
		last = bound
	}
	if bound, err := RateNeverAbove(10, 10, .01); err != nil || bound != 1 {
		t.Errorf("only events: %v, %v", bound, err)
	}
}

func TestBinomialRefuses(t *testing.T) {
	for name, f := range map[string]func() error{
		"more events than requests": func() error { _, err := ClopperPearson(3, 2, .95); return err },
		"no requests":               func() error { _, err := RateAtMost(0, 0, .95); return err },
		"confidence of one":         func() error { _, err := RateAtLeast(1, 2, 1); return err },
		"confidence is no number":   func() error { _, err := ClopperPearson(1, 2, math.NaN()); return err },
		"negative count":            func() error { _, err := RateNeverAbove(-1, 2, .01); return err },
		"infinite count":            func() error { _, err := RateNeverAbove(0, math.Inf(1), .01); return err },
		"no rate":                   func() error { _, err := AttainmentRequests(0, 0, .95); return err },
		"incomplete beta":           func() error { _, err := incompleteBeta(0, 1, .5); return err },
	} {
		if err := f(); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v, want ErrInput", name, err)
		}
	}
}

// FuzzAgainst: whatever the counts, there is evidence or an error, never a panic and never NaN.
func FuzzAgainst(f *testing.F) {
	f.Add(3.0, 10.0, .5, 100.0, true)
	f.Add(0.0, 1e9, 1e-9, 1e-3, false)
	f.Add(1e-300, 1e300, .999999, 1e6, true)
	f.Fuzz(func(t *testing.T, k, n, q, r float64, low bool) {
		e, err := against(k, n, q, r, nullSide(low))
		if err == nil && math.IsNaN(float64(e)) {
			t.Errorf("%v of %v against %v: no number and no error", k, n, q)
		}
	})
}

// Where the incomplete beta function underflows, evidence goes on as a smooth function of the counts.
func TestMixtureBeyondUnderflow(t *testing.T) {
	last := Evidence(-2)
	for n := 100.0; n < 20_000; n *= 1.1 {
		e, err := against(n, n, .5, 100, atLeast) // every value below the median: no evidence against that
		if err != nil {
			t.Fatal(err)
		}
		if e >= last || e < last-1 || e < -12 {
			t.Fatalf("evidence of %v values fell from %v to %v", n, last, e)
		}
		last = e
	}
}
