package stats

import "math"

// Bucket is one bucket of a histogram, not cumulative.
type Bucket struct {
	// Upper bound, inclusive; +Inf in the last bucket of most histograms. The lower bound is the
	// bucket before it, or zero.
	Upper float64
	Count float64
}

// pointsPerBucket is how finely a bucket's values are spread. Sixteen points leave gaps of 16 %
// within a bucket of factor ten, far below what is unknown there.
const pointsPerBucket = 16

// FromHistogram turns buckets in ascending order into a sketch with the exact sum.
//
// A histogram does not say where in a bucket its values are. They are spread evenly on a
// logarithmic scale, and then all moved towards lower or upper bounds until they add up to the
// sum, as far as that is possible. The count is exact and so is the share of values on each side
// of every bound; a quantile lies in the right bucket, so it is wrong by at most the ratio of that
// bucket's bounds: 1.5 where an engine's bounds step by 1.5, 2.5 where they read 1, 2.5, 5, 10. In
// the first and the last bucket there is no such limit, only the sum.
func FromHistogram(buckets []Bucket, sum float64) *Sketch {
	s := NewSketch()
	full := spans(buckets)
	if len(full) == 0 {
		return s
	}
	bend := solveBend(full, sum)
	for _, b := range full {
		b.each(bend, func(v, n float64) {
			_ = s.AddN(v, n) // values and counts are finite and not negative by construction
		})
	}
	s.SetSum(sum)
	return s
}

// span is a bucket with values in it and two finite bounds.
type span struct{ low, high, count float64 }

func spans(buckets []Bucket) []span {
	var out []span
	low := 0.0
	for _, b := range buckets {
		high := b.Upper
		if b.Count > 0 && !math.IsNaN(high) {
			out = append(out, finiteSpan(low, high, b.Count))
		}
		low = max(high, 0)
	}
	return out
}

// finiteSpan gives the open buckets a bound: the first reaches down to a thousandth of its upper
// bound, the last up to eight times its lower one.
func finiteSpan(low, high, count float64) span {
	switch {
	case math.IsInf(high, 1) && low > 0:
		high = 8 * low
	case math.IsInf(high, 1):
		high = 1 // a histogram of a single bucket; the sum moves the values
	}
	high = max(high, 0)
	if low <= 0 {
		low = high / 1000
	}
	return span{low: low, high: high, count: count}
}

// each calls f with the points that stand for the span's values. bend 1 spreads them evenly on a
// logarithmic scale; more moves them to the lower bound, less to the upper one.
func (b span) each(bend float64, f func(v, n float64)) {
	if b.high <= b.low {
		f(b.high, b.count)
		return
	}
	k := int(min(math.Ceil(b.count), pointsPerBucket))
	width := math.Log(b.high / b.low)
	for i := range k {
		u := (float64(i) + 0.5) / float64(k)
		f(min(b.low*math.Exp(width*math.Pow(u, bend)), b.high), b.count/float64(k))
	}
}

// solveBend finds the bend for which the points add up to the sum, by bisection on its logarithm;
// the total falls as the bend grows. Where no bend fits, the nearest end serves.
func solveBend(full []span, sum float64) float64 {
	total := func(bend float64) (t float64) {
		for _, b := range full {
			b.each(bend, func(v, n float64) { t += v * n })
		}
		return t
	}
	even := total(1)
	if math.IsNaN(sum) || sum < 0 || math.Abs(even-sum) <= Accuracy*sum/2 {
		return 1
	}
	low, high := -8.0, 8.0 // log2 of the bend
	for range 24 {
		mid := (low + high) / 2
		if total(math.Exp2(mid)) > sum {
			low = mid
		} else {
			high = mid
		}
	}
	return math.Exp2((low + high) / 2)
}
