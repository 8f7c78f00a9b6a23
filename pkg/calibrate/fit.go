package calibrate

import (
	"math"
	"math/rand/v2"
)

// matrix of the terms, symmetric where it is a precision.
type matrix [terms][terms]float64

// posterior of the coefficients: a normal with that mean and precision, cut off at zero.
type posterior struct {
	mean      features
	precision matrix
	noise     float64 // standard deviation of the relative error of one step
	miss      float64 // mean relative error of a step, outliers cut
	bias      float64 // factor by which steps take longer on average than in the median
}

const (
	fitRounds    = 8
	solveSweeps  = 400
	errorFloor   = .02 // relative errors below it weigh alike
	firstNoise   = .1
	leastNoise   = .005
	worstOutlier = 4 // a span this many times as long as expected is a stall, not a step
)

// fit is a regression on relative errors, L1 by iterative reweighting, with prior as pseudo-observations.
func fit(obs []observation, p prior) posterior {
	theta := p.mean
	theta[termStep] = initialStep(obs)
	post := posterior{noise: firstNoise}
	for range fitRounds {
		a, q := normal(obs, theta)
		for i := range terms {
			k := post.noise * post.noise / (p.sd[i] * p.sd[i])
			a[i][i] += k
			q[i] += k * p.mean[i]
		}
		theta = solve(a, q, theta)
		post.precision = a
		post.noise, post.miss, post.bias = residuals(obs, theta)
	}
	post.mean = theta
	for i := range terms {
		for j := range terms {
			post.precision[i][j] /= post.noise * post.noise
		}
	}
	return post
}

// initialStep takes all time for overhead of steps.
func initialStep(obs []observation) float64 {
	var per []float64
	for _, o := range obs {
		per = append(per, o.seconds/max(o.x[termStep], 1))
	}
	return median(per)
}

func normal(obs []observation, theta features) (a matrix, q features) {
	for _, o := range obs {
		expected := max(o.x.dot(theta), 1e-9)
		miss := math.Abs(o.seconds/expected - 1)
		w := o.weight * o.steps / (expected * expected) * errorFloor / max(miss, errorFloor)
		for i := range terms {
			for j := range terms {
				a[i][j] += w * o.x[i] * o.x[j]
			}
			q[i] += w * o.x[i] * o.seconds
		}
	}
	return a, q
}

// solve minimises the quadratic form over non-negative coefficients by projected coordinate descent.
func solve(a matrix, q, theta features) features {
	for range solveSweeps {
		for i := range terms {
			if a[i][i] <= 0 {
				continue
			}
			rest := q[i]
			for j := range terms {
				if j != i {
					rest -= a[i][j] * theta[j]
				}
			}
			theta[i] = max(rest/a[i][i], 0)
		}
	}
	return theta
}

// residuals are the spread of relative errors around their median, and the mean of what the median
// leaves out: rare long steps that a queue feels all the same.
func residuals(obs []observation, theta features) (noise, miss, bias float64) {
	var misses []float64
	var seen, expected float64
	for _, o := range obs {
		e := o.x.dot(theta)
		off := math.Abs(o.seconds/e - 1)
		misses = append(misses, off*math.Sqrt(o.steps))
		miss += min(off, 1) / float64(len(obs))
		if o.seconds < worstOutlier*e {
			seen += o.weight * o.seconds
			expected += o.weight * e
		}
	}
	return max(1.4826*median(misses), leastNoise), miss, seen / expected
}

// draw takes one set of coefficients from the posterior by Gibbs sampling.
func (p posterior) draw(rng *rand.Rand) features {
	theta := p.mean
	for range 40 {
		for i := range terms {
			k := p.precision[i][i]
			if k <= 0 {
				continue
			}
			shift := 0.0
			for j := range terms {
				if j != i {
					shift += p.precision[i][j] * (theta[j] - p.mean[j])
				}
			}
			theta[i] = truncatedNormal(rng, p.mean[i]-shift/k, 1/math.Sqrt(k))
		}
	}
	return theta
}

// truncatedNormal draws from a normal distribution above zero.
func truncatedNormal(rng *rand.Rand, mean, sd float64) float64 {
	if mean > -2*sd {
		for {
			if v := mean + sd*rng.NormFloat64(); v >= 0 {
				return v
			}
		}
	}
	return sd * sd / -mean * rng.ExpFloat64() // the tail is nearly exponential
}
