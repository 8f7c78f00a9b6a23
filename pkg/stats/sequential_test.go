package stats

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// The table of the design: requests that Wald's test needs, level 1 %, power 95 %.
func TestWaldRequests(t *testing.T) {
	for _, c := range []struct{ p0, p1, want float64 }{
		{.01, .03, 317}, {.01, .05, 101}, {.01, .10, 29}, {.01, .20, 10}, {.05, .15, 59}, {.05, .50, 5},
	} {
		got, err := WaldRequests(c.p0, c.p1, .01, .95)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "requests", got, c.want, .6)
	}
	for _, c := range []struct{ cv, effect, want float64 }{{.3, .05, 565}, {.3, .1, 142}, {1, .05, 6272}, {1, .1, 1568}} {
		got, err := SamplesPerArm(c.cv, c.effect, .05, .8)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "samples, relative", got/c.want, 1, .006)
	}
}

func TestSPRTKeepsItsErrors(t *testing.T) {
	const runs = 3000
	r := rand.New(rand.NewPCG(31, 1))
	decide := func(rate float64) (rejected int, requests float64) {
		for range runs {
			s, err := NewSPRT(.05, .15, .01, .05)
			if err != nil {
				t.Fatal(err)
			}
			for d := Undecided; d == Undecided; requests++ {
				d = s.Add(r.Float64() < rate)
				if d == RejectNull {
					rejected++
				}
			}
			if s.Add(true) == Undecided {
				t.Fatal("a decision was taken back")
			}
		}
		return rejected, requests / runs
	}
	if wrong, _ := decide(.05); wrong > runs*.015 || wrong == 0 {
		t.Errorf("null hypothesis rejected in %d of %d", wrong, runs)
	}
	right, requests := decide(.15)
	if right < runs*.94 {
		t.Errorf("alternative found in %d of %d", right, runs)
	}
	if requests < 59 || requests > 75 {
		t.Errorf("%v requests on average, Wald's approximation is 59", requests)
	}
}

func TestRateTestKeepsItsLevel(t *testing.T) {
	test, err := NewRateTest(.01)
	if err != nil {
		t.Fatal(err)
	}
	// Not simulated: the exact chance over all ways in which events can fall.
	for _, alpha := range []float64{.01, 2.1e-4} {
		if ever := test.crossing(.01, -math.Log(alpha), 2000); ever > alpha || ever < alpha/10 {
			t.Errorf("Ville's threshold at %v is crossed with chance %v", alpha, ever)
		}
		threshold, err := RateThreshold(.01, alpha, 600)
		if err != nil {
			t.Fatal(err)
		}
		ever := test.crossing(.01, float64(threshold), 600)
		if ever > alpha || ever < .8*alpha {
			t.Errorf("computed threshold %v at %v is crossed with chance %v", threshold, alpha, ever)
		}
	}
	if ever := test.crossing(.05, math.Log(100), 600); ever < .99 {
		t.Errorf("a rate of 5 %% is found with chance %v", ever)
	}
}

func TestRateTestByHand(t *testing.T) {
	test, err := NewRateTest(.01)
	if err != nil {
		t.Fatal(err)
	}
	if err := test.Add(2, 10); err != nil {
		t.Fatal(err)
	}
	var want float64
	for _, a := range []struct{ odds, weight float64 }{{4. / 99, .5}, {10. / 99, .3}, {30. / 99, .2}} {
		p := a.odds / (1 + a.odds)
		want += a.weight * math.Pow(p/.01, 2) * math.Pow((1-p)/.99, 8)
	}
	near(t, "e-value", test.Evidence().EValue(), want, 1e-9*want)
}

