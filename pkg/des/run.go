package des

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Router chooses the replica of a request among engines. Choose sees their state at the arrival.
type Router interface {
	Choose(r Request, engines []*Engine) int
}

// RoundRobin gives each replica the next request in turn.
type RoundRobin struct{ next int }

// Choose implements Router.
func (r *RoundRobin) Choose(_ Request, engines []*Engine) int {
	i := r.next % len(engines)
	r.next = i + 1
	return i
}

// LeastLoaded picks the replica with the fewest requests, the first of equals.
type LeastLoaded struct{}

// Choose implements Router.
func (LeastLoaded) Choose(_ Request, engines []*Engine) int {
	best := 0
	for i, e := range engines {
		if e.Load() < engines[best].Load() {
			best = i
		}
	}
	return best
}

// Load is the number of requests inside, waiting or running.
func (e *Engine) Load() int { return len(e.byID) }

// Options shape a run.
type Options struct {
	Router Router // nil: round robin
	// Clients above 0 runs a closed loop: that many clients, each sending its next request of the trace
	// when the last one ends. Offsets are then ignored.
	Clients int
	// Until ends the run at that time, with requests unfinished; 0: when all have ended.
	Until time.Duration
	// Warmup leaves requests that arrive before it out of the summary.
	Warmup time.Duration
	// Objective decides which requests count as goodput.
	Objective Objective
	// OnStep, if set, sees every step as it begins; for tests and for calibration.
	OnStep func(replica int, start time.Duration, s Step)
}

// Outcome is what happened to one request. Times are since the start of the run; zero when it did not
// get that far.
type Outcome struct {
	Request     Request
	Replica     int
	Arrival     time.Duration
	Queued      time.Duration // until first admitted
	FirstToken  time.Duration
	End         time.Duration
	MaxGap      time.Duration // longest time between two tokens
	Preemptions int
	Cached      int
	Tokens      int
	Err         error // refused by Submit
}

// Done reports whether the request got all its tokens.
func (o Outcome) Done() bool { return o.Err == nil && o.End > 0 }

// TTFT is the time to the first token.
func (o Outcome) TTFT() time.Duration { return o.FirstToken - o.Arrival }

// E2E is the time to the last token.
func (o Outcome) E2E() time.Duration { return o.End - o.Arrival }

// TPOT is the mean time per token after the first; 0 for a single token.
func (o Outcome) TPOT() time.Duration {
	if o.Tokens < 2 {
		return 0
	}
	return (o.End - o.FirstToken) / time.Duration(o.Tokens-1)
}

// Result is the record of a run.
type Result struct {
	Outcomes []Outcome // in the order of the trace
	Stats    []Stats   // per replica
	Elapsed  time.Duration
	Summary  Summary
}

// event is the end of a step, or an arrival in an open loop.
type event struct {
	at      time.Duration
	replica int // -1: arrival
	id      uint64
}

// before orders events by time, then arrivals before ends of steps, then by replica and id.
func (e event) before(o event) bool {
	if e.at != o.at {
		return e.at < o.at
	}
	if e.replica != o.replica {
		return e.replica < o.replica
	}
	return e.id < o.id
}

type events []event

