package stats

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat"
)

// LeastBlocks is how many blocks before a change a Shift needs, and how many after it a pass.
const LeastBlocks = 24

// Figures of the confidence sequence.
const (
	mixtureVariance = 1. / 8 // of the Gaussian mixture, per block: tightest after some dozens of blocks
	firstBlocks     = 3      // after the change, before which nothing is claimed
	mostCorrelation = .95    // between neighbouring blocks
	// proofInflation multiplies the variance where a pass is to be proven. For a regression it is
	// 1 + regressInflation / blocks before the change: 1.5 at the fewest blocks, 1.1 at 120.
	proofInflation   = 1.5
	regressInflation = LeastBlocks / 2
)

// Shift is test T3: a confidence sequence for by how much a change moved a difference between canary and
// controls, such as that of their mean logarithms of latency in blocks of five seconds. What differed
// before the change is taken off, so unequal hardware cancels.
//
// The radius is the one-sided asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy
// and Ramdas (Time-uniform Central Limit Theory and Asymptotic Confidence Sequences, Annals of
// Statistics 52(6), 2024), valid at every moment at once for independent blocks. Blocks that depend on
// each other are allowed for by multiplying the variance by the integrated autocorrelation time before
// the change, of a first-order process with the lag-one correlation seen, and by an inflation, since both
// are estimated from few blocks. The error of the mean before the change is added in squares at the same
// level.
//
// That is an approximation. In simulation, at a level of 1 %, a lower bound exceeds 1.10 with nothing
// changed in 0 to 2 % of runs, and an upper bound falls below a true 1.25 in up to 7 % with 24 blocks
// before the change, in 1.5 % with 120: give it as many as there are. Package canarysim prints the table.
// Create with NewShift. Not safe for concurrent use.
type Shift struct {
	before  float64 // mean before the change
	blocks  float64 // before the change
	longRun float64 // variance of a block times the integrated autocorrelation time
	sum, n  float64 // after the change
}

// NewShift returns a sequence for what comes after these blocks, in order of time. Blocks that are no
// number, such as those in which an arm had no traffic, are left out; ErrInput when fewer than
// LeastBlocks remain, or all are equal.
func NewShift(before []float64) (*Shift, error) {
	x := finiteOf(before)
	if len(x) < LeastBlocks {
		return nil, fmt.Errorf("%w: %d blocks before the change, need %d", ErrInput, len(x), LeastBlocks)
	}
	mean, variance := stat.MeanVariance(x, nil)
	if !(variance > 0) {
		return nil, fmt.Errorf("%w: blocks before the change do not vary", ErrInput)
	}
	return &Shift{before: mean, blocks: float64(len(x)), longRun: variance * AutocorrelationTime(x)}, nil
}

// AutocorrelationTime is the integrated autocorrelation time of a series, in its steps: by how much the
// variance of its mean exceeds that of independent values. That of a first-order process with the lag-one
// correlation of the series, 1 at least.
func AutocorrelationTime(x []float64) float64 {
	mean := stat.Mean(x, nil)
	var own, next float64
	for i, v := range x {
		own += (v - mean) * (v - mean)
		if i > 0 {
			next += (v - mean) * (x[i-1] - mean)
		}
	}
	if !(own > 0) {
		return 1
	}
	r := min(max(next/own, 0), mostCorrelation)
	return (1 + r) / (1 - r)
}

// Add counts a block after the change; what is no number is left out.
func (s *Shift) Add(difference float64) {
	if math.IsNaN(difference) || math.IsInf(difference, 0) {
		return
	}
	s.sum += difference
	s.n++
}

// Blocks counted after the change.
func (s *Shift) Blocks() int { return int(s.n) }

// Value is the shift that is most likely; NaN before the first block.
func (s *Shift) Value() float64 { return s.sum/s.n - s.before }

// AtLeast is the bound that the shift lies above, with a chance of about 1 − alpha at every moment at
// once; -Inf while there are too few blocks.
func (s *Shift) AtLeast(alpha float64) float64 {
	if s.n < firstBlocks {
		return math.Inf(-1)
	}
	return s.Value() - s.radius(alpha, 1+regressInflation/s.blocks)
}

// AtMost is the bound that the shift lies below; +Inf while there are too few blocks.
func (s *Shift) AtMost(alpha float64) float64 {
	if s.n < firstBlocks {
		return math.Inf(1)
	}
	return s.Value() + s.radius(alpha, proofInflation)
}

func (s *Shift) radius(alpha, inflation float64) float64 {
	z := normalQuantile(1 - alpha)
	u := sequenceRadius(s.n, mixtureVariance, alpha)
	return math.Sqrt(s.longRun * inflation * (u*u + z*z/s.blocks))
}

// sequenceRadius is that of a one-sided confidence sequence for the mean of t values of variance 1. It
// follows from Ville's inequality for a one-sided Gaussian mixture of variance r2 and from Φ(x) ≥ 1 −
// exp(−x²/2)/2.
func sequenceRadius(t, r2, alpha float64) float64 {
	v := t*r2 + 1
	return math.Sqrt(2 * v / (t * t * r2) * math.Log(1+math.Sqrt(v)/(2*alpha)))
}

func finiteOf(x []float64) []float64 {
	out := make([]float64, 0, len(x))
	for _, v := range x {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out = append(out, v)
		}
	}
	return out
}
