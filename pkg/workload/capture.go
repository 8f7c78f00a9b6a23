package workload

import (
	"math"
	"time"
)

// Capture watches requests one by one and keeps their Shape, in bounded memory. It is not safe for
// concurrent use.
type Capture struct {
	shape Shape
	last  float64 // seconds of the newest request
	cells [splitLevels]cell
	seen  recent
}

// cell is the span of one level that the newest request is in.
type cell struct {
	index       int64
	left, right float64
}

// capturedBlocks is how many prefix blocks a capture remembers, about 20 MB; older ones count as new.
const capturedBlocks = 1 << 18

// NewCapture returns an empty one.
func NewCapture() *Capture { return &Capture{seen: newRecent(capturedBlocks)} }

// CaptureTrace captures a whole trace, offsets counted from the clock's beginning.
func CaptureTrace(trace []Request) *Shape {
	c := NewCapture()
	for _, r := range trace {
		c.Add(time.Unix(0, 0).Add(r.Offset), r)
	}
	return c.Shape()
}

// Add takes a request that arrived at that time, in order of time; one that comes late is taken as
// arrived with the newest. Requests without tokens are passed over.
func (c *Capture) Add(arrived time.Time, r Request) {
	if r.PromptTokens <= 0 || r.OutputTokens <= 0 {
		return
	}
	at := float64(arrived.UnixNano()) / 1e9
	s := &c.shape
	if s.requests == 0 {
		c.last, s.arrivals.first = at, at
		s.prompt.scale, s.output.scale = startScale, startScale
	}
	at = max(at, c.last)
	c.last, s.arrivals.last = at, at
	s.requests++
	s.prompt.add(r.PromptTokens, 1)
	s.output.add(r.OutputTokens, 1)
	s.logs.add(r.PromptTokens, r.OutputTokens)
	s.arrivals.count(at, 1)
	c.split(at)
	c.reuse(at, r)
}

// split books the request in the halves of its span at every level.
func (c *Capture) split(at float64) {
	for i := range c.cells {
		half := int64(math.Floor(math.Ldexp(at, 1-(lowestLevel+i))))
		cl := &c.cells[i]
		if index := half >> 1; index != cl.index {
			book(&c.shape.arrivals.splits[i], *cl)
			*cl = cell{index: index}
		}
		if half&1 == 0 {
			cl.left++
		} else {
			cl.right++
		}
	}
}

// book a span that is over.
func book(level *[crowds]split, c cell) {
	n, d := c.left+c.right, c.left-c.right
	s := &level[crowd(n)]
	s.pairs += n * (n - 1)
	s.excess += d*d - n
}

// reuse books how much of the prompt was seen before and how long ago the deepest such block was used.
func (c *Capture) reuse(at float64, r Request) {
	keys, block := prefixOf(r)
	if block == 0 {
		return
	}
	hits, age := 0, 0.
	for _, k := range keys {
		used, ok := c.seen.get(k)
		if !ok {
			break
		}
		hits, age = hits+1, at-used
	}
	for _, k := range keys {
		c.seen.put(k, at)
	}
	share := shareBin(hits, float64(min(hits*block, r.PromptTokens))/float64(r.PromptTokens))
	re := &c.shape.reuse
	re.block = max(re.block, block)
	re.shares[lengthBucket(r.PromptTokens)][share]++
	if share > 0 {
		re.ages[share][ageBin(age)]++
	}
}

// prefixOf names the blocks of a request's prefix and their size, 0 when it is not known. A group's common
// part is one block.
func prefixOf(r Request) (keys []uint64, block int) {
	if r.Group > 0 && r.GroupTokens > 0 {
		return []uint64{^uint64(r.Group)}, r.GroupTokens
	}
	return r.Prefix, r.PrefixBlock
}

// Shape returns what was captured so far. The capture goes on; the shape does not change with it.
func (c *Capture) Shape() *Shape {
	s := &Shape{}
	s.Merge(&c.shape)
	for i, cl := range c.cells {
		book(&s.arrivals.splits[i], cl)
	}
	return s
}

// recent remembers when keys were last used, the newest ones of them: two generations, of which the older
// is forgotten when the younger is full.
type recent struct {
	limit      int
	young, old map[uint64]float64
}

func newRecent(limit int) recent { return recent{limit: limit / 2, young: map[uint64]float64{}} }

func (r *recent) get(key uint64) (at float64, ok bool) {
	if at, ok = r.young[key]; !ok {
		at, ok = r.old[key]
	}
	return at, ok
}

func (r *recent) put(key uint64, at float64) {
	if len(r.young) >= r.limit {
		r.old, r.young = r.young, make(map[uint64]float64, r.limit/4)
	}
	r.young[key] = at
}
