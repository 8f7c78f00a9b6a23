package des

import "slices"

// policy is one engine's way to fill an iteration.
type policy interface {
	// schedule admits, preempts and returns the work of the next step, empty if there is none.
	schedule() []work
	// accepts refuses a request that schedule could never admit.
	accepts(Request) error
	// forget is told of every sequence that leaves the engine.
	forget(*sequence)
	// newTokenRatio is SGLang's gauge of that name, 0 elsewhere.
	newTokenRatio() float64
}

func newPolicy(e *Engine) policy {
	switch e.cfg.Dialect {
	case SGLang:
		return newSGLang(e)
	case TGI:
		return &tgi{Engine: e}
	default:
		return &vllm{Engine: e}
	}
}

// admit moves the head of the queue into the running set, taking what the prefix cache has.
func (e *Engine) admit(hit int) *sequence {
	s := e.waiting[0]
	e.waiting = slices.Delete(e.waiting, 0, 1)
	e.pool.adopt(&s.holding, s.hashes()[:hit])
	s.computed = hit * e.pool.size
	s.prefilling, s.inside = true, true
	if !s.admitted {
		s.admitted = true
		s.queued = max(e.now-s.arrived, 0)
		s.cached = s.computed
		if e.cfg.PrefixCaching {
			e.stats.PrefixQueryTokens += uint64(s.req.PromptTokens)
			e.stats.PrefixHitTokens += uint64(s.computed)
		}
	}
	e.running = append(e.running, s)
	e.out.Admitted = append(e.out.Admitted, s.req.ID)
	return s
}

// hit counts the leading blocks of s in the cache, leaving at least one token to compute, and how many
// of them nobody else holds.
func (e *Engine) hit(s *sequence) (blocks, idle int) {
	if !e.cfg.PrefixCaching {
		return 0, 0
	}
	hashes := s.hashes()
	return e.pool.lookup(hashes[:min(len(hashes), (s.length()-1)/e.pool.size)])
}

// fits reports whether blocks for tokens of s can be had beside its cache hits, leaving reserve blocks.
func (e *Engine) fits(hit, idle, tokens, reserve int) bool {
	return e.pool.blocks(tokens)-hit <= e.pool.available()-idle-reserve
}

// advance books tokens of work for s, whose blocks exist, and shares the prefix blocks it completes.
func (e *Engine) advance(batch []work, s *sequence, tokens int) []work {
	if e.cfg.PrefixCaching && s.prefilling {
		full := (s.computed + tokens) / e.pool.size
		e.pool.publish(&s.holding, s.req.PrefixHashes[:min(full, len(s.req.PrefixHashes))])
	}
	return append(batch, work{seq: s, tokens: tokens})
}

// preempt takes all blocks from s; its tokens will be computed again. The caller queues it.
func (e *Engine) preempt(s *sequence) {
	e.running = without(e.running, s)
	if e.cfg.PrefixCaching {
		s.rehash(e.pool.size)
		e.pool.publish(&s.holding, s.hashes()[:s.computed/e.pool.size])
	}
	e.pool.release(&s.holding, e.cfg.PrefixCaching)
	s.computed = 0
	s.prefilling, s.inside = false, false
	e.stats.Preemptions++
	e.out.Preempted = append(e.out.Preempted, s.req.ID)
}

// backToHead queues a preempted sequence before all others of its priority.
func (e *Engine) backToHead(s *sequence) {
	i := 0
	for i < len(e.waiting) && e.waiting[i].req.Priority < s.req.Priority {
		i++
	}
	e.waiting = slices.Insert(e.waiting, i, s)
}
