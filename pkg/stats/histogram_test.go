package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// fill sorts values into buckets and returns them with the sum.
func fill(values, bounds []float64) (buckets []Bucket, sum float64) {
	buckets = make([]Bucket, len(bounds))
	for i, b := range bounds {
		buckets[i].Upper = b
	}
	for _, v := range values {
		i, _ := slices.BinarySearch(bounds, v)
		buckets[i].Count++
		sum += v
	}
	return buckets, sum
}

var ttftBounds = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560, math.Inf(1)}

func TestFromHistogramStaysInTheBucket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name string
		draw func() float64
	}{
		{"log-normal", func() float64 { return 0.2 * math.Exp(r.NormFloat64()) }},
		{"exponential", func() float64 { return 0.5 * r.ExpFloat64() }},
		{"constant", func() float64 { return 0.033 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			values := make([]float64, 20000)
			for i := range values {
				values[i] = c.draw()
			}
			buckets, sum := fill(values, ttftBounds)
			s := FromHistogram(buckets, sum)
			slices.Sort(values)
			if s.Sum() != sum || math.Abs(s.Count()-20000) > 1e-6 {
				t.Errorf("sum %v count %v, want %v and 20000", s.Sum(), s.Count(), sum)
			}
			for _, q := range []float64{0.1, 0.5, 0.9, 0.95, 0.99} {
				exact := values[int(q*float64(len(values)-1))]
				i, _ := slices.BinarySearch(ttftBounds, exact)
				low, high := 0.0, ttftBounds[i]
				if i > 0 {
					low = ttftBounds[i-1]
				}
				if got := s.Quantile(q); got < low*(1-2*Accuracy) || got > high*(1+2*Accuracy) {
					t.Errorf("q%v = %v, outside the exact value's bucket (%v, %v]", q, got, low, high)
				}
			}
		})
	}
}

// A histogram whose values all lie in one bucket has a sum that says where.
func TestFromHistogramFollowsTheSum(t *testing.T) {
	for _, c := range []struct {
		name    string
		buckets []Bucket
		sum     float64
		mean    float64 // that the values should have
	}{
		{"low in the first bucket", []Bucket{{0.3, 100}, {math.Inf(1), 0}}, 1, 0.01},
		{"high in the first bucket", []Bucket{{0.3, 100}, {math.Inf(1), 0}}, 28, 0.28},
		{"in the middle", []Bucket{{0.1, 0}, {1, 100}, {math.Inf(1), 0}}, 30, 0.3},
		{"beyond the last bound", []Bucket{{1, 0}, {math.Inf(1), 10}}, 40, 4},
		{"one value", []Bucket{{0.1, 0}, {1, 1}}, 0.2, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := FromHistogram(c.buckets, c.sum)
			var total float64
			s.dd.ForEach(func(v, n float64) bool { total += v * n; return false })
			if got := total / s.Count(); math.Abs(got/c.mean-1) > 0.03 {
				t.Errorf("values have mean %v, want %v", got, c.mean)
			}
		})
	}
}

func TestFromHistogramTakesAnything(t *testing.T) {
	for _, c := range []struct {
		name    string
		buckets []Bucket
		sum     float64
		count   float64
	}{
		{"nothing", nil, 0, 0},
		{"empty buckets", []Bucket{{1, 0}}, 0, 0},
		{"zero bound", []Bucket{{0, 3}, {0.001, 1}}, 0.0005, 4},
		{"only infinity", []Bucket{{math.Inf(1), 5}}, 10, 5},
		{"sum too small for the buckets", []Bucket{{1, 0}, {2, 5}}, 0, 5},
		{"sum too large for the buckets", []Bucket{{1, 0}, {2, 5}}, 1e9, 5},
		{"sum is no number", []Bucket{{1, 0}, {2, 5}}, math.NaN(), 5},
		{"fractional count", []Bucket{{1, 0.25}}, 0.1, 0.25},
		{"negative bound", []Bucket{{-1, 2}, {1, 2}}, 1, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := FromHistogram(c.buckets, c.sum)
			if math.Abs(s.Count()-c.count) > 1e-9 {
				t.Errorf("count %v, want %v", s.Count(), c.count)
			}
			if _, err := s.Marshal(); err != nil {
				t.Errorf("marshal: %v", err)
			}
		})
	}
}

func BenchmarkFromHistogram(b *testing.B) {
	buckets, sum := fill([]float64{0.05, 0.06, 0.07, 0.2, 0.3, 0.4, 1.2, 3}, ttftBounds)
	for b.Loop() {
		FromHistogram(buckets, sum)
	}
}
