package probe

import (
	"errors"
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Second is what an endpoint did since it was drained last.
type Second struct {
	// Requests that ended, in the order of their ends, our own synthetic ones included.
	Requests []Request
	// Open requests, in no order.
	Open []OpenRequest
	// Gaps between chunks with text of users' streams, in seconds, of all requests: a gap belongs to
	// the time when it was told, at most a quarter of a second after its end unless the stream
	// stalls.
	Gaps *stats.Sketch
	// Chunks with text of users' requests.
	Chunks uint64
	// Heard is when the kernel's events were last looked for.
	Heard time.Time
}

// Drain takes what was gathered of an endpoint of the configuration. Any goroutine may call it.
func (o *Observer) Drain(e Endpoint) Second {
	o.mu.Lock()
	defer o.mu.Unlock()
	ep := o.requests.find(e)
	if ep == nil {
		return Second{Gaps: stats.NewSketch(), Heard: o.heard}
	}
	s := Second{Requests: ep.finished, Gaps: ep.gaps, Chunks: ep.chunks, Open: o.requests.requests(ep, kernelNow()), Heard: o.heard}
	ep.finished, ep.gaps, ep.chunks = make([]Request, 0, len(s.Requests)), stats.NewSketch(), 0
	return s
}

// InFlight counts users' requests that are open at an endpoint.
func (o *Observer) InFlight(e Endpoint) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ep := o.requests.find(e)
	for _, c := range o.requests.conns {
		if c.endpoint != ep {
			continue
		}
		for i := range c.open {
			if c.open[i].user() {
				n++
			}
		}
	}
	return n
}

func (a *assembler) find(e Endpoint) *endpoint {
	for _, ep := range a.endpoints {
		if ep.Endpoint == e {
			return ep
		}
	}
	return nil
}

// Counts since the observer was opened. Those of the kernel are by port.
type Counts struct {
	// Connections seen, and of these what cannot be looked into.
	Connections                  uint64
	HTTP2, TLS, Foreign, Upgrade uint64
	// Lost counts how often the observer lost its way in a connection: bytes were missed, or made no
	// sense. It finds back at the next request; LostRequests were open then, or their events found no
	// room.
	Lost, LostRequests uint64
	// Late segments came before an earlier one; Repeated ones were seen before.
	Late, Repeated uint64
	// Orphans are answers without a request: it came before the observer did. Midway are connections
	// that were.
	Orphans, Midway uint64
	// OverBound counts connections opened while Config.MaxConnections were; Evicted ones made room.
	OverBound, Evicted uint64
	// Dropped events found the buffer full. Contended segments found another CPU at work for too long.
	Dropped, Contended uint64
	// Fragments of IP packets are not put together.
	Fragments uint64
	// Unmatched events belong to no open request; Refused requests were beyond what this process
	// keeps; Unread ones were not drained in time. Malformed events are a fault of this package.
	Unmatched, Refused, Unread, Malformed uint64
	// Open requests now, of all ports.
	Open int
}

// NotVisible counts connections whose requests cannot be seen.
func (c Counts) NotVisible() uint64 { return c.HTTP2 + c.TLS + c.Foreign + c.Upgrade }

// portCounts is struct counts of bpf/state.h.
type portCounts struct {
	Connections, HTTP2, TLS, Other, Upgraded                                        uint64
	Lost, Late, Repeated, Orphans, Midway, Dropped, Contended, OverBound, Fragments uint64
}

// Counts of one port, with what is counted of all ports together.
func (o *Observer) Counts(port uint16) (Counts, error) {
	var all [maxPorts + 1]portCounts
	if err := o.kernel.Counters.Get(&all); err != nil {
		return Counts{}, fmt.Errorf("read counters: %w", err)
	}
	slot := 0
	for i, p := range o.slots() {
		if p == port {
			slot = i + 1
		}
	}
	if slot == 0 {
		return Counts{}, errors.New("the port is not observed")
	}
	k := all[slot]
	c := Counts{
		Connections: k.Connections, HTTP2: k.HTTP2, TLS: k.TLS, Foreign: k.Other, Upgrade: k.Upgraded,
		Lost: k.Lost, Late: k.Late, Repeated: k.Repeated, Orphans: k.Orphans, Midway: k.Midway,
		OverBound: k.OverBound, Dropped: k.Dropped, Contended: k.Contended + all[0].Contended, Fragments: k.Fragments,
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.requests
	c.LostRequests, c.Unmatched, c.Refused, c.Malformed = a.lost, a.unmatched, a.refused, o.broken
	c.Evicted, c.Open = o.evicted, a.open
	for _, ep := range a.endpoints {
		if ep.Port == port {
			c.Unread += ep.overflowed
		}
	}
	return c, nil
}
