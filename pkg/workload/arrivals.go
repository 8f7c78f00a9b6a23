package workload

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"gonum.org/v1/gonum/stat/distuv"
)

// Gaps is the family of the independent gaps between arrivals.
type Gaps int

// Families of gaps.
const (
	GammaGaps    Gaps = iota // with CV 1, those of a Poisson process
	WeibullGaps              // heavier tails than gamma's at a CV above 1
	ConstantGaps             // all equal; no CV
)

// Arrivals is an arrival process. The zero values of all fields but Rate give a Poisson process.
type Arrivals struct {
	Rate float64 // mean, requests per second
	Gaps Gaps
	// CV is the coefficient of variation of independent gaps; 0 means 1, as in a Poisson process.
	CV float64
	// Profile makes the rate change with time, in order of its parts; empty: it does not.
	Profile []RatePart
	// Modulation makes the rate itself vary, so that busy seconds come together.
	Modulation Modulation
	// BatchMean above 1 makes requests arrive in groups of geometric size with that mean, on average
	// BatchGap apart inside a group. The rate above stays that of requests.
	BatchMean float64
	BatchGap  time.Duration
}

// RatePart is a factor on the rate from a time on, until the next part begins.
type RatePart struct {
	From   time.Duration
	Factor float64
}

// Modulation is a random rate: a factor of mean 1 with a log-normal distribution, whose logarithm
// forgets its past exponentially (an Ornstein-Uhlenbeck process).
type Modulation struct {
	CV     float64       // of the factor
	Memory time.Duration // time after which its correlation has fallen to 1/e
}

func (a Arrivals) validate() error {
	switch {
	case a.Rate <= 0:
		return fmt.Errorf("%w: arrival rate %g is not above 0", ErrSpec, a.Rate)
	case a.Gaps < GammaGaps || a.Gaps > ConstantGaps || a.Gaps == ConstantGaps && a.CV > 0:
		return fmt.Errorf("%w: gaps of family %d with a variation of %g", ErrSpec, a.Gaps, a.CV)
	case a.CV > mostCV:
		return fmt.Errorf("%w: a variation of %g is above %d", ErrSpec, a.CV, mostCV)
	case a.CV < 0 || a.Modulation.CV < 0 || a.BatchMean < 0 || a.BatchGap < 0:
		return fmt.Errorf("%w: negative variation of arrivals", ErrSpec)
	case a.Modulation.CV > 0 && a.Modulation.Memory <= 0:
		return fmt.Errorf("%w: a varying rate needs a memory above 0", ErrSpec)
	case a.groupGap() <= 0:
		return fmt.Errorf("%w: groups of %g requests %s apart exceed the rate %g", ErrSpec, a.BatchMean, a.BatchGap, a.Rate)
	}
	return a.validateProfile()
}

// mostCV bounds the variation of gaps; a process beyond it hardly ever sends anything.
const mostCV = 100

func (a Arrivals) validateProfile() error {
	for i, part := range a.Profile {
		if part.Factor < 0 || math.IsInf(part.Factor, 0) || math.IsNaN(part.Factor) || i > 0 && part.From <= a.Profile[i-1].From {
			return fmt.Errorf("%w: part %d of the rate's profile", ErrSpec, i)
		}
	}
	if n := len(a.Profile); n > 0 && (a.Profile[0].From != 0 || a.Profile[n-1].Factor == 0) {
		return fmt.Errorf("%w: the rate's profile begins at 0 and does not end without arrivals", ErrSpec)
	}
	return nil
}

// process generates gaps in seconds.
type process struct {
	arrivals Arrivals
	rng      *rand.Rand
	gap      distuv.Rander // of mean 1, in operational time
	level    float64       // current state of the modulation, standard normal
	slice    float64       // seconds left at this level
	owed     []float64     // gaps of the current group, last first
	now      float64       // seconds since the start
	part     int           // of the profile
}

// modulationSlice is the resolution of a varying rate, as a fraction of its memory.
const modulationSlice = 1. / 16

