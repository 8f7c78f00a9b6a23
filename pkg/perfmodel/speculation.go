package perfmodel

import "math"

// Speculation is speculative decoding: a cheap model guesses ahead, the served one verifies.
type Speculation struct {
	Drafts     int     // tokens guessed per step and sequence, k
	Acceptance float64 // probability a that a guess is right, given that those before it are
	// DraftSeconds is the time of one guess for the whole batch; nil means guesses cost nothing, as
	// n-gram lookup. A draft model's is its own predictor's StepSeconds.
	DraftSeconds func(Step) float64
}

// ExpectedTokens per step and sequence: (1 − a^(k+1))/(1 − a), the verified one included (tuning.md §2,
// "Speculation").
func (v Speculation) ExpectedTokens() float64 {
	a, k := min(max(v.Acceptance, 0), 1), float64(max(v.Drafts, 0))
	if a == 1 {
		return k + 1
	}
	return (1 - math.Pow(a, k+1)) / (1 - a)
}

// verify is the step in which each decoding sequence has its guesses checked: B(k+1) tokens pass weights
// and products, each sequence's cache is read once.
func (v Speculation) verify(s Step) Step {
	s.Drafts = s.Decoding * v.Drafts
	return s
}

func (v Speculation) draftSeconds(s Step) float64 {
	if v.DraftSeconds == nil {
		return 0
	}
	return float64(v.Drafts) * v.DraftSeconds(s)
}

// SpeculativeTPOTSeconds is the time per token with speculation, (T_verify + k T_draft)/E, of a step
// without it.
func (p *Predictor) SpeculativeTPOTSeconds(s Step, v Speculation) float64 {
	return (p.StepSeconds(v.verify(s)) + v.draftSeconds(s)) / v.ExpectedTokens()
}

// SpeculationGain is by which factor speculation shortens the time per token; below 1 it is not worth
// having, as when B(k+1) comes near ComputeBoundTokens.
func (p *Predictor) SpeculationGain(s Step, v Speculation) float64 {
	return p.StepSeconds(s) / p.SpeculativeTPOTSeconds(s, v)
}
