// Package stats holds the measuring instruments that both programs share: mergeable quantile
// sketches and comparisons between them. It does no I/O and keeps no clock.
package stats

import (
	"errors"
	"fmt"
	"math"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/pb/sketchpb"
	"github.com/DataDog/sketches-go/ddsketch/store"
	"google.golang.org/protobuf/proto"
)

// Accuracy is the relative error of every quantile of a Sketch.
const Accuracy = 0.01

// maxBins bounds a sketch: 1 ms to 600 s needs 666 bins at 1 %; more collapses the lowest.
const maxBins = 1024

// ErrSketch is returned for a serialized sketch that is broken or of another accuracy.
var ErrSketch = errors.New("not a sketch of 1 % accuracy")

// Sketch is a DDSketch (Masson et al., PVLDB 12(12), 2019) with an exact sum. The zero value is
// not usable; call NewSketch. A Sketch is not safe for concurrent use.
type Sketch struct {
	dd  *ddsketch.DDSketch
	sum float64
}

// NewSketch returns an empty sketch.
func NewSketch() *Sketch {
	m, err := mapping.NewLogarithmicMapping(Accuracy)
	if err != nil {
		panic(err) // the constant above is in range
	}
	return &Sketch{dd: ddsketch.NewDDSketchFromStoreProvider(m, newStore)}
}

func newStore() store.Store { return store.NewCollapsingLowestDenseStore(maxBins) }

// Add records one value, in the metric's unit. Negative, infinite and NaN values are refused.
func (s *Sketch) Add(v float64) error { return s.AddN(v, 1) }

// AddN records a value n times; n may be fractional.
func (s *Sketch) AddN(v, n float64) error {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return fmt.Errorf("value %v × %v cannot be observed", v, n)
	}
	if n == 0 {
		return nil
	}
	if err := s.dd.AddWithCount(v, n); err != nil {
		return err
	}
	s.sum += v * n
	return nil
}

// Count is the number of values.
func (s *Sketch) Count() float64 { return s.dd.GetCount() }

// Sum of the values.
func (s *Sketch) Sum() float64 { return s.sum }

// SetSum replaces the sum where the source knows it exactly, such as a histogram's _sum.
func (s *Sketch) SetSum(sum float64) { s.sum = sum }

// Mean of the values, NaN when there are none.
func (s *Sketch) Mean() float64 { return s.sum / s.Count() }

// Quantile q in [0, 1]; NaN when the sketch is empty.
func (s *Sketch) Quantile(q float64) float64 {
	v, err := s.dd.GetValueAtQuantile(q)
	if err != nil {
		return math.NaN()
	}
	return v
}

// CountAbove estimates how many values exceed x; exact to the sketch's accuracy in x.
func (s *Sketch) CountAbove(x float64) float64 {
	var n float64
	s.dd.ForEach(func(v, count float64) bool {
		if v > x {
			n += count
		}
		return false
	})
	return n
}

// Each calls f with every occupied bin in rising order: a value that stands for the bin, and how many
// values it holds.
func (s *Sketch) Each(f func(value, count float64)) {
	s.dd.ForEach(func(v, count float64) bool {
		f(v, count)
		return false
	})
}

// Merge adds all values of o, exactly.
func (s *Sketch) Merge(o *Sketch) error {
	if o == nil || o.dd.IsEmpty() {
		return nil
	}
	if err := s.dd.MergeWith(o.dd); err != nil {
		return fmt.Errorf("merge sketch: %w", err)
	}
	s.sum += o.sum
	return nil
}

// Clone returns an independent copy.
func (s *Sketch) Clone() *Sketch { return &Sketch{dd: s.dd.Copy(), sum: s.sum} }

// Marshal returns the library's protobuf form; the sum travels beside it.
func (s *Sketch) Marshal() ([]byte, error) { return proto.Marshal(s.dd.ToProto()) }

// UnmarshalSketch reads what Marshal wrote. It returns ErrSketch for anything else.
func UnmarshalSketch(b []byte, sum float64) (sk *Sketch, err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics on some hostile inputs
			sk, err = nil, fmt.Errorf("%w: %v", ErrSketch, r)
		}
	}()
	var pb sketchpb.DDSketch
	if err := proto.Unmarshal(b, &pb); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSketch, err)
	}
	if err := plausible(&pb); err != nil {
		return nil, err
	}
	dd, err := ddsketch.FromProtoWithStoreProvider(&pb, newStore)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSketch, err)
	}
	s := NewSketch()
	if !s.dd.IndexMapping.Equals(dd.IndexMapping) {
		return nil, ErrSketch
	}
	return &Sketch{dd: dd, sum: sum}, nil
}

// mostCount bounds the values of a foreign sketch: beyond, whole numbers are no longer exact, and sums of
// such may become infinite.
const mostCount = 1 << 53

// plausible refuses what no values make: counts below zero or without end, values below zero, and bins
// beyond all numbers. One such sketch would spoil whatever it is merged into.
func plausible(pb *sketchpb.DDSketch) error {
	below, err := total(pb.GetNegativeValues())
	if err == nil && below != 0 {
		err = fmt.Errorf("%w: it has values below zero", ErrSketch)
	}
	above, failed := total(pb.GetPositiveValues())
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if zero := pb.GetZeroCount(); !(zero >= 0 && zero+above <= mostCount) {
		return fmt.Errorf("%w: it has %v zeros and %v other values", ErrSketch, zero, above)
	}
	return nil
}

// mostIndex bounds bins to those of numbers: of 1 % each, so many lead from 1 to the largest number, and
// as many to the smallest.
const mostIndex = 35_400

// total of a store's counts.
func total(s *sketchpb.Store) (sum float64, err error) {
	add := func(index int64, n float64) {
		if !(n >= 0 && n <= mostCount) || index < -mostIndex || index > mostIndex {
			err = fmt.Errorf("%w: %v values in bin %d", ErrSketch, n, index)
		}
		sum += n
	}
	for index, n := range s.GetBinCounts() {
		add(int64(index), n)
	}
	for i, n := range s.GetContiguousBinCounts() {
		add(int64(s.GetContiguousBinIndexOffset())+int64(i), n)
	}
	return sum, err
}

// AppendPacked appends the compact form of the values to b: a few bytes per occupied bin, without the
// sum and without the mapping, which is the same for all sketches of this package.
func (s *Sketch) AppendPacked(b []byte) []byte {
	s.dd.Encode(&b, true)
	return b
}

// MergePacked adds values that AppendPacked wrote and their sum: whole counts exactly, fractions of a
// count to one part in 2^52.
//
// Of bytes that are broken it may have added a part.
func (s *Sketch) MergePacked(b []byte, sum float64) (err error) {
	defer func() {
		if r := recover(); r != nil { // as above
			err = fmt.Errorf("%w: %v", ErrSketch, r)
		}
	}()
	if err := s.dd.DecodeAndMergeWith(b); err != nil {
		return fmt.Errorf("%w: %w", ErrSketch, err)
	}
	s.sum += sum
	return nil
}
