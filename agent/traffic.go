package main

import (
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// traffic keeps an instance's last windows for the local guards.
type traffic struct {
	mu   sync.Mutex // guards last
	last []*fleet.Window
}

var _ probation.Traffic = (*traffic)(nil)

// keepWindows is above the longest span that guards ask for.
const keepWindows = 16

// add takes the newest window.
func (t *traffic) add(w *fleet.Window) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, w)
	if len(t.last) > keepWindows {
		t.last = append([]*fleet.Window(nil), t.last[1:]...)
	}
}

// Sample adds up the newest windows that cover the span. It does not know while the engine is not
// being read.
func (t *traffic) Sample(span time.Duration) (probation.Sample, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == 0 || t.last[len(t.last)-1].Stale() {
		return probation.Sample{}, false
	}
	s := probation.Sample{Span: span}
	since := t.last[len(t.last)-1].Start.Add(time.Second - span)
	for _, w := range t.last {
		if w.Start.Before(since) {
			continue
		}
		c := w.Counters
		s.Requests += c[fleet.RequestsFinished] + c[fleet.RequestsFailed] + c[fleet.RequestsAborted]
		s.Errors += c[fleet.RequestsFailed]
		s.Preemptions += c[fleet.Preemptions]
	}
	return s, true
}
