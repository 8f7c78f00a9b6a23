package experiment

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Verdicts of a comparison.
const (
	Better        = "better"
	Worse         = "worse"
	KeepIncumbent = "keep_incumbent"
	NotComparable = "not_comparable"
)

const (
	harmLevel     = 0.01 // of all metrics together
	attainedLevel = 0.95
	missesAllowed = 0.05 // of the requests, of an objective that is attained
)

// Compare a candidate with the baseline, by runs under the same load in fresh processes. decided is
// false while more runs may tell more. paired: the runs of both arms belong together one by one, as
// draws of a twin do.
func Compare(base, cand []*load.Report, rules load.Rules, paired bool) (c load.Comparison, decided bool) {
	c = load.Comparison{Primary: rules.Primary, Baselines: len(base), Tries: len(cand)}
	var harms []float64
	estimates := map[string]estimate{}
	for _, m := range metrics {
		row, e := m.compare(base, cand, rules.Margin, paired)
		if !e.known || m.name == goodput && noObjectives(base) {
			continue
		}
		c.Metrics, harms = append(c.Metrics, row), append(harms, e.harm)
		estimates[m.name] = e
	}
	rejected, _ := stats.Holm(harms, harmLevel)
	for k := range c.Metrics {
		m := &c.Metrics[k]
		m.Worse = len(cand) > 0 && rejected[k] && m.High < 1-rules.Margin
	}
	first, known := estimates[rules.Primary]
	c.Noise, c.MinEffect = first.noise, minEffect(rules, first.noise)
	switch {
	case len(base) < noiseRuns:
		return c, false
	case !known:
		c.Verdict, c.Words = NotComparable, fmt.Sprintf("no run of the baseline gives a figure for %s", rules.Primary)
		return c, true
	case rules.MinEffect > 0 && rules.MinEffect < 2*c.Noise:
		c.Verdict = NotComparable
		c.Words = fmt.Sprintf("%s varies by %.1f %% between restarts of the unchanged engine: an effect of %.1f %% cannot be told from that; ask for at least %.1f %%, or measure for longer",
			rules.Primary, 100*c.Noise, 100*rules.MinEffect, 200*c.Noise)
		return c, true
	case len(cand) < leastOfBothTwo:
		return c, false
	}
	c.Verdict, c.Words, decided = verdict(c, len(cand) >= rules.Replicates)
	return c, decided
}

func noObjectives(rs []*load.Report) bool {
	return len(rs) == 0 || rs[0].Plan.Objectives == load.Objectives{}
}

func minEffect(rules load.Rules, noise float64) float64 {
	if rules.MinEffect > 0 {
		return rules.MinEffect
	}
	return max(defaultMinEffect, 2*noise)
}

// compare one metric. Without runs of the candidate it tells the baseline's figures alone.
func (m metric) compare(base, cand []*load.Report, margin float64, paired bool) (load.Metric, estimate) {
	row := load.Metric{Name: m.name, Unit: m.unit, Baseline: m.middle(base), Candidate: m.middle(cand)}
	if len(cand) == 0 {
		logs, ok := m.logs(base)
		_, noise := moments(logs)
		if paired {
			noise = 0
		}
		row.Noise = noise
		return row, estimate{noise: noise, known: ok, harm: 1}
	}
	e := m.betweenRuns(base, cand, margin, paired)
	if !e.known {
		return row, e
	}
	if low, high, ok := m.withinRuns(base, cand); ok && !paired {
		e.low, e.high = min(e.low, low), max(e.high, high)
	}
	row.Ratio, row.Low, row.High, row.Noise = math.Exp(e.diff), math.Exp(e.low), math.Exp(e.high), e.noise
	row.MannWhitney = 1
	if m.request != nil {
		row.MannWhitney = mannWhitney(m.pool(base), m.pool(cand))
	}
	if m.bound != nil {
		row.Objective = m.bound(base[0].Plan.Objectives)
		row.Attained = m.attained(cand, row.Objective)
	}
	return row, e
}

// middle of a metric over runs, for people.
func (m metric) middle(rs []*load.Report) float64 {
	var sum float64
	for _, r := range rs {
		sum += m.of(r) / float64(len(rs))
	}
	return sum
}

func (m metric) pool(rs []*load.Report) (v []float64) {
	for _, r := range rs {
		v = append(v, m.requests(r)...)
	}
	return v
}

// attained says whether the share of requests that miss an objective is proven to be below or above
// what is allowed: exact, since it is a count. A failure misses.
func (m metric) attained(rs []*load.Report, bound float64) string {
	if bound == 0 {
		return ""
	}
	n, misses := 0, 0
	for _, r := range rs {
		for k := range r.Requests.Len() {
			v, ok := m.request(r.Requests, k, r.Plan.Objectives)
			n++
			if r.Requests.Failed[k] != "" || ok && v > bound {
				misses++
			}
		}
	}
	most, errMost := stats.RateAtMost(misses, n, attainedLevel)
	least, errLeast := stats.RateAtLeast(misses, n, attainedLevel)
	switch {
	case errMost == nil && most <= missesAllowed:
		return "yes"
	case errLeast == nil && least > missesAllowed:
		return "no"
	}
	return "unproven"
}

// verdict on a comparison with runs of both arms; last: there will be no more.
func verdict(c load.Comparison, last bool) (verdict, words string, decided bool) {
	first := c.Metrics[slices.IndexFunc(c.Metrics, func(m load.Metric) bool { return m.Name == c.Primary })]
	var harmed, missed []string
	for _, m := range c.Metrics {
		if m.Worse {
			harmed = append(harmed, fmt.Sprintf("%s %s", m.Name, change(m)))
		}
		if m.Attained == "no" {
			missed = append(missed, m.Name)
		}
	}
	note := ""
	if len(missed) > 0 {
		note = fmt.Sprintf("; more than %.0f %% of its requests miss the objective on %s", 100*missesAllowed, strings.Join(missed, ", "))
	}
	switch least := 1 + c.MinEffect; {
	case len(harmed) > 0:
		return Worse, "proven worse: " + strings.Join(harmed, ", ") + note, true
	case first.High < 1:
		return Worse, fmt.Sprintf("%s %s%s", first.Name, change(first), note), true
	case first.Low > least:
		return Better, fmt.Sprintf("%s %s, more than the %.1f %% asked for, and nothing else is proven worse than allowed%s", first.Name, change(first), 100*c.MinEffect, note), true
	case first.High < least:
		return KeepIncumbent, fmt.Sprintf("keep the incumbent: %s %s, so that it does not improve by the %.1f %% asked for", first.Name, change(first), 100*c.MinEffect), true
	case last:
		return KeepIncumbent, fmt.Sprintf("keep the incumbent: after %d runs %s %s, which does not prove an improvement by %.1f %%", c.Tries, first.Name, change(first), 100*c.MinEffect), true
	}
	return "", "", false
}

// change of a metric in words. Ratios above 1 are better, whichever way the figure goes.
func change(m load.Metric) string {
	return fmt.Sprintf("improves by a factor of %.3f (%.3f to %.3f, %.4g against %.4g %s)", m.Ratio, m.Low, m.High, m.Candidate, m.Baseline, m.Unit)
}
