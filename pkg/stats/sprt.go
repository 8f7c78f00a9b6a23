package stats

import (
	"fmt"
	"math"
)

// Decision of a sequential test.
type Decision int

// Decisions.
const (
	Undecided Decision = iota
	RejectNull
	AcceptNull
)

// SPRT is Wald's sequential probability ratio test of a rate P0 against a rate P1 above it, both
// known. No test with the same error rates needs fewer requests on average, so it is what other tests
// are measured by; verdicts do not use it, since real baselines and regressions are not known in
// advance. The error rates are at most about Alpha and Beta (Wald, Sequential Tests of Statistical
// Hypotheses, Annals of Mathematical Statistics 16(2), 1945). Create with NewSPRT.
type SPRT struct {
	event, none  float64 // log-likelihood ratio of a request with an event, and without
	upper, lower float64
	sum          float64
	decision     Decision
}

// NewSPRT returns a test of p0 against p1 > p0 with chance alpha of rejecting p0 while it holds, and
// beta of accepting it while p1 holds.
func NewSPRT(p0, p1, alpha, beta float64) (*SPRT, error) {
	for _, c := range []struct {
		what string
		p    float64
	}{{"null rate", p0}, {"alternative", p1}, {"alpha", alpha}, {"beta", beta}} {
		if err := probability(c.what, c.p); err != nil {
			return nil, err
		}
	}
	if p1 <= p0 || alpha+beta >= 1 {
		return nil, fmt.Errorf("%w: rates %v and %v, errors %v and %v", ErrInput, p0, p1, alpha, beta)
	}
	return &SPRT{
		event: math.Log(p1 / p0), none: math.Log1p(-p1) - math.Log1p(-p0),
		upper: math.Log((1 - beta) / alpha), lower: math.Log(beta / (1 - alpha)),
	}, nil
}

// Add counts one request. After a decision nothing changes any more.
func (s *SPRT) Add(event bool) Decision {
	if s.decision != Undecided {
		return s.decision
	}
	if event {
		s.sum += s.event
	} else {
		s.sum += s.none
	}
	switch {
	case s.sum >= s.upper:
		s.decision = RejectNull
	case s.sum <= s.lower:
		s.decision = AcceptNull
	}
	return s.decision
}

// WaldRequests is how many requests the test of p0 against p1 needs on average while p1 holds, by
// Wald's approximation, which neglects how far the last request overshoots.
func WaldRequests(p0, p1, alpha, power float64) (float64, error) {
	s, err := NewSPRT(p0, p1, alpha, 1-power)
	if err != nil {
		return 0, err
	}
	return (power*s.upper + (1-power)*s.lower) / (p1*s.event + (1-p1)*s.none), nil
}

// SamplesPerArm is how many samples each of two arms needs for a fixed comparison of means to find a
// relative difference effect at that two-sided level and power, where one sample has the coefficient of
// variation cv (normal approximation).
func SamplesPerArm(cv, effect, level, power float64) (float64, error) {
	if err := probability("level", level); err != nil {
		return 0, err
	}
	if err := probability("power", power); err != nil {
		return 0, err
	}
	if !(cv > 0 && effect > 0) {
		return 0, fmt.Errorf("%w: coefficient of variation %v, effect %v", ErrInput, cv, effect)
	}
	z := normalQuantile(1-level/2) + normalQuantile(power)
	return 2 * z * z * cv * cv / (effect * effect), nil
}

func normalQuantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
