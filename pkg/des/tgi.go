package des

// waitingTokens is the number of decode steps after which TGI without chunking stops for waiting prompts.
const waitingTokens = 20

// tgi schedules as text-generation-inference does. A request enters only when blocks for its prompt and
// its whole new-token limit can be reserved, so nothing is ever preempted. With chunking, prompts share
// steps with decoding sequences within the prefill budget, and MaxNumSeqs does not apply. Without it,
// prompts get steps of their own, as soon as enough of them wait.
type tgi struct {
	*Engine
	batch   []work
	decodes int // decode steps since the last prefill
}

func (t *tgi) accepts(Request) error  { return nil }
func (t *tgi) forget(*sequence)       {}
func (t *tgi) newTokenRatio() float64 { return 0 }

func (t *tgi) schedule() []work {
	t.batch = t.batch[:0]
	if t.cfg.ChunkedPrefill {
		t.decode()
		t.admitWaiting(t.continuePrompts(t.cfg.MaxBatchedTokens))
		return t.batch
	}
	if t.shouldPrefill() {
		t.admitWaiting(t.cfg.MaxBatchedTokens)
	}
	if len(t.batch) > 0 {
		t.decodes = 0
		return t.batch
	}
	t.decode()
	t.decodes++
	return t.batch
}

func (t *tgi) shouldPrefill() bool {
	enough := float64(len(t.waiting)) >= t.cfg.WaitingServedRatio*float64(len(t.running))
	return enough || t.decodes >= waitingTokens
}

func (t *tgi) decode() {
	for _, s := range t.running {
		if !s.prefilling {
			t.batch = t.advance(t.batch, s, 1)
		}
	}
}

func (t *tgi) continuePrompts(budget int) int {
	for _, s := range t.running {
		if s.prefilling && budget > 0 {
			n := min(s.pending(), budget)
			t.batch = t.advance(t.batch, s, n)
			budget -= n
		}
	}
	return budget
}

func (t *tgi) admitWaiting(budget int) {
	for len(t.waiting) > 0 && budget > 0 && (t.cfg.ChunkedPrefill || len(t.running) < t.cfg.MaxNumSeqs) {
		s := t.waiting[0]
		hit, idle := t.hit(s)
		reserved := s.req.PromptTokens + s.req.MaxNewTokens
		extend := s.length() - hit*t.pool.size
		if extend > budget && !t.cfg.ChunkedPrefill || !t.fits(hit, idle, reserved, 0) {
			return
		}
		t.admit(hit)
		t.pool.grow(&s.holding, reserved)
		n := min(extend, budget)
		t.batch = t.advance(t.batch, s, n)
		budget -= n
	}
}