func TestEventTestByHand(t *testing.T) {
	test, err := NewEventTest(2)
	if err != nil {
		t.Fatal(err)
	}
	// A quarter of the requests on the canary, so two fifths of the events at twice the rate.
	if err := test.Add(Counted{Events: 3, Requests: 25}, Counted{Events: 1, Requests: 75}); err != nil {
		t.Fatal(err)
	}
	var want float64
	for i := range 8 {
		p := logistic(math.Log(.4/.6) + .1 + 2.4*float64(i)/7)
		want += math.Pow(p/.4, 3) * (1 - p) / .6 / 8
	}
	near(t, "e-value", test.Evidence().EValue(), want, 1e-12)
	before := test.Evidence()
	if err := errors.Join(test.Add(Counted{0, 0}, Counted{5, 50}), test.Add(Counted{5, 50}, Counted{0, 0})); err != nil {
		t.Fatal(err)
	}
	if test.Evidence() != before {
		t.Error("an interval with one arm alone changed the evidence")
	}
	if err := test.Add(Counted{3, 2}, Counted{0, 1}); !errors.Is(err, ErrInput) || test.Evidence() != before {
		t.Errorf("more events than requests: %v", err)
	}
}

// setting of a null hypothesis that holds just so.
type eventSetting struct {
	name                   string
	rate, margin, requests float64 // of the controls; requests of all per interval
	share                  float64
	swing                  bool // load and rate swing together, by a factor of five
}

// Ville's bound: the evidence passes 1/α in at most a share α of the runs, however long one looks.
func TestEventTestKeepsVillesBound(t *testing.T) {
	const alpha, runs, intervals = .05, 1500, 120
	for _, c := range []eventSetting{
		{"rare events", .01, 1.1, 40, .25, false},
		{"common events", .3, 2, 40, .25, false},
		{"few requests", .05, 2, 3, .1, false},
		{"half and half", .1, 1, 20, .5, false},
		{"load that swings", .05, 1.5, 30, .25, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(41, 1))
			crossed := 0
			for range runs {
				if c.crosses(t, r, c.margin, alpha, intervals) {
					crossed++
				}
			}
			if low, err := RateAtLeast(crossed, runs, .999); err != nil || low > alpha {
				t.Errorf("rejected in %d of %d runs, allowed %v", crossed, runs, alpha)
			}
			found := 0
			for range 100 {
				if c.crosses(t, r, 3*c.margin, alpha, 4*intervals) {
					found++
				}
			}
			if found < 85 {
				t.Errorf("three times the margin was found in %d of 100 runs", found)
			}
		})
	}
}

// crosses simulates a canary worse by factor and tells whether the evidence ever rejects.
func (c eventSetting) crosses(t *testing.T, r *rand.Rand, factor, alpha float64, intervals int) bool {
	t.Helper()
	test, err := NewEventTest(c.margin)
	if err != nil {
		t.Fatal(err)
	}
	for i := range intervals {
		rate, requests := c.rate, c.requests
		if c.swing && i/10%2 == 0 {
			rate, requests = 5*rate, 2*requests
		}
		canary, control := Counted{}, Counted{}
		for range int(requests) {
			if r.Float64() < c.share {
				canary.Requests++
				canary.Events += indicator(r.Float64() < min(1, factor*rate))
			} else {
				control.Requests++
				control.Events += indicator(r.Float64() < rate)
			}
		}
		if err := test.Add(canary, control); err != nil {
			t.Fatal(err)
		}
		if test.Evidence().Rejects(alpha) {
			return true
		}
	}
	return false
}

