package slo

import (
	"time"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Slots of ten seconds are counted apart, and kept for six hours.
const (
	slotLength = 10 * time.Second
	slotsKept  = int(6 * time.Hour / slotLength)
)

// slotOf is the number of the slot that a time lies in.
func slotOf(t time.Time) int64 { return t.UnixMilli() / slotLength.Milliseconds() }

func slotBegin(n int64) time.Time { return time.UnixMilli(n * slotLength.Milliseconds()) }

// cell is what was counted in one slot. Its counts are of requests, whatever the objective's events are.
type cell struct {
	good, bad float64
	known     bool
	windows   int // that the counts rest on
}

// ring holds the cells of slots first to next−1.
type ring struct {
	first, next int64
	cells       []cell
}

func newRing(first int64) *ring {
	return &ring{first: first, next: first, cells: make([]cell, slotsKept)}
}

func (r *ring) at(n int64) *cell { return &r.cells[n%int64(len(r.cells))] }

// put counts a slot; slots come in order, or again.
func (r *ring) put(n int64, c cell) {
	if n >= r.next {
		r.next = n + 1
	}
	r.first = max(r.first, r.next-int64(len(r.cells)))
	if n >= r.first {
		*r.at(n) = c
	}
}

// sum of the events in slots from to to−1. slices are those of the objective.
func (r *ring) sum(from, to int64, slices slicing) (total Counts) {
	for n := max(from, r.first); n < min(to, r.next); n++ {
		c := r.at(n)
		if c.known {
			total.Known += slotLength
		}
		if slices.length == 0 {
			total.Good += c.good
			total.Bad += c.bad
			continue
		}
		if end := n + 1; end%slices.length == 0 && end-slices.length >= r.first {
			total = total.Plus(r.slice(end-slices.length, end, slices.target))
		}
	}
	return total
}

// slice is one event, or none when nothing happened in it.
func (r *ring) slice(from, to int64, target float64) (event Counts) {
	good, total := 0.0, 0.0
	for n := from; n < to; n++ {
		c := r.at(n)
		good, total = good+c.good, total+c.good+c.bad
	}
	switch {
	case total == 0:
		return Counts{}
	case good >= target*total:
		return Counts{Good: 1}
	}
	return Counts{Bad: 1}
}

// slicing of an objective whose events are slices of time.
type slicing struct {
	length int64 // in slots; 0: events are requests
	target float64
}

func slicingOf(o *commandv1.Objective) slicing {
	return slicing{length: o.GetSliceMs() / slotLength.Milliseconds(), target: o.GetSliceTarget()}
}
