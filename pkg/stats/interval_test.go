package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// covers simulates an interval and tells in which share of runs it held the truth.
func covers(t *testing.T, runs int, truth float64, f func(r *rand.Rand) (Interval, error)) float64 {
	t.Helper()
	r := rand.New(rand.NewPCG(91, uint64(runs)))
	n := 0.0
	for range runs {
		i, err := f(r)
		if err != nil {
			t.Fatal(err)
		}
		n += indicator(i.Covers(truth))
	}
	return n / float64(runs)
}

func TestMeanCovers(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		r1   float64
	}{{"independent", 40, 0}, {"dependent", 60, .5}, {"long", 400, .5}} {
		share := covers(t, 1500, 3, func(r *rand.Rand) (Interval, error) {
			x := ar(r, c.n, c.r1, 2)
			for i := range x {
				x[i] += 3
			}
			return Mean(x, .95)
		})
		if share < .915 || share > .975 {
			t.Errorf("%s: an interval of 95 %% held the mean in %v", c.name, share)
		}
	}
}

func TestPaired(t *testing.T) {
	share := covers(t, 1000, 1.3, func(r *rand.Rand) (Interval, error) {
		a, b := make([]float64, 50), make([]float64, 50)
		for i := range a {
			common := math.Exp(2 * r.NormFloat64())
			a[i], b[i] = 1.3*common*math.Exp(.1*r.NormFloat64()), common*math.Exp(.1*r.NormFloat64())
		}
		i, err := Paired(a, b, .95)
		if i.High/i.Low > 1.6 {
			t.Fatalf("what both have in common did not cancel: %+v", i)
		}
		return i, err
	})
	if share < .92 || share > .975 {
		t.Errorf("covered in %v", share)
	}
	if _, err := Paired([]float64{1}, nil, .95); !errors.Is(err, ErrInput) {
		t.Errorf("half a pair: %v", err)
	}
}

// Latencies that drift: the block bootstrap holds its level where a plain one, blocks of one, does not.
func TestRatioOfMeansCovers(t *testing.T) {
	arm := func(r *rand.Rand, factor float64) []Total {
		load := ar(r, 400, .8, .3)
		out := make([]Total, len(load))
		for i, l := range load {
			n := float64(3 + r.IntN(5))
			out[i] = Total{Sum: n * factor * math.Exp(l-.045), Count: n}
		}
		return out
	}
	share := func(block int) float64 {
		return covers(t, 120, 1.2, func(r *rand.Rand) (Interval, error) {
			return RatioOfMeans(arm(r, 1.2), arm(r, 1), block, .95, 1)
		})
	}
	if s := share(20); s < .90 || s > .99 {
		t.Errorf("blocks of 20 covered in %v", s)
	}
	if s := share(1); s > .75 {
		t.Errorf("blocks of one covered in %v: the arms are not dependent enough to test anything", s)
	}
}

