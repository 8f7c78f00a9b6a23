package perfmodel

// customBytes is the largest message that engines reduce with their own kernel; NCCL takes larger ones
// (tuning.md §2, "custom all-reduce (≤ 8 MB)").
const customBytes = 8 << 20

// linkSeconds of a step over so many tokens of one rank: two all-reduces per layer for tensor
// parallelism, 2 L·allreduce(T h b_a), and for expert parallelism dispatch and combine in each of the
// L_moe layers with experts, 2 L_moe (a_t + k_e T h b_a (ep−1)/ep / (N e_n)). Unit: seconds; source:
// tuning.md §2, activations b_a of two bytes. With pipeline stages the activations also cross pp−1
// times from one stage to the next, T h b_a/(N e_n) each.
func (p *Predictor) linkSeconds(tokens float64) (sum float64) {
	m, layout := p.setup.Model, p.setup.Layout
	activation := tokens * float64(m.Hidden) * 2 // bytes
	if layout.TP > 1 {
		sum += 2 * float64(m.Layers) * p.allReduceSeconds(activation)
	}
	if ep := float64(layout.EP); ep > 1 && m.Experts > 1 && p.linkRate > 0 {
		moe := float64(m.Layers - m.DenseLayers)
		sum += 2 * moe * (p.coeff.AllReduceSeconds + float64(m.ExpertsPerToken)*activation*(ep-1)/ep/p.linkRate)
	}
	if layout.PP > 1 && p.linkRate > 0 {
		sum += float64(layout.PP-1) * activation / p.linkRate
	}
	return sum
}

// allReduceSeconds of a message of so many bytes among the tensor-parallel ranks: the engine's kernel,
// a ring a_t + 2(t−1)/t·bytes/(N e_n), up to customBytes; beyond, the law measured of NCCL where this
// link was measured, scaled as the link's efficiency is to the prior's, and never below the kernel's.
func (p *Predictor) allReduceSeconds(bytes float64) float64 {
	t := float64(p.setup.Layout.TP)
	ring := p.coeff.AllReduceSeconds + 2*(t-1)/t*bytes/p.linkRate
	if bytes <= customBytes || p.nccl.Ranks == 0 || p.coeff.Link <= 0 {
		return ring
	}
	floor := p.coeff.AllReduceSeconds + 2*(t-1)/t*customBytes/p.linkRate
	return max(p.nccl.Seconds(bytes)*Prior().Link/p.coeff.Link, floor)
}
