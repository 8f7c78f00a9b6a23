package collect

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// fakeObserver gives what a case says.
type fakeObserver struct {
	second probe.Second
	counts probe.Counts
}

func (f *fakeObserver) Drain(probe.Endpoint) probe.Second {
	s := f.second
	f.second.Requests = nil
	return s
}
func (f *fakeObserver) InFlight(probe.Endpoint) int         { return len(f.second.Open) }
func (f *fakeObserver) Counts(uint16) (probe.Counts, error) { return f.counts, nil }

var wireStart = time.Unix(1000, 0)

// streamed is a user's request of 11 chunks, 100 ms before the end of the window.
func streamed(change ...func(*probe.Request)) probe.Request {
	at := wireStart.Add(100 * time.Millisecond)
	r := probe.Request{
		Class: probe.ClassInference, Status: 200, Stream: true, Chunks: 11, Outcome: probe.Completed,
		Start: at, FirstChunk: at.Add(200 * time.Millisecond), Last: at.Add(800 * time.Millisecond),
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func gapsOf(t *testing.T, n int) *stats.Sketch {
	t.Helper()
	s := stats.NewSketch()
	if err := s.AddN(0.06, float64(n)); err != nil {
		t.Fatal(err)
	}
	return s
}

// engineWindow is what the engine's source has put into a window before.
func engineWindow(t *testing.T, finished float64) *fleet.Window {
	t.Helper()
	w := fleet.NewWindow("a/0", wireStart)
	for _, m := range []string{fleet.TTFT, fleet.ITL, fleet.E2E} {
		s := stats.NewSketch()
		if err := s.AddN(9, finished); err != nil {
			t.Fatal(err)
		}
		w.Sketches[m], w.Origin[m] = s, fleet.SourceEngine
	}
	w.Counters[fleet.RequestsFinished], w.Counters[fleet.RequestsFailed] = finished, 0
	w.Counters[fleet.GenerationTokens] = finished * 22
	return w
}

func times(n int, r probe.Request) (out []probe.Request) {
	for range n {
		out = append(out, r)
	}
	return out
}

func TestWire(t *testing.T) {
	plain := streamed(func(r *probe.Request) { r.Stream, r.Chunks = false, 1 })
	failed := streamed(func(r *probe.Request) { r.StreamError = true })
	synthetic := streamed(func(r *probe.Request) { r.Synthetic = true })
	aborted := streamed(func(r *probe.Request) { r.Outcome, r.Last = probe.AbortedByClient, time.Time{} })
	late := streamed(func(r *probe.Request) { r.Last = wireStart.Add(Length) })
	health := streamed(func(r *probe.Request) { r.Class = probe.ClassHealth })
	for _, c := range []struct {
		name                      string
		requests                  []probe.Request
		engine                    float64 // finished by its page
		finished, failed, aborted float64
		ttft, e2e, itl, tpot      string // origin
		problem                   string
		counts                    probe.Counts
		silent                    bool
	}{
		{name: "streams", requests: times(20, streamed()), engine: 20, finished: 20, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "the engine's page does not answer", requests: times(20, streamed()), finished: 20, ttft: "probe", e2e: "probe", itl: "probe"},
		{name: "answers in one piece", requests: append(times(15, plain), times(5, streamed())...), engine: 20, finished: 20, ttft: "engine", e2e: "probe", itl: "engine"},
		{name: "an error inside 200", requests: append(times(19, streamed()), failed), engine: 20, finished: 19, failed: 1, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "given up", requests: append(times(20, streamed()), aborted), engine: 20, finished: 20, aborted: 1, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "our own", requests: append(times(10, streamed()), times(10, synthetic)...), engine: 20, finished: 10, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "health checks", requests: append(times(20, streamed()), health), engine: 20, finished: 20, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "ended after the window", requests: append(times(19, streamed()), late), engine: 20, finished: 19, ttft: "probe", e2e: "probe", itl: "probe", tpot: "probe"},
		{name: "another way in", requests: times(10, streamed()), engine: 20, finished: 20, ttft: "engine", e2e: "engine", itl: "engine", problem: "10 requests were seen where the engine finished 20"},
		{name: "only another way in", engine: 2, finished: 2, ttft: "engine", e2e: "engine", itl: "engine", problem: "0 requests were seen where the engine finished 2"},
		{name: "TLS", counts: probe.Counts{TLS: 3}, problem: "3 connections of TLS or HTTP/2"},
		{name: "the observer is gone", requests: times(20, streamed()), engine: 20, finished: 20, ttft: "engine", e2e: "engine", itl: "engine", problem: "not read lately", silent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := wireStart.Add(Length + Lag)
			chunks := 11 * len(c.requests)
			o := &fakeObserver{counts: c.counts, second: probe.Second{Requests: c.requests, Gaps: gapsOf(t, 10*len(c.requests)), Chunks: uint64(chunks), Heard: now}}
			if c.silent {
				o.second.Heard = now.Add(-time.Minute)
			}
			w := engineWindow(t, c.engine)
			if c.engine == 0 {
				w = fleet.NewWindow("a/0", wireStart)
			}
			src := NewWire(o, probe.Endpoint{Port: 8000}).Drain(w, now)
			got := fmt.Sprint(w.Counters[fleet.RequestsFinished], w.Counters[fleet.RequestsFailed], w.Counters[fleet.RequestsAborted], w.Origin[fleet.TTFT], w.Origin[fleet.E2E], w.Origin[fleet.ITL], w.Origin[fleet.TPOT])
			if want := fmt.Sprint(c.finished, c.failed, c.aborted, c.ttft, c.e2e, c.itl, c.tpot); got != want {
				t.Errorf("window says %s, want %s", got, want)
			}
			if src.GetName() != fleet.SourceProbe || src.GetStale() || !strings.Contains(src.GetError(), c.problem) || (c.problem == "") != (src.GetError() == "") {
				t.Errorf("source %v", src)
			}
			if _, open := w.Gauges[fleet.RequestsOpen]; open != (c.problem == "") {
				t.Errorf("open requests are told: %v", open)
			}
		})
	}
}

// Two tokens per chunk: 22 tokens in 600 ms after the first.
func TestWireTimePerToken(t *testing.T) {
	now := wireStart.Add(Length + Lag)
	o := &fakeObserver{second: probe.Second{Requests: times(20, streamed()), Gaps: gapsOf(t, 200), Chunks: 220, Heard: now}}
	w := engineWindow(t, 20)
	NewWire(o, probe.Endpoint{Port: 8000}).Drain(w, now)
	for metric, want := range map[string]float64{fleet.TTFT: 0.2, fleet.E2E: 0.8, fleet.ITL: 0.06, fleet.TPOT: 0.6 / 21} {
		if s := w.Sketches[metric]; s == nil || math.Abs(s.Mean()-want) > 1e-9 {
			t.Errorf("%s is %v, want a mean of %v", metric, s, want)
		}
	}
	kept := engineWindow(t, 20)
	s := gapsOf(t, 1)
	kept.Sketches[fleet.TPOT], kept.Origin[fleet.TPOT] = s, fleet.SourceEngine
	o.second.Requests = times(20, streamed())
	NewWire(o, probe.Endpoint{Port: 8000}).Drain(kept, now)
	if kept.Origin[fleet.TPOT] != fleet.SourceEngine {
		t.Error("the engine's own time per token was replaced")
	}
}

// A request that ended after its window is in the next one, once.
func TestWireKeepsWhatEndedLater(t *testing.T) {
	now := wireStart.Add(Length + Lag)
	late := streamed(func(r *probe.Request) { r.Last = wireStart.Add(Length) })
	o := &fakeObserver{second: probe.Second{Requests: times(1, late), Gaps: stats.NewSketch(), Heard: now}}
	s := NewWire(o, probe.Endpoint{Port: 8000})
	var got []float64
	for i := range 3 {
		w := fleet.NewWindow("a/0", wireStart.Add(time.Duration(i)*Length))
		o.second.Heard = now.Add(time.Duration(i) * Length)
		s.Drain(w, o.second.Heard)
		got = append(got, w.Counters[fleet.RequestsFinished])
	}
	if fmt.Sprint(got) != "[0 1 0]" {
		t.Errorf("finished by window: %v", got)
	}
}

func TestWireOpenRequests(t *testing.T) {
	now := wireStart.Add(Length + Lag)
	user := func(age time.Duration, answering bool) probe.OpenRequest {
		return probe.OpenRequest{Class: probe.ClassInference, Age: age, Answering: answering}
	}
	o := &fakeObserver{second: probe.Second{Gaps: stats.NewSketch(), Heard: now, Open: []probe.OpenRequest{
		user(500*time.Millisecond, false), user(2*time.Second, false), user(11*time.Second, true), user(61*time.Second, true),
		{Class: probe.ClassInference, Age: time.Hour, Synthetic: true},
		{Class: probe.ClassHealth, Age: time.Hour},
	}}}
	w := fleet.NewWindow("a/0", wireStart)
	NewWire(o, probe.Endpoint{Port: 8000}).Drain(w, now)
	for gauge, want := range map[string]float64{
		fleet.RequestsOpen: 4, fleet.RequestsOpenOver1s: 3, fleet.RequestsOpenOver10s: 2, fleet.RequestsOpenOver60s: 1,
		fleet.OldestRequestSeconds: 61, fleet.OldestSilentSeconds: 2,
	} {
		if w.Gauges[gauge] != want {
			t.Errorf("%s is %v, want %v", gauge, w.Gauges[gauge], want)
		}
	}
}
