package rollout

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Case is what a Judge is asked about: the changed replicas against those that kept the parent,
// over one span after the warm-up.
type Case struct {
	Policy   *commandv1.Policy
	From, To time.Time
	// Canary merges the windows of replicas serving on the rollout's epoch.
	Canary *fleet.Aggregate
	// Control merges the windows of replicas on the parent; nil when none is left.
	Control *fleet.Aggregate
	// Baseline is the group before the first wave, used when Control is nil.
	Baseline *commandv1.Measured
}

// Judgement is a Judge's answer.
type Judgement struct {
	Outcome commandv1.Outcome
	// Hard: worse by the hard margin, with enough evidence. Two in a row fail the wave.
	Hard bool
	// Summary in words and figures.
	Summary string
	Ratios  []Ratio
}

// Ratio compares one quantile of one metric; above 1 the changed replicas are slower.
type Ratio struct {
	Metric          string
	Quantile        float64
	Canary, Control float64 // seconds
	// Low and High are the ratio at opposite ends of both 99 % intervals: it is certainly no less
	// than Low and no more than High.
	Ratio, Low, High float64
	// Observations of the smaller side.
	Observations float64
}

// Figures that the plain check rests on.
const (
	leastCoverage  = 0.8   // share of the span's instance-seconds that must have a fresh window
	hardMedianObs  = 30    // observations that a median needs to count as a hard regression
	hardTailObs    = 150   // and a 95th percentile
	negligible     = 0.002 // seconds; a smaller difference harms nobody
	errorAllowance = 0.005 // share of failed requests that is noise
	z99            = 2.576
)

// NonInferiority is a plain Judge: medians and 95th percentiles of TTFT, TPOT and E2E, and the
// share of failed requests, each within the policy's margin. It proves nothing about small
// differences; missing, stale or too few data never pass.
type NonInferiority struct{}

// Judge implements Judge.
func (NonInferiority) Judge(c Case) Judgement {
	canary, control := armOf(c.Canary), armOf(c.Control)
	against := "controls"
	if c.Control == nil {
		control, against = armOfBaseline(c.Baseline), "the baseline before the first wave, since no control is left"
	}
	ratios := compare(canary, control)
	j := Judgement{Outcome: commandv1.Outcome_OUTCOME_INCONCLUSIVE, Ratios: ratios}
	if words := hardWorse(c.Policy, ratios, canary, control); words != "" {
		j.Hard, j.Summary = true, words+" than "+against
		return j
	}
	if words := notEnough(c, canary, control, ratios); words != "" {
		j.Summary = words
		return j
	}
	j.Outcome, j.Summary = weigh(c.Policy, ratios, canary, control)
	j.Summary = fmt.Sprintf("%s (%.0f requests against %.0f of %s)", j.Summary, canary.requests, control.requests, against)
	return j
}

// weigh decides on sufficient evidence.
func weigh(p *commandv1.Policy, ratios []Ratio, canary, control arm) (commandv1.Outcome, string) {
	var good, over []string
	for _, r := range ratios {
		words := fmt.Sprintf("%s p%.0f %s → %s", metricName(r.Metric), r.Quantile*100, seconds(r.Control), seconds(r.Canary))
		switch {
		case r.Canary-r.Control <= negligible || r.Ratio <= p.GetMargin():
			good = append(good, words)
		case paceAllowed(p, r, ratios):
			good = append(good, words+" (allowed)")
		case r.Low > p.GetMargin():
			return commandv1.Outcome_OUTCOME_FAIL, fmt.Sprintf("%s: certainly more than %.2f times worse", words, p.GetMargin())
		default:
			over = append(over, words)
		}
	}
	if canary.errorShare() > control.errorShare()*p.GetMargin()+errorAllowance {
		over = append(over, fmt.Sprintf("failed requests %.2f %% → %.2f %%", control.errorShare()*100, canary.errorShare()*100))
	}
	if len(over) > 0 {
		return commandv1.Outcome_OUTCOME_INCONCLUSIVE, "perhaps worse than the margin: " + strings.Join(over, ", ")
	}
	return commandv1.Outcome_OUTCOME_PASS, strings.Join(good, ", ")
}

