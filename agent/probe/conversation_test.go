package probe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	get    = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
	post   = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n" + `{"n":"x y"}`
	ok     = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	sse    = "HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
	finish = "0\r\n\r\n"
)

// chunk puts text into one chunk of a chunked body.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// event is a chunk with one event of a stream.
func sseEvent(data string) string { return chunk("data: " + data + "\n\n") }

var (
	token = sseEvent(`{"choices":[{"text":"a"}]}`)
	done  = sseEvent("[DONE]")
)

// seen is what a request must look like. The steps say in which segment of the delivery a time lies;
// -1 is no such time, 0 any.
type seen struct {
	Method                      string
	Class                       Class
	Status                      int
	ReqBytes, Bytes             uint64
	Parts, Chunks               uint32
	Stream, Error, Done, Synth  bool
	Outcome                     Outcome
	Start, End, First, Token, Z int
}

// conversation is a case: steps after the handshake, delivered in order.
type conversation struct {
	name  string
	steps []step
	// order of delivery by index into steps; nil: as they stand.
	order []int
	bare  bool // without a handshake
	// pieces: cut anew, so that the parts of a body that is not chunked are as many as its segments.
	pieces bool
	want   []seen
	open   int
	count  Counts // other than Connections 1
}

var answered = seen{Method: "GET", Class: ClassHealth, Status: 200, Bytes: 2, Parts: 1, Chunks: 1}

func streamed(chunks uint32) seen {
	return seen{
		Method: "POST", Class: ClassInference, Status: 200, ReqBytes: 11, Stream: true, Done: true, Chunks: chunks, Parts: chunks + 1,
		Bytes: uint64(chunks)*uint64(len("data: ")+len(`{"choices":[{"text":"a"}]}`)+2) + uint64(len("data: [DONE]\n\n")),
	}
}

// with changes a copy.
func (s seen) with(change func(*seen)) seen {
	change(&s)
	return s
}