func (h events) Len() int           { return len(h) }
func (h events) Less(i, j int) bool { return h[i].before(h[j]) }
func (h events) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)        { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// run is the state of Run.
type run struct {
	engines  []*Engine
	opts     Options
	outcomes []Outcome
	lastAt   []time.Duration // of each request's newest token
	pending  events
	steps    []Step // in flight, per replica
	busy     []bool
	sent     int
	stuck    error // a scheduler that idles over work
}

// Run serves trace by replicas behind a router, in virtual time, and returns when all requests have
// ended. The engines must be fresh; Run numbers the requests by their position in the trace.
func Run(engines []*Engine, trace []workload.Request, opts Options) (Result, error) {
	if len(engines) == 0 || len(trace) == 0 {
		return Result{}, errors.New("a run needs at least one engine and one request")
	}
	if opts.Router == nil {
		opts.Router = &RoundRobin{}
	}
	r := &run{
		engines: engines, opts: opts, outcomes: make([]Outcome, len(trace)), lastAt: make([]time.Duration, len(trace)),
		steps: make([]Step, len(engines)), busy: make([]bool, len(engines)),
	}
	for i, w := range trace {
		r.outcomes[i] = Outcome{Request: FromWorkload(uint64(i), w, engines[0].cfg.BlockSize), Replica: -1, Arrival: w.Offset}
	}
	r.begin()
	now := r.loop()
	if r.stuck != nil {
		return Result{}, r.stuck
	}
	result := Result{Outcomes: r.outcomes, Elapsed: now}
	for _, e := range engines {
		result.Stats = append(result.Stats, e.Stats())
	}
	result.Summary = summarize(result, opts)
	return result, nil
}

// begin queues the first arrivals: one in an open loop, as each brings the next; all clients' otherwise.
func (r *run) begin() {
	n := max(r.opts.Clients, 1)
	for range min(n, len(r.outcomes)) {
		r.sendNext(0)
	}
}

// sendNext queues the arrival of the next request of the trace.
func (r *run) sendNext(now time.Duration) {
	if r.sent == len(r.outcomes) {
		return
	}
	o := &r.outcomes[r.sent]
	if r.opts.Clients > 0 {
		o.Arrival = now
	}
	heap.Push(&r.pending, event{at: o.Arrival, replica: -1, id: uint64(r.sent)})
	r.sent++
}

func (r *run) loop() (now time.Duration) {
	for r.pending.Len() > 0 {
		e := heap.Pop(&r.pending).(event)
		if r.opts.Until > 0 && e.at > r.opts.Until {
			return r.opts.Until
		}
		now = e.at
		if e.replica < 0 {
			r.arrive(now, int(e.id))
		} else {
			r.deliver(now, e.replica)
			r.busy[e.replica] = false
		}
		if r.pending.Len() == 0 || r.pending[0].at > now { // whatever happens at one instant shares a step
			r.start(now)
		}
	}
	return now
}

func (r *run) arrive(now time.Duration, id int) {
	o := &r.outcomes[id]
	o.Replica = r.opts.Router.Choose(o.Request, r.engines)
	o.Err = r.engines[o.Replica].Submit(now, o.Request)
	if o.Err != nil || r.opts.Clients == 0 {
		r.sendNext(now)
	}
}

// start begins a step on every replica that has work and is not in one.
func (r *run) start(now time.Duration) {
	for i, e := range r.engines {
		if r.busy[i] || !e.HasWork() {
			continue
		}
		s := e.Step(now)
		if s.Idle {
			r.stuck = fmt.Errorf("replica %d has work but schedules none at %s", i, now)
			continue
		}
		r.busy[i], r.steps[i] = true, s
		if r.opts.OnStep != nil {
			r.opts.OnStep(i, now, s)
		}
		heap.Push(&r.pending, event{at: now + s.Duration, replica: i})
	}
}

// deliver records the tokens of the step that has just ended.
func (r *run) deliver(now time.Duration, replica int) {
	s := r.steps[replica]
	for _, id := range s.Preempted {
		r.outcomes[id].Preemptions++
	}
	for _, t := range s.Tokens {
		o := &r.outcomes[t.ID]
		o.Tokens = t.N
		if t.First {
			o.FirstToken, o.Queued, o.Cached = now, t.Queued, t.Cached
		} else {
			o.MaxGap = max(o.MaxGap, now-r.lastAt[t.ID])
		}
		r.lastAt[t.ID] = now
		if t.Done {
			o.End = now
			if r.opts.Clients > 0 {
				r.sendNext(now)
			}
		}
	}
}

// FromWorkload turns a request of a trace into one for an engine with blocks of that size. Groups and
// recorded prefixes become block hashes.
func FromWorkload(id uint64, w workload.Request, blockSize int) Request {
	r := Request{ID: id, PromptTokens: w.PromptTokens, OutputTokens: w.OutputTokens}
	for i := range w.GroupTokens / blockSize {
		r.PrefixHashes = append(r.PrefixHashes, nameBlock(groupSpace, uint64(w.Group), i))
	}
	if w.PrefixBlock > 0 {
		for _, hash := range w.Prefix {
			for i := range w.PrefixBlock / blockSize {
				r.PrefixHashes = append(r.PrefixHashes, nameBlock(traceSpace, hash, i))
			}
		}
	}
	r.PrefixHashes = slices.Clip(r.PrefixHashes)
	return r
}
