package collect

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// told reads pages, a second apart, as an engine's source does, and returns it with the last second.
func told(signals []*engine.Signal, version string, pages ...*scrape.Page) (*Engine, time.Time) {
	e := NewEngine(time.Second)
	e.Version(version)
	e.Read(nil, signals)
	at := time.Unix(1_700_000_000, 0)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range pages {
		at = at.Add(time.Second)
		p.At = at
		e.add(p)
	}
	return e, at
}

func page(signals []*engine.Signal, text string) *scrape.Page {
	parser := scrape.NewParser(Series(signals))
	p := &scrape.Page{}
	p.Families, p.Dropped = parser.Parse([]byte(text))
	p.Others = parser.Others()
	return p
}

func (e *Engine) sourceAt(now time.Time) *agentv1.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.freshness(now)
}

var some = []*engine.Signal{
	{Signal: "requests_running", Series: "running", Kind: engine.Gauge, ByInterval: true},
	{Signal: "requests_waiting", Series: "waiting", Kind: engine.Gauge, ByInterval: true},
	{Signal: "requests_deferred", Series: "deferred", Kind: engine.Gauge},
	{Signal: "kv_usage", Series: "usage", Kind: engine.Gauge},
	{Signal: "requests_finished", Series: "done", Kind: engine.Counter, Appears: engine.AfterFirstRequest},
	{Signal: "preemptions", Series: "thrown", Kind: engine.Counter, Appears: engine.AfterFirstEvent, Since: "2.0"},
	{Signal: "lora_slots", Series: "slots", Kind: engine.Gauge},
}

func TestWhatAPageDoesNotTell(t *testing.T) {
	two := 2.0
	whole := "running 2\nwaiting 1\ndeferred 3\nusage 0.5\n"
	for _, c := range []struct {
		name, version string
		page          *scrape.Page
		missing       []string
		warning       string // "" is none
		inFlight      float64
		known         bool
	}{
		{name: "all", version: "2.1", page: page(some, whole), inFlight: 6, known: true},
		{
			name: "an older release", version: "1.0", page: page(some, whole+"done 4\n"), missing: []string{"preemptions"},
			warning: "whether requests are thrown out for want of KV cache (no thrown)", inFlight: 6, known: true,
		},
		{
			name: "a release that renamed a gauge: a drain must not take it for zero", version: "9.0", page: page(some, "requests 2\nwaiting 1\nusage 0.5\n"),
			missing: []string{"requests_running"}, warning: "how many requests run, and when a drain is over (no running)", inFlight: 1,
		},
		{
			name: "the load endpoint tells it", version: "9.0",
			page:     &scrape.Page{Families: page(some, "usage 0.5\n").Families, Load: &scrape.Load{Running: &two, Waiting: &two}},
			inFlight: 4, known: true,
		},
		{
			name: "a router's page", page: page(some, "router_requests_total 5\n"),
			missing:  []string{"requests_running", "requests_waiting", "kv_usage"},
			warning:  "series of others but none of the engine's",
			inFlight: 0,
		},
		{
			name: "the page is refused", page: &scrape.Page{Problem: "the engine answered 404", Load: &scrape.Load{InFlight: &two}},
			missing: []string{"requests_running", "requests_waiting", "kv_usage"}, inFlight: 2, known: true,
		},
		{
			name: "the load endpoint is away", version: "2.1", page: &scrape.Page{Families: page(some, whole).Families, LoadProblem: "read /load: refused"},
			warning: "counted by the metrics page, which may lag: read /load: refused", inFlight: 6, known: true,
		},
		{name: "nothing at all yet", page: page(some, ""), missing: []string{"requests_running", "requests_waiting", "kv_usage"}, warning: "does not tell"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, at := told(some, c.version, c.page)
			st, src := e.Status(), e.sourceAt(at)
			if diff := cmp.Diff(c.missing, st.Missing, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
			if (c.warning == "") != (st.Warning == "") || !strings.Contains(st.Warning, c.warning) || src.GetWarning() != st.Warning {
				t.Errorf("status warns %q, the window %q; want %q", st.Warning, src.GetWarning(), c.warning)
			}
			if src.GetStale() || src.GetError() != c.page.Problem {
				t.Errorf("source %v", src)
			}
			if e.inFlight != c.inFlight || e.counted != c.known {
				t.Errorf("%v in flight, known %v; want %v, %v", e.inFlight, e.counted, c.inFlight, c.known)
			}
		})
	}
}

// TestClock: a source says when it answered, and since when the gauges that move only now and then stand.
func TestClock(t *testing.T) {
	for _, c := range []struct {
		name  string
		pages []string
		lag   time.Duration
	}{
		{name: "moving", pages: []string{"running 1\n", "running 2\n", "running 1\n"}},
		{name: "standing", pages: []string{"running 1\n", "running 2\nusage 0.1\n", "running 2\nusage 0.2\n", "running 2\nusage 0.3\n"}, lag: 2 * time.Second},
		{name: "one of two moves", pages: []string{"running 1\nwaiting 0\n", "running 1\nwaiting 0\n", "running 1\nwaiting 1\n"}},
		{name: "none of these", pages: []string{"usage 0.1\n", "usage 0.1\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pages []*scrape.Page
			for _, text := range c.pages {
				pages = append(pages, page(some, text))
			}
			e, at := told(some, "", pages...)
			src := e.sourceAt(at.Add(1500 * time.Millisecond))
			if src.GetAnsweredUnixMs() != at.UnixMilli() || src.GetAgeMs() != 1500 || src.GetLagMs() != c.lag.Milliseconds() {
				t.Errorf("source %v, want answered %d, lag %v", src, at.UnixMilli(), c.lag)
			}
		})
	}
	e, at := told(some, "", page(some, "running 1\n"))
	if src := e.sourceAt(at.Add(4 * time.Second)); !src.GetStale() || !strings.Contains(src.GetError(), "no metrics page for 4s") {
		t.Errorf("source %v, want stale with the reason", src)
	}
}

// TestPagesOfHugeNumbers: what cannot be added up is left out, so that the window is not refused.
func TestPagesOfHugeNumbers(t *testing.T) {
	huge := "running{engine=\"0\"} 1e308\nrunning{engine=\"1\"} 1e308\nwaiting 1\n"
	e, at := told(some, "", page(some, huge))
	w := fleet.NewWindow("a/0", at)
	e.Drain(w, at)
	pb, err := w.Proto()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.FromProto(pb); err != nil || w.Gauges["requests_waiting"] != 1 {
		t.Errorf("gauges %v: %v", w.Gauges, err)
	}
}
