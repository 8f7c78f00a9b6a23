package live

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// ErrStopped means the engine stopped before the call was finished.
var ErrStopped = errors.New("engine stopped")

// Call is one generation in the engine. The handler that submitted it reads tokens with Next; the
// driver alone writes the fields from Admitted on, and only observers, which the driver calls, may
// read those before Next has reported the end.
type Call struct {
	ID           uint64
	PromptTokens int
	MaxNewTokens int
	Streamed     bool
	Internal     bool // a health probe: kept out of the metrics

	Arrived     time.Duration // since the engine started, as all times here
	Admitted    time.Duration // first left the queue
	FirstToken  time.Duration
	LastToken   time.Duration // or the end
	Tokens      int
	Cached      int // prompt tokens found in the prefix cache
	Preemptions int
	Aborted     bool

	wake     chan struct{} // holds at most one token: something changed
	progress atomic.Int64  // tokens × 2, plus 1 when ended
	seen     int
}

// Next waits until tokens beyond those already returned are there, and returns how many are new and
// whether the call has ended. Tokens that were ready together come together. It returns without any
// when tick fires; tick may be nil.
func (c *Call) Next(ctx context.Context, tick <-chan time.Time) (fresh int, done bool, err error) {
	for {
		p := c.progress.Load()
		if n := int(p >> 1); n > c.seen || p&1 == 1 {
			fresh, c.seen = n-c.seen, n
			if p&1 == 1 && c.Aborted {
				return fresh, true, ErrStopped
			}
			return fresh, p&1 == 1, nil
		}
		select {
		case <-c.wake:
		case <-tick:
			return 0, false, nil
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

// Seen is the number of tokens that Next has returned.
func (c *Call) Seen() int { return c.seen }

// Queued is the time from arrival to the first admission.
func (c *Call) Queued() time.Duration { return max(c.Admitted-c.Arrived, 0) }

// TimePerToken is the mean gap between its tokens; 0 for a single token.
func (c *Call) TimePerToken() time.Duration {
	if c.Tokens < 2 {
		return 0
	}
	return (c.LastToken - c.FirstToken) / time.Duration(c.Tokens-1)
}

func (c *Call) publish(done bool) {
	p := int64(c.Tokens) << 1
	if done {
		p |= 1
	}
	c.progress.Store(p)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take moves the call forward by one token that left the engine at the given time, and returns the
// gap to the one before (for the first one: since arrival).
func (c *Call) take(t des.Token, at time.Duration) time.Duration {
	at = max(at, c.Arrived)
	from := c.LastToken
	if t.First {
		from, c.FirstToken, c.Cached = c.Arrived, at, t.Cached
	}
	c.LastToken, c.Tokens = at, t.N
	return at - from
}
