// Package collect merges everything that is known about an instance into one-second windows. How
// a source gets its numbers is the source's business: the engine's metrics page is one (Engine, in
// this package), requests seen on the wire and GPU counters are others.
//
// Percentiles are never averaged: latencies travel as sketches, which merge exactly.
package collect

import (
	"context"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Source knows something about one instance.
type Source interface {
	// Drain moves what was gathered since the last call into w and returns how fresh the source
	// is at now. It is called once a second from the collector's goroutine and must not wait for
	// anything slow.
	Drain(w *fleet.Window, now time.Time) *agentv1.Source
}

// State of an instance that windows are stamped with.
type State struct {
	Epoch   uint64
	Phase   agentv1.Phase
	Serving bool
	// StartSteps that the engine's log shows of its start; only while not serving.
	StartSteps []string
}

// Instance is one engine and what is known about it.
type Instance struct {
	// ID is "<agent_id>/<name>".
	ID string
	// Sources in ascending order of trust: where two give the same sketch or gauge, the later one
	// stays.
	Sources []Source
	// State is asked at the end of each window.
	State func() State
}

// Length of a window.
const Length = time.Second

// Lag is how long after its end a window is closed, so that a page taken at its edge belongs to it.
const Lag = 250 * time.Millisecond

// Collector makes the windows of all instances of an agent.
type Collector struct {
	instances []Instance
	sink      func(*fleet.Window)

	closed time.Time // end of the last window; used by Run's goroutine alone

	mu   sync.Mutex // guards last
	last map[string]*fleet.Window
}

// New returns a collector. sink is called from Run's goroutine with each finished window, which
// nobody changes afterwards.
func New(instances []Instance, sink func(*fleet.Window)) *Collector {
	return &Collector{instances: instances, sink: sink, last: map[string]*fleet.Window{}}
}

// Run makes a window per instance and wall-clock second until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(untilNext(time.Now().Add(-Lag), Length))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			c.close(time.Now())
		}
	}
}

// close makes the window that ended Lag ago. Seconds that were slept through add to the next
// window. A clock that is set back by less than a minute makes none until it has caught up, so
// that no second is reported twice; after a larger jump the new time counts.
func (c *Collector) close(now time.Time) {
	end := now.Truncate(Length)
	if back := c.closed.Sub(end); back >= 0 && back < time.Minute {
		return
	}
	c.closed = end
	for _, in := range c.instances {
		w := fleet.NewWindow(in.ID, end.Add(-Length))
		for _, s := range in.Sources {
			w.Sources = append(w.Sources, s.Drain(w, now))
		}
		st := in.State()
		w.Epoch, w.Phase, w.Serving, w.StartSteps = st.Epoch, st.Phase, st.Serving, st.StartSteps
		c.mu.Lock()
		c.last[in.ID] = w
		c.mu.Unlock()
		c.sink(w)
	}
}

// Last returns an instance's newest window, nil before the first.
func (c *Collector) Last(instance string) *fleet.Window {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[instance]
}
