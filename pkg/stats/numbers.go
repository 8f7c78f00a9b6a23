package stats

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mathext"
)

// ErrInput is returned for numbers from which nothing follows: negative or fractional counts, more
// events than requests, probabilities outside (0, 1). A verdict that meets it is inconclusive.
var ErrInput = errors.New("numbers that no evidence can be computed from")

// probability checks that p lies strictly between 0 and 1.
func probability(what string, p float64) error {
	if !(p > 0 && p < 1) { // also NaN
		return fmt.Errorf("%w: %s %v is not between 0 and 1", ErrInput, what, p)
	}
	return nil
}

// counts checks that k events of n requests can have been counted. Sketches of histograms hold
// fractions of requests, so fractions are allowed.
func counts(what string, k, n float64) error {
	if !(k >= 0 && n >= k) || math.IsInf(n, 0) {
		return fmt.Errorf("%w: %v of %v %s", ErrInput, k, n, what)
	}
	return nil
}

// incompleteBeta is the regularised incomplete beta function I_x(a, b). The library panics for
// arguments out of range and answers NaN where its series does not converge; both are errors here.
func incompleteBeta(a, b, x float64) (float64, error) {
	if !(a > 0 && b > 0 && x >= 0 && x <= 1) || math.IsInf(a, 0) || math.IsInf(b, 0) {
		return 0, fmt.Errorf("%w: incomplete beta function of %v, %v at %v", ErrInput, a, b, x)
	}
	v := mathext.RegIncBeta(a, b, x)
	if !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("%w: incomplete beta function of %v, %v at %v came out as %v", ErrInput, a, b, x, v)
	}
	return v, nil
}

// logSumExp is log Σ exp v without overflow; -Inf for nothing.
func logSumExp(v []float64) float64 {
	top := math.Inf(-1)
	for _, x := range v {
		top = max(top, x)
	}
	if math.IsInf(top, 0) {
		return top
	}
	var sum float64
	for _, x := range v {
		sum += math.Exp(x - top)
	}
	return top + math.Log(sum)
}

func logit(p float64) float64 { return math.Log(p) - math.Log1p(-p) }

func logistic(l float64) float64 { return 1 / (1 + math.Exp(-l)) }
