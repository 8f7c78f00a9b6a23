package workload

import (
	"math"
	"time"
)

// Shape is a group's traffic in under MaxShapeBytes: how long requests are and how prompt and answer go
// together, how the rate went over time and how bursty it was at every scale below, which parts of prompts
// were seen before and how long ago. Shapes of several engines merge into that of their group, and Replay
// turns one into traffic again. The zero value is an empty shape.
//
// What it does not hold: who sent what, and the order of requests beyond what the above says.
type Shape struct {
	requests       uint64
	prompt, output bins
	logs           logMoments
	arrivals       arrivalShape
	reuse          reuseShape
}

// Requests is how many were captured.
func (s *Shape) Requests() uint64 { return s.requests }

// Span is the time between the first and the last.
func (s *Shape) Span() time.Duration {
	return time.Duration((s.arrivals.last - s.arrivals.first) * float64(time.Second))
}

// Rate is requests per second over the span; 0 when it cannot be told.
func (s *Shape) Rate() float64 {
	if span := s.arrivals.last - s.arrivals.first; span > 0 && s.requests > 1 {
		return float64(s.requests-1) / span
	}
	return 0
}

// Merge adds the traffic of o, as of another engine or of another time. Lengths, reuse and rates over time
// add exactly. Within the resolution of the rate, the engines' arrivals are taken as independent, which
// makes their sum less bursty than each.
//
// Reuse stays what each engine saw of it: a router that spreads a conversation over engines hides reuse
// from them, and a replay cannot bring it back.
func (s *Shape) Merge(o *Shape) {
	if o.requests == 0 {
		return
	}
	if s.requests == 0 {
		s.arrivals.first, s.arrivals.last = o.arrivals.first, o.arrivals.last
	}
	s.requests += o.requests
	s.prompt.merge(o.prompt)
	s.output.merge(o.output)
	s.logs.merge(o.logs)
	s.arrivals.merge(&o.arrivals)
	s.reuse.merge(&o.reuse)
}

// logMoments are sums over the logarithms of prompt and output lengths.
type logMoments struct{ n, x, y, xx, yy, xy float64 }

func (m *logMoments) add(prompt, output int) {
	x, y := math.Log(float64(prompt)), math.Log(float64(output))
	m.merge(logMoments{1, x, y, x * x, y * y, x * y})
}

func (m *logMoments) merge(o logMoments) {
	m.n += o.n
	m.x += o.x
	m.y += o.y
	m.xx += o.xx
	m.yy += o.yy
	m.xy += o.xy
}

// correlation of the logarithms, short of ±1.
func (m logMoments) correlation() float64 {
	if m.n < 2 {
		return 0
	}
	xx, yy, xy := m.xx-m.x*m.x/m.n, m.yy-m.y*m.y/m.n, m.xy-m.x*m.y/m.n
	if xx <= 0 || yy <= 0 {
		return 0
	}
	return min(max(xy/math.Sqrt(xx*yy), -.99), .99)
}

// Splits of time: at each level a span of 2^level seconds and its two halves.
const (
	lowestLevel  = -6 // halves of 8 ms
	highestLevel = 12
	splitLevels  = highestLevel - lowestLevel + 1
	maxSlots     = 256
)

// crowds are spans sorted by how many requests are in them: few that keep together tell of batches, many
// of a rate that changes.
const crowds = 3

func crowd(n float64) int {
	switch {
	case n <= 3:
		return 0
	case n <= 12:
		return 1
	}
	return 2
}

// split tells how unevenly the requests of a span fall on its two halves: sums over spans of n(n−1) and
// of d²−n, for n requests and a difference d. Their ratio is 0 when each falls on either half like a coin,
// 1 when all fall on the same, and below 0 when they keep their distance. Sums of independent arrivals add.
type split struct{ pairs, excess float64 }

// rho is that ratio.
func (s split) rho() float64 {
	if s.pairs <= 0 {
		return 0
	}
	return min(max(s.excess/s.pairs, -1), 1)
}

