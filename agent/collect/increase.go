package collect

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// increases remembers an engine's last totals and says how much was added since. A total that
// went down means that the engine was restarted: then all of it is new. So is a series that
// appears while others were already known, because some engines show a series only after its
// first event. The very first page only sets the mark: what it counts is of unknown age.
type increases struct {
	begun      bool
	counters   map[string]total
	histograms map[string]histogram
}

type total struct {
	series string
	value  float64
}

type histogram struct {
	series string
	last   engine.Histogram
}

func newIncreases() *increases {
	return &increases{counters: map[string]total{}, histograms: map[string]histogram{}}
}

// zero takes the totals as counted from nothing: the engine is known to have been started anew.
func (t *increases) zero() {
	*t = *newIncreases()
	t.begun = true
}

// of returns what a page added: increases of counters, and sketches of what histograms gained.
// reset tells that some total had gone down.
func (t *increases) of(readings map[string]engine.Reading) (added map[string]float64, sketches map[string]*stats.Sketch, reset bool) {
	if t.fell(readings) {
		reset = true
		t.zero()
	}
	added, sketches = map[string]float64{}, map[string]*stats.Sketch{}
	for signal, r := range readings {
		switch {
		case r.Histogram != nil:
			if s := t.observed(signal, r); s != nil {
				sketches[signal] = s
			}
		case r.Counter():
			was, known := t.counters[signal]
			if known && was.series != r.Signal.GetSeries() {
				was = total{} // another alternative took over
			}
			if known || t.begun {
				added[signal] = r.Value - was.value
			}
			t.counters[signal] = total{r.Signal.GetSeries(), r.Value}
		}
	}
	t.begun = true
	return added, sketches, reset
}

// fell reports whether any total is lower than before. Engines reset all or nothing.
func (t *increases) fell(readings map[string]engine.Reading) bool {
	for signal, r := range readings {
		if c, ok := t.counters[signal]; ok && r.Counter() && r.Histogram == nil &&
			c.series == r.Signal.GetSeries() && r.Value < c.value {
			return true
		}
		if h, ok := t.histograms[signal]; ok && r.Histogram != nil &&
			h.series == r.Signal.GetSeries() && r.Histogram.Count < h.last.Count {
			return true
		}
	}
	return false
}

// observed is the sketch of a histogram's gain; nil when nothing is known to have been added.
func (t *increases) observed(signal string, r engine.Reading) *stats.Sketch {
	was, known := t.histograms[signal]
	t.histograms[signal] = histogram{r.Signal.GetSeries(), *r.Histogram}
	if !known && !t.begun {
		return nil
	}
	if !known || was.series != r.Signal.GetSeries() || !sameBounds(was.last.Buckets, r.Histogram.Buckets) {
		was.last = engine.Histogram{}
	}
	if r.Histogram.Count <= was.last.Count {
		return nil
	}
	return stats.FromHistogram(gained(was.last, *r.Histogram), max(0, r.Histogram.Sum-was.last.Sum))
}

func sameBounds(a, b []engine.Bucket) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].UpperBound != b[i].UpperBound {
			return false
		}
	}
	return true
}

// gained subtracts cumulative buckets and makes them plain. A page is not one atomic picture: a
// bucket that seems to have lost some gained none.
func gained(was, is engine.Histogram) []stats.Bucket {
	out := make([]stats.Bucket, len(is.Buckets))
	var below float64
	for i, b := range is.Buckets {
		n := b.Count
		if len(was.Buckets) > 0 {
			n -= was.Buckets[i].Count
		}
		out[i] = stats.Bucket{Upper: b.UpperBound, Count: max(0, n-below)}
		below = max(below, n)
	}
	return out
}
