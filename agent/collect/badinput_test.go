package collect

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// badPages are what an engine, or something in its place, may answer; n is the number of samples on it
// that cannot be used, 0 of a page that is refused whole.
var badPages = []struct {
	name   string
	answer func(w http.ResponseWriter, r *http.Request)
	n      uint64
	says   string // of a page that is refused
}{
	{
		name: "no numbers, counts below zero, bounds out of order, and everything twice", n: 6, answer: text(
			"e:running NaN\n# TYPE e:tokens_total counter\ne:tokens_total{a=\"1\"} -4\ne:tokens_total{a=\"2\"} +Inf\n" +
				"e:tokens_total{a=\"3\"} 7\ne:tokens_total{a=\"3\"} 900\n# TYPE e:failed_total counter\ne:failed_total 1\ne:failed_total 1\n" +
				"# TYPE e:ttft_seconds histogram\ne:ttft_seconds_bucket{le=\"0.1\"} 5\ne:ttft_seconds_bucket{le=\"1\"} 3\ne:ttft_seconds_bucket{le=\"+Inf\"} 6\ne:ttft_seconds_sum 1\ne:ttft_seconds_count 6\n"),
	},
	{name: "lines that are none", n: 1, answer: text("e:running{ 1\ne:running 2\n\x00\xff\n{}\n")},
	{name: "50 MB", says: "larger than", answer: func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat("e:running{a=\"b\"} 1\n", 50_000))
		for range 53 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}},
	{name: "stalled", says: "exceeded", answer: func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "e:running 1\n")
		_ = http.NewResponseController(w).Flush() // whoever does not read it gave up
		<-r.Context().Done()
	}},
	{name: "no HTTP", says: "malformed", answer: func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err) // httptest's connections can be taken over
		}
		_, _ = io.WriteString(conn, "\x16\x03\x01 SSH-2.0 \r\n\r\n") // as above
		_ = conn.Close()
	}},
	{name: "cut off", says: "EOF", answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "e:running 1\n")
	}},
	{name: "an error", says: "503", answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }},
}

func text(page string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }
}

// TestBadPages: between two good pages any number of bad ones may come. Each is counted, nothing of it
// reaches a window but what is sound, what happened meanwhile is counted afterwards, and memory stays
// where it was.
func TestBadPages(t *testing.T) {
	for _, c := range badPages {
		t.Run(c.name, func(t *testing.T) {
			good := engineState{running: 1, tokens: 1000, ttft: [3]float64{5, 0, 0}, sum: .1}
			var bad atomic.Bool
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				if bad.Load() {
					c.answer(w, r)
					return
				}
				_, _ = io.WriteString(w, good.page())
			}))
			t.Cleanup(server.Close)
			client := scrape.New(scrape.Config{MetricsURL: server.URL, Timeout: 3 * time.Second, Series: Series(signals)}, &http.Transport{DisableKeepAlives: true})
			e := NewEngine(time.Second)
			e.Read(client, signals)
			e.scrape(t.Context())
			before := heapInUse()
			bad.Store(true)
			const times = 3
			if c.says == "exceeded" {
				client = scrape.New(scrape.Config{MetricsURL: server.URL, Timeout: 100 * time.Millisecond, Series: Series(signals)}, &http.Transport{DisableKeepAlives: true})
				e.Read(client, signals)
			}
			for range times {
				e.scrape(t.Context())
				sound(t, e)
			}
			st := e.Status()
			switch {
			case c.says == "" && (st.Malformed != times*c.n || st.Errors != 0):
				t.Errorf("%d samples and %d pages were counted, want %d and none", st.Malformed, st.Errors, times*c.n)
			case c.says != "" && (st.Errors != times || !strings.Contains(st.Problem, c.says)):
				t.Errorf("%d pages were counted, problem %q; want %d and one saying %q", st.Errors, st.Problem, times, c.says)
			}
			bad.Store(false)
			good.tokens += 30
			e.scrape(t.Context())
			w := sound(t, e)
			if c.says != "" && w.Counters[fleet.GenerationTokens] != 30 { // after other totals they count from nothing
				t.Errorf("counters %v", w.Counters)
			}
			if grown := heapInUse() - before; grown > 8<<20 {
				t.Errorf("%d bytes stayed in memory", grown)
			}
		})
	}
}