var conversations = []conversation{
	{name: "one request", steps: []step{client(get), server(ok)}, want: []seen{answered.with(func(s *seen) { s.Start, s.End, s.First, s.Token, s.Z = 1, 1, 2, 2, 2 })}},
	{name: "keep-alive", steps: []step{client(get), server(ok), client(post), server(ok)}, want: []seen{
		answered,
		{Method: "POST", Class: ClassInference, Status: 200, ReqBytes: 11, Bytes: 2, Parts: 1, Chunks: 1, Start: 3, End: 3, First: 4, Token: 4, Z: 4},
	}},
	{name: "stream", steps: []step{client(post), server(sse), server(token), server(token + token), server(done), server(finish)}, want: []seen{
		streamed(3).with(func(s *seen) { s.Start, s.End, s.First, s.Token, s.Z = 1, 1, 2, 3, 6 }),
	}},
	{name: "stream in one segment", steps: []step{client(post), server(sse + token + done + finish)}, want: []seen{
		streamed(1).with(func(s *seen) { s.First, s.Token, s.Z = 2, 2, 2 }),
	}},
	{name: "request line over segments", steps: []step{client("G"), client("ET /hea"), client("lth HTTP/1.1\r"), client("\nHost: a\r\n\r"), client("\n"), server(ok)}, want: []seen{
		answered.with(func(s *seen) { s.Start, s.End, s.First = 1, 5, 6 }),
	}},
	{name: "body over segments", steps: []step{client(post[:len(post)-5]), client(post[len(post)-5:]), server(ok)}, want: []seen{
		{Method: "POST", Class: ClassInference, Status: 200, ReqBytes: 11, Bytes: 2, Parts: 1, Chunks: 1, Start: 1, End: 2, First: 3, Token: 3, Z: 3},
	}},
	{name: "chunk over segments", steps: []step{client(post), server(sse + token[:1]), server(token[1:9]), server(token[9:] + done + "0\r"), server("\n\r\n")}, want: []seen{
		streamed(1).with(func(s *seen) { s.First, s.Z = 2, 5 }),
	}},
	{name: "chunked request", steps: []step{client("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), client(chunk("hello")), client(chunk(" world") + finish), server(ok)}, want: []seen{
		{Method: "POST", Class: ClassInference, Status: 200, ReqBytes: 11, Bytes: 2, Parts: 1, Chunks: 1, Start: 1, End: 3, First: 4},
	}},
	{name: "HEAD", steps: []step{client("HEAD /health HTTP/1.1\r\n\r\n"), server("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"), client(get), server(ok)}, want: []seen{
		{Method: "HEAD", Class: ClassHealth, Status: 200, First: 2, Token: -1, Z: 2}, answered,
	}},
	{name: "204 and 304", steps: []step{client(get), server("HTTP/1.1 204 No Content\r\n\r\n"), client(get), server("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"), client(get), server(ok)}, want: []seen{
		{Method: "GET", Class: ClassHealth, Status: 204, Token: -1}, {Method: "GET", Class: ClassHealth, Status: 304, Token: -1}, answered,
	}},
	{name: "100-continue", steps: []step{
		client("POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"), server("HTTP/1.1 100 Continue\r\n\r\n"),
		client("hello"), server(ok),
	}, want: []seen{{Method: "POST", Class: ClassInference, Status: 200, ReqBytes: 5, Bytes: 2, Parts: 1, Chunks: 1, Start: 1, End: 3, First: 4}}},
	{name: "pipelined", steps: []step{client(get + post + get), server(ok), server(sse + token + done + finish + ok)}, want: []seen{
		answered.with(func(s *seen) { s.Start, s.First = 1, 2 }), streamed(1).with(func(s *seen) { s.Start, s.First, s.Z = 1, 3, 3 }), answered.with(func(s *seen) { s.First = 3 }),
	}},
	{name: "answered before the body", steps: []step{client(post[:len(post)-5]), server("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")}, want: []seen{
		{Method: "POST", Class: ClassInference, Status: 413, ReqBytes: 11, Token: -1, End: 2, First: 2},
	}},
	{name: "reuse after an error", steps: []step{client(post), server("HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad"), client(get), server(ok)}, want: []seen{
		{Method: "POST", Class: ClassInference, Status: 500, ReqBytes: 11, Bytes: 3, Parts: 1, Chunks: 1}, answered,
	}},
	{name: "retransmitted", steps: []step{client(post), server(sse), server(token), server(done + finish)}, order: []int{0, 0, 1, 2, 1, 2, 3, 3}, want: []seen{
		streamed(1).with(func(s *seen) { s.Start, s.First, s.Token, s.Z = 1, 3, 4, 7 }),
	}, count: Counts{Repeated: 4}},
	{name: "out of order", steps: []step{client(post), server(sse), server(token), server(token), server(done), server(finish)}, order: []int{0, 1, 3, 4, 2, 5}, want: []seen{
		streamed(2).with(func(s *seen) { s.First, s.Z = 2, 6 }),
	}, count: Counts{Late: 2}},
	{name: "request out of order", steps: []step{client(get[:10]), client(get[10:20]), client(get[20:]), server(ok)}, order: []int{2, 0, 1, 3}, want: []seen{
		answered.with(func(s *seen) { s.Start, s.End = 2, 3 }),
	}, count: Counts{Late: 1}},
	{name: "lost inside a body", steps: []step{
		client(get), server("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n0123456789"), server("0123456789"), server("0123456789"), client(get), server(ok),
	}, order: []int{0, 1, 3, 4, 5}, want: []seen{{Method: "GET", Class: ClassHealth, Status: 200, Bytes: 30, Parts: 2, Chunks: 2}, answered}},
	{name: "lost for good", steps: []step{
		client(post), server(sse), server(token), server(token), server(token), server(token), server(token), server(token), client(get), server(ok),
	}, order: []int{0, 1, 3, 4, 5, 6, 7, 8, 9}, want: []seen{answered}, count: Counts{Lost: 1, LostRequests: 1, Late: 4}},
	{name: "body to the end of the connection", steps: []step{client("GET /x HTTP/1.0\r\n\r\n"), server("HTTP/1.0 200 OK\r\n\r\nabc"), server("def"), serverFIN}, want: []seen{
		{Method: "GET", Status: 200, Bytes: 6, Parts: 2, Chunks: 2, Token: 2, Z: 4},
	}},
	{name: "client goes away", steps: []step{client(post), server(sse), server(token), clientRST}, want: []seen{
		streamed(1).with(func(s *seen) { s.Outcome, s.Done, s.Parts, s.Bytes = AbortedByClient, false, 1, s.Bytes-14 }),
	}},
	{name: "client closes, server resets", steps: []step{client(post), server(sse), server(token), clientFIN, serverRST}, want: []seen{
		streamed(1).with(func(s *seen) { s.Outcome, s.Done, s.Parts, s.Bytes = AbortedByClient, false, 1, s.Bytes-14 }),
	}},
	{name: "client closes and is answered", steps: []step{client(get), clientFIN, server(ok), serverFIN}, want: []seen{
		answered.with(func(s *seen) { s.Outcome = AbortedByClient }),
	}},
	{name: "client leaves after [DONE]", steps: []step{client(post), server(sse), server(token + done), clientRST}, want: []seen{streamed(1)}},
	{name: "server dies", steps: []step{client(post), server(sse), server(token), serverRST}, want: []seen{
		streamed(1).with(func(s *seen) { s.Outcome, s.Done, s.Parts, s.Bytes = AbortedByServer, false, 1, s.Bytes-14 }),
	}},
	{name: "server closes early", steps: []step{client(post), serverFIN, clientFIN}, want: []seen{
		{Method: "POST", Class: ClassInference, ReqBytes: 11, Outcome: AbortedByServer, First: -1, Token: -1, Z: -1},
	}},
	{name: "open", steps: []step{client(post), server(sse)}, open: 1},
	{name: "half-open peer comes back", steps: []step{client(post), {flags: tcpSYN, at: 7777}, {data: get, flags: tcpACK, at: 7778}}, want: []seen{
		{Method: "POST", Class: ClassInference, ReqBytes: 11, Outcome: Vanished, First: -1, Token: -1, Z: -1},
	}, open: 1, count: Counts{Connections: 2}},
	{name: "error in a stream", steps: []step{client(post), server(sse + token + sseEvent(`{"error": {"message": "full"}}`) + done + finish)}, want: []seen{
		streamed(1).with(func(s *seen) {
			s.Error, s.Parts, s.Bytes = true, 3, s.Bytes+uint64(len(`data: {"error": {"message": "full"}}`)+2)
		}),
	}},
	{name: "named error in a stream", steps: []step{client(post), server(sse + chunk("event: error\ndata: {}\n\n") + done + finish)}, want: []seen{
		streamed(0).with(func(s *seen) {
			s.Error, s.Parts, s.Token, s.Bytes = true, 2, -1, s.Bytes+uint64(len("event: error\ndata: {}\n\n"))
		}),
	}},
	{name: "no error is no error", steps: []step{client(post), server(sse + sseEvent(`{"error":null}`) + done + finish)}, want: []seen{
		streamed(1).with(func(s *seen) { s.Bytes = uint64(len(`data: {"error":null}`) + 2 + 14) }),
	}},
	{name: "comments are no tokens", steps: []step{client(post), server(sse + chunk(": ping\n\n")), server(token + done + finish)}, want: []seen{
		streamed(1).with(func(s *seen) { s.Parts, s.Token, s.Bytes = 3, 3, s.Bytes+8 }),
	}},
	{name: "synthetic", steps: []step{client("GET /health HTTP/1.1\r\nX-Perf-Synthetic: 1\r\n\r\n"), server(ok)}, want: []seen{answered.with(func(s *seen) { s.Synth = true })}},
	{name: "long header", steps: []step{client("GET /health HTTP/1.1\r\nCookie: " + strings.Repeat("x", 1000) + "\r\n\r\n"), server(ok)}, want: []seen{answered}},
	{name: "long path", steps: []step{client("GET /" + strings.Repeat("x", 1000) + " HTTP/1.1\r\n\r\n"), server(ok)}, want: []seen{answered.with(func(s *seen) { s.Class = ClassOther })}},
	{name: "trailers", steps: []step{client(post), server(sse + token + done + "0\r\nX-A: b\r\n\r\n" + ""), client(get), server(ok)}, want: []seen{streamed(1), answered}},
	{name: "chunk extensions", steps: []step{client(get), server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n")}, want: []seen{
		answered.with(func(s *seen) { s.Bytes = 5 }),
	}},
	{name: "HTTP/2", steps: []step{client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), server("\x00\x00\x00\x04\x00\x00\x00\x00\x00")}, count: Counts{HTTP2: 1}},
	{name: "TLS", steps: []step{client("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), server("\x16\x03\x03\x00\x7a")}, count: Counts{TLS: 1}},
	{name: "no HTTP at all", steps: []step{client("*1\r\n$4\r\nPING\r\n"), server("+PONG\r\n")}, count: Counts{Foreign: 1}},
	{name: "upgrade", steps: []step{client("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), server("HTTP/1.1 101 Switching Protocols\r\n\r\n"), client("\x81\x05hello")}, want: []seen{
		{Method: "GET", Status: 101, Token: -1},
	}, count: Counts{Upgrade: 1}},
	{name: "joined midway", bare: true, steps: []step{client("rest of a body"), server("more of it"), client(get), server(ok)}, want: []seen{answered}, count: Counts{Midway: 1}},
}

// play delivers a conversation and returns when each segment passed, from 1; the handshake is 0.
func (b *bench) play(t *testing.T, c conversation, clientPort uint16) []span {
	t.Helper()
	steps := c.steps
	if !c.bare {
		steps = append(append([]step{}, handshake...), steps...)
	}
	jump := steps
	steps = lay(steps)
	for i, s := range jump {
		if s.at != 0 {
			steps[i].at = s.at
		}
	}
	first := len(steps) - len(c.steps)
	for _, s := range steps[:first] {
		b.send(t, s, clientPort)
	}
	spans := []span{{}}
	for _, i := range c.delivery() {
		spans = append(spans, b.send(t, steps[first+i], clientPort))
	}
	return spans
}

func (c conversation) delivery() []int {
	if c.order != nil {
		return c.order
	}
	all := make([]int, len(c.steps))
	for i := range all {
		all[i] = i
	}
	return all
}

// look brings a request into the form of a case; times not asked for are left out.
func look(r Request, want seen, spans []span) seen {
	when := func(at time.Time, want int) int {
		switch {
		case want == 0:
			return 0
		case at.IsZero():
			return -1
		}
		for i, s := range spans {
			if ns := uint64(at.UnixNano()); ns >= s.from && ns <= s.to {
				return i
			}
		}
		return -2
	}
	return seen{
		Method: r.Method, Class: r.Class, Status: r.Status, ReqBytes: r.RequestBytes, Bytes: r.ResponseBytes, Parts: r.Parts, Chunks: r.Chunks,
		Stream: r.Stream, Error: r.StreamError, Done: r.Done, Synth: r.Synthetic, Outcome: r.Outcome,
		Start: when(r.Start, want.Start), End: when(r.RequestEnd, want.End), First: when(r.FirstByte, want.First),
		Token: when(r.FirstChunk, want.Token), Z: when(r.Last, want.Z),
	}
}

func TestConversations(t *testing.T) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			b := newBench(t, p)
			for _, c := range conversations {
				t.Run(c.name, func(t *testing.T) { judge(t, b, c) })
			}
		})
	}
}