// notEnough says what the evidence lacks, empty when it suffices.
func notEnough(c Case, canary, control arm, ratios []Ratio) string {
	span := c.To.Sub(c.From)
	least := float64(c.Policy.GetMinRequests())
	switch {
	case c.Canary == nil || c.Canary.Windows == 0:
		return "no measurements of the changed replicas"
	case span.Milliseconds() < c.Policy.GetObserveMinMs():
		return fmt.Sprintf("observed for %.0f of at least %.0f s", span.Seconds(), float64(c.Policy.GetObserveMinMs())/1000)
	case coverage(c.Canary, span) < leastCoverage:
		return fmt.Sprintf("only %.0f %% of the changed replicas' seconds were measured freshly", coverage(c.Canary, span)*100)
	case c.Control != nil && coverage(c.Control, span) < leastCoverage:
		return fmt.Sprintf("only %.0f %% of the controls' seconds were measured freshly", coverage(c.Control, span)*100)
	case canary.requests < least:
		return fmt.Sprintf("%.0f of at least %.0f requests on the changed replicas", canary.requests, least)
	case control.requests < least:
		return fmt.Sprintf("%.0f of at least %.0f requests to compare with", control.requests, least)
	}
	for _, m := range metrics {
		if (canary.count(m) > 0) != (control.count(m) > 0) {
			return metricName(m) + " was measured on one side only"
		}
	}
	if len(ratios) == 0 {
		return "no latency was measured"
	}
	return ""
}

// coverage is the share of the span's instance-seconds that have a fresh window. Two seconds at the
// end may still be on their way.
func coverage(a *fleet.Aggregate, span time.Duration) float64 {
	want := (span.Seconds() - 2) * float64(len(a.Instances))
	if want <= 0 {
		return 1
	}
	return float64(a.Windows-a.StaleSecs) / want
}

// hardWorse says which quantile is worse by the hard margin with enough evidence.
func hardWorse(p *commandv1.Policy, ratios []Ratio, canary, control arm) string {
	for _, r := range ratios {
		least := float64(hardMedianObs)
		if r.Quantile > 0.5 {
			least = hardTailObs
		}
		if paceAllowed(p, r, ratios) || paceUnproven(p, r, ratios) {
			continue
		}
		if r.Observations >= least && r.Ratio >= p.GetHardMargin() && r.Low > p.GetMargin() && r.Canary-r.Control > negligible {
			return fmt.Sprintf("%s p%.0f %s against %s, %.1f times worse", metricName(r.Metric), r.Quantile*100, seconds(r.Canary), seconds(r.Control), r.Ratio)
		}
	}
	if canary.failed >= 10 && canary.errorShare() > 0.1 && canary.errorShare() > control.errorShare()*p.GetHardMargin() {
		return fmt.Sprintf("%.0f %% failed requests against %.0f %%: more", canary.errorShare()*100, control.errorShare()*100)
	}
	return ""
}

// isPace says whether a metric is the pace of one stream. A larger batch slows every stream and ends
// every request sooner, so a slower pace alone is not yet harm.
func isPace(metric string) bool { return metric == fleet.TPOT || metric == fleet.ITL }

// paceAllowed says that a slower pace harms nobody: it meets the group's objective for it or, where
// there is none, requests certainly end sooner at the median and in the tail.
func paceAllowed(p *commandv1.Policy, r Ratio, ratios []Ratio) bool {
	if !isPace(r.Metric) {
		return false
	}
	if objective := p.GetObjectives().GetTpotSeconds(); objective > 0 {
		return r.Canary <= objective
	}
	sooner := 0
	for _, e := range ratios {
		if e.Metric == fleet.E2E && e.High < 1 {
			sooner++
		}
	}
	return sooner == 2
}

// paceUnproven says that too few requests have ended to know what a slower pace does to them. With
// an objective for the pace that is no question.
func paceUnproven(p *commandv1.Policy, r Ratio, ratios []Ratio) bool {
	if !isPace(r.Metric) || p.GetObjectives().GetTpotSeconds() > 0 {
		return false
	}
	for _, e := range ratios {
		if e.Metric == fleet.E2E && e.Observations >= hardMedianObs {
			return false
		}
	}
	return true
}

