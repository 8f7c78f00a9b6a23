// Package des models a continuous-batching inference engine in virtual time, one iteration at a time:
// admission, chunked prefill, KV blocks, preemption, prefix reuse, and the tokens each iteration emits.
//
// It has three users: the optimizer replays traffic through it, the simulated engine drives it against
// the wall clock behind HTTP, and tests check schedulers with it. It does not know how long a step
// takes: a Cost says so. It reads no clock and starts no goroutine; equal configuration, seed and calls
// give equal results.
package des

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// Reasons for which Submit refuses a request.
var (
	// ErrTooLong means the prompt leaves no room for a single token within the model length or the cache.
	ErrTooLong = errors.New("prompt is longer than the engine can serve")
	// ErrQueueFull means as many requests wait as Config.MaxQueued allows.
	ErrQueueFull = errors.New("queue is full")
	// ErrOverloaded means as many requests are inside as Config.MaxConcurrent allows.
	ErrOverloaded = errors.New("too many concurrent requests")
	// ErrInvalid means the request has no prompt or no output, or its ID is in use.
	ErrInvalid = errors.New("invalid request")
)

// Dialect selects whose scheduler is modelled.
type Dialect int

// The modelled engines.
const (
	VLLM Dialect = iota
	SGLang
	TGI
)

// String returns the engine's usual name.
func (d Dialect) String() string {
	switch d {
	case VLLM:
		return "vllm"
	case SGLang:
		return "sglang"
	case TGI:
		return "tgi"
	}
	return fmt.Sprintf("dialect(%d)", int(d))
}

// Config holds the scheduler settings of one engine. Zero fields take the value named beside them.
type Config struct {
	Dialect Dialect

	MaxNumSeqs       int  // sequences running at once; 256
	MaxBatchedTokens int  // tokens computed per step (SGLang: per prefill step; TGI: prefill budget); 2048
	ChunkedPrefill   bool // a prompt may be spread over steps
	PrefixCaching    bool // blocks with equal PrefixHashes are computed once

	BlockSize   int // tokens per KV block; 16
	KVTokens    int // capacity of the KV cache in tokens, rounded down to blocks; 65536
	MaxModelLen int // prompt and output of one request; at most KVTokens, which is also the default

	Watermark            float64 // fraction of the blocks that admissions leave free
	LongPrefillThreshold int     // most tokens of one prompt per step; 0: no limit
	ReserveFullPrompt    bool    // admit only when the whole prompt has blocks, not just its first chunk

	MaxQueued     int // requests waiting, beyond which Submit answers ErrQueueFull; 0: no limit
	MaxConcurrent int // requests inside, beyond which Submit answers ErrOverloaded (TGI); 0: no limit

	Conservativeness   float64 // SGLang: scales the output length assumed at admission; 1
	WaitingServedRatio float64 // TGI without chunking: waiting per running request that trigger a prefill step

	AsyncScheduling bool    // host work overlaps with the accelerator
	StepNoise       float64 // standard deviation of the logarithm of a step's duration; 0: none
}

// Request is one generation. Its output length is known to the model, not to the modelled scheduler,
// except where an engine reserves for it.
type Request struct {
	ID           uint64
	PromptTokens int
	OutputTokens int      // tokens it generates before it ends; cut at MaxModelLen
	MaxNewTokens int      // limit the client asked for, reserved by SGLang and TGI; 0: OutputTokens
	PrefixHashes []uint64 // one per full block of the prompt, each covering the prefix up to its end
	Priority     int      // lower first; equal priorities in order of arrival
}

// StepShape is the work of one iteration. It is the input of perfmodel's step time.
type StepShape = perfmodel.Step

// Chunk is the part of one prompt computed in a step.
type Chunk = perfmodel.Chunk

// Cost tells how long an iteration takes, in seconds. perfmodel.Predictor is one. An engine asks once
// for every step, in their order, so that a cost of its own may remember what came before.
type Cost interface {
	StepSeconds(StepShape) float64
}

// Token is what one request got from a step.
type Token struct {
	ID     uint64
	N      int           // tokens generated so far, this one included
	First  bool          // N is 1
	Done   bool          // the request has ended
	Cached int           // prompt tokens taken from the prefix cache at its first admission
	Queued time.Duration // from Submit to the start of the step that first admitted it
}

