package des

import (
	"slices"
	"time"
)

// sequence is a request inside the engine. Its tokens are the prompt and what it has generated; the
// newest generated token has no KV entry until the next step computes it.
type sequence struct {
	req        Request
	arrived    time.Duration
	output     int // tokens after which it ends
	generated  int
	computed   int  // leading tokens with KV entries
	inside     bool // in the running set
	prefilling bool // computing known tokens; false once a token was sampled since admission
	cached     int  // prefix hit of the first admission
	admitted   bool // has been in the running set at least once
	queued     time.Duration
	own        []uint64 // block hashes of prompt and output after a preemption
	holding
}

func newSequence(r Request, now time.Duration, cfg Config) *sequence {
	if r.MaxNewTokens <= 0 {
		r.MaxNewTokens = r.OutputTokens
	}
	room := cfg.MaxModelLen - r.PromptTokens
	r.MaxNewTokens = min(r.MaxNewTokens, room)
	r.PrefixHashes = r.PrefixHashes[:min(len(r.PrefixHashes), r.PromptTokens/cfg.BlockSize)]
	return &sequence{req: r, arrived: now, output: min(r.OutputTokens, r.MaxNewTokens)}
}

// length is the number of tokens known so far.
func (s *sequence) length() int { return s.req.PromptTokens + s.generated }

// pending is the number of known tokens without KV entries: 1 when decoding.
func (s *sequence) pending() int { return s.length() - s.computed }

// hashes names the blocks of s that the cache may know: the declared prefix, and after a preemption all
// full blocks it had computed.
func (s *sequence) hashes() []uint64 {
	if s.own != nil {
		return s.own
	}
	return s.req.PrefixHashes
}

// rehash extends the declared hashes by names of the blocks that s has filled itself.
func (s *sequence) rehash(blockSize int) {
	if s.own == nil {
		s.own = slices.Clone(s.req.PrefixHashes)
	}
	for i := len(s.own); i < s.computed/blockSize; i++ {
		s.own = append(s.own, nameBlock(requestSpace, s.req.ID, i))
	}
}

// work is one sequence's share of a step.
type work struct {
	seq    *sequence
	tokens int
}

// without removes s from list in place, keeping the order.
func without(list []*sequence, s *sequence) []*sequence {
	if i := slices.Index(list, s); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