var metrics = []string{fleet.TTFT, fleet.TPOT, fleet.ITL, fleet.E2E}

func metricName(m string) string {
	return strings.ToUpper(strings.TrimSuffix(m, "_seconds"))
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond).String()
}

// arm is one side of a comparison.
type arm struct {
	requests, failed float64
	quantile         func(metric string, q float64) float64
	count            func(metric string) float64
}

func (a arm) errorShare() float64 {
	if total := a.requests + a.failed; total > 0 {
		return a.failed / total
	}
	return 0
}

func armOf(a *fleet.Aggregate) arm {
	if a == nil {
		a = fleet.NewAggregate()
	}
	return arm{
		requests: max(a.Counters[fleet.RequestsFinished], a.Count(fleet.E2E)), failed: a.Counters[fleet.RequestsFailed],
		quantile: a.Quantile, count: a.Count,
	}
}

// Names of the values in a baseline.
const (
	baselineRequests = "requests"
	baselineFailed   = "failed"
)

func baselineKey(metric string, q float64) string { return fmt.Sprintf("%s_p%g", metric, q*100) }

// summarise keeps of an aggregate what a baseline needs.
func summarise(a *fleet.Aggregate) *commandv1.Measured {
	side := armOf(a)
	m := &commandv1.Measured{
		FromMs: a.From.UnixMilli(), ToMs: a.To.UnixMilli(),
		Values: map[string]float64{baselineRequests: side.requests, baselineFailed: side.failed},
	}
	for _, metric := range metrics {
		if side.count(metric) == 0 {
			continue
		}
		m.Values[metric+"_count"] = side.count(metric)
		for _, q := range needed {
			m.Values[baselineKey(metric, q)] = side.quantile(metric, q)
		}
	}
	return m
}

// needed quantiles of a baseline, ascending: those compared, and the ends of their intervals.
var needed = []float64{0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99}

func armOfBaseline(m *commandv1.Measured) arm {
	return arm{
		requests: m.GetValues()[baselineRequests], failed: m.GetValues()[baselineFailed],
		count:    func(metric string) float64 { return m.GetValues()[metric+"_count"] },
		quantile: func(metric string, q float64) float64 { return interpolated(m.GetValues(), metric, q) },
	}
}

// interpolated reads a quantile of a baseline between the two kept ones beside it.
func interpolated(values map[string]float64, metric string, q float64) float64 {
	at := func(i int) float64 { return values[baselineKey(metric, needed[i])] }
	i, exact := slices.BinarySearch(needed, q)
	switch {
	case exact:
		return at(i)
	case i == 0:
		return at(0)
	case i == len(needed):
		return at(i - 1)
	}
	share := (q - needed[i-1]) / (needed[i] - needed[i-1])
	return at(i-1) + share*(at(i)-at(i-1))
}

// compare the quantiles that both sides have.
func compare(canary, control arm) []Ratio {
	var ratios []Ratio
	for _, m := range metrics {
		n, k := canary.count(m), control.count(m)
		if n == 0 || k == 0 {
			continue
		}
		for _, q := range []float64{0.5, 0.95} {
			r := Ratio{Metric: m, Quantile: q, Canary: canary.quantile(m, q), Control: control.quantile(m, q), Observations: min(n, k)}
			r.Ratio = ratio(r.Canary, r.Control)
			r.Low = ratio(canary.quantile(m, max(q-width(q, n), 0)), control.quantile(m, min(q+width(q, k), 1)))
			r.High = ratio(canary.quantile(m, min(q+width(q, n), 1)), control.quantile(m, max(q-width(q, k), 0)))
			ratios = append(ratios, r)
		}
	}
	return ratios
}

// width of the 99 % interval around a quantile, in rank.
func width(q, n float64) float64 { return z99 * math.Sqrt(q*(1-q)/n) }

func ratio(a, b float64) float64 {
	if b <= 0 {
		return math.Inf(1)
	}
	return a / b
}