func judge(t *testing.T, b *bench, c conversation) {
	b.forget(t)
	spans := b.play(t, c, b.nextPort())
	s := b.drain(t)
	var got []seen
	for i, r := range s.Requests {
		var want seen
		if i < len(c.want) {
			want = c.want[i]
		}
		g := look(r, want, spans)
		if c.pieces && !r.Stream {
			g.Parts, g.Chunks = want.Parts, want.Chunks
		}
		got = append(got, g)
	}
	if diff := cmp.Diff(c.want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if len(s.Open) != c.open {
		t.Errorf("%d requests are open, want %d", len(s.Open), c.open)
	}
	want := c.count
	want.Connections = max(1, want.Connections)
	want.Open = c.open
	if diff := cmp.Diff(want, b.counts(t)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// However a conversation is cut into segments, it says the same.
func TestConversationsInAnyPieces(t *testing.T) {
	b := newBench(t, paths[0])
	for _, size := range []int{1, 2, 3, 7, 16, 50, 127, 500} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			for _, c := range conversations {
				if c.order != nil || c.open > 0 || strings.Contains(c.name, "half-open") || c.bare {
					continue
				}
				t.Run(c.name, func(t *testing.T) { judge(t, b, c.cut(size)) })
			}
		})
	}
}

// cut makes segments of at most n bytes.
func (c conversation) cut(n int) conversation {
	out := conversation{name: c.name, count: c.count, pieces: true}
	for _, s := range c.steps {
		for len(s.data) > n {
			piece := s
			piece.data, s.data = s.data[:n], s.data[n:]
			out.steps = append(out.steps, piece)
		}
		out.steps = append(out.steps, s)
	}
	for _, w := range c.want {
		w.Start, w.End, w.First, w.Token, w.Z = 0, 0, 0, 0, 0
		out.want = append(out.want, w)
	}
	return out
}
