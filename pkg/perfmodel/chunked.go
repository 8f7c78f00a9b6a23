package perfmodel

import (
	"math"
	"sort"
)

// WorstGapSeconds is the longest time between two tokens of a sequence while prompts are computed in
// chunks that fill the token budget: T(B, mbt − B), in seconds (tuning.md §2, "Chunked prefill"). The
// decode step is the one the chunk joins; cached is the context of the prompt before the chunk.
func (p *Predictor) WorstGapSeconds(decode Step, cached int) float64 {
	return p.gapSeconds(decode, cached, p.setup.MaxBatchedTokens)
}

func (p *Predictor) gapSeconds(decode Step, cached, budget int) float64 {
	if left := budget - decode.Decoding; left > 0 {
		decode.Chunks = []Chunk{{New: left, Cached: cached}}
	}
	return p.StepSeconds(decode)
}

// mostBudget is where the search for a budget ends: more than engines take.
const mostBudget = 1 << 17

// BudgetFor is the largest max_num_batched_tokens that keeps the gap between tokens within an objective,
// T(B, mbt − B) ≤ ITL, for prompts without a cached part. Tuning.md §2 gives it as B + (ITL − T(B,0))·
// t F e_c/(2P), which leaves out the chunk's own attention and communication and is too large by what they
// take; here it is solved for. 0 when decoding alone misses the objective.
func (p *Predictor) BudgetFor(decode Step, gapSeconds float64) int {
	if p.StepSeconds(decode) > gapSeconds {
		return 0
	}
	more := sort.Search(mostBudget, func(n int) bool { return p.gapSeconds(decode, 0, decode.Decoding+n+1) > gapSeconds })
	return decode.Decoding + more
}

// LeastTTFTSeconds is the time that the steps take which compute one prompt in chunks beside decoding
// sequences: ceil(ISL_miss/(mbt − B))·T(B, mbt − B), the last chunk counted by its own length. No queue is
// in it. Infinite when decoding leaves nothing of the budget.
func (p *Predictor) LeastTTFTSeconds(decode Step, prompt, cached int) (seconds float64) {
	room := p.setup.MaxBatchedTokens - decode.Decoding
	if room <= 0 {
		return math.Inf(1)
	}
	decode.Sampling = decode.Decoding
	for missing := prompt - cached; missing > 0; missing -= room {
		n := min(missing, room)
		decode.Chunks = []Chunk{{New: n, Cached: prompt - missing}}
		seconds += p.StepSeconds(decode)
	}
	return seconds
}
