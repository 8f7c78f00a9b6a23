package telemetry

import (
	"math"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// ring holds one window per second; the second number modulo its length is the slot.
type ring struct {
	slots    []slot
	n        int // windows held
	bytes    int
	head     int64 // second of the newest window
	received time.Time
}

type slot struct {
	w    *fleet.Window
	size int
}

func newRing(seconds int) *ring { return &ring{slots: make([]slot, seconds)} }

func second(t time.Time) int64 { return t.Unix() }

func (r *ring) length() int64 { return int64(len(r.slots)) }

// at returns the slot of a second, which may hold another second's window.
func (r *ring) at(sec int64) *slot {
	n := r.length()
	return &r.slots[(sec%n+n)%n]
}

// peek returns the window of a second, nil when it is not held.
func (r *ring) peek(sec int64) *fleet.Window {
	w := r.at(sec).w
	if w == nil || second(w.Start) != sec {
		return nil
	}
	return w
}

func (r *ring) put(w *fleet.Window, size int, now time.Time) error {
	sec := second(w.Start)
	s := r.at(sec)
	if s.w != nil {
		switch held := second(s.w.Start); {
		case held == sec:
			return ErrDuplicate
		case held > sec:
			return ErrTooOld
		}
		r.drop(s)
	}
	*s = slot{w, size}
	r.n++
	r.bytes += size
	r.head = max(r.head, sec)
	r.received = now
	return nil
}

func (r *ring) drop(s *slot) {
	r.n--
	r.bytes -= s.size
	*s = slot{}
}

// span appends the windows that lie wholly within [from, to) and within the ring's reach.
func (r *ring) span(found []*fleet.Window, now, from, to time.Time) []*fleet.Window {
	first := max(second(from), second(now)-r.length()+1)
	for sec := first; sec <= min(second(to), r.head); sec++ {
		w := r.peek(sec)
		if w != nil && !w.Start.Before(from) && !w.Start.Add(time.Second).After(to) {
			found = append(found, w)
		}
	}
	return found
}

func (r *ring) newest() *fleet.Window { return r.peek(r.head) }

// expire drops windows that are older than the ring is long.
func (r *ring) expire(now time.Time) {
	oldest := second(now) - r.length()
	for i := range r.slots {
		if s := &r.slots[i]; s.w != nil && second(s.w.Start) <= oldest {
			r.drop(s)
		}
	}
}

// shrink drops the oldest windows until the ring is within limit, keeping the newest in any case.
func (r *ring) shrink(limit int) (dropped int) {
	for sec := r.head - r.length() + 1; sec < r.head && r.bytes > limit; sec++ {
		if r.peek(sec) != nil {
			r.drop(r.at(sec))
			dropped++
		}
	}
	return dropped
}

// windowBytes estimates what a window occupies. Sketch stores grow in chunks of 64 bins.
func windowBytes(w *fleet.Window) int {
	const fixed, entry, source = 400, 64, 96
	size := fixed + entry*(len(w.Counters)+len(w.Gauges)+len(w.Origin)) + source*len(w.Sources)
	for _, s := range w.Sketches {
		size += sketchBytes(s)
	}
	return size
}

func sketchBytes(s *stats.Sketch) int {
	const fixed, chunk, bin = 900, 64, 8 // two stores and a mapping; bins come in chunks
	low, high := s.Quantile(0), s.Quantile(1)
	if math.IsNaN(low) || low <= 0 || high <= low {
		return fixed + chunk*bin
	}
	bins := int(math.Log(high/low)/(2*stats.Accuracy)) + 1
	return fixed + ((bins+chunk-1)/chunk+1)*chunk*bin
}
