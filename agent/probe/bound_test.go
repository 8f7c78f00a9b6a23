package probe

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// A flood of connections takes no more memory than was allowed: what is beyond is counted, the oldest
// make room, and requests of the newest are seen.
func TestFloodOfConnections(t *testing.T) {
	const bound, flood = 64, 5000
	b := newBench(t, paths[0], func(c *Config) { c.MaxConnections = bound })
	b.forget(t)
	for range flood {
		port := b.nextPort()
		for _, s := range lay(handshake) {
			b.send(t, s, port)
		}
	}
	b.sweep() // counts what is left
	c := b.counts(t)
	kept := uint64(bound + lruSlack*runtime.NumCPU())
	if c.Connections != flood || c.OverBound != flood-bound || c.Evicted < flood-kept || c.Evicted > flood-bound {
		t.Errorf("counts %+v", c)
	}
	port := b.nextPort()
	for _, s := range lay(append(append([]step{}, handshake...), client(get), server(ok))) {
		b.send(t, s, port)
	}
	if s := b.drain(t); len(s.Requests) != 1 || s.Requests[0].Status != 200 {
		t.Errorf("after the flood: %+v", s.Requests)
	}
}

// Bytes of any kind, in any order, with any sequence numbers, are never taken for a good answer and
// never stop the observer: it finds back to the next request.
func TestGarbage(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, 0))
	b := newBench(t, paths[0])
	b.forget(t)
	whole := []string{get, post, ok, sse, token, done, finish, "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n", chunk("x")[:2] + "ffffffffffffffff\r\n"}
	for range 3000 {
		port := b.nextPort()
		steps := append([]step{}, handshake...)
		for range 1 + random.IntN(8) {
			data := []byte(whole[random.IntN(len(whole))])
			for range random.IntN(4) {
				data[random.IntN(len(data))] = byte(random.Uint32())
			}
			s := client(string(data[random.IntN(len(data)/2):]))
			s.server = random.IntN(2) == 0
			steps = append(steps, s)
		}
		for _, s := range lay(steps) {
			if random.IntN(10) == 0 {
				s.at += random.Uint32() >> random.IntN(32)
			}
			b.send(t, s, port)
		}
	}
	b.drain(t)
	port := b.nextPort()
	for _, s := range lay(append(append([]step{}, handshake...), client(post), server(sse+token+done+finish))) {
		b.send(t, s, port)
	}
	if s := b.drain(t); len(s.Requests) != 1 || s.Requests[0].Status != 200 || s.Requests[0].Chunks != 1 {
		t.Errorf("after garbage with seed %d: %+v", seed, s.Requests)
	}
	c := b.counts(t)
	if c.Lost == 0 {
		t.Errorf("nothing was lost of garbage: %+v", c)
	}
}

// Buffers that nobody reads drop events, count them, and are good again when they are read.
func TestUnreadEvents(t *testing.T) {
	b := newBench(t, paths[0], func(c *Config) { c.BufferBytes = 4096 })
	port := b.nextPort()
	steps := append([]step{}, handshake...)
	for range 100 {
		steps = append(steps, client(get), server(ok))
	}
	for _, s := range lay(steps) {
		b.send(t, s, port)
	}
	seen := len(b.drain(t).Requests)
	c, err := b.Counts(testPort)
	if err != nil || c.Dropped == 0 || seen == 0 || seen == 100 || c.Dropped+c.Unmatched < uint64(100-seen) {
		t.Errorf("%d of 100 requests seen, counts %+v, %v", seen, c, err)
	}
	for _, s := range lay(append(append([]step{}, handshake...), client(get), server(ok))) {
		b.send(t, s, port+1)
	}
	if s := b.drain(t); len(s.Requests) != 1 {
		t.Errorf("afterwards %d requests, want 1", len(s.Requests))
	}
}

// Requests that stay silent for too long are given up.
func TestSilence(t *testing.T) {
	a := newAssembler([]Endpoint{{Port: testPort}}, 10, time.Second)
	server := netip.AddrPortFrom(paths[0].server, testPort)
	a.add(&event{kind: eventRequest, number: 1, conn: 1, at: 1000, server: server, line: []byte("POST /x HTTP/1.1\r\n")})
	a.sweep(uint64(time.Second))
	if a.open != 1 {
		t.Fatalf("%d open, want 1", a.open)
	}
	a.sweep(uint64(time.Second) + 2000)
	if f := a.endpoints[0].finished; a.open != 0 || len(a.conns) != 0 || len(f) != 1 || f[0].Outcome != Vanished {
		t.Errorf("open %d, finished %+v", a.open, f)
	}
}

// What this process keeps of open requests is bounded.
func TestOpenLimit(t *testing.T) {
	a := newAssembler([]Endpoint{{Port: testPort}}, 10, time.Second)
	server := netip.AddrPortFrom(paths[0].server, testPort)
	for i := range uint64(25) {
		a.add(&event{kind: eventRequest, number: 1, conn: i, server: server})
	}
	if a.open != 10 || a.refused != 15 || len(a.conns) != 10 {
		t.Errorf("open %d, refused %d, connections %d", a.open, a.refused, len(a.conns))
	}
}

func TestClasses(t *testing.T) {
	for line, want := range map[string]string{
		"POST /v1/chat/completions HTTP/1.1\r\n":         "POST 1",
		"POST /generate?x=/health HTTP/1.1\r\n":          "POST 1",
		"POST http://engine:80/v1/messages HTTP/1.1\r\n": "POST 1",
		"GET /health HTTP/1.1\r\n":                       "GET 2",
		"GET http://engine/metrics HTTP/1.1\r\n":         "GET 3",
		"GET /v1/models HTTP/1.1\r\n":                    "GET 4",
		"POST /tokenize HTTP/1.1\r\n":                    "POST 0",
		"GET / HTTP/1.1\r\n":                             "GET 0",
		"BREW /v1/completions HTTP/1.1\r\n":              "OTHER 0",
		"POST":                                           "POST 1",
		"":                                               "OTHER 0",
	} {
		method, class := requestLine([]byte(line))
		if got := fmt.Sprint(method, " ", uint8(class)); got != want {
			t.Errorf("%q is %s, want %s", line, got, want)
		}
	}
}

// Whatever the bytes of events are, nothing breaks and what is kept stays bounded.
func FuzzEvents(f *testing.F) {
	raw := func(n int, kind byte) []byte {
		b := make([]byte, n)
		b[0] = kind
		if kind == eventRequest {
			binary.LittleEndian.PutUint16(b[74:], testPort)
		}
		return b
	}
	f.Add(raw(requestBytes, eventRequest), raw(responseBytes, eventResponse), raw(headBytes, eventClose))
	f.Add(raw(requestBytes, eventRequest), raw(requestEndBytes, eventRequestEnd), raw(responseBytes, eventResponse))
	f.Add([]byte{}, []byte{3}, raw(headBytes, 9))
	f.Fuzz(func(t *testing.T, one, two, three []byte) {
		const limit = 2
		a := newAssembler([]Endpoint{{Port: testPort}}, limit, time.Second)
		for _, raw := range [][]byte{one, two, three, one, three, two, one} {
			var e event
			if decode(raw, &e) != nil {
				continue
			}
			a.add(&e)
			open := 0
			for _, c := range a.conns {
				open += len(c.open)
			}
			if open != a.open || open > limit {
				t.Fatalf("%d requests are open, counted %d, limit %d", open, a.open, limit)
			}
			a.requests(a.endpoints[0], 0)
		}
		a.sweep(1 << 62)
	})
}
