package stats

import (
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %v, want %v ± %v", what, got, want, tolerance)
	}
}

// The mixtures against figures of confseq's own tests (one-sided beta-binomial mixture of variance
// 100, alpha 0.05, g 0.2, h 0.8), written as counts: n = 100/(g h), k = n g + s.
func TestMixtureAgainstPublishedFigures(t *testing.T) {
	const g, h = .2, .8
	n := 100 / (g * h)
	rho := 100 / (2*math.Log(1/.1) + math.Log(1+2*math.Log(1/.1)))
	r := (rho - g*h) / (g * h)
	for _, c := range []struct{ s, want float64 }{{10, -.07134019}, {28.41238, math.Log(20)}} {
		up, err := against(n*g+c.s, n, g, r, atMost)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "evidence for more", float64(up), c.want, 1e-5)
		// The same by symmetry: as many fewer of the complement.
		down, err := against(n*h-c.s, n, h, r, atLeast)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "evidence for fewer", float64(down), c.want, 1e-5)
	}
}

// A mixture integrated by hand: one trial, a Beta(rq, r(1−q)) with r = 2, q = ½ is uniform; over
// [½, 1] its mean is ¾, so an event multiplies by ¾/½ and none by ¼/½.
func TestMixtureByHand(t *testing.T) {
	for _, c := range []struct {
		k    float64
		null nullSide
		want float64
	}{{1, atMost, 1.5}, {0, atMost, .5}, {1, atLeast, .5}, {0, atLeast, 1.5}} {
		e, err := against(c.k, 1, .5, 2, c.null)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "e-value", e.EValue(), c.want, 1e-12)
	}
}

func TestMergeAveragesEValues(t *testing.T) {
	near(t, "average of 3 and 1", Merge(Evidence(math.Log(3)), 0).EValue(), 2, 1e-12)
	near(t, "average with nothing", Merge(Evidence(math.Log(3)), Evidence(math.Inf(-1))).EValue(), 1.5, 1e-12)
	near(t, "average of huge ones", float64(Merge(5000, 5000)), 5000, 1e-9)
	near(t, "nothing", float64(Merge()), 0, 0)
	if !Evidence(math.Log(100)).Rejects(.01) || Evidence(math.Log(99)).Rejects(.01) {
		t.Error("the level of 1 % is not at an e-value of 100")
	}
}

// Holm's own kind of example: four p-values at 5 %.
func TestHolm(t *testing.T) {
	reject, adjusted := Holm([]float64{.01, .04, .03, .005, math.NaN()}, .06)
	for i, want := range []float64{.04, .09, .09, .025, 1} {
		near(t, "adjusted p", adjusted[i], want, 1e-12)
		if reject[i] != (want <= .06) {
			t.Errorf("hypothesis %d rejected: %v", i, reject[i])
		}
	}
}
