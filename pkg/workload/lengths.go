package workload

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Quantile is one published point of a length distribution.
type Quantile struct {
	P      float64 // probability in [0, 1]
	Tokens float64
}

// Quantiles is a distribution of token counts given by points from P = 0 to P = 1. Between two points
// the logarithm of the length is linear in the probability.
type Quantiles []Quantile

func (q Quantiles) validate(what string) error {
	if len(q) < 2 || q[0].P != 0 || q[len(q)-1].P != 1 {
		return fmt.Errorf("%w: %s lengths need points at 0 and at 1", ErrSpec, what)
	}
	if q[0].Tokens < 1 {
		return fmt.Errorf("%w: %s lengths begin below one token", ErrSpec, what)
	}
	for i := 1; i < len(q); i++ {
		if q[i].P <= q[i-1].P || q[i].Tokens < q[i-1].Tokens {
			return fmt.Errorf("%w: %s lengths are not in increasing order", ErrSpec, what)
		}
	}
	return nil
}

// At is the length below which a share p of requests lies, in tokens.
func (q Quantiles) At(p float64) float64 {
	for i := 1; i < len(q); i++ {
		if p <= q[i].P {
			a, b := q[i-1], q[i]
			x := (p - a.P) / (b.P - a.P)
			return math.Exp(math.Log(a.Tokens)*(1-x) + math.Log(b.Tokens)*x)
		}
	}
	return q[len(q)-1].Tokens
}

// Mean is the expected length in tokens.
func (q Quantiles) Mean() (sum float64) {
	for i := 1; i < len(q); i++ {
		a, b := q[i-1].Tokens, q[i].Tokens
		mean := a
		if b > a {
			mean = (b - a) / math.Log(b/a)
		}
		sum += (q[i].P - q[i-1].P) * mean
	}
	return sum
}

func (q Quantiles) tokens(p float64) int { return max(int(math.Round(q.At(p))), 1) }

// Fixed is the distribution of a single length.
func Fixed(tokens int) Quantiles {
	return Quantiles{{0, float64(tokens)}, {1, float64(tokens)}}
}

// correlated draws two uniform numbers whose normal scores have the given correlation.
func correlated(rng *rand.Rand, correlation float64) (u, v float64) {
	x, y := rng.NormFloat64(), rng.NormFloat64()
	y = correlation*x + math.Sqrt(1-correlation*correlation)*y
	return normalCDF(x), normalCDF(y)
}

func normalCDF(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }
