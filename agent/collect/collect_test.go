package collect

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

var signals = []*engine.Signal{
	{Signal: fleet.RequestsRunning, Series: "e:running", Kind: enginev1.SeriesKind_SERIES_KIND_GAUGE},
	{Signal: fleet.GenerationTokens, Series: "e:tokens_total", Kind: enginev1.SeriesKind_SERIES_KIND_COUNTER},
	{Signal: fleet.RequestsFailed, Series: "e:failed_total", Kind: enginev1.SeriesKind_SERIES_KIND_COUNTER},
	{Signal: fleet.TTFT, Series: "e:ttft_seconds", Kind: enginev1.SeriesKind_SERIES_KIND_HISTOGRAM},
}

// engineState is a small engine's totals.
type engineState struct {
	running, tokens, failed float64
	ttft                    [3]float64 // up to 0.1 s, up to 1 s, more
	sum                     float64
	start                   float64
}

func (s engineState) page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# TYPE e:running gauge\ne:running %v\n# TYPE e:tokens_total counter\ne:tokens_total %v\n", s.running, s.tokens)
	if s.failed > 0 { // appears with its first event
		fmt.Fprintf(&b, "# TYPE e:failed_total counter\ne:failed_total %v\n", s.failed)
	}
	if s.start > 0 {
		fmt.Fprintf(&b, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %v\n", s.start)
	}
	two, all := s.ttft[0]+s.ttft[1], s.ttft[0]+s.ttft[1]+s.ttft[2]
	fmt.Fprintf(&b, "# TYPE e:ttft_seconds histogram\ne:ttft_seconds_bucket{le=\"0.1\"} %v\ne:ttft_seconds_bucket{le=\"1\"} %v\n"+
		"e:ttft_seconds_bucket{le=\"+Inf\"} %v\ne:ttft_seconds_sum %v\ne:ttft_seconds_count %v\n", s.ttft[0], two, all, s.sum, all)
	return b.String()
}

// fakeEngine answers with its present state, or with an error.
type fakeEngine struct {
	mu    sync.Mutex
	state engineState
	err   error
	delay time.Duration
	load  *scrape.Load
}

func (f *fakeEngine) set(change func(*fakeEngine)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeEngine) Fetch(ctx context.Context) (*scrape.Page, error) {
	f.mu.Lock()
	delay := f.delay
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	families, dropped := scrape.NewParser(Series(signals)).Parse([]byte(f.state.page()))
	return &scrape.Page{Families: families, Dropped: dropped, Load: f.load, At: time.Now()}, nil
}

// rig runs a collector over one fake engine in a bubble of fake time.
type rig struct {
	engine  *fakeEngine
	source  *Engine
	windows chan *fleet.Window
}

func run(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := &rig{engine: &fakeEngine{}, source: NewEngine(time.Second), windows: make(chan *fleet.Window, 1000)}
		r.source.Read(r.engine, signals)
		c := New([]Instance{{
			ID: "a/0", Sources: []Source{r.source},
			State: func() State { return State{Epoch: 7, Phase: agentv1.Phase_PHASE_IDLE, Serving: true} },
		}}, func(w *fleet.Window) { r.windows <- w })
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.source.Run(ctx) })
		wg.Go(func() { _ = c.Run(ctx) })
		test(r)
		if last := c.Last("a/0"); last == nil {
			t.Error("no last window")
		}
		stop()
		wg.Wait()
	})
}

func (r *rig) next() *fleet.Window { return <-r.windows }

func TestWindowsHoldIncreases(t *testing.T) {
	run(t, func(r *rig) {
		r.engine.set(func(f *fakeEngine) {
			f.state = engineState{running: 1, tokens: 1000, ttft: [3]float64{50, 0, 0}, sum: 2}
		})
		first := r.next()
		if len(first.Counters) != 0 && first.Counters[fleet.GenerationTokens] != 0 {
			t.Errorf("the first page counted: %v", first.Counters)
		}
		r.next()
		r.engine.set(func(f *fakeEngine) {
			f.state.running, f.state.tokens, f.state.failed = 4, 1030, 2
			f.state.ttft, f.state.sum = [3]float64{52, 1, 0}, 2.6
		})
		w := r.next()
		want := map[string]float64{fleet.GenerationTokens: 30, fleet.RequestsFailed: 2}
		if diff := cmp.Diff(want, w.Counters); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
		if w.Gauges[fleet.RequestsRunning] != 4 {
			t.Errorf("gauges %v", w.Gauges)
		}
		s := w.Sketches[fleet.TTFT]
		if s == nil || math.Abs(s.Count()-3) > 1e-9 || math.Abs(s.Sum()-0.6) > 1e-9 {
			t.Fatalf("ttft sketch %+v, want 3 values of sum 0.6", s)
		}
		if w.Origin[fleet.TTFT] != fleet.SourceEngine {
			t.Errorf("origin %q", w.Origin[fleet.TTFT])
		}
		if w.Start.UnixMilli()%1000 != 0 || w.Epoch != 7 || !w.Serving || w.Instance != "a/0" {
			t.Errorf("window %+v", w)
		}
		next := r.next()
		if got := next.Start.Sub(w.Start); got != time.Second {
			t.Errorf("next window starts %v later", got)
		}
		if next.Counters[fleet.GenerationTokens] != 0 || next.Sketches[fleet.TTFT] != nil {
			t.Errorf("a quiet second counted: %v", next.Counters)
		}
	})
}

func TestEngineRestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		before engineState
		after  engineState
		hint   bool // the launcher told us
		want   float64
		ttft   float64
	}{
		{"totals fell", engineState{tokens: 1000, ttft: [3]float64{5, 0, 0}, sum: 0.1}, engineState{tokens: 40, ttft: [3]float64{0, 2, 0}, sum: 1}, false, 40, 2},
		{"one total fell, another had time to pass its mark", engineState{tokens: 10, ttft: [3]float64{5, 0, 0}, sum: 0.1}, engineState{tokens: 40, ttft: [3]float64{1, 0, 0}, sum: .01}, false, 40, 1},
		{"another process start", engineState{tokens: 10, start: 1e9}, engineState{tokens: 40, start: 1e9 + 60}, false, 40, 0},
		{"launcher's hint", engineState{tokens: 10}, engineState{tokens: 40}, true, 40, 0},
		{"no restart", engineState{tokens: 10, start: 1e9}, engineState{tokens: 40, start: 1e9}, false, 30, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.engine.set(func(f *fakeEngine) { f.state = c.before })
				r.next()
				r.next()
				r.engine.set(func(f *fakeEngine) { f.state = c.after })
				if c.hint {
					r.source.Restarted(time.Now())
				}
				w := r.next()
				r.source.Restarted(time.Now().Add(-time.Second)) // late news must not count twice
				if late := r.next().Counters[fleet.GenerationTokens]; late != 0 {
					t.Errorf("%v tokens counted twice", late)
				}
				if got := w.Counters[fleet.GenerationTokens]; got != c.want {
					t.Errorf("tokens %v, want %v", got, c.want)
				}
				var ttft float64
				if s := w.Sketches[fleet.TTFT]; s != nil {
					ttft = s.Count()
				}
				if math.Abs(ttft-c.ttft) > 1e-9 {
					t.Errorf("ttft count %v, want %v", ttft, c.ttft)
				}
			})
		})
	}
}

func TestSilentEngineGoesStale(t *testing.T) {
	run(t, func(r *rig) {
		r.engine.set(func(f *fakeEngine) { f.state.tokens = 5 })
		r.next()
		r.engine.set(func(f *fakeEngine) { f.err = errors.New("connection refused") })
		var w *fleet.Window
		for range 5 {
			w = r.next()
		}
		src := w.Sources[0]
		if !src.GetStale() || src.GetError() != "connection refused" || src.GetAgeMs() < 3000 {
			t.Errorf("source %v, want stale and the error", src)
		}
		if len(w.Gauges) != 0 {
			t.Errorf("gauges of a silent engine: %v", w.Gauges)
		}
		r.engine.set(func(f *fakeEngine) { f.err, f.state.tokens = nil, 12 })
		r.next()
		w = r.next()
		if w.Stale() || w.Sources[0].GetError() != "" {
			t.Errorf("source %v after the engine came back", w.Sources[0])
		}
		if st := r.source.Status(); st.Errors == 0 || st.Problem != "" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestSlowPageLosesNothing(t *testing.T) {
	run(t, func(r *rig) {
		r.next()
		r.engine.set(func(f *fakeEngine) { f.delay = 2500 * time.Millisecond })
		var total float64
		for range 12 {
			r.engine.set(func(f *fakeEngine) { f.state.tokens += 10 })
			total += r.next().Counters[fleet.GenerationTokens]
		}
		r.engine.set(func(f *fakeEngine) { f.delay = 0 })
		for range 4 {
			total += r.next().Counters[fleet.GenerationTokens]
		}
		if total != 120 {
			t.Errorf("counted %v tokens over slow pages, want 120", total)
		}
	})
}

func TestLoadEndpointBeatsTheGauge(t *testing.T) {
	run(t, func(r *rig) {
		nine := 9.0
		r.engine.set(func(f *fakeEngine) { f.state.running, f.load = 1, &scrape.Load{Running: &nine} })
		r.next()
		if w := r.next(); w.Gauges[fleet.RequestsRunning] != 9 {
			t.Errorf("running %v, want the load endpoint's 9", w.Gauges[fleet.RequestsRunning])
		}
	})
}

func TestClockSetBack(t *testing.T) {
	var starts []time.Time
	c := New([]Instance{{ID: "a/0", State: func() State { return State{} }}}, func(w *fleet.Window) { starts = append(starts, w.Start) })
	at := time.Unix(1000, 0).Add(Lag)
	for _, d := range []time.Duration{0, time.Second, -3 * time.Second, 0, 2 * time.Second, -time.Hour} {
		c.close(at.Add(d))
	}
	want := []int64{999, 1000, 1001, 1000 - 3601}
	if len(starts) != len(want) {
		t.Fatalf("windows %v", starts)
	}
	for i, s := range starts {
		if s.Unix() != want[i] {
			t.Errorf("window %d starts at %d, want %d", i, s.Unix(), want[i])
		}
	}
}

func TestInFlight(t *testing.T) {
	run(t, func(r *rig) {
		r.engine.set(func(f *fakeEngine) { f.state.running = 3 })
		if n, known := r.source.InFlight(context.Background()); n != 3 || !known {
			t.Errorf("in flight %d, known %v; want 3", n, known)
		}
		r.engine.set(func(f *fakeEngine) { f.state.running = 0 })
		if n, known := r.source.InFlight(context.Background()); n != 0 || !known {
			t.Errorf("in flight %d, known %v; want a fresh 0", n, known)
		}
		r.engine.set(func(f *fakeEngine) { f.err = errors.New("connection refused") })
		if _, known := r.source.InFlight(context.Background()); known {
			t.Error("a silent engine's requests are known")
		}
		r.engine.set(func(f *fakeEngine) { f.err, f.delay = nil, time.Hour })
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		if _, known := r.source.InFlight(ctx); known {
			t.Error("known before the engine answered")
		}
		r.next()
	})
}
