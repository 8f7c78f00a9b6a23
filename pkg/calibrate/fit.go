package calibrate

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// matrix of the terms, symmetric where it is a precision.
type matrix [terms][terms]float64

// posterior of the coefficients: a normal with that mean and precision, cut off at zero.
type posterior struct {
	mean      features
	precision matrix
	noise     float64 // standard deviation of the relative error of one step within a moment
	drift     float64 // and of the moments
	miss      float64 // mean relative error of a step, outliers cut
	bias      float64 // factor by which steps take longer on average than in the median
}

const (
	fitRounds    = 12
	solveSweeps  = 400
	errorFloor   = .02 // relative errors below it weigh alike
	firstNoise   = .1
	leastNoise   = .005
	firstDrift   = .05
	leastDrift   = .01
	worstOutlier = 4 // a span this many times as long as expected is a stall, not a step
)

// fit is a regression on relative errors, L1 by iterative reweighting, with prior as pseudo-observations.
// A machine's pace wanders from one moment to the next, so that the steps of a moment are off together:
// what they have in common tells of the machine, what differs among them of the law.
func fit(obs []observation, p prior) posterior {
	theta := p.mean
	theta[termStep] = initialStep(obs)
	post := posterior{noise: firstNoise, drift: firstDrift}
	pace := map[int]float64{}
	for range fitRounds {
		a, q := normal(obs, theta, pace, post)
		for i := range terms {
			k := post.noise * post.noise / (p.sd[i] * p.sd[i])
			a[i][i] += k
			q[i] += k * p.mean[i]
		}
		theta = solve(a, q, theta)
		post.precision = a
		post.residuals(obs, theta, pace)
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

// common is what the observations of one moment share: their weight, and sums of the relative features
// and of the relative seconds by it.
type common struct {
	weight, seconds float64
	x               features
}

// normal equations of the relative errors, with a random effect for each moment.
func normal(obs []observation, theta features, pace map[int]float64, post posterior) (a matrix, q features) {
	moments := map[int]*common{}
	for _, o := range obs {
		expected := max(o.x.dot(theta), 1e-9)
		miss := math.Abs(o.seconds/expected - 1 - pace[o.moment])
		w := o.weight * o.steps * errorFloor / max(miss, errorFloor)
		c := moments[o.moment]
		if c == nil {
			c = &common{}
			moments[o.moment] = c
		}
		c.weight += w
		c.seconds += w * o.seconds / expected
		for i := range terms {
			c.x[i] += w * o.x[i] / expected
			for j := range terms {
				a[i][j] += w * o.x[i] * o.x[j] / (expected * expected)
			}
			q[i] += w * o.x[i] * o.seconds / (expected * expected)
		}
	}
	known := post.noise * post.noise / (post.drift * post.drift)
	for _, m := range slices.Sorted(maps.Keys(moments)) {
		c := moments[m]
		for i := range terms {
			for j := range terms {
				a[i][j] -= c.x[i] * c.x[j] / (known + c.weight)
			}
			q[i] -= c.x[i] * c.seconds / (known + c.weight)
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

// residuals finds each moment's pace, the spread of the relative errors around it, that of the moments,
// and the mean of what the median leaves out: rare long steps that a queue feels all the same.
func (p *posterior) residuals(obs []observation, theta features, pace map[int]float64) {
	relative := map[int][]float64{}
	for _, o := range obs {
		relative[o.moment] = append(relative[o.moment], o.seconds/max(o.x.dot(theta), 1e-9)-1)
	}
	clear(pace)
	var misses []float64
	var square, known float64
	for _, m := range slices.Sorted(maps.Keys(relative)) {
		r := relative[m]
		n := float64(len(r)) * p.drift * p.drift / (p.noise * p.noise)
		pace[m] = median(r) * n / (1 + n)
		if len(r) >= leastShared {
			square += median(r) * median(r)
			known++
		}
	}
	var seen, expected float64
	p.miss = 0
	for _, o := range obs {
		e := o.x.dot(theta)
		off := math.Abs(o.seconds/e - 1)
		misses = append(misses, math.Abs(o.seconds/e-1-pace[o.moment])*math.Sqrt(o.steps))
		p.miss += min(off, 1) / float64(len(obs))
		if o.seconds < worstOutlier*e {
			seen += o.weight * o.seconds
			expected += o.weight * e
		}
	}
	p.noise, p.bias = max(spreadOf*median(misses), leastNoise), seen/expected
	p.drift = max(math.Sqrt(square/max(known, 1)), leastDrift)
}

const (
	spreadOf    = 1.4826 // standard deviation of a normal distribution by its median absolute value
	leastShared = 10     // observations that tell a moment's pace
)

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
