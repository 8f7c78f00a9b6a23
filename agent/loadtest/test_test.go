package loadtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// stalling is an engine with one token per answer that stands still for a while, once.
func stalling(t *testing.T, from, stall time.Duration) Test {
	t.Helper()
	var once sync.Once
	var until time.Time
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { until = time.Now().Add(from + stall) }) // the first request starts the clock
		now := time.Now()
		if left := until.Sub(now); left > 0 && left <= stall {
			<-time.After(left)
		}
		fmt.Fprint(w, `data: {"choices":[{"text":" a"}]}`+"\n\n"+"data: [DONE]\n\n")
	})
	return Test{Target: Target{Name: "stalling", URL: url, API: OpenAICompletions}}
}

func steady(change func(*load.Plan)) load.Plan {
	p := load.Plan{Arrivals: load.Constant, Rate: 20, Prompt: workload.Fixed(4), Output: workload.Fixed(1), Duration: 5, Seed: 1}
	if change != nil {
		change(&p)
	}
	return p
}

// TestStallShowsInOpenLoop: a server that stands still for 2 s of 5 delays two fifths of the requests
// that were due, by up to 2 s and 1 s on average. A clock that starts when a request is sent by a
// client that waits for the last one sees a single slow request: the same figures, taken in a closed
// loop, show what coordinated omission hides.
func TestStallShowsInOpenLoop(t *testing.T) {
	const from, stall = time.Second, 2 * time.Second
	open, err := stalling(t, from, stall).Run(t.Context(), steady(nil))
	if err != nil {
		t.Fatal(err)
	}
	slow := slowerThan(open, 200*time.Millisecond)
	if s := open.Summary; s.Requests != 100 || s.Failed != 0 || slow < .25 || slow > .5 || s.TTFT.P95 < 1.3 || s.E2E.P99 < 1.6 || s.TTFT.Mean < .25 {
		t.Errorf("open loop: %.0f %% slow, %+v", 100*slow, s)
	}
	closed, err := stalling(t, from, stall).Run(t.Context(), steady(func(p *load.Plan) { p.Arrivals, p.Concurrency = load.Closed, 1 }))
	if err != nil {
		t.Fatal(err)
	}
	if hidden := slowerThan(closed, 200*time.Millisecond); hidden > .02 || closed.Summary.TTFT.P95 > .2 {
		t.Errorf("a closed loop of one client shows %.1f %% slow requests and a p95 of %.3f s: the stall is not what this test takes it for", 100*hidden, closed.Summary.TTFT.P95)
	}
}

func slowerThan(r *load.Report, d time.Duration) float64 {
	n := 0
	for k := range r.Requests.Len() {
		if r.Requests.E2EUS[k] > d.Microseconds() {
			n++
		}
	}
	return float64(n) / float64(r.Requests.Len())
}

// TestClosedLoop keeps as many requests open as there are clients, and never more.
func TestClosedLoop(t *testing.T) {
	var now, most atomic.Int64
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-time.After(5 * time.Millisecond)
		now.Add(-1)
		fmt.Fprint(w, `data: {"choices":[{"text":" a"}]}`+"\n\n"+"data: [DONE]\n\n")
	})
	test := Test{Target: Target{URL: url, API: OpenAICompletions}}
	r, err := test.Run(t.Context(), steady(func(p *load.Plan) { p.Arrivals, p.Concurrency, p.Duration, p.WarmUp = load.Closed, 4, .4, .1 }))
	if err != nil {
		t.Fatal(err)
	}
	if most.Load() != 4 || r.Summary.PeakInFlight != 4 || r.Summary.Requests < 50 || r.LeftOut < 8 {
		t.Errorf("%d open at once, left out %d, %+v", most.Load(), r.LeftOut, r.Summary)
	}
}

func TestStopRules(t *testing.T) {
	refuses := Test{Target: Target{URL: serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }), API: OpenAICompletions}}
	quick := func(p *load.Plan) { p.Rate, p.Duration = 200, 30 }
	began := time.Now()
	r, err := refuses.Run(t.Context(), steady(quick))
	if err != nil || !strings.Contains(r.Stopped, "100 % of the requests failed") || !strings.Contains(r.Stopped, "http_503") {
		t.Errorf("%v, %+v", err, r)
	}
	if r.Summary.Requests < load.StopAfter || time.Since(began) > 10*time.Second {
		t.Errorf("stopped after %d requests, %v", r.Summary.Requests, time.Since(began))
	}
	release := make(chan struct{})
	slow := Test{Target: Target{URL: serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, `data: {"choices":[{"text":" a"}]}`+"\n\n"+"data: [DONE]\n\n")
	}), API: OpenAICompletions}}
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	r, err = slow.Run(t.Context(), steady(func(p *load.Plan) { quick(p); p.Stop.InFlight = 5 }))
	if err != nil || !strings.Contains(r.Stopped, "5 requests are open") || r.Summary.Succeeded != 5 || r.Summary.Failed != 1 {
		t.Errorf("%v, %q, %+v", err, r.Stopped, r.Summary)
	}
}

// TestForbidden: a replica that comes back into rotation gets no more load; the end of ctx is an error.
func TestForbidden(t *testing.T) {
	test := stalling(t, time.Hour, 0)
	test.Forbidden = func() string { return "it serves users again" }
	r, err := test.Run(t.Context(), steady(func(p *load.Plan) { p.Duration = 60 }))
	if err != nil || r.Stopped != "it serves users again" || r.Summary.Requests > 30 {
		t.Errorf("%v, %+v", err, r)
	}
	test.Forbidden = nil
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := test.Run(ctx, steady(nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the end of ctx: %v", err)
	}
	if _, err := test.Run(t.Context(), steady(func(p *load.Plan) { p.Rate = 0 })); err == nil {
		t.Error("ran a plan without a rate")
	}
}
