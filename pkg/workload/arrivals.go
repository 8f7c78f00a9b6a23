package workload

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"gonum.org/v1/gonum/stat/distuv"
)

// Arrivals is a stationary arrival process. The zero values of all fields but Rate give a Poisson
// process.
type Arrivals struct {
	Rate float64 // mean, requests per second
	// CV is the coefficient of variation of independent, gamma-distributed gaps; 0 means 1, as in a
	// Poisson process.
	CV float64
	// Modulation makes the rate itself vary, so that busy seconds come together.
	Modulation Modulation
	// BatchMean above 1 makes requests arrive in groups of geometric size with that mean, on average
	// BatchGap apart inside a group. The rate above stays that of requests.
	BatchMean float64
	BatchGap  time.Duration
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
	case a.CV < 0 || a.Modulation.CV < 0 || a.BatchMean < 0 || a.BatchGap < 0:
		return fmt.Errorf("%w: negative variation of arrivals", ErrSpec)
	case a.Modulation.CV > 0 && a.Modulation.Memory <= 0:
		return fmt.Errorf("%w: a varying rate needs a memory above 0", ErrSpec)
	case a.groupGap() <= 0:
		return fmt.Errorf("%w: groups of %g requests %s apart exceed the rate %g", ErrSpec, a.BatchMean, a.BatchGap, a.Rate)
	}
	return nil
}

// process generates gaps in seconds.
type process struct {
	arrivals Arrivals
	rng      *rand.Rand
	gap      distuv.Gamma // of mean 1, in operational time
	level    float64      // current state of the modulation, standard normal
	slice    float64      // seconds left at this level
	owed     []float64    // gaps of the current group, last first
}

// modulationSlice is the resolution of a varying rate, as a fraction of its memory.
const modulationSlice = 1. / 16

func (a Arrivals) process(rng *rand.Rand) *process {
	cv := a.CV
	if cv == 0 {
		cv = 1
	}
	shape := 1 / (cv * cv)
	return &process{arrivals: a, rng: rng, gap: distuv.Gamma{Alpha: shape, Beta: shape, Src: rng}, level: rng.NormFloat64()}
}

// next returns the time to the next request.
func (p *process) next() float64 {
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
	m := p.arrivals.Modulation
	if m.CV == 0 {
		return operational
	}
	sigma := math.Sqrt(math.Log(1 + m.CV*m.CV))
	for {
		factor := math.Exp(sigma*p.level - sigma*sigma/2)
		if operational <= p.slice*factor {
			dt := operational / factor
			p.slice -= dt
			return real + dt
		}
		operational -= p.slice * factor
		real += p.slice
		p.slice = m.Memory.Seconds() * modulationSlice
		keep := math.Exp(-modulationSlice)
		p.level = keep*p.level + math.Sqrt(1-keep*keep)*p.rng.NormFloat64()
	}
}