// arrivalShape is the count in slots of time and, within them, the splits.
type arrivalShape struct {
	first, last float64 // seconds of the first and of the last request
	level       int     // a slot is 2^level seconds long
	base        int64   // number of the first slot since the clock's beginning
	slots       []uint64
	splits      [splitLevels][crowds]split
}

// slotOf a time in seconds.
func (a *arrivalShape) slotOf(at float64) int64 { return int64(math.Floor(math.Ldexp(at, -a.level))) }

// count adds requests to the slot of a time, joining slots in pairs where there are too many.
func (a *arrivalShape) count(at float64, n uint64) {
	for {
		slot := a.slotOf(at)
		if len(a.slots) == 0 {
			a.base = slot
		}
		low, high := min(a.base, slot), max(a.base+int64(len(a.slots))-1, slot)
		if high-low < maxSlots {
			if low < a.base {
				a.slots = append(make([]uint64, a.base-low), a.slots...)
				a.base = low
			}
			if grow := int(high - a.base + 1 - int64(len(a.slots))); grow > 0 {
				a.slots = append(a.slots, make([]uint64, grow)...)
			}
			a.slots[slot-a.base] += n
			return
		}
		a.coarsen()
	}
}

// coarsen joins slots in pairs.
func (a *arrivalShape) coarsen() {
	old, base := a.slots, a.base
	a.level++
	a.base = base >> 1
	a.slots = nil
	if len(old) > 0 {
		a.slots = make([]uint64, (base+int64(len(old))-1)>>1-a.base+1)
	}
	for i, n := range old {
		a.slots[(base+int64(i))>>1-a.base] += n
	}
}

func (a *arrivalShape) merge(o *arrivalShape) {
	for a.level < o.level {
		a.coarsen()
	}
	for i, n := range o.slots {
		if n > 0 {
			middle := math.Ldexp(float64(o.base+int64(i))+.5, o.level)
			a.count(middle, n)
		}
	}
	for i := range a.splits {
		for j := range a.splits[i] {
			a.splits[i][j].pairs += o.splits[i][j].pairs
			a.splits[i][j].excess += o.splits[i][j].excess
		}
	}
	a.first, a.last = min(a.first, o.first), max(a.last, o.last)
}

// Bins of reuse: by the part of the prompt that was seen before, none first, and by how long ago.
const (
	shareBins   = 11 // nothing, one block, two or three, then eighths of the prompt
	firstEighth = 3
	ageBins     = 20 // up to 1/16 s, then doubling
	youngestAge = -4
)

// reuseShape counts requests whose prefix is known.
type reuseShape struct {
	block  int                              // tokens of a block of prefix
	shares [lengthBuckets][shareBins]uint64 // by length of the prompt
	ages   [shareBins][ageBins]uint64       // none for share 0
}

func (r *reuseShape) merge(o *reuseShape) {
	r.block = max(r.block, o.block)
	for i := range r.shares {
		for j := range r.shares[i] {
			r.shares[i][j] += o.shares[i][j]
		}
	}
	for i := range r.ages {
		for j := range r.ages[i] {
			r.ages[i][j] += o.ages[i][j]
		}
	}
}

// known reports whether any prefix was.
func (r *reuseShape) known() bool { return r.block > 0 }

// shareBin of so many blocks that are a share of the prompt. What many requests begin with is a block or
// three, whatever follows: counted as such, as a share of a long prompt would blur it.
func shareBin(blocks int, share float64) int {
	switch {
	case blocks <= 1:
		return blocks
	case blocks <= 3 && share <= 1./8:
		return 2
	}
	return firstEighth + min(int(share*8), 7)
}

func ageBin(seconds float64) int {
	if seconds <= 0 {
		return 0
	}
	return min(max(int(math.Ceil(math.Log2(seconds)))-youngestAge, 0), ageBins-1)
}
