package des

import "cmp"

// Constants of SGLang's admission.
const (
	initialNewTokenRatio = .7
	minNewTokenFactor    = .14 // of the initial ratio
	newTokenDecaySteps   = 600 // decode steps from the initial ratio to the minimum
	newTokenClip         = 4096
	retractDecodeSteps   = 20
)

// sglang schedules as SGLang does without mixed chunks: whenever a waiting prompt may enter, the step
// computes prompts only; otherwise every running sequence decodes. A prompt may enter when the cache has
// room for it, its whole new-token limit, and the running sequences' limits times the new-token ratio.
// When decoding runs out of blocks, sequences with the fewest generated tokens are retracted to the end
// of the queue and the ratio rises. With AsyncScheduling, its overlapped loop, what a step gave is looked
// at when the next one is on its way: finished sequences keep their places for that one, in which they
// do not decode. The radix tree works on pages of BlockSize tokens here; the real default is one token,
// which small blocks approximate.
type sglang struct {
	*Engine
	batch           []work
	ratio, min, cut float64
	chunked         *sequence // the one prompt in progress
}

func newSGLang(e *Engine) *sglang {
	initial := min(initialNewTokenRatio*e.cfg.Conservativeness, 1)
	floor := min(initial*minNewTokenFactor, 1)
	return &sglang{Engine: e, ratio: initial, min: floor, cut: (initial - floor) / newTokenDecaySteps}
}

func (g *sglang) accepts(Request) error  { return nil }
func (g *sglang) newTokenRatio() float64 { return g.ratio }

func (g *sglang) forget(s *sequence) {
	if g.chunked == s {
		g.chunked = nil
	}
}

func (g *sglang) schedule() []work {
	g.batch = g.batch[:0]
	g.prefill(g.held())
	if len(g.batch) == 0 {
		g.decode()
	}
	if len(g.batch) == 0 {
		g.prefill(0) // retraction left nothing but a prompt in progress, and room for it
	}
	return g.batch
}

// held are the places that finished sequences still take. When nothing else runs, no step has to pass
// before their end is noticed.
func (g *sglang) held() int {
	if g.cfg.AsyncScheduling && len(g.running) > 0 {
		return g.ended
	}
	return 0
}

// prefill fills a step with prompts, leaving held places alone.
func (g *sglang) prefill(held int) {
	budget := g.cfg.MaxBatchedTokens
	if !g.cfg.ChunkedPrefill {
		budget = max(budget, g.cfg.MaxModelLen)
	}
	if s := g.chunked; s != nil {
		n := min(s.pending(), budget)
		if !g.pool.grow(&s.holding, s.computed+n) {
			return
		}
		g.book(s, n)
		budget -= n
	}
	room := float64(g.pool.available()*g.pool.size) - g.promised()
	for len(g.waiting) > 0 && len(g.running)+held < g.cfg.MaxNumSeqs && budget > 0 && g.chunked == nil {
		s := g.waiting[0]
		hit, idle := g.hit(s)
		extend := s.length() - hit*g.pool.size
		need := float64(extend + idle*g.pool.size + min(s.req.MaxNewTokens-s.generated, newTokenClip))
		if need > room && len(g.running) > 0 || extend > budget && !g.cfg.ChunkedPrefill {
			return
		}
		if !g.fits(hit, idle, s.length(), 0) {
			return
		}
		g.admit(hit)
		n := min(extend, budget)
		g.pool.grow(&s.holding, s.computed+n)
		g.book(s, n)
		budget -= n
		room -= need
	}
}

func (g *sglang) book(s *sequence, n int) {
	g.batch = g.advance(g.batch, s, n)
	g.chunked = nil
	if n < s.pending() {
		g.chunked = s
	}
}

// promised is the room, in tokens, that running sequences are assumed to need still.
func (g *sglang) promised() float64 {
	var sum float64
	for _, s := range g.running {
		sum += float64(min(s.req.MaxNewTokens-s.generated, newTokenClip)) * g.ratio
		if s == g.chunked {
			sum += float64(s.pending())
		}
	}
	return sum
}

// decode runs one token of every sequence whose prompt is done.
func (g *sglang) decode() {
	g.retract()
	for _, s := range g.running {
		if !s.prefilling && g.pool.grow(&s.holding, s.computed+1) {
			g.batch = g.advance(g.batch, s, 1)
		}
	}
	g.ratio = max(g.ratio-g.cut, g.min)
}

// retract frees blocks until every decoding sequence can take one token.
func (g *sglang) retract() {
	retracted := false
	for g.shortage() > 0 && len(g.running) > 1 {
		victim := g.leastProgress()
		g.preempt(victim)
		g.forget(victim)
		g.enqueue(victim)
		retracted = true
	}
	if retracted {
		g.raiseRatio()
	}
}

// leastProgress is the running sequence with the fewest generated tokens, of equals the one with the
// longest prompt, of equals the last admitted.
func (g *sglang) leastProgress() *sequence {
	least := g.running[0]
	for _, s := range g.running[1:] {
		if cmp.Or(cmp.Compare(s.generated, least.generated), cmp.Compare(least.req.PromptTokens, s.req.PromptTokens)) <= 0 {
			least = s
		}
	}
	return least
}

func (g *sglang) shortage() int {
	need := 0
	for _, s := range g.running {
		if !s.prefilling {
			need += g.pool.missing(&s.holding, s.computed+1)
		}
	}
	return need - g.pool.available()
}

// raiseRatio sets the ratio to what the remaining sequences have used of their limits, plus a margin.
func (g *sglang) raiseRatio() {
	var used, limit float64
	for _, s := range g.running {
		used += float64(s.generated + retractDecodeSteps)
		limit += float64(s.req.MaxNewTokens)
	}
	if limit > 0 {
		g.ratio = min(used/limit, 1) + g.cut // the decode step that follows takes one cut off
	}
}