// Step is the outcome of one iteration. Its slices are valid until the next call of Engine.Step.
type Step struct {
	Duration  time.Duration // tokens leave at its end
	Tokens    []Token       // in the order of scheduling
	Admitted  []uint64      // requests that left the queue, preempted ones included
	Preempted []uint64      // requests that lost their blocks and went back to the queue
	Shape     StepShape
	Idle      bool // nothing to do; Duration is 0
}

// Stats is a snapshot of gauges and of counters since New.
type Stats struct {
	Running, Waiting  int
	KVUsed, KVTotal   int    // tokens in blocks that running requests hold; capacity
	PromptTokens      uint64 // prompts of requests whose first token left, cached tokens included
	GeneratedTokens   uint64
	ComputedTokens    uint64 // tokens computed in prefill, recomputation included
	Preemptions       uint64
	PrefixQueryTokens uint64
	PrefixHitTokens   uint64
	Finished, Aborted uint64
	Steps             uint64
	Busy              time.Duration // sum of step durations
	NewTokenRatio     float64       // SGLang: share of the remaining output assumed at admission
}

// Engine is one replica. It is not safe for concurrent use.
type Engine struct {
	cfg     Config
	cost    Cost
	rng     *rand.Rand
	pool    *pool
	policy  policy
	waiting []*sequence
	running []*sequence // in order of admission
	byID    map[uint64]*sequence
	stats   Stats
	ended   int           // sequences that the last step finished
	now     time.Duration // start of the current step
	out     Step          // reused
}

// New returns an idle engine with an empty cache. The seed drives step noise only.
func New(cfg Config, cost Cost, seed uint64) *Engine {
	cfg = cfg.withDefaults()
	e := &Engine{
		cfg:  cfg,
		cost: cost,
		rng:  rand.New(rand.NewPCG(seed, 0x5eed)),
		pool: newPool(cfg.KVTokens/cfg.BlockSize, cfg.BlockSize),
		byID: map[uint64]*sequence{},
	}
	e.policy = newPolicy(e)
	return e
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.MaxNumSeqs, 256)
	def(&c.MaxBatchedTokens, 2048)
	def(&c.BlockSize, 16)
	def(&c.KVTokens, 65536)
	c.KVTokens = max(c.KVTokens/c.BlockSize, 1) * c.BlockSize
	def(&c.MaxModelLen, c.KVTokens)
	c.MaxModelLen = min(c.MaxModelLen, c.KVTokens)
	if !c.ChunkedPrefill && c.Dialect != SGLang {
		c.MaxModelLen = min(c.MaxModelLen, c.MaxBatchedTokens) // a longer prompt would never fit a step
	}
	if c.Conservativeness <= 0 {
		c.Conservativeness = 1
	}
	return c
}

// Config returns the settings in effect, defaults filled in.
func (e *Engine) Config() Config { return e.cfg }

// Submit queues a request; it is considered from the next step on.
func (e *Engine) Submit(now time.Duration, r Request) error {
	switch {
	case r.PromptTokens <= 0 || r.OutputTokens <= 0:
		return fmt.Errorf("%w: %d prompt and %d output tokens", ErrInvalid, r.PromptTokens, r.OutputTokens)
	case e.byID[r.ID] != nil:
		return fmt.Errorf("%w: id %d is in use", ErrInvalid, r.ID)
	case e.cfg.MaxConcurrent > 0 && len(e.byID) >= e.cfg.MaxConcurrent:
		return fmt.Errorf("%w: %d", ErrOverloaded, len(e.byID))
	case e.cfg.MaxQueued > 0 && len(e.waiting) >= e.cfg.MaxQueued:
		return fmt.Errorf("%w: %d waiting", ErrQueueFull, len(e.waiting))
	case r.PromptTokens >= e.cfg.MaxModelLen:
		return fmt.Errorf("%w: %d tokens, limit %d with one token of output", ErrTooLong, r.PromptTokens, e.cfg.MaxModelLen)
	}
	if err := e.policy.accepts(r); err != nil {
		return err
	}
	s := newSequence(r, now, e.cfg)
	e.byID[r.ID] = s
	e.enqueue(s)
	return nil
}

