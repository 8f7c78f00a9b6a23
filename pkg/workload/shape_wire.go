package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrShape means that bytes are no shape of traffic.
var ErrShape = errors.New("not a shape of traffic")

// MaxShapeBytes bounds the serialised form of a Shape, however much traffic is in it.
const MaxShapeBytes = 2000

const shapeVersion = 1

// MarshalBinary writes the compact form. Where it would be too large, lengths and slots of time are made
// coarser in it; the shape itself stays as it is.
func (s *Shape) MarshalBinary() ([]byte, error) {
	small := &Shape{}
	small.Merge(s)
	for {
		b := small.append(nil)
		if len(b) <= MaxShapeBytes {
			return b, nil
		}
		switch {
		case len(small.arrivals.slots) >= max(len(small.prompt.counts), len(small.output.counts)):
			small.arrivals.coarsen()
		case len(small.prompt.counts) >= len(small.output.counts):
			small.prompt.coarsen()
		default:
			small.output.coarsen()
		}
	}
}

// writer appends numbers; reader takes them off again and remembers the first that is not as it must be.
type writer struct{ b []byte }

func (w *writer) uint(v uint64)   { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) int(v int64)     { w.b = binary.AppendVarint(w.b, v) }
func (w *writer) float(v float64) { w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(v)) }

func (w *writer) float32(v float64) {
	w.b = binary.LittleEndian.AppendUint32(w.b, math.Float32bits(float32(v)))
}

// sparse writes counts of which most are 0: how many of them to skip, then one that is not.
func (w *writer) sparse(counts []uint64) {
	skip := uint64(0)
	for _, n := range counts {
		if n == 0 {
			skip++
			continue
		}
		w.uint(skip)
		w.uint(n)
		skip = 0
	}
	w.uint(skip) // ends it: nothing comes after the last
	w.uint(0)
}

func (w *writer) bins(b bins) {
	w.uint(uint64(b.scale))
	w.int(int64(b.low))
	w.uint(uint64(len(b.counts)))
	for _, n := range b.counts {
		w.uint(n)
	}
}

func (s *Shape) append(b []byte) []byte {
	w := &writer{append(b, shapeVersion)}
	w.uint(s.requests)
	w.bins(s.prompt)
	w.bins(s.output)
	for _, v := range []float64{s.logs.n, s.logs.x, s.logs.y, s.logs.xx, s.logs.yy, s.logs.xy, s.arrivals.first, s.arrivals.last} {
		w.float(v)
	}
	a := &s.arrivals
	w.int(int64(a.level))
	w.int(a.base)
	w.uint(uint64(len(a.slots)))
	for _, n := range a.slots {
		w.uint(n)
	}
	for _, level := range a.splits {
		for _, sp := range level {
			w.float32(sp.pairs)
			w.float32(sp.excess)
		}
	}
	w.uint(uint64(s.reuse.block))
	if s.reuse.known() {
		for i := range s.reuse.shares {
			w.sparse(s.reuse.shares[i][:])
		}
		for i := range s.reuse.ages {
			w.sparse(s.reuse.ages[i][:])
		}
	}
	return w.b
}

type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrShape, what)
	}
	r.b = nil
}

func (r *reader) uint(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.fail("a count out of range")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int(least, most int64) int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v < least || v > most {
		r.fail("a number out of range")
		return least
	}
	r.b = r.b[n:]
	return v
}

// float reads a finite number within ± most.
func (r *reader) float(most float64) float64 {
	if len(r.b) < 8 {
		r.fail("cut off")
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(r.b))
	r.b = r.b[8:]
	if !(math.Abs(v) <= most) {
		r.fail("a figure out of range")
		return 0
	}
	return v
}

func (r *reader) float32() float64 {
	if len(r.b) < 4 {
		r.fail("cut off")
		return 0
	}
	v := float64(math.Float32frombits(binary.LittleEndian.Uint32(r.b)))
	r.b = r.b[4:]
	if math.IsNaN(v) || math.IsInf(v, 0) {
		r.fail("a figure out of range")
		return 0
	}
	return v
}

// mostCount keeps sums of counts within 64 bits.
const mostCount = 1 << 40

func (r *reader) counts(most int) []uint64 {
	n := int(r.uint(uint64(most)))
	var counts []uint64
	for range n {
		if r.err != nil {
			return nil
		}
		counts = append(counts, r.uint(mostCount))
	}
	return counts
}

func (r *reader) sparse(counts []uint64) {
	for at := 0; r.err == nil; at++ {
		at += int(r.uint(uint64(len(counts))))
		n := r.uint(mostCount)
		if n == 0 {
			if at != len(counts) {
				r.fail("counts that end early")
			}
			return
		}
		if at >= len(counts) {
			r.fail("more counts than there are")
			return
		}
		counts[at] = n
	}
}

func (r *reader) bins() bins {
	b := bins{scale: int(r.uint(startScale))}
	b.low = int(r.int(0, 64<<startScale))
	b.counts = r.counts(maxBins)
	if r.err == nil && (b.low+len(b.counts))>>b.scale > 40 {
		r.fail("lengths out of range")
	}
	return b
}

// UnmarshalBinary reads what MarshalBinary wrote. The error wraps ErrShape for anything else.
func (s *Shape) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] != shapeVersion || len(b) > MaxShapeBytes {
		return fmt.Errorf("%w: %d bytes of another version or size", ErrShape, len(b))
	}
	r := &reader{b: b[1:]}
	got := Shape{requests: r.uint(mostCount), prompt: r.bins(), output: r.bins()}
	for _, v := range []*float64{&got.logs.n, &got.logs.x, &got.logs.y, &got.logs.xx, &got.logs.yy, &got.logs.xy} {
		*v = r.float(1e18)
	}
	got.arrivals = r.arrivals()
	got.reuse = r.reuse()
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes after the end")
	}
	if r.err == nil {
		r.err = got.consistent()
	}
	if r.err != nil {
		return r.err
	}
	*s = got
	return nil
}

func (r *reader) arrivals() (a arrivalShape) {
	a.first, a.last = r.float(latest*1e3), r.float(latest*1e3)
	a.level = int(r.int(0, 62))
	a.base = r.int(-latest*1e3, latest*1e3)
	a.slots = r.counts(maxSlots)
	for i := range a.splits {
		for j := range a.splits[i] {
			a.splits[i][j] = split{pairs: r.float32(), excess: r.float32()}
		}
	}
	return a
}

func (r *reader) reuse() (u reuseShape) {
	if u.block = int(r.uint(maxTokens)); u.block == 0 {
		return u
	}
	for i := range u.shares {
		r.sparse(u.shares[i][:])
	}
	for i := range u.ages {
		r.sparse(u.ages[i][:])
	}
	return u
}

// consistent refuses a shape whose parts do not belong together.
func (s *Shape) consistent() error {
	total := uint64(0)
	for _, n := range s.arrivals.slots {
		total += n
	}
	if s.prompt.total() != s.requests || s.output.total() != s.requests || total != s.requests {
		return fmt.Errorf("%w: parts of different numbers of requests", ErrShape)
	}
	a := &s.arrivals
	if s.requests > 0 && (a.last < a.first || a.slotOf(a.first) < a.base || a.slotOf(a.last) >= a.base+int64(len(a.slots))) {
		return fmt.Errorf("%w: times outside the slots", ErrShape)
	}
	return nil
}
