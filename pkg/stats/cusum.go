package stats

import (
	"fmt"
	"math"
)

// CUSUM watches a standardised series for a lasting rise, and tells when it began. Values should have
// mean 0 and standard deviation 1 while nothing is wrong. (Page, Continuous Inspection Schemes,
// Biometrika 41, 1954.) It alarms sooner or later even then: RunLength says after how many values.
// Create with NewCUSUM.
type CUSUM struct {
	slack, threshold float64
	sum              float64
	since            int
	alarmed          bool
}

// NewCUSUM returns a watch. Slack is half of the rise to look for; threshold is reached sooner by larger
// rises. 0.5 and 5 find a rise of one standard deviation after 10 values and raise a false alarm every
// 930 independent values.
func NewCUSUM(slack, threshold float64) (*CUSUM, error) {
	if !(slack >= 0 && threshold > 0) || math.IsInf(slack, 0) || math.IsInf(threshold, 0) {
		return nil, fmt.Errorf("%w: slack %v, threshold %v", ErrInput, slack, threshold)
	}
	return &CUSUM{slack: slack, threshold: threshold}, nil
}

// Add counts a value and reports whether the alarm is on; it stays on. What is no number is left out.
func (c *CUSUM) Add(z float64) bool {
	if c.alarmed || math.IsNaN(z) || math.IsInf(z, 0) {
		return c.alarmed
	}
	c.sum = max(0, c.sum+z-c.slack)
	c.since++
	if c.sum == 0 {
		c.since = 0
	}
	c.alarmed = c.sum >= c.threshold
	return c.alarmed
}

// Since is how many values ago the rise began: the most likely moment, given that there is one.
func (c *CUSUM) Since() int { return c.since }

// RunLength is how many independent values pass until the alarm on average when their mean is shift
// standard deviations, by Siegmund's approximation (Sequential Analysis, 1985, formula 2.56).
func (c *CUSUM) RunLength(shift float64) float64 {
	d, b := shift-c.slack, c.threshold+1.166
	if math.Abs(d) < 1e-6 {
		return b * b
	}
	return (math.Expm1(-2*d*b) + 2*d*b) / (2 * d * d)
}
