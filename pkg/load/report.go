package load

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Report is one finished run.
type Report struct {
	Plan   Plan    `json:"plan"`
	Engine Subject `json:"engine"`
	// Stopped tells in words which stop rule ended the run early; empty when it ran to its end.
	Stopped string  `json:"stopped,omitempty"`
	Summary Summary `json:"summary"`
	// LeftOut is how many requests of the warm-up are in none of the figures.
	LeftOut  int      `json:"left_out"`
	Sketches []Sketch `json:"sketches"`
	Requests Columns  `json:"requests"`
}

// Subject is what was tested.
type Subject struct {
	Instance string            `json:"instance,omitempty"`
	Kind     string            `json:"kind"`
	Version  string            `json:"version,omitempty"`
	Model    string            `json:"model,omitempty"`
	Hardware string            `json:"hardware,omitempty"`
	Settings map[string]string `json:"settings,omitempty"` // on top of the operator's command line
	Epoch    uint64            `json:"epoch,omitempty"`
	// Twin: nothing was sent; a model of the engine was run in virtual time.
	Twin bool `json:"twin,omitempty"`
}

// Sketch is a distribution in seconds, as the client's clock saw it, in the DDSketch library's
// protobuf form.
type Sketch struct {
	Metric   string  `json:"metric"` // ttft_seconds, tpot_seconds, itl_seconds, e2e_seconds
	DDSketch []byte  `json:"ddsketch"`
	Sum      float64 `json:"sum"`
}

// Columns hold the measured requests in the order in which they were due, one entry each.
type Columns struct {
	DueUS  []int64 `json:"due_us"` // microseconds from the start of the measured span
	LateUS []int64 `json:"late_us"`
	// TTFTUS and E2EUS count from when the request was due; both are 0 for a failure.
	TTFTUS []int64        `json:"ttft_us"`
	E2EUS  []int64        `json:"e2e_us"`
	Prompt []int          `json:"prompt_tokens"`
	Tokens []int          `json:"tokens"`
	Failed map[int]string `json:"failed,omitempty"` // failure class by position
}

// Len is the number of requests.
func (c Columns) Len() int { return len(c.DueUS) }

// TTFT in seconds of the k-th request; false for a failure, as of the others.
func (c Columns) TTFT(k int) (float64, bool) {
	return float64(c.TTFTUS[k]) / 1e6, c.Failed[k] == ""
}

// E2E in seconds.
func (c Columns) E2E(k int) (float64, bool) { return float64(c.E2EUS[k]) / 1e6, c.Failed[k] == "" }

// TPOT in seconds per token after the first; false also for fewer than two tokens.
func (c Columns) TPOT(k int) (float64, bool) {
	if c.Failed[k] != "" || c.Tokens[k] < 2 {
		return 0, false
	}
	return float64(c.E2EUS[k]-c.TTFTUS[k]) / 1e6 / float64(c.Tokens[k]-1), true
}

// Good reports whether a request met the objectives.
func (c Columns) Good(k int, o Objectives) bool {
	ttft, ok := c.TTFT(k)
	e2e, _ := c.E2E(k)
	tpot, _ := c.TPOT(k)
	return ok && within(seconds(ttft), o.TTFT) && within(seconds(tpot), o.TPOT) && within(seconds(e2e), o.E2E)
}

// Check refuses a report whose parts contradict each other: it came over a wire.
func (r *Report) Check() error {
	n := r.Requests.Len()
	for _, l := range []int{len(r.Requests.LateUS), len(r.Requests.TTFTUS), len(r.Requests.E2EUS), len(r.Requests.Prompt), len(r.Requests.Tokens)} {
		if l != n {
			return fmt.Errorf("report: columns of %d and %d requests", n, l)
		}
	}
	if n > MaxRequests || r.Summary.Requests != n {
		return fmt.Errorf("report: %d requests are listed and %d counted", n, r.Summary.Requests)
	}
	for k := range n {
		if r.Requests.TTFTUS[k] < 0 || r.Requests.E2EUS[k] < r.Requests.TTFTUS[k] || r.Requests.Tokens[k] < 0 {
			return fmt.Errorf("report: request %d ended before its first token", k)
		}
	}
	for _, s := range r.Sketches {
		if _, err := stats.UnmarshalSketch(s.DDSketch, s.Sum); err != nil {
			return fmt.Errorf("report: %s: %w", s.Metric, err)
		}
	}
	return nil
}

// Collector makes a report of records as they come. It keeps no gap between tokens longer than it
// needs it, so that a long run does not grow with its tokens. It is not safe for concurrent use.
type Collector struct {
	plan     Plan
	start    time.Time
	records  []Record
	leftOut  int
	ended    int // of all requests, the warm-up's included
	failed   int
	itl      *stats.Sketch
	gaps     moments
	bySecond map[int64]int // events with tokens
}

// moments of gaps in seconds.
type moments struct{ n, sum, squares float64 }

// NewCollector expects the records of one run that begins at start.
func NewCollector(p Plan, start time.Time) *Collector {
	return &Collector{plan: p, start: start, itl: stats.NewSketch(), bySecond: map[int64]int{}}
}

