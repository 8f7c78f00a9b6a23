package collect

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
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
	version string // of the engine, as far as it is known
	totals  *increases
	started float64 // processStart of the last page

	news      chan struct{} // closed and replaced after each attempt to scrape
	pending   *fleet.Window // what was gathered since the last Drain; sketches, counters, gauges
	inFlight  float64
	counted   bool // inFlight is known
	answered  time.Time
	began     time.Time
	problem   string
	gaps      []engine.Gap // what the last page does not tell
	warning   string       // the same in words, and what else is amiss with it
	slow      map[string]float64
	moved     time.Time // when one of the gauges that the engine moves by its log interval last did
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
	addSeries(set, signals)
	return slices.Sorted(maps.Keys(set))
}

func addSeries(set map[string]bool, signals []*engine.Signal) {
	for _, s := range signals {
		set[s.GetSeries()] = true
		if s.GetKind() == engine.HistogramSeries {
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				set[s.GetSeries()+part] = true // on pages without TYPE lines
			}
		}
		if by := s.GetDivideBy(); by != "" {
			set[by] = true
		}
		addSeries(set, s.GetPlus())
	}
}

// Read sets the page and the signals on it, from the engine's description.
func (e *Engine) Read(f Fetcher, signals []*engine.Signal) {
	e.mu.Lock()
	e.fetch, e.signals, e.problem = f, signals, ""
	e.mu.Unlock()
	e.hurry()
}

// Version tells which release the engine says it is; empty while that is not known. It decides nothing
// but which series may still appear.
func (e *Engine) Version(v string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version = v
}

// hurry makes Run scrape at once.
func (e *Engine) hurry() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// InFlight reads a fresh page and returns the requests in the engine, running and waiting. known
// is false when the engine did not answer before ctx ended, or its page says nothing at all or not how
// many run; a page that says other things but not these may be of an engine that shows a series after
// its first event.
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
	readings, _ := engine.Resolve(e.signals, page.Families)
	e.restartOn(page)
	added, sketches, reset := e.totals.of(readings, e.signals)
	if reset {
		e.resets++
	}
	for signal, n := range added {
		e.pending.Counters[signal] += n
	}
	for metric, s := range sketches {
		e.pending.Sketches[metric] = merged(e.pending.Sketches[metric], s)
	}
	gauges := map[string]float64{}
	for signal, r := range readings {
		if !r.Counter() && !math.IsInf(r.Value, 0) {
			gauges[signal] = r.Value
		}
	}
	e.follow(readings, page.At)
	setLoad(gauges, page.Load)
	maps.Copy(e.pending.Gauges, gauges)
	e.warn(page, readings, gauges)
	e.count(page.Load, readings, gauges)
	e.problem, e.answered = page.Problem, page.At
	e.malformed += uint64(page.Dropped)
}

// inEngine are the gauges of requests that are in the engine.
var inEngine = []string{fleet.RequestsRunning, fleet.RequestsWaiting, "requests_deferred", "requests_swapped"}

// count sets how many requests are in the engine. e.mu is held.
func (e *Engine) count(load *scrape.Load, readings map[string]engine.Reading, gauges map[string]float64) {
	e.inFlight = 0
	for _, signal := range inEngine {
		e.inFlight += gauges[signal]
	}
	n, told := load.Requests()
	e.inFlight = max(e.inFlight, n)
	e.counted = told || len(readings) > 0 && !slices.ContainsFunc(e.gaps, func(g engine.Gap) bool {
		return slices.Contains(g.Signals, fleet.RequestsRunning) || slices.Contains(g.Signals, fleet.RequestsWaiting)
	})
}

// warn puts into words what a page does not tell. The words hold no numbers that change from page to
// page. e.mu is held.
func (e *Engine) warn(page *scrape.Page, readings map[string]engine.Reading, gauges map[string]float64) {
	told := maps.Clone(readings)
	for signal := range gauges {
		if _, ok := told[signal]; !ok {
			told[signal] = engine.Reading{} // the load endpoint tells it
		}
	}
	e.gaps = engine.Gaps(e.signals, told, e.version)
	var words []string
	switch {
	case page.Problem != "":
	case len(readings) == 0 && page.Others > 0:
		words = append(words, "the metrics page has series of others but none of the engine's: its metrics are switched off, or the page is a router's")
	default:
		if w := engine.GapWords(e.gaps); w != "" {
			words = append(words, w)
		}
	}
	if page.LoadProblem != "" {
		words = append(words, "requests are counted by the metrics page, which may lag: "+page.LoadProblem)
	}
	e.warning = strings.Join(words, "; ")
}

// follow notices when the engine moves the gauges that it moves only now and then. e.mu is held.
func (e *Engine) follow(readings map[string]engine.Reading, at time.Time) {
	slow := map[string]float64{}
	for signal, r := range readings {
		if r.Signal.GetByInterval() {
			slow[signal] = r.Value
		}
	}
	if !maps.Equal(slow, e.slow) {
		e.slow, e.moved = slow, at
	}
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
	if l.KVUsage != nil {
		gauges[fleet.KVUsage] = *l.KVUsage
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
	s := &agentv1.Source{
		Name: fleet.SourceEngine, AgeMs: age.Milliseconds(), Error: e.problem, Warning: e.warning,
		Stale: e.answered.IsZero() || age > StaleAfter*e.interval,
	}
	if !e.answered.IsZero() {
		s.AnsweredUnixMs = e.answered.UnixMilli()
	}
	if len(e.slow) > 0 {
		s.LagMs = max(0, e.answered.Sub(e.moved)).Milliseconds()
	}
	if s.Stale && s.Error == "" {
		s.Error = fmt.Sprintf("no metrics page for %v: the engine is slow to answer", age.Round(time.Second))
	}
	return s
}

// EngineStatus is what a person or a counter wants to know of the source.
type EngineStatus struct {
	Answered time.Time
	Problem  string
	// Missing signals that answers rest on and that the page does not tell, Warning the same in words.
	Missing []string
	Warning string
	// Errors counts scrapes without a page, Resets restarts of the engine seen in its counters,
	// Malformed samples that could not be used.
	Errors, Resets, Malformed uint64
}

// Status of the source.
func (e *Engine) Status() EngineStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var missing []string
	for _, g := range e.gaps {
		missing = append(missing, g.Signals...)
	}
	return EngineStatus{
		Answered: e.answered, Problem: e.problem, Missing: missing, Warning: e.warning,
		Errors: e.errors, Resets: e.resets, Malformed: e.malformed,
	}
}
