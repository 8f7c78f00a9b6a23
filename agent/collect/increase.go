package collect

import (
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// mostMarks bounds what is remembered of an engine: labels may take ever new values. Beyond it, what
// is no longer on the page is forgotten.
const mostMarks = 20_000

// increases remembers the last totals of an engine, by signal and label set, and says how much was
// added since.
//
// A total that went down, or a histogram whose bounds changed, is of a process that was started
// anew: all of its totals then count from nothing. Where a page tells replicas apart, only those of
// the replica restart; what carries no replica's label is the front end's, which takes all down with
// it. A label set that appears while others were known is new from its first value on, because
// engines show some only after their first event; one that vanishes and comes back goes on from where
// it was. The very first page only sets the marks: what it counts is of unknown age.
type increases struct {
	begun  bool
	page   uint64
	marks  map[markKey]*mark
	served map[string]*engine.Signal // the alternative that each signal comes from
}

// markKey is a label set of a signal: one series may serve several.
type markKey struct {
	signal string
	sample uint64
}

type mark struct {
	replica   string
	value     float64
	histogram *engine.Histogram
	page      uint64 // on which it was seen last
}

func newIncreases() *increases {
	return &increases{marks: map[markKey]*mark{}, served: map[string]*engine.Signal{}}
}

// zero takes the totals as counted from nothing: the engine is known to have been started anew.
func (t *increases) zero() {
	*t = *newIncreases()
	t.begun = true
}

// of returns what a page added: increases of counters, and sketches of what histograms gained.
// reset tells that some process had been started anew. signals are all alternatives, best first.
func (t *increases) of(readings map[string]engine.Reading, signals []*engine.Signal) (added map[string]float64, sketches map[string]*stats.Sketch, reset bool) {
	reset = t.restart(t.fallen(readings))
	t.page++
	added, sketches = map[string]float64{}, map[string]*stats.Sketch{}
	for signal, r := range readings {
		if !r.Counter() {
			continue
		}
		switch t.turn(signal, r.Signal, signals) {
		case turnWait:
			continue
		case turnMark:
			t.mark(signal, r)
			continue
		}
		if r.Histogram != nil {
			if s := t.observed(signal, r); s != nil {
				sketches[signal] = s
			}
		} else if n, known := t.added(signal, r); known {
			added[signal] = n
		}
	}
	t.begun = true
	t.forget()
	return added, sketches, reset
}

// fallen names the replicas of which some total is lower than before.
func (t *increases) fallen(readings map[string]engine.Reading) map[string]bool {
	fallen := map[string]bool{}
	for signal, r := range readings {
		for i := range r.Samples {
			is := &r.Samples[i]
			was := t.marks[markKey{signal, is.Key}]
			if was != nil && (is.Value < was.value || !sameBounds(was.histogram, is.Histogram)) {
				fallen[is.Replica] = true
			}
		}
	}
	return fallen
}

// restart forgets the totals of replicas that were started anew, and of all where the front end was
// or where there is but one.
func (t *increases) restart(fallen map[string]bool) bool {
	if len(fallen) == 0 {
		return false
	}
	replicas := map[string]bool{}
	for _, m := range t.marks {
		if m.replica != "" {
			replicas[m.replica] = true
		}
	}
	if fallen[""] || len(replicas) < 2 {
		t.zero()
		return true
	}
	for key, m := range t.marks {
		if fallen[m.replica] {
			delete(t.marks, key)
		}
	}
	return true
}

// turn is what to do with a signal's reading.
type turn int

const (
	turnCount turn = iota
	turnMark       // only set the marks
	turnWait       // do nothing
)

// turn settles which alternative a signal comes from. Two of them count the same things, so that a
// change from one to the other must not count them twice: while a better one is away, its return is
// waited for, since its next increase covers the time between; when a better one appears, it counts
// from then on.
func (t *increases) turn(signal string, now *engine.Signal, signals []*engine.Signal) turn {
	was := t.served[signal]
	t.served[signal] = now
	if was == nil || was == now || proto.Equal(was, now) {
		return turnCount
	}
	same := func(of *engine.Signal) func(*engine.Signal) bool {
		return func(s *engine.Signal) bool { return s == of || proto.Equal(s, of) }
	}
	better, current := slices.IndexFunc(signals, same(was)), slices.IndexFunc(signals, same(now))
	if better >= 0 && better < current {
		t.served[signal] = was
		return turnWait
	}
	return turnMark
}

// mark remembers what a reading says and counts nothing.
func (t *increases) mark(signal string, r engine.Reading) {
	for i := range r.Samples {
		t.last(signal, &r.Samples[i])
	}
}

// last returns what was remembered of a label set and remembers what it says now. known is false when
// nothing was, and cannot be taken for nothing.
func (t *increases) last(signal string, is *engine.Sample) (was mark, known bool) {
	key := markKey{signal, is.Key}
	m := t.marks[key]
	if m == nil {
		m = &mark{replica: is.Replica}
		t.marks[key] = m
		known = t.begun
	} else {
		was, known = *m, true
	}
	m.value, m.histogram, m.page = is.Value, is.Histogram, t.page
	return was, known
}

// added is the increase of a counter; known is false when it cannot be told for any of its label sets.
func (t *increases) added(signal string, r engine.Reading) (n float64, known bool) {
	var gains []float64
	for i := range r.Samples {
		if was, ok := t.last(signal, &r.Samples[i]); ok {
			gains = append(gains, r.Samples[i].Value-was.value)
		}
	}
	n = engine.Together(r.Signal, gains)
	return n, len(gains) > 0 && !math.IsInf(n, 0)
}

// observed is the sketch of a histogram's gain; nil when nothing is known to have been added.
func (t *increases) observed(signal string, r engine.Reading) *stats.Sketch {
	var sum gain
	var sketch *stats.Sketch
	for i := range r.Samples {
		is := &r.Samples[i]
		was, known := t.last(signal, is)
		if !known || is.Value <= was.value {
			continue
		}
		more := gainOf(was.histogram, is.Histogram)
		if sum.add(more) {
			continue
		}
		sketch = merged(sketch, more.sketch()) // bounds of its own
	}
	if len(sum.buckets) > 0 {
		sketch = merged(sketch, sum.sketch())
	}
	if sketch != nil && math.IsInf(sketch.Sum(), 0) {
		return nil
	}
	return sketch
}

// gain is what a histogram gained between two pages: plain buckets, not cumulative ones.
type gain struct {
	buckets []stats.Bucket
	sum     float64
}

// gainOf subtracts cumulative buckets and makes them plain. A page is not one atomic picture: a
// bucket that seems to have lost some gained none.
func gainOf(was, is *engine.Histogram) gain {
	out := gain{buckets: make([]stats.Bucket, len(is.Buckets)), sum: is.Sum}
	if was != nil {
		out.sum = max(0, is.Sum-was.Sum)
	}
	var below float64
	for i, b := range is.Buckets {
		n := b.Count
		if was != nil {
			n -= was.Buckets[i].Count
		}
		out.buckets[i] = stats.Bucket{Upper: b.UpperBound, Count: max(0, n-below)}
		below = max(below, n)
	}
	return out
}

// add joins a gain of the same bounds; false when it has others.
func (g *gain) add(more gain) bool {
	if g.buckets == nil {
		*g = more
		return true
	}
	if !slices.EqualFunc(g.buckets, more.buckets, func(a, b stats.Bucket) bool { return a.Upper == b.Upper }) {
		return false
	}
	for i := range g.buckets {
		g.buckets[i].Count += more.buckets[i].Count
	}
	g.sum += more.sum
	return true
}

func (g *gain) sketch() *stats.Sketch { return stats.FromHistogram(g.buckets, g.sum) }

func merged(into, more *stats.Sketch) *stats.Sketch {
	if into == nil {
		return more
	}
	_ = into.Merge(more) // sketches of one accuracy always merge
	return into
}

// sameBounds compares the bounds of two histograms; what is none has any.
func sameBounds(a, b *engine.Histogram) bool {
	return a == nil || b == nil ||
		slices.EqualFunc(a.Buckets, b.Buckets, func(x, y engine.Bucket) bool { return x.UpperBound == y.UpperBound })
}

// forget drops what is no longer on the page, once too much is remembered.
func (t *increases) forget() {
	if len(t.marks) <= mostMarks {
		return
	}
	for key, m := range t.marks {
		if m.page != t.page {
			delete(t.marks, key)
		}
	}
}
