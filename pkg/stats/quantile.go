package stats

import (
	"fmt"
	"math"
)

// QuantileTest is test T2: an e-process against "the canary's p-quantile is at most margin times that
// of its controls", on sketches of all values since the observation began. Quantiles compared as Howard
// and Ramdas do (Sequential Estimation of Quantiles with Applications to A/B Testing and Best-arm
// Identification, Bernoulli 28(3), 2022): if the null hypothesis holds, there is a latency x below which
// lies at least a share p of the canary's values, and at most p of the controls' lie below x/margin.
// Each half is tested by a beta-binomial mixture; the evidence is the least product over all x.
//
// The chance that the evidence ever rejects at level α is at most α for independent values of one
// distribution per arm. Replicas that drift break this: see the false alarms of package canarysim.
//
// A sketch knows its values by bin. The margin is rounded up to whole bins, and x runs over the bins'
// bounds; where a quantile lies within a bin, the margin held is up to one bin of 2 % smaller.
type QuantileTest struct {
	p    float64
	bins int // of the margin
}

// quantileStrength of the mixtures, in values: they find a given shift soonest after some hundreds.
const quantileStrength = 100

// logGamma is the logarithm of the ratio of two bin bounds, the same for all sketches.
var logGamma = math.Log((1 + Accuracy) / (1 - Accuracy))

// NewQuantileTest returns a test of the p-quantile with a margin above 1 + 2·Accuracy, the smallest that
// sketches can tell from none.
func NewQuantileTest(p, margin float64) (*QuantileTest, error) {
	if err := probability("quantile", p); err != nil {
		return nil, err
	}
	if !(margin >= 1+2*Accuracy) || math.IsInf(margin, 0) {
		return nil, fmt.Errorf("%w: margin %v, must exceed %v", ErrInput, margin, 1+2*Accuracy)
	}
	return &QuantileTest{p: p, bins: int(math.Ceil(math.Log(margin)/logGamma - 1e-9))}, nil
}

// Margin that is tested, after rounding up to whole bins.
func (t *QuantileTest) Margin() float64 { return math.Exp(float64(t.bins) * logGamma) }

// Evidence of all the values so far. An arm without values gives no evidence. Where there is none
// against the null hypothesis the number is not exact, only no greater than zero.
func (t *QuantileTest) Evidence(canary, control *Sketch) (Evidence, error) {
	c, b := cumulate(canary), cumulate(control)
	if c.total() == 0 || b.total() == 0 {
		return 0, nil
	}
	// The canary's half falls with the edge and that of the controls rises. The minimum lies between the
	// two sample quantiles or a little outside.
	first, last := b.quantileBin(t.p)+t.bins, c.quantileBin(t.p)-1
	least, err := t.at(c, b, first)
	for edge := first + 1; err == nil && edge <= last && least > 0; edge++ {
		least, err = t.lower(least, c, b, edge)
	}
	if err != nil || least <= 0 {
		return min(least, 0), err
	}
	last = max(first, last)
	if least, err = t.outwards(least, c, b, last, 1); err != nil {
		return 0, err
	}
	return t.outwards(least, c, b, first, -1)
}

func (t *QuantileTest) lower(least Evidence, c, b cumulated, edge int) (Evidence, error) {
	e, err := t.at(c, b, edge)
	return min(least, e), err
}

// outwards looks for a lower product beyond edge, until the half that rises in this direction alone,
// with the least that the other half can be, is no lower.
func (t *QuantileTest) outwards(least Evidence, c, b cumulated, edge, step int) (Evidence, error) {
	floor, err := t.floor(c, b, step)
	if err != nil {
		return 0, err
	}
	for range maxBins {
		edge += step
		low, high, err := t.halves(c, b, edge)
		if err != nil {
			return 0, err
		}
		least = min(least, low+high)
		rising := high
		if step < 0 {
			rising = low
		}
		if rising+floor >= least {
			break
		}
	}
	return least, nil
}

// floor is the least that the half that falls in a direction can be.
func (t *QuantileTest) floor(c, b cumulated, step int) (Evidence, error) {
	if step > 0 {
		return against(c.total(), c.total(), t.p, quantileStrength, atLeast)
	}
	return against(0, b.total(), t.p, quantileStrength, atMost)
}

// at is the product at the bound above a bin.
func (t *QuantileTest) at(canary, control cumulated, edge int) (Evidence, error) {
	low, high, err := t.halves(canary, control, edge)
	return low + high, err
}

// halves are the evidence that fewer than a share p of the canary's values lie in the bins up to edge,
// and that more of the controls' lie in those up to edge − margin.
func (t *QuantileTest) halves(canary, control cumulated, edge int) (low, high Evidence, err error) {
	if low, err = against(canary.upTo(edge), canary.total(), t.p, quantileStrength, atLeast); err != nil {
		return 0, 0, err
	}
	high, err = against(control.upTo(edge-t.bins), control.total(), t.p, quantileStrength, atMost)
	return low, high, err
}

// cumulated counts of a sketch by bin: sum[i] values lie in bins up to first+i, zeros included.
type cumulated struct {
	first int
	zeros float64
	sum   []float64
}

func cumulate(s *Sketch) cumulated {
	if s == nil || s.dd.IsEmpty() {
		return cumulated{}
	}
	c := cumulated{zeros: s.dd.GetZeroCount()}
	total := c.zeros
	s.dd.GetPositiveValueStore().ForEach(func(bin int, count float64) bool {
		if len(c.sum) == 0 {
			c.first = bin
		}
		for c.first+len(c.sum) < bin {
			c.sum = append(c.sum, total)
		}
		total += count
		c.sum = append(c.sum, total)
		return false
	})
	return c
}

func (c cumulated) total() float64 {
	if len(c.sum) == 0 {
		return c.zeros
	}
	return c.sum[len(c.sum)-1]
}

func (c cumulated) upTo(bin int) float64 {
	switch i := bin - c.first; {
	case i < 0 || len(c.sum) == 0:
		return c.zeros
	case i >= len(c.sum):
		return c.total()
	default:
		return c.sum[i]
	}
}

// quantileBin is the first bin up to which lies at least a share p of the values.
func (c cumulated) quantileBin(p float64) int {
	for i, s := range c.sum {
		if s >= p*c.total() {
			return c.first + i
		}
	}
	return c.first
}

// leastLogged stands for zero where logarithms are averaged, in seconds: nothing is served faster.
const leastLogged = 1e-5

// MeanLog is the mean of the logarithms of the values, within Accuracy; NaN when there are none. Values
// under ten microseconds count as that.
func (s *Sketch) MeanLog() float64 {
	var sum, n float64
	s.Each(func(v, count float64) {
		sum += count * math.Log(max(v, leastLogged))
		n += count
	})
	return sum / n
}
