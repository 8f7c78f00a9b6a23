package workload

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// gapsOf generates a long trace of short requests and returns its gaps' mean and variation.
func gapsOf(t *testing.T, a Arrivals, count int) (trace []Request, mean, cv float64) {
	t.Helper()
	trace, err := Generate(Spec{Arrivals: a, Prompt: Fixed(1), Output: Fixed(1), Count: count}, 7)
	if err != nil {
		t.Fatal(err)
	}
	s := Summarize(trace)
	return trace, 1 / s.Rate, s.GapCV
}

func TestGapFamilies(t *testing.T) {
	for _, c := range []struct {
		name   string
		a      Arrivals
		cv     float64
		within float64
	}{
		{"constant", Arrivals{Rate: 4, Gaps: ConstantGaps}, 0, 1e-6},
		{"Weibull, as Poisson", Arrivals{Rate: 4, Gaps: WeibullGaps}, 1, .03},
		{"Weibull, regular", Arrivals{Rate: 4, Gaps: WeibullGaps, CV: .3}, .3, .03},
		{"Weibull, bursty", Arrivals{Rate: 4, Gaps: WeibullGaps, CV: 3}, 3, .3},
		{"gamma, bursty", Arrivals{Rate: 4, CV: 3}, 3, .3},
	} {
		_, mean, cv := gapsOf(t, c.a, 50_000)
		if !near(mean, .25, .06) || math.Abs(cv-c.cv) > c.within {
			t.Errorf("%s: gaps of %.3f s with CV %.3f, want .25 s and %.2f", c.name, mean, cv, c.cv)
		}
	}
}

// TestRateProfile: the rate follows its parts, silent ones too, whatever the family of gaps.
func TestRateProfile(t *testing.T) {
	parts := []RatePart{{0, 1}, {time.Minute, 0}, {2 * time.Minute, 3}, {3 * time.Minute, .5}}
	for name, a := range map[string]Arrivals{
		"Poisson": {Rate: 20, Profile: parts}, "constant": {Rate: 20, Gaps: ConstantGaps, Profile: parts},
		"varying too": {Rate: 20, Profile: parts, Modulation: Modulation{CV: .1, Memory: time.Second}},
	} {
		trace, err := Generate(Spec{Arrivals: a, Prompt: Fixed(1), Output: Fixed(1), Duration: 4 * time.Minute}, 3)
		if err != nil {
			t.Fatal(err)
		}
		var counts [4]float64
		for _, r := range trace {
			counts[r.Offset/time.Minute]++
		}
		for i, want := range []float64{1200, 0, 3600, 600} {
			if math.Abs(counts[i]-want) > .12*want+1 {
				t.Errorf("%s: %.0f requests in minute %d, want about %.0f", name, counts[i], i, want)
			}
		}
	}
}

func TestArrivalsRefuse(t *testing.T) {
	for name, a := range map[string]Arrivals{
		"no such family":        {Rate: 1, Gaps: 9},
		"constant and varying":  {Rate: 1, Gaps: ConstantGaps, CV: 1},
		"hardly ever":           {Rate: 1, CV: 1e6},
		"a profile that ends":   {Rate: 1, Profile: []RatePart{{0, 1}, {time.Second, 0}}},
		"a late profile":        {Rate: 1, Profile: []RatePart{{time.Second, 1}}},
		"a profile out of time": {Rate: 1, Profile: []RatePart{{0, 1}, {0, 2}}},
		"a negative rate":       {Rate: 1, Profile: []RatePart{{0, -1}}},
	} {
		if _, err := Generate(Spec{Arrivals: a, Prompt: Fixed(1), Output: Fixed(1), Count: 5}, 1); !errors.Is(err, ErrSpec) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWeibullShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.Float64Range(.2, 10).Draw(t, "shape")
		one, two := math.Gamma(1+1/k), math.Gamma(1+2/k)
		if got := weibullShape(math.Sqrt(two/(one*one) - 1)); !near(got, k, 1e-6) {
			t.Fatalf("shape %.6f, want %.6f", got, k)
		}
	})
}
