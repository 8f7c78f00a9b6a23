package stats

import (
	"fmt"
	"math"
)

// eventShifts are the alternatives of an EventTest: how far the log-odds that a bad event is the
// canary's lie above the null hypothesis. From a tenth more to twelve times more.
var eventShifts = evenly(.1, 2.5, 8)

func evenly(low, high float64, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = low + (high-low)*float64(i)/float64(n-1)
	}
	return v
}

// EventTest is test T1: an e-process against "the canary's rate of bad events is at most margin times
// that of its controls". Of the bad events of an interval, the canary should have its share of the
// requests, weighted by the margin; each event is a trial, so swings of load that hit both arms cancel.
// After Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022.
//
// The chance that its evidence ever rejects at level α is at most α, for independent requests whose
// chances within an interval obey the margin, however the rates move and however common the events are:
// a request multiplies the expected evidence by 1 + c(A−1) on the canary, A > 1, and by 1 + b(B−1) on
// the controls, B < 1, and by 1 + x ≤ exp x the product over an interval is at most
// exp(n b [ρ m A + (1−ρ) B − ρ m − (1−ρ)]) = 1 where c ≤ m b. Requests that fail together break this:
// see the false alarms of package canarysim. Create with NewEventTest.
type EventTest struct {
	margin float64
	logs   []float64 // of each alternative
}

// NewEventTest returns a test with that margin above 0. A margin below 1 with the arms swapped proves
// the opposite: controls worse than 1/m times the canary means a canary better than m times the controls.
func NewEventTest(margin float64) (*EventTest, error) {
	if !(margin > 0) || math.IsInf(margin, 0) {
		return nil, fmt.Errorf("%w: margin %v", ErrInput, margin)
	}
	return &EventTest{margin: margin, logs: make([]float64, len(eventShifts))}, nil
}

// Counted is what one arm saw in an interval.
type Counted struct{ Events, Requests float64 }

// Add counts an interval, in which shares of the traffic should be steady: a second, or a few. An
// interval with requests on one arm alone tells nothing and is skipped. Numbers that cannot be counts
// leave the test as it was.
func (t *EventTest) Add(canary, control Counted) error {
	for _, c := range []Counted{canary, control} {
		if err := counts("requests", c.Events, c.Requests); err != nil {
			return err
		}
	}
	if canary.Requests == 0 || control.Requests == 0 {
		return nil
	}
	// log-odds that an event is the canary's when its rate is margin times the controls'
	null := math.Log(t.margin * canary.Requests / control.Requests)
	for i, d := range eventShifts {
		t.logs[i] += canary.Events*(logLogistic(null+d)-logLogistic(null)) +
			control.Events*(logLogistic(-null-d)-logLogistic(-null))
	}
	return nil
}

// logLogistic is log(1/(1+exp(−x))), exact at both ends.
func logLogistic(x float64) float64 {
	if x < 0 {
		return x - math.Log1p(math.Exp(x))
	}
	return -math.Log1p(math.Exp(-x))
}

// Evidence so far.
func (t *EventTest) Evidence() Evidence {
	return Evidence(logSumExp(t.logs) - math.Log(float64(len(t.logs))))
}

// ShareTest looks for a sample-ratio mismatch: an e-process, two-sided, against "of the requests, the
// canary gets the share that the router was told to give it". Routers that deal in turn are steadier than
// the coin flips it assumes, which only makes it slower; routers that keep sessions together are less
// steady, and then an interval should count sessions. Create with NewShareTest.
type ShareTest struct{ up, down []float64 }

// NewShareTest returns a test without data.
func NewShareTest() *ShareTest {
	return &ShareTest{up: make([]float64, len(shareShifts)), down: make([]float64, len(shareShifts))}
}

// shareShifts: a mismatch of a tenth matters, and one of ten times is found whatever is listed here.
var shareShifts = evenly(.1, 1.5, 6)

// Add counts an interval: requests of the canary, of both arms, and the share that was intended.
func (t *ShareTest) Add(canary, all, intended float64) error {
	if err := counts("requests", canary, all); err != nil {
		return err
	}
	if err := probability("intended share", intended); err != nil {
		return err
	}
	null := logit(intended)
	step := func(d float64) float64 {
		return canary*(logLogistic(null+d)-logLogistic(null)) + (all-canary)*(logLogistic(-null-d)-logLogistic(-null))
	}
	for i, d := range shareShifts {
		t.up[i] += step(d)
		t.down[i] += step(-d)
	}
	return nil
}

// Evidence of a mismatch so far, in either direction.
func (t *ShareTest) Evidence() Evidence {
	mean := func(logs []float64) Evidence { return Evidence(logSumExp(logs) - math.Log(float64(len(logs)))) }
	return Merge(mean(t.up), mean(t.down))
}
