package des

import (
	"math"
	"math/rand/v2"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// Truth is what a simulated engine really does, as opposed to what anybody assumes of it. It belongs to
// the simulated engine and to tests: an optimizer that read it would be reading its own exam. Replicas
// with the same model on the same hardware share one truth and differ by their Life.
type Truth struct {
	Coefficients perfmodel.Coefficients
	StepNoise    float64 // for Config.StepNoise
	seed         uint64
}

// lifeNoise is the standard deviation of the logarithm of the factor between two lives of a process.
const lifeNoise = .01

// Hidden draws a truth from seed: every coefficient lies 10 to 30 % off the given prior, in either
// direction, so that no prior is right by luck.
func Hidden(seed uint64, prior perfmodel.Coefficients) Truth {
	rng := rand.New(rand.NewPCG(seed, 0x71d))
	c := prior
	for _, v := range []*float64{
		&c.Weights, &c.Compute, &c.Attention, &c.KV, &c.Link,
		&c.LayerSeconds, &c.RequestSeconds, &c.FixedSeconds, &c.AllReduceSeconds,
	} {
		off := .1 + .2*rng.Float64()
		if rng.IntN(2) == 0 {
			off = -off
		}
		*v *= 1 + off
	}
	return Truth{Coefficients: c, StepNoise: .01 + .02*rng.Float64(), seed: seed}
}

// Life is the cost seen by one life of a process: the same physics, with a small factor that differs
// between replicas and changes when one restarts, as memory layout and clocks do. The caller numbers
// lives as it likes.
func (t Truth) Life(n uint64, cost Cost) Cost {
	rng := rand.New(rand.NewPCG(t.seed, n+0x11fe))
	return scaled{cost: cost, factor: math.Exp(lifeNoise * rng.NormFloat64())}
}

type scaled struct {
	cost   Cost
	factor float64
}

func (s scaled) StepSeconds(shape StepShape) float64 { return s.cost.StepSeconds(shape) * s.factor }
