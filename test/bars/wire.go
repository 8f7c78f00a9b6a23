package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/probe"
)

// wireServer is a trivial HTTP server that streams as engines do: headers at once, then chunk by
// chunk. The query says how many and how far apart.
type wireServer struct {
	server *http.Server
	port   uint16
	done   chan error
}

func startWireServer() (*wireServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &wireServer{
		server: &http.Server{Handler: http.HandlerFunc(stream), ReadHeaderTimeout: 10 * time.Second},
		port:   netip.MustParseAddrPort(l.Addr().String()).Port(), done: make(chan error, 1),
	}
	go func() { s.done <- s.server.Serve(l) }()
	return s, nil
}

func (s *wireServer) close() error {
	_ = s.server.Close() // its listener is closed either way
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

var wireChunk = []byte("data: {\"choices\":[{\"text\":\" token\"}]}\n\n")

func stream(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // what the client did not send is its loss
	q := r.URL.Query()
	if !q.Has("chunks") {
		_, _ = w.Write(wireChunk) // as below
		return
	}
	chunks, _ := strconv.Atoi(q.Get("chunks"))
	gap, _ := time.ParseDuration(q.Get("gap"))
	w.Header().Set("Content-Type", "text/event-stream")
	flush := w.(http.Flusher).Flush
	flush()
	for range chunks {
		if gap > 0 {
			time.Sleep(gap) // the pace of an engine
		}
		_, _ = w.Write(wireChunk) // a client that went is no fault
		flush()
	}
}

// wireStream asks for a stream.
func wireStream(chunks int, gap time.Duration) string {
	return fmt.Sprintf("?chunks=%d&gap=%v", chunks, gap)
}

// wireRequest is a whole request.
func wireRequest(query string) []byte {
	body := `{"prompt":"` + string(bytes.Repeat([]byte("x"), 500)) + `"}`
	return fmt.Appendf(nil, "POST /v1/completions%s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", query, len(body), body)
}

// wireCall is one request by the client's own clock.
type wireCall struct {
	client            netip.AddrPort
	sent, first, over time.Time
}

// wireClient is a connection that is used again.
type wireClient struct {
	port uint16
	conn net.Conn
	buf  [64 << 10]byte
}

var (
	wireData = []byte("\ndata: ")
	wireEnd  = []byte("\r\n0\r\n\r\n")
	// wireWhole ends an answer in one piece.
	wireWhole = append([]byte("\r\n\r\n"), wireChunk...)
)

// call sends a request and notes when parts of the answer had been read. It connects when it must.
func (c *wireClient) call(request []byte) (call wireCall, err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port)); err != nil {
			return call, err
		}
	}
	call.client = netip.MustParseAddrPort(c.conn.LocalAddr().String())
	call.sent = time.Now()
	if _, err := c.conn.Write(request); err != nil {
		return call, err
	}
	for n := 0; ; {
		more, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return call, fmt.Errorf("read an answer: %w", err)
		}
		now := time.Now()
		n += more
		if call.first.IsZero() && bytes.Contains(c.buf[:n], wireData) {
			call.first = now
		}
		if bytes.HasSuffix(c.buf[:n], wireEnd) || bytes.HasSuffix(c.buf[:n], wireWhole) {
			call.over = now
			return call, nil
		}
	}
}

func (c *wireClient) close() {
	if c.conn != nil {
		_ = c.conn.Close() // all was read
		c.conn = nil
	}
}

// watching runs do beside an observer of a port. take gets what was seen, a second at a time.
func watching(ctx context.Context, port uint16, take func(probe.Second), do func() error) (counts probe.Counts, err error) {
	endpoint := probe.Endpoint{Port: port}
	cfg := probe.DefaultConfig(endpoint)
	cfg.Mode = probe.ModePacket
	o, err := probe.Open(cfg, slog.Default())
	if err != nil {
		return counts, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var ran error
	wg.Go(func() { ran = o.Run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			take(o.Drain(endpoint))
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond): // full load is more requests than are kept for a second
			}
		}
	})
	err = do()
	<-time.After(2 * cfg.Poll) // the last events
	cancel()
	wg.Wait()
	take(o.Drain(endpoint))
	counts, failed := o.Counts(port)
	return counts, errors.Join(err, ran, failed, o.Close())
}

// skipped prints that a bar cannot run here; any other error it returns.
func skipped(out io.Writer, id string, err error) error {
	if !errors.Is(err, probe.ErrUnavailable) {
		return err
	}
	_, err = fmt.Fprintf(out, "BAR %s skipped reason=%q\n", id, err.Error())
	return err
}
