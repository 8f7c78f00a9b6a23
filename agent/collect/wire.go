package collect

import (
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Observer sees requests on the wire; *probe.Observer is one.
type Observer interface {
	Drain(e probe.Endpoint) probe.Second
	InFlight(e probe.Endpoint) int
	Counts(port uint16) (probe.Counts, error)
}

// What the wire must show before it replaces what the engine says.
const (
	wireSpan = 30 // windows that are compared with the engine's counters
	// wireShare of the requests that the engine finished must have been seen, less wireSlack that
	// were under way when the span began or whose page has not come.
	wireShare, wireSlack = 0.9, 3
	// streamShare of the answers must be streams: others have no time to first token.
	streamShare = 0.9
	// wireSilence is how long the observer may not have looked.
	wireSilence = 3 * time.Second
	// ratioChunks are needed for tokens per chunk.
	ratioChunks = 100
)

// Wire is the source that sees users' requests themselves. Where it sees what the engine says it
// finished, its latencies and outcomes replace those from the engine's histograms and counters;
// where it does not (TLS, HTTP/2, another way in, several prompts in one request), the engine's stay.
// It must be drained after the engine's own source. Requests of our own, marked synthetic, are in
// none of its figures.
type Wire struct {
	observer Observer
	endpoint probe.Endpoint

	late   []probe.Request // ended after the last window; used by the collector's goroutine alone, as what follows
	span   []wireSecond    // of the last windows, oldest first
	hidden uint64          // connections of TLS and HTTP/2 up to the last window
}

// wireSecond is what one window adds to the comparison.
type wireSecond struct {
	engine, wire     float64 // requests that the engine finished, and those seen completed
	answers, streams float64 // of users
	tokens, chunks   float64
	hidden           float64 // connections of TLS or HTTP/2
}

// NewWire returns the source for an endpoint that the observer watches.
func NewWire(o Observer, e probe.Endpoint) *Wire { return &Wire{observer: o, endpoint: e} }

// InFlight counts users' requests that are open now. Any goroutine may call it.
func (s *Wire) InFlight() int { return s.observer.InFlight(s.endpoint) }

// Drain adds what was seen up to the end of w, and replaces what is seen better.
func (s *Wire) Drain(w *fleet.Window, now time.Time) *agentv1.Source {
	second := s.observer.Drain(s.endpoint)
	ended := s.until(w.Start.Add(Length), second.Requests)
	sum := s.compare(w, ended, second.Chunks)
	out := &agentv1.Source{Name: fleet.SourceProbe, Error: s.problem(second.Heard, now, sum)}
	if !second.Heard.IsZero() {
		out.AgeMs, out.AnsweredUnixMs = max(0, now.Sub(second.Heard)).Milliseconds(), second.Heard.UnixMilli()
	}
	if out.Error == "" {
		open(w, second.Open)
		w.Counters[fleet.StreamChunks] = float64(second.Chunks)
		replace(w, ended, second.Gaps, sum)
	}
	return out
}

// problem says in words why the engine's figures stay; empty: they do not.
func (s *Wire) problem(heard, now time.Time, sum wireSecond) string {
	if heard.IsZero() || now.Sub(heard) > wireSilence {
		return "the kernel's events were not read lately: the engine's figures stay"
	}
	if !sum.complete() {
		return fmt.Sprintf("%.0f requests were seen where the engine finished %.0f in %d s: the others came by TLS, HTTP/2, another way or several in one; the engine's figures stay", sum.wire, sum.engine, len(s.span))
	}
	if sum.hidden > 0 && sum.wire == 0 {
		return fmt.Sprintf("%.0f connections of TLS or HTTP/2 cannot be looked into: the engine's figures stay", sum.hidden)
	}
	return ""
}

// setBack is how far beyond a window a request can only have ended by a clock that was set back since.
const setBack = time.Minute

// until takes requests that ended before a time, and keeps the others for the next window.
func (s *Wire) until(end time.Time, more []probe.Request) (ended []probe.Request) {
	all := append(s.late, more...)
	s.late = nil
	for _, r := range all {
		if r.Last.Before(end) || r.Last.After(end.Add(setBack)) {
			ended = append(ended, r)
		} else {
			s.late = append(s.late, r)
		}
	}
	return ended
}

// compare adds a window to the span and returns its sum.
func (s *Wire) compare(w *fleet.Window, ended []probe.Request, chunks uint64) (sum wireSecond) {
	n := wireSecond{engine: w.Counters[fleet.RequestsFinished], tokens: w.Counters[fleet.GenerationTokens], chunks: float64(chunks)}
	if c, err := s.observer.Counts(s.endpoint.Port); err == nil { // they fail only for other ports
		n.hidden = float64(c.TLS + c.HTTP2 - s.hidden)
		s.hidden = c.TLS + c.HTTP2
	}
	for i := range ended {
		r := &ended[i]
		if r.Class != probe.ClassInference || !answered(r) {
			continue
		}
		n.wire++ // the engine counts synthetic requests too
		if r.Synthetic {
			continue
		}
		n.answers++
		if r.Stream {
			n.streams++
		}
	}
	s.span = append(s.span, n)
	if len(s.span) > wireSpan {
		s.span = append([]wireSecond(nil), s.span[1:]...)
	}
	for _, n := range s.span {
		sum.engine, sum.wire = sum.engine+n.engine, sum.wire+n.wire
		sum.answers, sum.streams = sum.answers+n.answers, sum.streams+n.streams
		sum.tokens, sum.chunks, sum.hidden = sum.tokens+n.tokens, sum.chunks+n.chunks, sum.hidden+n.hidden
	}
	return sum
}

// complete says that the wire shows what the engine says it finished.
func (n wireSecond) complete() bool {
	return n.engine == 0 || n.wire > 0 && n.wire >= wireShare*n.engine-wireSlack
}

// streaming says that nearly all answers are streams.
func (n wireSecond) streaming() bool { return n.streams >= streamShare*n.answers }

// ratio of tokens to chunks; zero while it is not known. Package probe tells of its error.
func (n wireSecond) ratio() float64 {
	if n.chunks < ratioChunks || !n.streaming() {
		return 0
	}
	return n.tokens / n.chunks
}

// answered says that a request was done as asked.
func answered(r *probe.Request) bool {
	return r.Outcome == probe.Completed && !r.Failed() && r.Status >= 200 && r.Status < 300
}

// replace sets the latencies and outcomes of users' requests that ended.
func replace(w *fleet.Window, ended []probe.Request, gaps *stats.Sketch, sum wireSecond) {
	ttft, e2e, tpot := stats.NewSketch(), stats.NewSketch(), stats.NewSketch()
	var finished, failed, aborted float64
	for i := range ended {
		r := &ended[i]
		switch {
		case r.Class != probe.ClassInference || r.Synthetic:
			continue
		case r.Failed():
			failed++
			continue
		case r.Outcome == probe.AbortedByClient:
			aborted++
			continue
		case !answered(r):
			continue
		}
		finished++
		observe(e2e, r.Last.Sub(r.Start))
		if first, ok := r.TTFT(); ok && r.Stream {
			observe(ttft, first)
		}
		if tokens := float64(r.Chunks) * sum.ratio(); r.Stream && tokens >= 2 {
			observe(tpot, time.Duration(float64(r.Last.Sub(r.FirstChunk))/(tokens-1)))
		}
	}
	w.Counters[fleet.RequestsFinished], w.Counters[fleet.RequestsFailed], w.Counters[fleet.RequestsAborted] = finished, failed, aborted
	set(w, fleet.E2E, e2e)
	if !sum.streaming() {
		return
	}
	set(w, fleet.TTFT, ttft)
	set(w, fleet.ITL, gaps)
	if w.Sketches[fleet.TPOT] == nil { // the engine knows its tokens exactly
		set(w, fleet.TPOT, tpot)
	}
}

// observe adds a time; the kernel's clock makes none negative.
func observe(s *stats.Sketch, d time.Duration) { _ = s.Add(d.Seconds()) }

// set puts a sketch in the place of another source's, which tells of the same requests a page later.
func set(w *fleet.Window, metric string, s *stats.Sketch) {
	if s.Count() == 0 {
		delete(w.Sketches, metric)
		delete(w.Origin, metric)
		return
	}
	w.Sketches[metric], w.Origin[metric] = s, fleet.SourceProbe
}

// open sets the gauges of users' open requests.
func open(w *fleet.Window, all []probe.OpenRequest) {
	g := w.Gauges
	for _, name := range []string{
		fleet.RequestsOpen, fleet.RequestsOpenOver1s, fleet.RequestsOpenOver10s, fleet.RequestsOpenOver60s,
		fleet.OldestRequestSeconds, fleet.OldestSilentSeconds,
	} {
		g[name] = 0
	}
	for _, r := range all {
		if r.Class != probe.ClassInference || r.Synthetic {
			continue
		}
		g[fleet.RequestsOpen]++
		for _, over := range []struct {
			age  time.Duration
			name string
		}{
			{time.Second, fleet.RequestsOpenOver1s}, {10 * time.Second, fleet.RequestsOpenOver10s}, {time.Minute, fleet.RequestsOpenOver60s},
		} {
			if r.Age > over.age {
				g[over.name]++
			}
		}
		g[fleet.OldestRequestSeconds] = max(g[fleet.OldestRequestSeconds], r.Age.Seconds())
		if !r.Answering {
			g[fleet.OldestSilentSeconds] = max(g[fleet.OldestSilentSeconds], r.Age.Seconds())
		}
	}
}
