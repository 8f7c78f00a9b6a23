// Package live drives the discrete-event engine model against the wall clock: a step that lasts
// 12 ms in the model takes 12 ms here, then its tokens reach those who wait for them.
//
// Model time never drifts: a step begins where the one before it ended, also when the process woke
// late, so a busy machine delays single tokens but not the rate. Serving time is never scaled. What
// a token looks like on the wire, and what is counted, belongs to the dialects.
package live

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// maxLag is how far model time may fall behind the clock before the backlog is forgotten.
const maxLag = 2 * time.Second

// Observer sees what happens in the engine, from the driver's goroutine, and must not block.
type Observer interface {
	// Token is called for each token; gap is the time since the one before, or since arrival.
	Token(c *Call, first bool, gap time.Duration)
	// Ended is called once per call, when it finished or was aborted.
	Ended(c *Call)
	// Stepped is called at the end of each step, before its tokens are announced; prompts is how
	// many prompt tokens the calls have that get their first token from it.
	Stepped(s *des.Step, st des.Stats, prompts int)
}

// Engine is a model in real time.
type Engine struct {
	log      *slog.Logger
	faults   Faults
	observer Observer
	start    time.Time
	kick     chan struct{} // holds at most one token: work has arrived

	mu       sync.Mutex // guards everything below
	core     *des.Engine
	calls    map[uint64]*Call
	nextID   uint64
	accepted int
	stopped  bool
}

// New wraps an idle core. The clock of its times starts now.
func New(core *des.Engine, o Observer, f Faults, log *slog.Logger) *Engine {
	return &Engine{
		log: log, faults: f, observer: o, core: core, start: time.Now(),
		kick: make(chan struct{}, 1), calls: map[uint64]*Call{},
	}
}

// Submit queues a generation. The error is one of des's sentinels, or ErrStopped. The caller sets
// Streamed and Internal through the options in r.
func (e *Engine) Submit(r Request) (*Call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return nil, ErrStopped
	}
	e.nextID++
	c := &Call{
		ID: e.nextID, PromptTokens: r.PromptTokens, MaxNewTokens: r.MaxNewTokens, Streamed: r.Streamed, Internal: r.Internal,
		Arrived: e.now(), wake: make(chan struct{}, 1),
	}
	r.Request.ID = c.ID
	if err := e.core.Submit(c.Arrived, r.Request); err != nil {
		return nil, err
	}
	if c.MaxNewTokens == 0 {
		c.MaxNewTokens = r.OutputTokens
	}
	e.calls[c.ID] = c
	if !r.Internal && !r.Own {
		e.accepted++
		e.faults.accepted(e.accepted, e.log)
	}
	select {
	case e.kick <- struct{}{}:
	default:
	}
	return c, nil
}

// Request is what Submit needs to know.
type Request struct {
	des.Request // its ID is given by Submit
	Streamed    bool
	Internal    bool
	Own         bool // sent by the server itself: planted faults do not count it
}

// Cancel takes a call out of the engine; its Next then reports the end.
func (e *Engine) Cancel(c *Call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancel(c)
}

func (e *Engine) cancel(c *Call) {
	if e.calls[c.ID] == nil {
		return
	}
	delete(e.calls, c.ID)
	e.core.Abort(c.ID)
	c.Aborted = true
	c.LastToken = max(e.now(), c.LastToken)
	e.observer.Ended(c)
	c.publish(true)
}

// CancelAll takes every call out of the engine.
func (e *Engine) CancelAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.calls {
		e.cancel(c)
	}
}

// InFlight is the number of calls inside.
func (e *Engine) InFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

// Stats returns the model's gauges and counters.
func (e *Engine) Stats() des.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.core.Stats()
}

// Run steps the model until ctx ends, then aborts what is left.
func (e *Engine) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer e.stop()
	at := e.now()
	for ctx.Err() == nil {
		step, idle := e.step(at)
		if idle {
			if !e.idle(ctx) {
				break
			}
			at = e.now()
			continue
		}
		at += step.Duration
		if late := e.now() - at; late > maxLag {
			e.log.Warn("the simulation fell behind the clock: its timings are not to be trusted", "behind", late.Round(time.Millisecond))
			at = e.now()
		}
		if !e.sleep(ctx, timer, at) {
			break
		}
		e.deliver(step, at)
	}
	return nil
}

func (e *Engine) stop() {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	e.CancelAll()
}

func (e *Engine) step(at time.Duration) (*des.Step, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.core.Step(at)
	if s.Idle {
		return &s, true
	}
	s.Duration = e.faults.slow(s.Duration, at)
	for _, id := range s.Admitted {
		if c := e.calls[id]; c != nil && c.Admitted == 0 {
			c.Admitted = max(at, c.Arrived)
		}
	}
	for _, id := range s.Preempted {
		if c := e.calls[id]; c != nil {
			c.Preemptions++
		}
	}
	return &s, false
}

// idle waits for work; false when ctx ended.
func (e *Engine) idle(ctx context.Context) bool {
	select {
	case <-e.kick:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *Engine) sleep(ctx context.Context, timer *time.Timer, until time.Duration) bool {
	if e.faults.hanging() {
		<-ctx.Done()
		return false
	}
	left := until - e.now()
	if left <= 0 {
		return ctx.Err() == nil
	}
	timer.Reset(left)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// deliver hands out the tokens of a step that ended at the given time.
func (e *Engine) deliver(s *des.Step, at time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.observer.Stepped(s, e.core.Stats(), e.prompts(s))
	for _, t := range s.Tokens {
		c := e.calls[t.ID]
		if c == nil {
			continue // cancelled during the step
		}
		gap := c.take(t, at)
		e.observer.Token(c, t.First, gap)
		if t.Done {
			delete(e.calls, t.ID)
			e.observer.Ended(c)
		}
		c.publish(t.Done)
	}
}

func (e *Engine) prompts(s *des.Step) (tokens int) {
	for _, t := range s.Tokens {
		if c := e.calls[t.ID]; c != nil && t.First {
			tokens += c.PromptTokens
		}
	}
	return tokens
}

func (e *Engine) now() time.Duration { return time.Since(e.start) }

// Uptime is the time since New.
func (e *Engine) Uptime() time.Duration { return e.now() }
