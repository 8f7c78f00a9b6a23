package canary

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Outcome of a judgement.
type Outcome int

// Outcomes, in the order in which they outrank each other from the last to the first.
const (
	// Inconclusive: neither proven; also missing data.
	Inconclusive Outcome = iota
	// Pass: proven not to be worse by the margin.
	Pass
	// Hold: a slow regression of a single canary, which may be its hardware's.
	Hold
	// Invalid: the canary does not get the traffic it was given, so nothing can be compared.
	Invalid
	// Fail: worse.
	Fail
)

func (o Outcome) String() string {
	return [...]string{"inconclusive", "pass", "hold", "invalid", "fail"}[o]
}

// Finding is what one test says.
type Finding struct {
	Metric, Test string
	// Evidence against "not worse", and what it takes to reject that. For the slow test both are
	// logarithms of a ratio: the lower bound, and the margin.
	Evidence, Needed float64
	Rejects          bool
}

// Verdict is a judgement with its reasons.
type Verdict struct {
	Outcome  Outcome
	Summary  string
	Findings []Finding
	Missing  []string // what a pass lacks
}

// Judge gathers windows of one wave. It is not safe for concurrent use.
type Judge struct {
	cfg       Config
	latencies []*latency
	events    []*event
	cost      *slow
	share     *stats.ShareTest
	requests  [2]float64 // canary, control
	broken    error      // the numerics failed: nothing is conclusive any more
	pending   int        // windows in the block
	before    bool
}

// New returns a judge without data. Windows from before the change come first, by Before.
func New(cfg Config) (*Judge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	j := &Judge{cfg: cfg, cost: &slow{ratio: true}, share: stats.NewShareTest(), before: true}
	for i, l := range cfg.Latencies {
		m := l.Margins
		if m.Quantile == 0 {
			m.Quantile = cfg.Margins.Quantile
		}
		if m.Events == 0 {
			m.Events = cfg.Margins.Events
		}
		one, err := newLatency(i, l, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Name, err)
		}
		j.latencies = append(j.latencies, one)
	}
	for i, e := range cfg.Events {
		one, err := newEvent(i, e, cfg.Margins.Events)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		j.events = append(j.events, one)
	}
	return j, nil
}

// Before counts a window from before the change, in order of time: 120 at least for a pass, and as many up
// to 600 as there are. It must not be called after Observe.
func (j *Judge) Before(w Window) {
	if j.before {
		j.block(w)
	}
}

// Observe counts a window after the change and the warm-up.
func (j *Judge) Observe(w Window) {
	if j.before {
		j.begin()
	}
	j.requests[0] += w.Canary.Requests
	j.requests[1] += w.Control.Requests
	var errs []error
	for _, l := range j.latencies {
		errs = append(errs, l.observe(w))
	}
	for _, e := range j.events {
		errs = append(errs, e.observe(w))
	}
	if w.Share > 0 && w.Share < 1 {
		errs = append(errs, j.share.Add(w.Canary.Requests, w.Canary.Requests+w.Control.Requests, w.Share))
	}
	j.fail(errors.Join(errs...))
	j.block(w)
}

// begin ends the time before the change.
func (j *Judge) begin() {
	j.before, j.pending = false, 0
	for _, l := range j.latencies {
		l.slow.begin()
	}
	j.cost.begin()
}

func (j *Judge) fail(err error) {
	if j.broken == nil {
		j.broken = err
	}
}

// block adds a window to the block of the slow tests, and closes it when it is full.
func (j *Judge) block(w Window) {
	for i, l := range j.latencies {
		l.slow.addLogs(w.Canary.latency(i), w.Control.latency(i))
	}
	j.cost.addCost(w)
	if j.pending++; j.pending < j.cfg.BlockWindows {
		return
	}
	j.pending = 0
	for _, l := range j.latencies {
		l.slow.close()
	}
	j.cost.close()
}

// Verdict on everything so far. It may be asked for after every window. A panic in the numerics is
// inconclusive.
func (j *Judge) Verdict() (v Verdict) {
	defer func() {
		if r := recover(); r != nil {
			v = Verdict{Summary: fmt.Sprintf("the comparison failed: %v", r)}
		}
	}()
	v.Findings = j.findings()
	v.Missing = j.missing()
	switch found, slow := rejected(v.Findings); {
	case found != "":
		v.Outcome, v.Summary = Fail, found
	case j.share.Evidence().Rejects(j.cfg.ShareLevel):
		v.Outcome, v.Summary = Invalid, "the canary does not get the share of requests that it was given"
	case slow != "" && j.cfg.Canaries > 1:
		v.Outcome, v.Summary = Fail, slow
	case slow != "":
		v.Outcome, v.Summary = Hold, slow+", on a single canary"
	case j.broken != nil:
		v.Summary = "the comparison failed: " + j.broken.Error()
	case len(v.Missing) > 0:
		v.Summary = strings.Join(v.Missing, "; ")
	default:
		v.Outcome, v.Summary = Pass, fmt.Sprintf("proven less than %.2f times worse", j.cfg.PassMargin)
	}
	return v
}

// rejected says what the fast and the slow tests have found, empty for nothing.
func rejected(findings []Finding) (fast, slow string) {
	for _, f := range findings {
		if !f.Rejects {
			continue
		}
		words := f.Metric + " is worse by the " + f.Test
		if f.Test == shiftTest {
			slow = words
		} else if fast == "" {
			fast = words
		}
	}
	return fast, slow
}

func (j *Judge) findings() (all []Finding) {
	level := j.cfg.fastLevel()
	for _, l := range j.latencies {
		evidence, err := l.quantiles()
		j.fail(err)
		all = append(
			all,
			fastFinding(l.name, "test of median and 95th percentile", evidence, level),
			fastFinding(l.name, "test of requests over the threshold", l.exceeds.Evidence(), level),
			l.slow.finding(l.name, j.cfg),
		)
	}
	for _, e := range j.events {
		all = append(all, fastFinding(e.name, "test of events", e.worse.Evidence(), level))
	}
	if j.cost.measured() {
		all = append(all, j.cost.finding(costName, j.cfg))
	}
	return all
}

const costName = "cost per token"

func fastFinding(metric, test string, e stats.Evidence, level float64) Finding {
	return Finding{Metric: metric, Test: test, Evidence: float64(e), Needed: -math.Log(level), Rejects: e.Rejects(level)}
}

// missing says what a pass lacks.
func (j *Judge) missing() (all []string) {
	for i, arm := range []string{"canary", "controls"} {
		if j.requests[i] < j.cfg.MinRequests {
			all = append(all, fmt.Sprintf("%.0f of %.0f requests on the %s", j.requests[i], j.cfg.MinRequests, arm))
		}
	}
	for _, l := range j.latencies {
		all = append(all, l.slow.missing(l.name, j.cfg)...)
	}
	for _, e := range j.events {
		if !e.proven(j.cfg) {
			all = append(all, e.name+" not proven to be as rare")
		}
	}
	if j.cost.measured() {
		all = append(all, j.cost.missing(costName, j.cfg)...)
	}
	return all
}