func indicator(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func TestShareTest(t *testing.T) {
	r := rand.New(rand.NewPCG(51, 1))
	ever := func(share float64) (crossed int) {
		for range 600 {
			test := NewShareTest()
			for range 100 {
				canary := 0.0
				for range 20 {
					canary += indicator(r.Float64() < share)
				}
				if err := test.Add(canary, 20, .25); err != nil {
					t.Fatal(err)
				}
				if test.Evidence().Rejects(.01) {
					crossed++
					break
				}
			}
		}
		return crossed
	}
	if n := ever(.25); n > 14 { // 99 % of binomial(600, .01) lie below
		t.Errorf("the intended share was rejected in %d of 600 runs", n)
	}
	for _, share := range []float64{.18, .33} {
		if n := ever(share); n < 540 {
			t.Errorf("a share of %v instead of .25 was found in %d of 600 runs", share, n)
		}
	}
	if err := NewShareTest().Add(1, 2, 0); !errors.Is(err, ErrInput) {
		t.Errorf("a share of nothing: %v", err)
	}
}

// Ville's bound of T2, and its power, on log-normal latencies.
func TestQuantileTestKeepsVillesBound(t *testing.T) {
	const alpha, runs = .05, 250
	for _, p := range []float64{.5, .95} {
		test, err := NewQuantileTest(p, 1.1)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(61, uint64(100*p)))
		ever := func(factor float64, seconds int) bool {
			canary, control := NewSketch(), NewSketch()
			for range seconds {
				for i := range 20 {
					v := .3 * math.Exp(.5*r.NormFloat64())
					to := control
					if i%4 == 0 {
						v, to = v*factor, canary
					}
					if err := to.Add(v); err != nil {
						t.Fatal(err)
					}
				}
				e, err := test.Evidence(canary, control)
				if err != nil {
					t.Fatal(err)
				}
				if e.Rejects(alpha) {
					return true
				}
			}
			return false
		}
		wrong, found := 0, 0
		for i := range runs {
			wrong += int(indicator(ever(1.1, 100)))
			if i < 60 {
				found += int(indicator(ever(1.8, 200)))
			}
		}
		if low, err := RateAtLeast(wrong, runs, .999); err != nil || low > alpha {
			t.Errorf("p%v: rejected at the margin in %d of %d runs", 100*p, wrong, runs)
		}
		if found < 48 {
			t.Errorf("p%v: 1.8 times found in %d of 60 runs", 100*p, found)
		}
	}
}

func TestQuantileTestEdges(t *testing.T) {
	test, err := NewQuantileTest(.5, 1.25)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "margin", test.Margin(), 1.271, 5e-4)
	if wider, err := NewQuantileTest(.5, 1.10); err != nil || math.Abs(wider.Margin()-1.105) > 5e-4 {
		t.Errorf("a margin of 1.10 became %v, %v", wider.Margin(), err)
	}
	sketch := func(values ...float64) *Sketch {
		s := NewSketch()
		for _, v := range values {
			if err := s.Add(v); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	for name, c := range map[string][2]*Sketch{
		"nothing": {nil, nil}, "no controls": {sketch(1, 2), NewSketch()}, "no canary": {NewSketch(), sketch(1)},
	} {
		if e, err := test.Evidence(c[0], c[1]); err != nil || e != 0 {
			t.Errorf("%s: evidence %v, %v", name, e, err)
		}
	}
	for name, c := range map[string][2]*Sketch{
		"zeros": {sketch(0, 0, 0), sketch(0, 0)}, "equal": {sketch(1, 1), sketch(1, 1)}, "zero controls": {sketch(1, 2, 3), sketch(0, 0, 0)},
	} {
		if e, err := test.Evidence(c[0], c[1]); err != nil || e.Rejects(.05) || math.IsNaN(float64(e)) {
			t.Errorf("%s: evidence %v, %v", name, e, err)
		}
	}
	for _, margin := range []float64{1, 1.01, math.NaN(), math.Inf(1)} {
		if _, err := NewQuantileTest(.5, margin); !errors.Is(err, ErrInput) {
			t.Errorf("margin %v: %v", margin, err)
		}
	}
}

// The search between the two quantiles finds the least product over every edge there is.
func TestQuantileTestFindsTheMinimum(t *testing.T) {
	r := rand.New(rand.NewPCG(71, 1))
	test, err := NewQuantileTest(.5, 1.1)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		canary, control := NewSketch(), NewSketch()
		for range 40 {
			if err := errors.Join(canary.Add(math.Exp(.5+.6*r.NormFloat64())), control.Add(math.Exp(.3*r.NormFloat64()))); err != nil {
				t.Fatal(err)
			}
		}
		got, err := test.Evidence(canary, control)
		if err != nil {
			t.Fatal(err)
		}
		c, b := cumulate(canary), cumulate(control)
		least := math.Inf(1)
		for edge := -600; edge < 600; edge++ {
			e, err := test.at(c, b, edge)
			if err != nil {
				t.Fatal(err)
			}
			least = min(least, float64(e))
		}
		if got > 0 || least > 0 {
			near(t, "least evidence", float64(got), least, 1e-9)
		}
	}
}
