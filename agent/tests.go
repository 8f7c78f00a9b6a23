package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// tests of one instance: one at a time, each once. A control plane whose leader changed, or whose
// stream broke, asks for a test again and gets the result of the first time.
type tests struct {
	mu   sync.Mutex // guards what follows
	runs map[string]*testRun
}

type testRun struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed once the two below are set
	result []byte
	err    error
	ended  time.Time // zero while it runs
	// latest is closed when somebody asks again: only the last one who asks gets the result.
	latest chan struct{}
}

// keepResults is how long a finished test's result is kept.
const keepResults = 10 * time.Minute

var errAskedAgain = errors.New("the same test was asked for again, and that question is answered")

var errTestCancelled = errors.New("the test was cancelled")

// do runs a test, or waits for the one that was begun under the same id. The test lives as long as
// the first caller's ctx.
func (t *tests) do(ctx context.Context, id string, run func(context.Context) ([]byte, error)) ([]byte, error) {
	r, latest, mine, err := t.join(ctx, id)
	if err != nil {
		return nil, err
	}
	if mine != nil {
		result, err := run(mine)
		if cause := context.Cause(mine); err != nil && errors.Is(cause, errTestCancelled) {
			err = cause
		}
		t.end(r, result, err)
	}
	select {
	case <-latest:
		return nil, errAskedAgain
	default:
	}
	select {
	case <-r.done:
		return r.result, r.err
	case <-latest:
		return nil, errAskedAgain
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join finds the test, or begins it; the context is that of the run when it is the caller's to run.
// latest is closed once somebody else asks.
func (t *tests) join(ctx context.Context, id string) (r *testRun, latest chan struct{}, mine context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	latest = make(chan struct{})
	if r := t.runs[id]; r != nil && id != "" {
		close(r.latest)
		r.latest = latest
		return r, latest, nil, nil
	}
	for other, r := range t.runs {
		if r.ended.IsZero() {
			return nil, nil, nil, fmt.Errorf("test %s runs on this engine; wait for its end or cancel it", other)
		}
		if time.Since(r.ended) > keepResults {
			delete(t.runs, other)
		}
	}
	if t.runs == nil {
		t.runs = map[string]*testRun{}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r = &testRun{cancel: cancel, done: make(chan struct{}), latest: latest}
	t.runs[id] = r
	return r, latest, ctx, nil
}

func (t *tests) end(r *testRun, result []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.result, r.err, r.ended = result, err, time.Now()
	r.cancel(nil)
	close(r.done)
}

// cancel ends a test; it reports whether it ran.
func (t *tests) cancel(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.runs[id]
	if r == nil || !r.ended.IsZero() {
		return false
	}
	r.cancel(errTestCancelled)
	return true
}
