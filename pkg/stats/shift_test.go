package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// The radius by hand, and against the exact one-sided Gaussian mixture that it bounds: at the radius the
// mixture's e-value is at least 1/alpha.
func TestSequenceRadius(t *testing.T) {
	near(t, "radius after 24 blocks", sequenceRadius(24, 1./8, .01), math.Sqrt(2*4./(24*3)*math.Log(1+2/.02)), 1e-12)
	for _, alpha := range []float64{.05, .01, 2.1e-4} {
		for _, n := range []float64{1, 3, 24, 60, 1000} {
			x := sequenceRadius(n, 1./8, alpha) * n / math.Sqrt(n+8)
			mixture := 2 * math.Sqrt(8/(n+8)) * math.Exp(x*x/2) * math.Erfc(-x/math.Sqrt2) / 2
			if mixture < 1/alpha || mixture > 2.2/alpha {
				t.Errorf("alpha %v after %v blocks: the mixture is %v there, want a little over %v", alpha, n, mixture, 1/alpha)
			}
		}
	}
}

// ar draws a first-order process with standard deviation sd in its stationary state.
func ar(r *rand.Rand, n int, r1, sd float64) []float64 {
	x := make([]float64, n)
	v := r.NormFloat64()
	for i := range x {
		x[i] = sd * v
		v = r1*v + math.Sqrt(1-r1*r1)*r.NormFloat64()
	}
	return x
}

// Both bounds, watched at every block: they miss the true shift as rarely as they say, up to what the
// estimates from few blocks cost, and they find what is there.
func TestShiftKeepsItsLevel(t *testing.T) {
	const runs, alpha = 800, .01
	for _, c := range []struct {
		name   string
		r1     float64
		before int
		most   float64 // share of runs in which a bound may ever miss
		least  float64 // share in which a shift must be found
		hit    float64 // in deviations
	}{
		{"independent", 0, 24, .01, .99, 3},
		{"neighbours alike", .5, 60, .012, .95, 3},
		{"slow drift", .8, 120, .02, .6, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(81, 1))
			low, high, found := 0, 0, 0
			for range runs {
				x := ar(r, c.before+60, c.r1, .2)
				s, err := NewShift(x[:c.before])
				if err != nil {
					t.Fatal(err)
				}
				var missLow, missHigh, hit bool
				for _, d := range x[c.before:] {
					s.Add(d)
					missLow = missLow || s.AtLeast(alpha) > 0
					missHigh = missHigh || s.AtMost(alpha) < 0
					hit = hit || s.AtLeast(alpha)+.2*c.hit > 0
				}
				low, high, found = low+int(indicator(missLow)), high+int(indicator(missHigh)), found+int(indicator(hit))
			}
			for side, missed := range map[string]int{"lower": low, "upper": high} {
				if least, err := RateAtLeast(missed, runs, .999); err != nil || least > c.most {
					t.Errorf("the %s bound missed in %d of %d runs, allowed %v", side, missed, runs, c.most)
				}
			}
			if float64(found) < c.least*runs {
				t.Errorf("a shift of %v deviations was found in %d of %d runs", c.hit, found, runs)
			}
		})
	}
}

func TestShiftTakesOffWhatDifferedBefore(t *testing.T) {
	r := rand.New(rand.NewPCG(82, 1))
	x := ar(r, 48, 0, .1)
	plain, err := NewShift(x[:24])
	if err != nil {
		t.Fatal(err)
	}
	moved := make([]float64, len(x))
	for i, v := range x {
		moved[i] = v + 7
	}
	unequal, err := NewShift(moved[:24])
	if err != nil {
		t.Fatal(err)
	}
	for i := 24; i < 48; i++ {
		plain.Add(x[i])
		unequal.Add(moved[i])
		unequal.Add(math.NaN()) // a block without traffic changes nothing
	}
	near(t, "shift", unequal.Value(), plain.Value(), 1e-9)
	near(t, "lower bound", unequal.AtLeast(.01), plain.AtLeast(.01), 1e-9)
	if unequal.Blocks() != 24 {
		t.Errorf("%d blocks", unequal.Blocks())
	}
}

func TestShiftClaimsNothingEarly(t *testing.T) {
	if _, err := NewShift(make([]float64, 24)); !errors.Is(err, ErrInput) {
		t.Errorf("blocks that do not vary: %v", err)
	}
	if _, err := NewShift(append(ar(rand.New(rand.NewPCG(1, 1)), 23, 0, 1), math.NaN())); !errors.Is(err, ErrInput) {
		t.Errorf("23 blocks: %v", err)
	}
	s, err := NewShift(ar(rand.New(rand.NewPCG(1, 1)), 24, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	s.Add(100)
	s.Add(100)
	if !math.IsInf(s.AtLeast(.01), -1) || !math.IsInf(s.AtMost(.01), 1) {
		t.Errorf("after two blocks: %v to %v", s.AtLeast(.01), s.AtMost(.01))
	}
	if s.Add(100); s.AtLeast(.01) < 90 {
		t.Errorf("a hundred deviations are not seen: at least %v", s.AtLeast(.01))
	}
}

func TestAutocorrelationTime(t *testing.T) {
	r := rand.New(rand.NewPCG(83, 1))
	for r1, want := range map[float64]float64{0: 1, .5: 3, .8: 9} {
		near(t, "relative time", AutocorrelationTime(ar(r, 20_000, r1, 1))/want, 1, .12)
	}
	near(t, "alternating", AutocorrelationTime([]float64{1, -1, 1, -1}), 1, 0)
	near(t, "constant", AutocorrelationTime([]float64{2, 2, 2}), 1, 0)
}

// The textbook's figures for slack .5 and threshold 5: 465 values to a false alarm where both directions
// are watched, so twice as many for one, and 10.4 to a rise of one deviation (Montgomery, Introduction to
// Statistical Quality Control).
func TestCUSUM(t *testing.T) {
	watch, err := NewCUSUM(.5, 5)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "false alarm after, relative", watch.RunLength(0)/930, 1, .02)
	near(t, "found after", watch.RunLength(1), 10.4, .1)
	near(t, "at the slack", watch.RunLength(.5), 38.0, .5)
	r := rand.New(rand.NewPCG(84, 1))
	length := func(shift float64) (mean float64) {
		const runs = 600
		for range runs {
			c, err := NewCUSUM(.5, 5)
			if err != nil {
				t.Fatal(err)
			}
			for !c.Add(shift + r.NormFloat64()) {
				mean++
			}
			mean++
		}
		return mean / runs
	}
	near(t, "simulated false alarm after, relative", length(0)/930, 1, .12)
	near(t, "simulated finding after", length(1), 10.4, .5)
}

func TestCUSUMTellsWhenItBegan(t *testing.T) {
	c, err := NewCUSUM(.5, 5)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c.Add(-1)
	}
	for range 3 {
		c.Add(2)
	}
	c.Add(math.NaN())
	if !c.Add(2) || c.Since() != 4 {
		t.Errorf("the rise began %d values ago, want 4", c.Since())
	}
	if !c.Add(-100) {
		t.Error("the alarm went off by itself")
	}
	if _, err := NewCUSUM(0, 0); !errors.Is(err, ErrInput) {
		t.Errorf("no threshold: %v", err)
	}
}