func (a Arrivals) process(rng *rand.Rand) *process {
	return &process{arrivals: a, rng: rng, gap: a.gaps(rng), level: rng.NormFloat64()}
}

// constant is the distribution of a single value.
type constant float64

func (c constant) Rand() float64 { return float64(c) }

// gaps is the distribution of the gaps, scaled to a mean of 1.
func (a Arrivals) gaps(rng *rand.Rand) distuv.Rander {
	cv := a.CV
	if cv == 0 {
		cv = 1
	}
	switch a.Gaps {
	case ConstantGaps:
		return constant(1)
	case WeibullGaps:
		k := weibullShape(cv)
		return distuv.Weibull{K: k, Lambda: 1 / math.Gamma(1+1/k), Src: rng}
	default:
		shape := 1 / (cv * cv)
		return distuv.Gamma{Alpha: shape, Beta: shape, Src: rng}
	}
}

// weibullShape solves Γ(1+2/k)/Γ(1+1/k)² = 1 + cv² for the shape k.
func weibullShape(cv float64) float64 {
	low, high := .05, 200.
	for range 100 {
		k := math.Sqrt(low * high)
		one, _ := math.Lgamma(1 + 1/k)
		two, _ := math.Lgamma(1 + 2/k)
		if two-2*one > math.Log1p(cv*cv) {
			low = k
		} else {
			high = k
		}
	}
	return low
}

// next returns the time to the next request.
func (p *process) next() float64 {
	gap := p.nextGap()
	p.now += gap
	return gap
}

func (p *process) nextGap() float64 {
	if n := len(p.owed); n > 0 {
		gap := p.owed[n-1]
		p.owed = p.owed[:n-1]
		return gap
	}
	for range p.groupSize() - 1 {
		p.owed = append(p.owed, p.rng.ExpFloat64()*p.arrivals.BatchGap.Seconds())
	}
	return p.elapse(p.gap.Rand() * p.arrivals.groupGap())
}

// groupGap is the mean time, in seconds, from the last request of a group to the first of the next.
func (a Arrivals) groupGap() float64 {
	size := max(a.BatchMean, 1)
	return size/a.Rate - (size-1)*a.BatchGap.Seconds()
}

func (p *process) groupSize() int {
	if p.arrivals.BatchMean <= 1 {
		return 1
	}
	u := 1 - p.rng.Float64()
	return 1 + int(math.Log(u)/math.Log(1-1/p.arrivals.BatchMean))
}

// elapse turns operational time, in which the rate is constant, into real time under the varying rate.
func (p *process) elapse(operational float64) (real float64) {
	for {
		factor, left := p.pace(p.now + real)
		if operational <= left*factor {
			dt := operational / factor
			p.slice -= dt
			return real + dt
		}
		operational -= left * factor
		real += left
		p.slice -= left
	}
}

// pace is the factor on the rate at a time in seconds, and for how many seconds it holds.
func (p *process) pace(at float64) (factor, left float64) {
	factor, left = 1, math.Inf(1)
	if m := p.arrivals.Modulation; m.CV > 0 {
		if p.slice <= 0 {
			p.drift()
			p.slice = m.Memory.Seconds() * modulationSlice
		}
		sigma := math.Sqrt(math.Log(1 + m.CV*m.CV))
		factor, left = math.Exp(sigma*p.level-sigma*sigma/2), p.slice
	}
	parts := p.arrivals.Profile
	if len(parts) == 0 {
		return factor, left
	}
	for p.part+1 < len(parts) && at >= parts[p.part+1].From.Seconds() {
		p.part++
	}
	if p.part+1 < len(parts) {
		left = math.Min(left, max(parts[p.part+1].From.Seconds()-at, 1e-9))
	}
	return factor * parts[p.part].Factor, left
}

// drift moves the modulation on by one slice.
func (p *process) drift() {
	keep := math.Exp(-modulationSlice)
	p.level = keep*p.level + math.Sqrt(1-keep*keep)*p.rng.NormFloat64()
}