// Add takes one record in.
func (c *Collector) Add(r Record) {
	c.ended++
	if r.Failed != "" {
		c.failed++
	}
	from := c.start.Add(c.plan.Measured())
	if r.Intended.Before(from) {
		c.leftOut++
		return
	}
	if r.Failed == "" {
		at := r.FirstToken.Sub(c.start)
		c.bySecond[int64(at/time.Second)]++
		for _, us := range r.GapsUS {
			at += time.Duration(us) * time.Microsecond
			c.bySecond[int64(at/time.Second)]++
			c.gap(float64(us) / 1e6)
		}
	}
	r.GapsUS = nil
	c.records = append(c.records, r)
}

func (c *Collector) gap(s float64) {
	if c.itl.Add(s) == nil {
		c.gaps.n, c.gaps.sum, c.gaps.squares = c.gaps.n+1, c.gaps.sum+s, c.gaps.squares+s*s
	}
}

// FailedShare of the requests that ended, and whether enough have for it to count.
func (c *Collector) FailedShare() (share float64, counts bool) {
	if c.ended == 0 {
		return 0, false
	}
	return float64(c.failed) / float64(c.ended), c.ended >= StopAfter
}

// Report of what was added. stopped is empty when the run went to its end.
func (c *Collector) Report(e Subject, stopped string) (*Report, error) {
	from, to := c.start.Add(c.plan.Measured()), c.start.Add(c.plan.Span())
	if stopped != "" || c.plan.Arrivals == Trace {
		to = c.lastEvent(from)
	}
	slices.SortStableFunc(c.records, func(a, b Record) int { return a.Intended.Compare(b.Intended) })
	plan := c.plan
	plan.Requests = nil // whoever asked has them, and they are in the columns
	r := &Report{Plan: plan, Engine: e, Stopped: stopped, LeftOut: c.leftOut, Summary: Summarize(c.records, from, to, c.plan.Objectives)}
	r.Summary.ITL = c.itlSummary()
	r.Summary.PeakOutputTokens = 0
	for _, n := range c.bySecond {
		r.Summary.PeakOutputTokens = max(r.Summary.PeakOutputTokens, n)
	}
	for _, rec := range c.records {
		if rec.Intended.Before(to) {
			r.Requests.add(rec, from)
		}
	}
	return r, c.sketches(r)
}

// lastEvent is when the last request of the measured span was due, or its last token came.
func (c *Collector) lastEvent(from time.Time) time.Time {
	last := from
	for _, r := range c.records {
		for _, t := range []time.Time{r.Intended.Add(1), r.LastToken} {
			if t.After(last) {
				last = t
			}
		}
	}
	return last
}

func (c *Collector) itlSummary() Spread {
	m := c.gaps
	if m.n == 0 {
		return Spread{}
	}
	mean := m.sum / m.n
	return Spread{
		Count: m.n, Mean: mean, Std: math.Sqrt(max(m.squares/m.n-mean*mean, 0)),
		P50: c.itl.Quantile(.5), P95: c.itl.Quantile(.95), P99: c.itl.Quantile(.99),
	}
}

func (c *Columns) add(r Record, from time.Time) {
	us := func(d time.Duration) int64 { return max(d.Microseconds(), 0) }
	late := int64(0)
	if !r.Sent.IsZero() {
		late = us(r.Sent.Sub(r.Intended))
	}
	ttft, e2e := us(r.TTFT()), us(r.E2E())
	if r.Failed != "" {
		ttft, e2e = 0, 0
		if c.Failed == nil {
			c.Failed = map[int]string{}
		}
		c.Failed[c.Len()] = r.Failed
	}
	c.DueUS, c.LateUS = append(c.DueUS, us(r.Intended.Sub(from))), append(c.LateUS, late)
	c.TTFTUS, c.E2EUS = append(c.TTFTUS, ttft), append(c.E2EUS, e2e)
	c.Prompt, c.Tokens = append(c.Prompt, r.PromptTokens), append(c.Tokens, r.Tokens)
}

// sketches of the successes, under the names that windows use.
func (c *Collector) sketches(r *Report) error {
	of := map[string]*stats.Sketch{fleet.TTFT: stats.NewSketch(), fleet.TPOT: stats.NewSketch(), fleet.E2E: stats.NewSketch(), fleet.ITL: c.itl}
	for k := range r.Requests.Len() {
		for metric, value := range map[string]func(int) (float64, bool){fleet.TTFT: r.Requests.TTFT, fleet.TPOT: r.Requests.TPOT, fleet.E2E: r.Requests.E2E} {
			if v, ok := value(k); ok {
				if err := of[metric].Add(v); err != nil {
					return fmt.Errorf("sketch %s: %w", metric, err)
				}
			}
		}
	}
	for _, metric := range []string{fleet.TTFT, fleet.TPOT, fleet.ITL, fleet.E2E} {
		raw, err := of[metric].Marshal()
		if err != nil {
			return fmt.Errorf("sketch %s: %w", metric, err)
		}
		r.Sketches = append(r.Sketches, Sketch{Metric: metric, DDSketch: raw, Sum: of[metric].Sum()})
	}
	return nil
}