// enqueue puts s behind all waiting requests of its priority or a more urgent one.
func (e *Engine) enqueue(s *sequence) {
	i := len(e.waiting)
	for i > 0 && e.waiting[i-1].req.Priority > s.req.Priority {
		i--
	}
	e.waiting = slices.Insert(e.waiting, i, s)
}

// Abort removes a request wherever it is and frees its blocks; false if it is unknown.
func (e *Engine) Abort(id uint64) bool {
	s := e.byID[id]
	if s == nil {
		return false
	}
	e.waiting = without(e.waiting, s)
	e.running = without(e.running, s)
	e.policy.forget(s)
	e.pool.release(&s.holding, e.cfg.PrefixCaching)
	delete(e.byID, id)
	e.stats.Aborted++
	return true
}

// HasWork reports whether a request waits or runs.
func (e *Engine) HasWork() bool { return len(e.byID) > 0 }

// Step runs one iteration that starts at now. The engine's state moves to the end of the iteration at
// once; the caller lets Duration pass before it hands the tokens out and steps again.
func (e *Engine) Step(now time.Duration) Step {
	e.out = Step{
		Tokens: e.out.Tokens[:0], Admitted: e.out.Admitted[:0], Preempted: e.out.Preempted[:0],
		Shape: StepShape{Chunks: e.out.Shape.Chunks[:0], Async: e.cfg.AsyncScheduling},
	}
	e.now = now
	batch := e.policy.schedule()
	e.ended = 0
	if len(batch) == 0 {
		e.out.Idle = true
		return e.out
	}
	e.describe(batch)
	e.out.Duration = e.duration()
	e.emit(batch)
	e.stats.Steps++
	e.stats.Busy += e.out.Duration
	return e.out
}

// describe fills the step's shape from the scheduled work.
func (e *Engine) describe(batch []work) {
	shape := &e.out.Shape
	for _, w := range batch {
		s := w.seq
		if s.prefilling {
			shape.Chunks = append(shape.Chunks, Chunk{New: w.tokens, Cached: s.computed})
			e.stats.ComputedTokens += uint64(w.tokens)
		} else {
			shape.Decoding++
			shape.ContextTokens += s.computed + w.tokens
		}
		if s.computed+w.tokens == s.length() {
			shape.Sampling++
		}
	}
}

func (e *Engine) duration() time.Duration {
	seconds := e.cost.StepSeconds(e.out.Shape)
	if sd := e.cfg.StepNoise; sd > 0 {
		seconds *= math.Exp(sd*e.rng.NormFloat64() - sd*sd/2) // mean 1
	}
	return max(time.Duration(math.Round(seconds*float64(time.Second))), 1)
}

// emit moves every scheduled sequence forward and retires those that end.
func (e *Engine) emit(batch []work) {
	for _, w := range batch {
		s := w.seq
		s.computed += w.tokens
		if s.computed < s.length() {
			continue // the prompt needs more steps
		}
		s.prefilling = false
		s.generated++
		e.stats.GeneratedTokens++
		first, done := s.generated == 1, s.generated >= s.output
		if first {
			e.stats.PromptTokens += uint64(s.req.PromptTokens)
		}
		e.out.Tokens = append(e.out.Tokens, Token{ID: s.req.ID, N: s.generated, First: first, Done: done, Cached: s.cached, Queued: s.queued})
		if done {
			e.retire(s)
		}
	}
}

func (e *Engine) retire(s *sequence) {
	e.running = without(e.running, s)
	e.policy.forget(s)
	e.pool.release(&s.holding, e.cfg.PrefixCaching)
	delete(e.byID, s.req.ID)
	e.ended++
	e.stats.Finished++
}

// Stats returns gauges and counters as of the end of the last step.
func (e *Engine) Stats() Stats {
	st := e.stats
	st.Running, st.Waiting = len(e.running), len(e.waiting)
	st.KVUsed, st.KVTotal = e.pool.used()*e.cfg.BlockSize, e.cfg.KVTokens
	st.NewTokenRatio = e.policy.newTokenRatio()
	return st
}
