package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

// line of n points with slope b and errors that remember rho of the one before.
func line(rng *rand.Rand, n int, b, rho float64) (x, y []float64) {
	e := rng.NormFloat64() / math.Sqrt(1-rho*rho)
	for i := range n {
		x, y = append(x, float64(i)), append(y, 5+b*float64(i)+e)
		e = rho*e + rng.NormFloat64()
	}
	return x, y
}

// TestTrendCovers: the 95 % interval holds the true slope about as often as it says, also when errors
// hang together, where the textbook's interval would fail.
func TestTrendCovers(t *testing.T) {
	for _, c := range []struct {
		n     int
		rho   float64
		least float64
	}{{12, 0, .89}, {60, 0, .905}, {300, 0, .92}, {300, .5, .905}, {1000, .7, .92}} {
		rng := rand.New(rand.NewPCG(uint64(c.n), uint64(c.rho*100)))
		held := 0
		const trials = 2000
		for range trials {
			x, y := line(rng, c.n, .01, c.rho)
			s, ok := Trend(x, y, .95)
			if !ok {
				t.Fatal("no slope")
			}
			if s.Low <= .01 && .01 <= s.High {
				held++
			}
		}
		share := float64(held) / trials
		if share < c.least || share > .985 {
			t.Errorf("n %d, rho %v: %.1f %% of intervals hold the slope", c.n, c.rho, 100*share)
		}
		t.Logf("n %d, rho %v: %.1f %%", c.n, c.rho, 100*share)
	}
}

func TestTrendOfALine(t *testing.T) {
	x, y := []float64{}, []float64{}
	for i := range 20 {
		x, y = append(x, float64(i)), append(y, 3-2*float64(i))
	}
	y[7] = math.NaN()
	s, ok := Trend(x, y, .95)
	if !ok || math.Abs(s.Value+2) > 1e-9 || s.High-s.Low > 1e-6 || s.Points != 19 {
		t.Errorf("%+v", s)
	}
	for name, n := range map[string]int{"few points": 7, "none": 0} {
		if _, ok := Trend(x[:n], y[:n], .95); ok {
			t.Errorf("%s give a slope", name)
		}
	}
	if _, ok := Trend(make([]float64, 20), y, .95); ok {
		t.Error("one time gives a slope")
	}
}
