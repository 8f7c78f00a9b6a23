package analysis

import (
	"math"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// Pace is what a group's engines showed of themselves before: how long a step takes for its work,
// and how much of the prompts the prefix cache served. Against it a window shows that an engine
// became slower than its load explains.
type Pace struct {
	StepSeconds           float64 // a step without work
	SecondsPerSequence    float64 // and for each sequence that decodes in it
	SecondsPerPromptToken float64 // and for each prompt token computed in it
	HitRate               float64 // share of prompt tokens found in the prefix cache; NaN without queries
	HitsPerRequest        float64 // tokens found in it, a finished request
}

// leastPace is how many windows with work a pace is learned from.
const leastPace = 20

// LearnPace learns from earlier windows; nil when they tell too little.
func LearnPace(windows []*fleet.Window) *Pace {
	var rows [][3]float64
	var seconds, weights []float64
	var queries, hits, finished float64
	for _, w := range windows {
		queries += w.Counters[fleet.PrefixQueryTokens]
		hits += w.Counters[fleet.PrefixHitTokens]
		finished += w.Counters[fleet.RequestsFinished]
		if batch, prompt, itl, n := stepOf(w); n > 0 {
			rows = append(rows, [3]float64{1, batch, prompt})
			seconds, weights = append(seconds, itl), append(weights, n)
		}
	}
	if len(rows) < leastPace {
		return nil
	}
	c := leastSquares(rows, seconds, weights)
	p := &Pace{StepSeconds: c[0], SecondsPerSequence: c[1], SecondsPerPromptToken: c[2], HitRate: math.NaN()}
	if queries > 0 {
		p.HitRate, p.HitsPerRequest = hits/queries, hits/math.Max(1, finished)
	}
	return p
}

// stepOf is a window's mean step: sequences that decode, prompt tokens computed, seconds between
// two tokens, and how many tokens that mean is of; none without work.
func stepOf(w *fleet.Window) (batch, prompt, itl, n float64) {
	steps := w.Counters[fleet.Iterations]
	s := w.Sketches[fleet.ITL]
	if steps <= 0 || s == nil || s.Count() < 1 {
		return 0, 0, 0, 0
	}
	generated := w.Counters[fleet.GenerationTokens]
	return generated / steps, math.Max(0, w.Counters[fleet.IterationTokens]-generated) / steps, s.Mean(), s.Count()
}

// expected time between two tokens, in seconds.
func (p *Pace) expected(batch, prompt float64) float64 {
	return p.StepSeconds + p.SecondsPerSequence*batch + p.SecondsPerPromptToken*prompt
}

// slowness is the observed time between tokens ÷ the expected one, over windows; NaN when unknown.
func (p *Pace) slowness(windows []*fleet.Window) float64 {
	if p == nil {
		return math.NaN()
	}
	var observed, expected float64
	for _, w := range windows {
		batch, prompt, itl, n := stepOf(w)
		observed += n * itl
		expected += n * p.expected(batch, prompt)
	}
	if expected <= 0 {
		return math.NaN()
	}
	return observed / expected
}

// leastSquares fits non-negative coefficients: what comes out negative is taken as zero and the
// rest fitted again. The first coefficient always stays.
func leastSquares(rows [][3]float64, y, weight []float64) (c [3]float64) {
	active := [3]bool{true, true, true}
	for range active {
		c = solve(rows, y, weight, active)
		worst := 0
		for i := 1; i < len(c); i++ {
			if c[i] < 0 && (worst == 0 || c[i] < c[worst]) {
				worst = i
			}
		}
		if worst == 0 {
			return c
		}
		active[worst] = false
	}
	return c
}

// solve the normal equations of the active columns by elimination. A trace of the diagonal is added
// to each column, so that one that never varied takes no part.
func solve(rows [][3]float64, y, weight []float64, active [3]bool) (c [3]float64) {
	var a [3][4]float64
	for r, row := range rows {
		for i := range row {
			for j := range row {
				a[i][j] += weight[r] * row[i] * row[j]
			}
			a[i][3] += weight[r] * row[i] * y[r]
		}
	}
	for i := range a {
		a[i][i] *= 1 + 1e-9
		if !active[i] || a[i][i] == 0 {
			for j := range a {
				a[i][j], a[j][i] = 0, 0
			}
			a[i][i], a[i][3] = 1, 0
		}
	}
	for i := range a {
		for j := i + 1; j < len(a); j++ {
			f := a[j][i] / a[i][i]
			for k := i; k < 4; k++ {
				a[j][k] -= f * a[i][k]
			}
		}
	}
	for i := len(a) - 1; i >= 0; i-- {
		c[i] = a[i][3]
		for j := i + 1; j < len(a); j++ {
			c[i] -= a[i][j] * c[j]
		}
		c[i] /= a[i][i]
	}
	return c
}
