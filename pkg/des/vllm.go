package des

import "slices"

// vllm schedules as vLLM's V1 engine does: one token budget per step, spent on decoding sequences, then
// on prompts in progress, then on admissions in queue order. A sequence that finds no block takes those
// of the last admitted, which goes back to the head of the queue; such a step admits nothing.
type vllm struct {
	*Engine
	batch []work
	order []*sequence
}

func (v *vllm) accepts(Request) error  { return nil }
func (v *vllm) forget(*sequence)       {}
func (v *vllm) newTokenRatio() float64 { return 0 }

func (v *vllm) schedule() []work {
	v.batch = v.batch[:0]
	budget := v.continueRunning(v.cfg.MaxBatchedTokens)
	if len(v.out.Preempted) == 0 {
		v.admitWaiting(budget)
	}
	return v.batch
}

// continueRunning spends the budget on what runs already and returns the rest.
func (v *vllm) continueRunning(budget int) int {
	v.order = v.order[:0]
	for _, prefilling := range []bool{false, true} {
		for _, s := range v.running {
			if s.prefilling == prefilling {
				v.order = append(v.order, s)
			}
		}
	}
	for _, s := range v.order {
		if budget == 0 {
			break
		}
		if !s.inside {
			continue // preempted for an earlier one
		}
		n := min(s.pending(), budget, v.chunkLimit())
		refund, ok := v.makeRoom(s, s.computed+n)
		budget += refund
		if ok {
			v.batch = v.advance(v.batch, s, n)
			budget -= n
		}
	}
	return budget
}

// makeRoom gets s blocks for tokens by preempting the last admitted until they suffice; false if s
// itself had to go. The refund is the budget of preempted sequences that were already scheduled.
func (v *vllm) makeRoom(s *sequence, tokens int) (refund int, ok bool) {
	for !v.pool.grow(&s.holding, tokens) {
		victim := v.running[len(v.running)-1]
		if i := slices.IndexFunc(v.batch, func(w work) bool { return w.seq == victim }); i >= 0 {
			refund += v.batch[i].tokens
			v.batch = slices.Delete(v.batch, i, i+1)
		}
		v.preempt(victim)
		v.backToHead(victim)
		if victim == s {
			return refund, false
		}
	}
	return refund, true
}

func (v *vllm) admitWaiting(budget int) {
	for len(v.waiting) > 0 && len(v.running) < v.cfg.MaxNumSeqs && budget > 0 {
		s := v.waiting[0]
		hit, idle := v.hit(s)
		cached := hit * v.pool.size
		n := min(s.length()-cached, v.chunkLimit())
		if n > budget && !v.cfg.ChunkedPrefill {
			return
		}
		n = min(n, budget)
		if !v.fits(hit, idle, v.admissionTokens(s, cached+n), v.reserve()) {
			return
		}
		v.admit(hit)
		v.pool.grow(&s.holding, cached+n)
		v.batch = v.advance(v.batch, s, n)
		budget -= n
	}
}

// admissionTokens is the number of tokens that must have room before s may enter.
func (v *vllm) admissionTokens(s *sequence, first int) int {
	if v.cfg.ReserveFullPrompt {
		return s.length()
	}
	return first
}

// reserve is the number of blocks admissions leave free, none when the engine would idle otherwise.
func (v *vllm) reserve() int {
	if len(v.running) == 0 {
		return 0
	}
	return int(v.cfg.Watermark * float64(v.pool.total))
}

func (v *vllm) chunkLimit() int {
	if v.cfg.ChunkedPrefill && v.cfg.LongPrefillThreshold > 0 {
		return v.cfg.LongPrefillThreshold
	}
	return 1 << 30
}
