package live

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// tenMillis is the cost of every step.
type tenMillis struct{}

func (tenMillis) StepSeconds(des.StepShape) float64 { return .01 }

// recorder is an observer that remembers.
type recorder struct {
	gaps  []time.Duration
	ended []*Call
	steps int
}

func (r *recorder) Token(_ *Call, _ bool, gap time.Duration) { r.gaps = append(r.gaps, gap) }
func (r *recorder) Ended(c *Call)                            { r.ended = append(r.ended, c) }
func (r *recorder) Stepped(*des.Step, des.Stats, int)        { r.steps++ }

// run starts an engine in the bubble of a synctest and stops it when the test function returns.
func run(t *testing.T, cfg des.Config, faults []string, test func(*testing.T, *Engine, *recorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, err := ParseFaults(faults)
		if err != nil {
			t.Fatal(err)
		}
		rec := &recorder{}
		cfg.ChunkedPrefill = true
		e := New(des.New(cfg, tenMillis{}, 1), rec, f, slog.New(slog.NewTextHandler(io.Discard, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		test(t, e, rec)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func submit(t *testing.T, e *Engine, tokens int) *Call {
	t.Helper()
	c, err := e.Submit(Request{Request: des.Request{PromptTokens: 8, OutputTokens: tokens}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// drainCall reads a call to its end and returns when each delivery came.
func drainCall(t *testing.T, c *Call, from time.Time) (at []time.Duration) {
	t.Helper()
	for {
		fresh, done, err := c.Next(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range fresh {
			at = append(at, time.Since(from))
		}
		if done {
			return at
		}
	}
}

func TestTokensComeWhenTheModelSaysSo(t *testing.T) {
	run(t, des.Config{}, nil, func(t *testing.T, e *Engine, rec *recorder) {
		<-time.After(3 * time.Millisecond)
		from := time.Now()
		got := drainCall(t, submit(t, e, 4), from)
		want := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond, 40 * time.Millisecond}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		synctest.Wait()
		if len(rec.gaps) != 4 || rec.steps != 4 || len(rec.ended) != 1 || rec.ended[0].TimePerToken() != 10*time.Millisecond {
			t.Errorf("observed gaps %v, %d steps, %d ended", rec.gaps, rec.steps, len(rec.ended))
		}
	})
}

func TestQueueTimeAndLimits(t *testing.T) {
	run(t, des.Config{MaxNumSeqs: 1, MaxQueued: 1}, nil, func(t *testing.T, e *Engine, rec *recorder) {
		first := submit(t, e, 5)
		<-time.After(time.Millisecond)
		second := submit(t, e, 1)
		if _, err := e.Submit(Request{Request: des.Request{PromptTokens: 8, OutputTokens: 1}}); !errors.Is(err, des.ErrQueueFull) {
			t.Errorf("third request: %v, want %v", err, des.ErrQueueFull)
		}
		drainCall(t, first, time.Now())
		drainCall(t, second, time.Now())
		synctest.Wait()
		if got, want := second.Queued(), 49*time.Millisecond; got != want {
			t.Errorf("second waited %v, want %v", got, want)
		}
	})
}

func TestCancel(t *testing.T) {
	run(t, des.Config{}, nil, func(t *testing.T, e *Engine, rec *recorder) {
		c := submit(t, e, 1000)
		<-time.After(25 * time.Millisecond)
		e.Cancel(c)
		e.Cancel(c)
		fresh, done, err := c.Next(t.Context(), nil)
		if fresh != 2 || !done || !errors.Is(err, ErrStopped) {
			t.Errorf("Next = %d, %v, %v; want 2 tokens and ErrStopped", fresh, done, err)
		}
		if e.InFlight() != 0 || len(rec.ended) != 1 || !rec.ended[0].Aborted {
			t.Errorf("in flight %d, ended %v", e.InFlight(), rec.ended)
		}
	})
}

func TestStopEndsCalls(t *testing.T) {
	var left *Call
	var engine *Engine
	run(t, des.Config{}, nil, func(t *testing.T, e *Engine, _ *recorder) { engine, left = e, submit(t, e, 1000) })
	if _, done, err := left.Next(t.Context(), nil); !done || !errors.Is(err, ErrStopped) {
		t.Errorf("Next after the end: %v, %v", done, err)
	}
	if _, err := engine.Submit(Request{Request: des.Request{PromptTokens: 1, OutputTokens: 1}}); !errors.Is(err, ErrStopped) {
		t.Errorf("Submit after the end: %v", err)
	}
}

func TestNextReturnsForATick(t *testing.T) {
	run(t, des.Config{}, nil, func(t *testing.T, e *Engine, _ *recorder) {
		c := submit(t, e, 3)
		if fresh, done, err := c.Next(t.Context(), time.After(time.Millisecond)); fresh != 0 || done || err != nil {
			t.Errorf("Next = %d, %v, %v; want nothing", fresh, done, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, _, err := c.Next(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next = %v, want the context's error", err)
		}
	})
}

func TestFaults(t *testing.T) {
	t.Run("slow", func(t *testing.T) {
		run(t, des.Config{}, []string{"slow@20ms:3"}, func(t *testing.T, e *Engine, _ *recorder) {
			got := drainCall(t, submit(t, e, 4), time.Now())
			want := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 80 * time.Millisecond}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	})
	t.Run("hang", func(t *testing.T) {
		run(t, des.Config{}, []string{"hang@2"}, func(t *testing.T, e *Engine, _ *recorder) {
			drainCall(t, submit(t, e, 2), time.Now())
			if fresh, _, _ := submit(t, e, 2).Next(t.Context(), time.After(time.Hour)); fresh != 0 {
				t.Error("a token left a hanging engine")
			}
		})
	})
	t.Run("crash", func(t *testing.T) {
		run(t, des.Config{}, []string{"crash@2"}, func(t *testing.T, e *Engine, _ *recorder) {
			crashed := 0
			e.faults.crash = func(code int) { crashed = code }
			submit(t, e, 1)
			if crashed != 0 {
				t.Error("crashed at the first request")
			}
			if submit(t, e, 1); crashed != 1 {
				t.Error("no crash at the second request")
			}
		})
	})
	for _, bad := range []string{"", "flood", "crash@x", "slow@1s", "slow@x:2"} {
		if _, err := ParseFaults([]string{bad}); err == nil {
			t.Errorf("fault %q was accepted", bad)
		}
	}
}
