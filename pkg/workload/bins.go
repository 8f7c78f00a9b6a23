package workload

import (
	"math"
	"math/bits"
	"slices"
)

// bins is a mergeable histogram of token counts over bins of equal ratio: 2^scale bins per doubling. Where
// it would grow beyond maxBins the ratio is doubled, which joins bins in pairs.
type bins struct {
	scale  int // of bins per doubling, as a power of two
	low    int // index of the first bin
	counts []uint64
}

const (
	startScale = 4 // 4.4 % wide
	maxBins    = 190
)

// index of the bin of a count of at least 1.
func (b *bins) index(tokens int) int {
	return int(math.Floor(math.Log2(float64(max(tokens, 1))) * float64(int(1)<<b.scale)))
}

func (b *bins) add(tokens int, n uint64) {
	b.addAt(b.index(tokens), n)
}

func (b *bins) addAt(i int, n uint64) {
	if len(b.counts) == 0 {
		b.low = i
	}
	low, high := min(b.low, i), max(b.low+len(b.counts)-1, i)
	for high-low >= maxBins && b.scale > 0 {
		b.coarsen()
		i >>= 1
		low, high = min(b.low, i), max(b.low+len(b.counts)-1, i)
	}
	if low < b.low {
		b.counts = append(make([]uint64, b.low-low), b.counts...)
		b.low = low
	}
	if grow := high - b.low + 1 - len(b.counts); grow > 0 {
		b.counts = append(b.counts, make([]uint64, grow)...)
	}
	b.counts[i-b.low] += n
}

// coarsen halves the number of bins.
func (b *bins) coarsen() {
	if b.scale == 0 {
		return
	}
	old := *b
	*b = bins{scale: old.scale - 1, low: old.low >> 1}
	if n := len(old.counts); n > 0 {
		b.counts = make([]uint64, (old.low+n-1)>>1-b.low+1)
	}
	for i, n := range old.counts {
		b.counts[(old.low+i)>>1-b.low] += n
	}
}

func (b *bins) merge(o bins) {
	if len(o.counts) == 0 {
		return
	}
	o.counts = slices.Clone(o.counts)
	if len(b.counts) == 0 {
		*b = o
		return
	}
	for o.scale > b.scale {
		o.coarsen()
	}
	for b.scale > o.scale {
		b.coarsen()
	}
	for i, n := range o.counts {
		if n == 0 {
			continue
		}
		b.addAt((o.low+i)>>(o.scale-b.scale), n)
	}
}

func (b *bins) total() (n uint64) {
	for _, c := range b.counts {
		n += c
	}
	return n
}

// at is the count below which a share p lies, spread evenly in the logarithm within a bin.
func (b *bins) at(p float64) int {
	left := p * float64(b.total())
	for i, n := range b.counts {
		if left < float64(n) || i == len(b.counts)-1 {
			x := math.Min(left/max(float64(n), 1), 1)
			width := float64(int(1) << b.scale)
			low, high := math.Exp2(float64(b.low+i)/width), math.Exp2(float64(b.low+i+1)/width)
			// Whole counts of this bin: narrow bins of small counts hold one each.
			first, last := math.Ceil(low-1e-9), math.Ceil(high-1e-9)-1
			if last <= first {
				return max(int(first), 1)
			}
			return max(int(math.Min(math.Floor(first*math.Pow((last+1)/first, x)), last)), 1)
		}
		left -= float64(n)
	}
	return 1
}

// lengthBucket sorts prompts by their order of magnitude, for what depends on it.
func lengthBucket(tokens int) int { return min(max(bits.Len(uint(tokens))-6, 0), lengthBuckets-1) }

const lengthBuckets = 10 // below 64, 128, … 16384, and above
