package collect

import (
	"context"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Fetcher brings an engine's page; *scrape.Client is one.
type Fetcher interface {
	Fetch(ctx context.Context) (*scrape.Page, error)
}

// StaleAfter is how many scrape intervals may pass without an answer.
const StaleAfter = 3

// processStart is on the pages of some engines; another value is another process.
const processStart = "process_start_time_seconds"

// Engine is the source that reads the engine's own metrics page. All its methods may be called
// from any goroutine.
type Engine struct {
	interval time.Duration
	changed  chan struct{} // capacity 1: there is a new page to read from

	mu      sync.Mutex // guards what follows
	fetch   Fetcher
	signals []*engine.Signal
	totals  *increases
	started float64 // processStart of the last page

	news      chan struct{} // closed and replaced after each attempt to scrape
	pending   *fleet.Window // what was gathered since the last Drain; sketches, counters, gauges
	inFlight  float64
	counted   bool // inFlight is known
	answered  time.Time
	began     time.Time
	problem   string
	missing   []string
	errors    uint64
	resets    uint64
	malformed uint64
}

// NewEngine returns a source that reads nothing until Read tells it what and where.
func NewEngine(interval time.Duration) *Engine {
	return &Engine{
		interval: interval, changed: make(chan struct{}, 1), totals: newIncreases(), news: make(chan struct{}),
		pending: fleet.NewWindow("", time.Time{}), problem: "the engine's metrics are not known yet",
	}
}

// Series lists the families that signals need from a page, for scrape.Config.
func Series(signals []*engine.Signal) []string {
	set := map[string]bool{processStart: true}
	for _, s := range signals {
		set[s.GetSeries()] = true
		if by := s.GetDivideBy(); by != "" {
			set[by] = true
		}
	}
	out := make([]string, 0, len(set))
	for name := range set {
		out = append(out, name)
	}
	return out
}

// Read sets the page and the signals on it, from the engine's description.
func (e *Engine) Read(f Fetcher, signals []*engine.Signal) {
	e.mu.Lock()
	e.fetch, e.signals, e.problem = f, signals, ""
	e.mu.Unlock()
	e.hurry()
}

// hurry makes Run scrape at once.
func (e *Engine) hurry() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// InFlight reads a fresh page and returns the requests in the engine, running and waiting. known
// is false when the engine did not answer before ctx ended, or its page says nothing at all; a page
// that says other things but not these is of an engine that shows a series after its first event.
func (e *Engine) InFlight(ctx context.Context) (n int, known bool) {
	e.mu.Lock()
	news := e.news
	e.mu.Unlock()
	e.hurry()
	select {
	case <-news:
	case <-ctx.Done():
		return 0, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return int(math.Ceil(e.inFlight)), e.counted
}

// Blind says in words why nothing can be read.
func (e *Engine) Blind(words string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fetch, e.problem, e.counted = nil, words, false
}

// Restarted says that a new engine process began at that time: its counters start from nothing.
// Once a page was read from that process it says nothing new.
func (e *Engine) Restarted(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answered.After(at) {
		return
	}
	e.totals.zero()
	e.started = 0
}

// Run scrapes until ctx ends, at whole multiples of the interval, so that with one second the
// pages are taken at the windows' edges. A slow page delays the next one and never overlaps it.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	e.began = time.Now()
	e.mu.Unlock()
	for {
		e.scrape(ctx)
		timer := time.NewTimer(untilNext(time.Now(), e.interval))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-e.changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// untilNext is the time to the next multiple of step.
func untilNext(now time.Time, step time.Duration) time.Duration {
	return now.Truncate(step).Add(step).Sub(now)
}

func (e *Engine) scrape(ctx context.Context) {
	e.mu.Lock()
	fetch := e.fetch
	e.mu.Unlock()
	if fetch == nil {
		return
	}
	page, err := fetch.Fetch(ctx)
	if ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() {
		close(e.news)
		e.news = make(chan struct{})
	}()
	if err != nil {
		e.errors++
		e.problem, e.counted = err.Error(), false
		return
	}
	e.add(page)
}

// add takes a page into what is pending. e.mu is held.
func (e *Engine) add(page *scrape.Page) {
	readings, missing := engine.Resolve(e.signals, page.Families)
	e.restartOn(page)
	added, sketches, reset := e.totals.of(readings)
	if reset {
		e.resets++
	}
	for signal, n := range added {
		e.pending.Counters[signal] += n
	}
	for metric, s := range sketches {
		e.merge(metric, s)
	}
	gauges := map[string]float64{}
	for signal, r := range readings {
		if !r.Counter() {
			gauges[signal] = r.Value
		}
	}
	setLoad(gauges, page.Load)
	maps.Copy(e.pending.Gauges, gauges)
	e.inFlight = gauges[fleet.RequestsRunning] + gauges[fleet.RequestsWaiting]
	e.counted = len(readings) > 0 || page.Load != nil
	e.missing, e.problem, e.answered = missing, "", page.At
	e.malformed += uint64(page.Dropped)
}

// restartOn notices a new process by its start time, where the page has one. e.mu is held.
func (e *Engine) restartOn(page *scrape.Page) {
	var started float64
	for _, m := range page.Families[processStart].GetMetric() {
		started = m.GetGauge().GetValue()
	}
	if e.started != 0 && started != 0 && started != e.started {
		e.totals.zero()
		e.resets++
	}
	e.started = started
}

func (e *Engine) merge(metric string, s *stats.Sketch) {
	if have := e.pending.Sketches[metric]; have != nil {
		_ = have.Merge(s) // sketches of one accuracy always merge
		return
	}
	e.pending.Sketches[metric] = s
}

// setLoad prefers the load endpoint's live counts to gauges that an engine moves now and then.
func setLoad(gauges map[string]float64, l *scrape.Load) {
	if l == nil {
		return
	}
	if l.Running != nil {
		gauges[fleet.RequestsRunning] = *l.Running
	}
	if l.Waiting != nil {
		gauges[fleet.RequestsWaiting] = *l.Waiting
	}
}

// Drain moves what was gathered since the last call into w. A page that took longer than a second
// lands, whole, in the window in which it arrived.
func (e *Engine) Drain(w *fleet.Window, now time.Time) *agentv1.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.pending
	e.pending = fleet.NewWindow("", time.Time{})
	maps.Copy(w.Counters, got.Counters)
	maps.Copy(w.Gauges, got.Gauges)
	for metric, s := range got.Sketches {
		w.Sketches[metric] = s
		w.Origin[metric] = fleet.SourceEngine
	}
	return e.freshness(now)
}

// freshness describes the source now. e.mu is held.
func (e *Engine) freshness(now time.Time) *agentv1.Source {
	since := e.answered
	if since.IsZero() {
		since = e.began
	}
	var age time.Duration
	if !since.IsZero() {
		age = max(0, now.Sub(since))
	}
	return &agentv1.Source{
		Name: fleet.SourceEngine, AgeMs: age.Milliseconds(), Error: e.problem,
		Stale: e.answered.IsZero() || age > StaleAfter*e.interval,
	}
}

// EngineStatus is what a person or a counter wants to know of the source.
type EngineStatus struct {
	Answered time.Time
	Problem  string
	// Missing signals: the page has none of their series. Some appear with their first event.
	Missing []string
	// Errors counts scrapes without a page, Resets restarts of the engine seen in its counters,
	// Malformed samples that could not be used.
	Errors, Resets, Malformed uint64
}

// Status of the source.
func (e *Engine) Status() EngineStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EngineStatus{
		Answered: e.answered, Problem: e.problem, Missing: e.missing,
		Errors: e.errors, Resets: e.resets, Malformed: e.malformed,
	}
}
