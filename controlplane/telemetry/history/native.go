package history

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Native histograms here have 16 buckets for each power of two: a quantile is right to 2.2 %.
const (
	schema        = 4
	zeroThreshold = 1e-9
)

// native returns the values of a sketch as a native histogram, with the sketch's exact count and sum.
func native(s *stats.Sketch) *histogram.FloatHistogram {
	h := &histogram.FloatHistogram{Schema: schema, ZeroThreshold: zeroThreshold, Count: s.Count(), Sum: s.Sum()}
	last := int32(math.MinInt32)
	s.Each(func(v, n float64) {
		if v <= zeroThreshold {
			h.ZeroCount += n
			return
		}
		i := bucket(v)
		switch spans := h.PositiveSpans; {
		case i == last:
			h.PositiveBuckets[len(h.PositiveBuckets)-1] += n
			return
		case len(spans) == 0:
			h.PositiveSpans = append(spans, histogram.Span{Offset: i, Length: 1})
		case i == last+1:
			spans[len(spans)-1].Length++
		default:
			h.PositiveSpans = append(spans, histogram.Span{Offset: i - last - 1, Length: 1})
		}
		h.PositiveBuckets = append(h.PositiveBuckets, n)
		last = i
	})
	return h
}

// bucket i holds values above 2^((i−1)/16) and up to 2^(i/16), as Prometheus numbers them.
func bucket(v float64) int32 { return int32(math.Ceil(math.Log2(v) * (1 << schema))) }
