package perfmodel

import "math"

// Mean is the mean step of a closed loop, described for the closed form and for the linear law.
type Mean struct {
	Decoding      float64 // sequences, per data-parallel rank
	PromptPerStep float64 // tokens
	Seconds       float64 // the predictor's own estimate
	Features      Features
	Arrival       TTFTFeatures
}

// ClosedLoop is the mean step with so many clients on one replica, in closed form (tuning.md §2, "Steady
// state"): B = min(c, max_num_seqs, K/C) sequences with C = ISL + OSL/2 decode on each data-parallel rank,
// and one step carries p = B·ISL_miss/OSL prompt tokens of mean context ISL·hit + ISL_miss/2. Prompts come
// whole or in chunks that fill the budget, so that most steps may carry none: what is not linear, such as
// how many experts a step touches, is the mean over both kinds of step.
//
// SteadyState is the finer account, in which running sequences do not all decode.
func (p *Predictor) ClosedLoop(t Traffic, clients float64) (Mean, error) {
	limit, err := p.limit(t)
	if err != nil {
		return Mean{}, err
	}
	batch := math.Min(clients/float64(p.setup.Layout.DP), limit)
	m := Mean{Decoding: batch, PromptPerStep: batch * t.perOutput(), Seconds: p.step(t, batch), Arrival: p.ttftFeatures(t, batch)}
	p.kinds(t, batch, func(share float64, l load) {
		for i, x := range p.features(l) {
			m.Features[i] += share * x
		}
	})
	return m, nil
}

// TTFTFeatures of a request in a closed loop, in seconds (tuning.md §2, "Closed-form TTFT"): c1 U + c2 B U
// + c3 TPOT + c4 + c5 L, where U is the time that its prompt alone takes at data-sheet rates. The units of
// c4 and c5 are ms and µs.
type TTFTFeatures [5]float64

func (p *Predictor) ttftFeatures(t Traffic, batch float64) TTFTFeatures {
	u := p.promptRoofline(t)
	return TTFTFeatures{u, batch * u, 0, 1e-3, float64(p.setup.Model.Layers) * 1e-6}
}

// with fills the time per token in, which a law knows.
func (x TTFTFeatures) with(tpot float64) TTFTFeatures {
	x[2] = tpot
	return x
}

// promptRoofline is U: the longer of reading weights and computing for one whole prompt, and its
// attention, at data-sheet rates, in seconds.
func (p *Predictor) promptRoofline(t Traffic) float64 {
	x := p.features(load{prompt: t.computed(), sampling: 1, scores: p.mixed(t, 0, t.computed()).scores})
	return max(x[featWeights], x[featPrompt]) + x[featLink]
}
