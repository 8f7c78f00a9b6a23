package probe

import (
	"net/netip"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// openRequest is a request without an end. Times are the kernel's.
type openRequest struct {
	number                      uint32
	method                      string
	class                       Class
	synthetic                   bool
	begin, end                  uint64
	firstByte, firstChunk, last uint64
	requestBytes, bytes         uint64
	chunks, parts               uint32
	maxGap                      uint32
	status                      uint16
	flags                       uint32
}

// user says that the request is a user's work.
func (r *openRequest) user() bool { return r.class == ClassInference && !r.synthetic }

// connection has open requests, in order.
type connection struct {
	id             uint64
	client, server netip.AddrPort
	endpoint       *endpoint
	open           []openRequest
	heard          uint64 // of it, last
	clientClosed   bool
}

// endpoint gathers what is said of one engine's address.
type endpoint struct {
	Endpoint
	finished   []Request
	gaps       *stats.Sketch
	chunks     uint64 // with text, of users' requests
	overflowed uint64
}

// assembler makes requests of events. It is not safe for concurrent use.
type assembler struct {
	endpoints []*endpoint
	conns     map[uint64]*connection
	spare     []*connection
	open      int
	limit     int    // of open requests
	silence   uint64 // ns
	offset    int64  // of the wall clock to the kernel's, ns

	lost, unmatched, refused, foreign uint64
}

// maxFinished bounds the requests of an endpoint that nobody has drained.
const maxFinished = 1 << 16

func newAssembler(endpoints []Endpoint, limit int, silence time.Duration) *assembler {
	a := &assembler{conns: map[uint64]*connection{}, limit: limit, silence: uint64(silence)}
	for _, e := range endpoints {
		a.endpoints = append(a.endpoints, &endpoint{Endpoint: e, gaps: stats.NewSketch()})
	}
	return a
}

// add takes one event.
func (a *assembler) add(e *event) {
	if e.kind == eventRequest {
		a.request(e)
		return
	}
	c := a.conns[e.conn]
	if c == nil {
		a.unmatched++
		return
	}
	switch e.kind {
	case eventRequestEnd:
		c.heard = max(c.heard, e.at)
		for i := range c.open {
			if c.open[i].number == e.number {
				c.open[i].end, c.open[i].requestBytes = e.at, e.bytes
			}
		}
	case eventResponse:
		c.heard = max(c.heard, e.last)
		a.response(c, e)
	case eventClose:
		a.closed(c, e)
	}
	if len(c.open) == 0 {
		a.forget(e.conn, c)
	}
}

func (a *assembler) request(e *event) {
	c := a.conns[e.conn]
	if c == nil {
		ep := a.endpointOf(e.server)
		if ep == nil {
			a.foreign++
			return
		}
		c = a.connection()
		c.id, c.client, c.server, c.endpoint = e.conn, e.client, e.server, ep
		a.conns[e.conn] = c
	}
	if a.open >= a.limit {
		a.refused++
		if len(c.open) == 0 {
			a.forget(e.conn, c)
		}
		return
	}
	method, class := requestLine(e.line)
	c.heard = max(c.heard, e.at, e.end)
	c.open = append(c.open, openRequest{
		number: e.number, method: method, class: class, synthetic: e.flags&flagSynthetic != 0,
		begin: e.at, end: e.end, requestBytes: e.bytes,
	})
	a.open++
}

// connection returns an empty one.
func (a *assembler) connection() *connection {
	if n := len(a.spare); n > 0 {
		c := a.spare[n-1]
		a.spare = a.spare[:n-1]
		return c
	}
	return &connection{}
}

func (a *assembler) forget(id uint64, c *connection) {
	delete(a.conns, id)
	if len(a.spare) < 1024 {
		*c = connection{open: c.open[:0]}
		a.spare = append(a.spare, c)
	}
}

// endpointOf prefers an endpoint of that very address to one of any.
func (a *assembler) endpointOf(server netip.AddrPort) (found *endpoint) {
	for _, ep := range a.endpoints {
		switch {
		case ep.Port != server.Port():
		case ep.Addr == server.Addr():
			return ep
		case !ep.Addr.IsValid():
			found = ep
		}
	}
	return found
}

// response takes an answer's progress or end. Answers come in the order of requests: those before it
// had theirs, in an event that found no room.
func (a *assembler) response(c *connection, e *event) {
	for len(c.open) > 0 && c.open[0].number < e.number {
		c.open = slices.Delete(c.open, 0, 1)
		a.open--
		a.lost++
	}
	if len(c.open) == 0 || c.open[0].number != e.number {
		a.unmatched++
		return
	}
	r := &c.open[0]
	if r.user() {
		c.endpoint.chunks += uint64(e.chunks - min(e.chunks, r.chunks))
	}
	r.firstByte, r.firstChunk, r.last = e.at, e.firstChunk, e.last
	r.bytes, r.chunks, r.parts = e.bytes, e.chunks, e.parts
	r.status, r.flags = e.status, e.flags
	for g := e.gaps; len(g) >= 4; g = g[4:] {
		us := le.Uint32(g)
		r.maxGap = max(r.maxGap, us)
		if r.user() && r.flags&flagStream != 0 {
			_ = c.endpoint.gaps.Add(float64(us) * 1024e-9) // neither negative nor infinite
		}
	}
	switch {
	case e.over && c.clientClosed:
		a.finish(c, AbortedByClient)
	case e.over:
		a.finish(c, Completed)
	}
}

// closed ends what was open on a connection. When the client closes its half, the server may still be at
// work; but nobody waits for the answer, since HTTP clients close all at once.
func (a *assembler) closed(c *connection, e *event) {
	byServer := e.how&1 == 1
	switch e.how &^ 1 {
	case closedByFIN:
		if !byServer {
			c.clientClosed = true
			c.heard = max(c.heard, e.at)
			return
		}
	case closedByLoss:
		a.lost += uint64(len(c.open))
		a.open -= len(c.open)
		c.open = c.open[:0]
		return
	case closedByReuse, closedByUpgrade:
		a.finishAll(c, Vanished)
		return
	}
	if byServer && !c.clientClosed {
		a.finishAll(c, AbortedByServer)
		return
	}
	a.finishAll(c, AbortedByClient)
}

func (a *assembler) finishAll(c *connection, how Outcome) {
	for len(c.open) > 0 {
		a.finish(c, how)
	}
}

// finish moves the oldest request of a connection to the finished ones. Who leaves after [DONE] has had
// the answer.
func (a *assembler) finish(c *connection, how Outcome) {
	r := c.open[0]
	c.open = slices.Delete(c.open, 0, 1)
	a.open--
	ep := c.endpoint
	if len(ep.finished) >= maxFinished {
		ep.overflowed++
		return
	}
	if r.flags&flagDone != 0 {
		how = Completed
	}
	if r.end == 0 && how == Completed { // answered before all of it had come
		r.end = r.firstByte
	}
	if n := len(ep.finished); n == cap(ep.finished) {
		ep.finished = slices.Grow(ep.finished, max(64, n)) // twice as much, where append would add a quarter
	}
	ep.finished = append(ep.finished, Request{
		Client: c.client, Server: c.server, Conn: c.id, Number: r.number, Method: r.method, Class: r.class,
		Status: int(r.status), Start: a.wall(r.begin), RequestEnd: a.wall(r.end), FirstByte: a.wall(r.firstByte),
		FirstChunk: a.wall(r.firstChunk), Last: a.wall(r.last), RequestBytes: r.requestBytes, ResponseBytes: r.bytes,
		Parts: r.parts, Chunks: r.chunks, MaxGap: time.Duration(r.maxGap) * 1024, Stream: r.flags&flagStream != 0,
		StreamError: r.flags&flagError != 0, Done: r.flags&flagDone != 0, Synthetic: r.synthetic, Outcome: how,
	})
}

// wall makes a time of the kernel's.
func (a *assembler) wall(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns)+a.offset)
}

// sweep gives up requests of connections that have been silent for too long at now, on the kernel's clock.
func (a *assembler) sweep(now uint64) {
	for id, c := range a.conns {
		if now > c.heard && now-c.heard > a.silence {
			a.finishAll(c, Vanished)
			a.forget(id, c)
		}
	}
}

// requests lists what is open at an endpoint at now, on the kernel's clock.
func (a *assembler) requests(ep *endpoint, now uint64) (out []OpenRequest) {
	for _, c := range a.conns {
		if c.endpoint != ep {
			continue
		}
		for i := range c.open {
			r := &c.open[i]
			out = append(out, OpenRequest{
				Client: c.client, Server: c.server, Age: time.Duration(now - min(now, r.begin)),
				Answering: r.firstChunk != 0, Class: r.class, Synthetic: r.synthetic,
			})
		}
	}
	return out
}
