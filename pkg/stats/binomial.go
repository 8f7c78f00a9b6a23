package stats

import (
	"fmt"
	"math"
)

// Bounds of a rate of events per request.
type Bounds struct{ Low, High float64 }

// ClopperPearson is the exact two-sided interval of a rate after k events in n requests: it misses the
// true rate with a chance of at most 1 − confidence, half of that on each side. It holds at one look
// fixed in advance, and for independent requests. (Clopper and Pearson, Biometrika 26(4), 1934.)
func ClopperPearson(k, n int, confidence float64) (Bounds, error) {
	if err := probability("confidence", confidence); err != nil {
		return Bounds{}, err
	}
	low, err := RateAtLeast(k, n, (1+confidence)/2)
	if err != nil {
		return Bounds{}, err
	}
	high, err := RateAtMost(k, n, (1+confidence)/2)
	return Bounds{Low: low, High: high}, err
}

// RateAtMost is the exact one-sided upper bound of a rate after k events in n requests.
func RateAtMost(k, n int, confidence float64) (float64, error) {
	if err := clopperInput(k, n, confidence); err != nil || k == n {
		return 1, err
	}
	// P(at most k events) at rate q is 1 − I_q(k+1, n−k), which falls as q rises.
	return solveRate(func(q float64) (bool, error) {
		i, err := incompleteBeta(float64(k)+1, float64(n-k), q)
		return i >= confidence, err
	})
}

// RateAtLeast is the exact one-sided lower bound of a rate after k events in n requests.
func RateAtLeast(k, n int, confidence float64) (float64, error) {
	if err := clopperInput(k, n, confidence); err != nil || k == 0 {
		return 0, err
	}
	// P(at least k events) at rate q is I_q(k, n−k+1), which rises with q.
	return solveRate(func(q float64) (bool, error) {
		i, err := incompleteBeta(float64(k), float64(n-k)+1, q)
		return i >= 1-confidence, err
	})
}

func clopperInput(k, n int, confidence float64) error {
	if k < 0 || n < k || n == 0 {
		return fmt.Errorf("%w: %d events in %d requests", ErrInput, k, n)
	}
	return probability("confidence", confidence)
}

// solveRate is the rate at which above turns true; it must be false below and true over it. Bisection
// on the logarithm of the odds, so that rates of one in a million are as exact as those of a half.
func solveRate(above func(q float64) (bool, error)) (float64, error) {
	low, high := -40.0, 40.0
	for range 100 {
		mid := (low + high) / 2
		over, err := above(logistic(mid))
		if err != nil {
			return 0, err
		}
		if over {
			high = mid
		} else {
			low = mid
		}
	}
	return logistic((low + high) / 2), nil
}

// AttainmentRequests is how many requests with that many violations prove that the rate of violations
// lies below rate, at one look fixed in advance (design of an attainment test; exact).
func AttainmentRequests(violations int, rate, confidence float64) (int, error) {
	if err := probability("rate", rate); err != nil {
		return 0, err
	}
	if err := clopperInput(violations, violations+1, confidence); err != nil {
		return 0, err
	}
	proven := func(n int) (bool, error) {
		i, err := incompleteBeta(float64(violations)+1, float64(n-violations), rate)
		return i >= confidence, err
	}
	high := violations + 1
	for {
		ok, err := proven(high)
		if err != nil {
			return 0, err
		}
		if ok {
			break
		}
		high *= 2
	}
	low := violations
	for high-low > 1 {
		mid := (low + high) / 2
		ok, err := proven(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			high = mid
		} else {
			low = mid
		}
	}
	return high, nil
}

// rateStrength is the weight, in requests, of what an anytime-valid bound expects a rate to be near.
// With 10 it costs a factor of 1.0 to 1.3 over the exact bound at one look, from 50 to 10,000 requests
// and from none to 100 events.
const rateStrength = 10

// RateNeverAbove is an anytime-valid upper bound of a rate after k events in n requests: with a chance
// of at least 1 − alpha it lies above the rate at every moment at once, so it may be looked at whenever
// one likes. It collects the rates that a one-sided beta-binomial mixture does not reject (Howard,
// Ramdas, McAuliffe, Sekhon, Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences, Annals of
// Statistics 49(2), 2021, Proposition 7). Counts may be fractions; without requests it is 1.
func RateNeverAbove(k, n, alpha float64) (float64, error) {
	if err := counts("events", k, n); err != nil {
		return 1, err
	}
	if err := probability("alpha", alpha); err != nil {
		return 1, err
	}
	if k == n {
		return 1, nil
	}
	bound, err := solveRate(func(q float64) (bool, error) {
		if q <= k/n {
			return false, nil
		}
		if q == 1 {
			return true, nil
		}
		e, err := against(k, n, q, rateStrength, atLeast)
		return e.Rejects(alpha), err
	})
	if err != nil {
		return 1, err
	}
	return bound, nil
}

// side of a one-sided null hypothesis about a probability.
type nullSide bool

const (
	atLeast nullSide = true  // the probability is at least q
	atMost  nullSide = false // the probability is at most q
)

// against is the evidence of k events in n trials against the null hypothesis that an event has at
// least, or at most, probability q: the likelihood ratio to q of a Beta(rq, r(1−q)) mixture over the
// probabilities on the other side of q. A nonnegative supermartingale under the null hypothesis
// (Howard and Ramdas, Sequential Estimation of Quantiles, Bernoulli 28(3), 2022).
func against(k, n, q, r float64, null nullSide) (Evidence, error) {
	if err := counts("trials", k, n); err != nil {
		return 0, err
	}
	if err := probability("probability", q); err != nil {
		return 0, err
	}
	a, b := r*q, r*(1-q)
	after, err := logTail(a+k, b+n-k, q, null)
	if err != nil {
		return 0, err
	}
	before, err := logTail(a, b, q, null)
	if err != nil {
		return 0, err
	}
	logE := after - before - k*math.Log(q) - (n-k)*math.Log1p(-q)
	if math.IsNaN(logE) {
		return 0, fmt.Errorf("%w: %v of %v against %v", ErrInput, k, n, q)
	}
	return Evidence(logE), nil
}

// logTail is the logarithm of ∫ t^(a−1) (1−t)^(b−1) dt over the alternatives: over [0, q] against at
// least q, over [q, 1] against at most q. Where the regularised function is too small for a float64, the
// first term of its series serves, which is less and so errs towards no evidence.
func logTail(a, b, q float64, null nullSide) (float64, error) {
	if null == atMost {
		a, b, q = b, a, 1-q
	}
	i, err := incompleteBeta(a, b, q)
	if err != nil {
		return 0, err
	}
	if i < 1e-290 {
		return a*math.Log(q) + b*math.Log1p(-q) - math.Log(a), nil
	}
	return math.Log(i) + logBeta(a, b), nil
}

func logBeta(a, b float64) float64 {
	x, _ := math.Lgamma(a)
	y, _ := math.Lgamma(b)
	z, _ := math.Lgamma(a + b)
	return x + y - z
}
