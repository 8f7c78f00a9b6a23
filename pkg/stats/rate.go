package stats

import (
	"fmt"
	"math"
)

// rateOdds are the alternatives of a RateTest, as multiples of the odds of the null rate, with their
// weights: a rate of 1 % is weighed against 4, 9 and 23 %. Their spacing was chosen so that the
// expected number of requests stays within 1.2 times Wald's optimum for 1 → 5 % and 1 → 20 %.
var rateOdds = []struct{ odds, weight float64 }{{4, .5}, {10, .3}, {30, .2}}

// RateTest is an e-process against "a request is bad with at most the known chance p0", for baselines
// that are known well, such as an objective or weeks of history. The chance that its evidence ever
// rejects at level α is at most α for independent requests (mixture of likelihood ratios, Ville). Create
// with NewRateTest.
type RateTest struct {
	event, none, logs []float64
}

// NewRateTest returns a test of the rate p0.
func NewRateTest(p0 float64) (*RateTest, error) {
	if err := probability("rate", p0); err != nil {
		return nil, err
	}
	t := &RateTest{}
	for _, r := range rateOdds {
		p1 := logistic(logit(p0) + math.Log(r.odds))
		t.event = append(t.event, math.Log(p1/p0))
		t.none = append(t.none, math.Log1p(-p1)-math.Log1p(-p0))
		t.logs = append(t.logs, math.Log(r.weight))
	}
	return t, nil
}

// Add counts bad of n requests.
func (t *RateTest) Add(bad, n float64) error {
	if err := counts("requests", bad, n); err != nil {
		return err
	}
	for i := range t.logs {
		t.logs[i] += bad*t.event[i] + (n-bad)*t.none[i]
	}
	return nil
}

// Evidence so far.
func (t *RateTest) Evidence() Evidence { return Evidence(logSumExp(t.logs)) }

// RateThreshold is the evidence at which a RateTest of p0 rejects with a chance of alpha exactly, or
// just under, when it is looked at after each of at most horizon requests. Ville's threshold log(1/α)
// holds for ever and pays for events that overshoot it; with the rate known and an end declared, the
// chance is computed instead, by summing over all ways in which the events can fall.
func RateThreshold(p0, alpha float64, horizon int) (Evidence, error) {
	t, err := NewRateTest(p0)
	if err != nil {
		return 0, err
	}
	if err := probability("alpha", alpha); err != nil {
		return 0, err
	}
	if horizon < 1 || horizon > 100_000 {
		return 0, fmt.Errorf("%w: horizon of %d requests", ErrInput, horizon)
	}
	low, high := 0.0, -math.Log(alpha)
	for range 30 {
		mid := (low + high) / 2
		if t.crossing(p0, mid, horizon) <= alpha {
			high = mid
		} else {
			low = mid
		}
	}
	return Evidence(high), nil
}

// crossing is the chance that the evidence of a fresh test reaches threshold within horizon requests,
// each bad with probability p.
func (t *RateTest) crossing(p, threshold float64, horizon int) (reached float64) {
	logs := make([]float64, len(t.logs))
	alive := []float64{1} // alive[k]: k bad requests, threshold not reached yet
	for n := 1; n <= horizon; n++ {
		next := make([]float64, len(alive)+1)
		for k, q := range alive {
			next[k] += q * (1 - p)
			next[k+1] += q * p
		}
		// Evidence rises with the number of bad requests: those at the end have crossed.
		for len(next) > 0 {
			k := len(next) - 1
			for i := range logs {
				logs[i] = t.logs[i] + float64(k)*t.event[i] + float64(n-k)*t.none[i]
			}
			if logSumExp(logs) < threshold {
				break
			}
			reached += next[k]
			next = next[:k]
		}
		alive = next
	}
	return reached
}