// sound drains a window that a control plane takes.
func sound(t *testing.T, e *Engine) *fleet.Window {
	t.Helper()
	w := fleet.NewWindow("a/0", time.Unix(1000, 0))
	e.Drain(w, time.Now())
	pb, err := w.Proto()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.FromProto(pb); err != nil {
		t.Errorf("the window would be refused: %v", err)
	}
	for name, v := range w.Gauges {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			t.Errorf("%s is %v", name, v)
		}
	}
	return w
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestPagesOfEverNewLabels: an engine whose labels never come twice takes no more memory than one page of
// them does.
func TestPagesOfEverNewLabels(t *testing.T) {
	const perPage = 4000
	e := NewEngine(time.Second)
	e.Read(nil, signals)
	parser := scrape.NewParser(Series(signals))
	var after10 int64
	for n := range 60 {
		var b strings.Builder
		b.WriteString("# TYPE e:tokens_total counter\ne:tokens_total{request=\"all\"} 5\n")
		for i := range perPage {
			fmt.Fprintf(&b, "e:tokens_total{request=\"%d\"} 1\n", n*perPage+i)
		}
		families, dropped := parser.Parse([]byte(b.String()))
		if dropped != 0 {
			t.Fatalf("%d samples dropped", dropped)
		}
		e.mu.Lock()
		e.add(&scrape.Page{Families: families, At: time.Now()})
		e.mu.Unlock()
		sound(t, e)
		if n == 10 {
			after10 = heapInUse()
		}
	}
	if grown := heapInUse() - after10; grown > 4<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
}

// TestClockJumps: whichever way the clock jumps, no second is told twice, nothing that was counted is
// lost, and windows go on.
func TestClockJumps(t *testing.T) {
	const perSecond = 10
	for _, c := range []struct {
		name  string
		jumps map[int]time.Duration // by second
	}{
		{"forward by an hour", map[int]time.Duration{5: time.Hour}},
		{"back by an hour", map[int]time.Duration{5: -time.Hour}},
		{"back by three seconds", map[int]time.Duration{5: -3 * time.Second}},
		{"forward and back again", map[int]time.Duration{5: time.Hour, 9: -time.Hour}},
		{"back and forth", map[int]time.Duration{3: -2 * time.Second, 6: time.Minute, 8: -30 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := &countingSource{}
			told := map[int64]int{}
			var sum float64
			collector := New([]Instance{{ID: "a/0", Sources: []Source{source}, State: func() State { return State{} }}}, func(w *fleet.Window) {
				told[w.Start.Unix()]++
				sum += w.Counters[fleet.GenerationTokens]
			})
			now, windows := time.Unix(100_000, 0).Add(Lag), 0
			for second := range 120 {
				now = now.Add(time.Second + c.jumps[second])
				source.n += perSecond
				collector.close(now)
				windows = len(told)
			}
			for start, n := range told {
				// After a jump back of more than a minute the new time counts, so that a second may come
				// again only then.
				if n > 1 {
					t.Errorf("second %d was told %d times", start, n)
				}
			}
			if sum != 120*perSecond || windows < 85 {
				t.Errorf("%v of %d were told in %d windows", sum, 120*perSecond, windows)
			}
		})
	}
}

// TestWireClockSetBack: requests that ended by a clock which was set back since are told at once, not when
// the clock gets there again.
func TestWireClockSetBack(t *testing.T) {
	s := NewWire(nil, probe.Endpoint{})
	end := time.Unix(1000, 0)
	requests := []probe.Request{{Number: 1, Last: end.Add(-time.Millisecond)}, {Number: 2, Last: end.Add(time.Millisecond)}, {Number: 3, Last: end.Add(time.Hour)}}
	ended := s.until(end, requests)
	if len(ended) != 2 || ended[0].Number != 1 || ended[1].Number != 3 || len(s.late) != 1 || s.late[0].Number != 2 {
		t.Errorf("ended %+v, late %+v", ended, s.late)
	}
}

// TestRunsOverBadPages: the source goes on by itself, page after page, while they stall.
func TestRunsOverBadPages(t *testing.T) {
	var count atomic.Int32
	third := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if count.Add(1) == 3 {
			close(third)
		}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	ctx, stop := context.WithCancel(t.Context())
	e := NewEngine(10 * time.Millisecond)
	e.Read(scrape.New(scrape.Config{MetricsURL: server.URL, Timeout: 20 * time.Millisecond, Series: Series(signals)}, nil), signals)
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	<-third
	stop()
	running.Wait()
	if src := e.sourceAt(time.Now().Add(time.Second)); !src.GetStale() || src.GetError() == "" {
		t.Errorf("source %v, want stale with its reason", src)
	}
}

// countingSource counts something.
type countingSource struct{ n float64 }

func (s *countingSource) Drain(w *fleet.Window, _ time.Time) *agentv1.Source {
	w.Counters[fleet.GenerationTokens] = s.n
	s.n = 0
	return &agentv1.Source{}
}