func TestRatioOfMeansByHand(t *testing.T) {
	arm := func(sum float64) (v []Total) {
		for range 16 {
			v = append(v, Total{Sum: sum, Count: 2})
		}
		return v
	}
	i, err := RatioOfMeans(arm(6), arm(4), 2, .95, 1)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "ratio", i.Value, 1.5, 1e-12)
	near(t, "width without any variance", i.High-i.Low, 0, 1e-9)
	for name, f := range map[string]func() (Interval, error){
		"too few blocks": func() (Interval, error) { return RatioOfMeans(arm(1), arm(1), 8, .95, 1) },
		"no block":       func() (Interval, error) { return RatioOfMeans(arm(1), arm(1), 0, .95, 1) },
		"nothing":        func() (Interval, error) { return RatioOfMeans(arm(0), arm(1), 1, .95, 1) },
		"no confidence":  func() (Interval, error) { return RatioOfMeans(arm(1), arm(1), 1, 1, 1) },
	} {
		if _, err := f(); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Published: benchmath's own cases, and a table's exact value for 3 against 3.
func TestMannWhitney(t *testing.T) {
	for _, c := range []struct {
		a, b []float64
		p    float64
	}{
		{[]float64{-1, -2, -3}, []float64{1, 2, 3}, .1},
		{[]float64{4, 3, 2, 1}, []float64{8, 7, 6, 5}, 2. / 70},
		{[]float64{1, 4}, []float64{2, 3}, 1},
	} {
		before := append([]float64(nil), c.a...)
		r, err := MannWhitney(c.a, c.b)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "p", r.P, c.p, 1e-9)
		if c.a[0] != before[0] {
			t.Error("the caller's sample was sorted")
		}
	}
	for name, c := range map[string][2][]float64{
		"nothing": {nil, {1}}, "no number": {{math.NaN()}, {1}}, "infinite": {{1}, {math.Inf(1)}},
	} {
		if _, err := MannWhitney(c[0], c[1]); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := MannWhitney([]float64{1, 1, 1, 1}, []float64{1, 1, 1, 1}); err != nil || r.P != 1 || len(r.Warnings) == 0 {
		t.Errorf("equal samples: %+v, %v", r, err)
	}
}

// predicted arms: what was measured is a drifting load, which the prediction knows to rest, and an effect.
func predictedArm(r *rand.Rand, n int, effect, rest float64) Arm {
	load := ar(r, n, .7, 1)
	a := Arm{Measured: make([]float64, n), Predicted: make([]float64, n)}
	for i, l := range load {
		a.Predicted[i] = 5 + l
		a.Measured[i] = 1 + effect + l + rest*r.NormFloat64()
	}
	return a
}

func TestControlVariate(t *testing.T) {
	var saving, explained, plain float64
	const runs = 600
	share := covers(t, runs, .2, func(r *rand.Rand) (Interval, error) {
		a, err := ControlVariate(predictedArm(r, 300, .2, .2), predictedArm(r, 200, 0, .2), .95)
		saving, explained = saving+a.Saving/runs, explained+a.Explained/runs
		plain += indicator(a.Plain.Covers(.2)) / runs
		return a.Adjusted, err
	})
	if share < .92 || share > .98 || plain < .91 {
		t.Errorf("adjusted interval covered in %v, plain one in %v", share, plain)
	}
	near(t, "share explained", explained, 1/1.04, .01)
	if saving < 50 { // load alone has 5.7 times the variance of independent values, the rest .04
		t.Errorf("a saving of %v", saving)
	}
}

// A prediction that knows nothing costs nothing and misleads nobody.
func TestControlVariateWithoutKnowledge(t *testing.T) {
	saving := 0.0
	const runs = 400
	share := covers(t, runs, .2, func(r *rand.Rand) (Interval, error) {
		a, b := predictedArm(r, 200, .2, .2), predictedArm(r, 200, 0, .2)
		a.Predicted, b.Predicted = ar(r, 200, 0, 1), ar(r, 200, 0, 1)
		out, err := ControlVariate(a, b, .95)
		saving += out.Saving / runs
		return out.Adjusted, err
	})
	if share < .9 || math.Abs(saving-1) > .05 {
		t.Errorf("covered in %v, saving %v", share, saving)
	}
	constant := predictedArm(rand.New(rand.NewPCG(1, 1)), 50, 0, .1)
	for i := range constant.Predicted {
		constant.Predicted[i] = 1
	}
	if a, err := ControlVariate(constant, constant, .95); err != nil || math.Abs(a.Saving-1) > 1e-9 {
		t.Errorf("a constant prediction: %+v, %v", a, err)
	}
	for name, a := range map[string]Arm{
		"one unpredicted": {Measured: constant.Measured, Predicted: constant.Predicted[1:]},
		"too few":         {Measured: []float64{1, 2}, Predicted: []float64{1, 2}},
		"no variance":     {Measured: constant.Predicted, Predicted: constant.Predicted},
		"no number":       {Measured: append([]float64{math.NaN()}, constant.Measured[1:]...), Predicted: constant.Predicted},
	} {
		if _, err := ControlVariate(a, constant, .95); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
