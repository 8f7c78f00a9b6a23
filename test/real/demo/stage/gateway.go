package stage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// Paces of the gateway.
const (
	readyEvery   = 100 * time.Millisecond
	readyTimeout = time.Second
	idleTimeout  = 4 * time.Second // engines close idle connections after five
)

// Gateway is a small readiness-aware balancer, as stands before replicas in production: it sends
// requests to ready replicas only, no more at once than each may have open, and holds the others in
// order of arrival. A request is sent again as long as its client has got no byte of an answer.
type Gateway struct {
	URL string

	limit    int // requests open at one replica
	client   *http.Client
	server   *http.Server
	stop     context.CancelFunc
	watching sync.WaitGroup

	mu       sync.Mutex // guards all below
	backends []*backend
	waiting  []chan *backend
	turn     int
	resent   int
}

type backend struct {
	url, ready string
	serving    bool
	open       int
}

// newGateway listens on a free port.
func newGateway(limit int) (*Gateway, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Gateway{
		URL: "http://" + l.Addr().String(), limit: limit, stop: stop,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: idleTimeout, DisableCompression: true}},
	}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() { _ = g.server.Serve(l) }() // it ends with close
	return g, nil
}

func (g *Gateway) close() {
	g.stop()
	_ = g.server.Close() // clients have ended
	g.watching.Wait()
	g.client.CloseIdleConnections()
}

// add watches one more replica.
func (g *Gateway) add(ctx context.Context, url, ready string) {
	b := &backend{url: url, ready: ready}
	g.mu.Lock()
	g.backends = append(g.backends, b)
	g.mu.Unlock()
	g.watching.Go(func() {
		tick := time.NewTicker(readyEvery)
		defer tick.Stop()
		for {
			g.set(b, g.poll(ctx, ready))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

func (g *Gateway) poll(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is kept
	return resp.StatusCode == http.StatusOK
}

func (g *Gateway) set(b *backend, serving bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b.serving = serving
	g.dispatch()
}

// dispatch hands free places to those who wait longest. The caller holds the lock.
func (g *Gateway) dispatch() {
	for len(g.waiting) > 0 {
		b := g.pick()
		if b == nil {
			return
		}
		b.open++
		g.waiting[0] <- b // has room for one
		g.waiting = g.waiting[1:]
	}
}

// pick is the replica with the fewest open requests that may have one more.
func (g *Gateway) pick() *backend {
	var best *backend
	for i := range g.backends {
		b := g.backends[(g.turn+i)%len(g.backends)]
		if b.serving && b.open < g.limit && (best == nil || b.open < best.open) {
			best = b
		}
	}
	g.turn++
	return best
}

func (g *Gateway) acquire(ctx context.Context) (*backend, error) {
	place := make(chan *backend, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, place)
	g.dispatch()
	g.mu.Unlock()
	select {
	case b := <-place:
		return b, nil
	case <-ctx.Done():
		g.giveUp(place)
		return nil, ctx.Err()
	}
}

func (g *Gateway) giveUp(place chan *backend) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case b := <-place:
		b.open--
		g.dispatch()
		return
	default:
	}
	for i, w := range g.waiting {
		if w == place {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return
		}
	}
}

// release ends a request at a replica. One that broke gets nothing until it is found ready again.
func (g *Gateway) release(b *backend, broken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b.open--
	if broken {
		b.serving = false
		g.resent++
	}
	g.dispatch()
}

// Queue returns how many requests wait here and how many are open at replicas.
func (g *Gateway) Queue() (waiting, open int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range g.backends {
		open += b.open
	}
	return len(g.waiting), open
}

// Resent is how many times a request had to be sent again.
func (g *Gateway) Resent() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.resent
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	for {
		b, err := g.acquire(r.Context())
		if err != nil {
			return // the client went away
		}
		began, err := g.forward(w, r, b, body)
		g.release(b, err != nil && r.Context().Err() == nil)
		switch {
		case err == nil:
			return
		case began:
			panic(http.ErrAbortHandler) // the client sees its stream cut, as it was
		case r.Context().Err() != nil:
			return
		}
	}
}

// errNoAnswer is an answer that the client need not see: it can be had elsewhere or later.
var errNoAnswer = errors.New("no answer")

// forward sends a request to one replica and copies the answer. began tells whether any of it has
// reached the client.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, b *backend, body []byte) (began bool, err error) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, b.url+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	out.Header = r.Header.Clone()
	resp, err := g.client.Do(out)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer := bufio.NewReader(resp.Body)
	first, err := answer.Peek(1)
	if err == nil && answer.Buffered() > 1 {
		first, _ = answer.Peek(answer.Buffered())
	}
	if resp.StatusCode >= 500 || err != nil || bytes.HasPrefix(first, []byte(`data: {"error"`)) {
		return false, fmt.Errorf("%w: status %d", errNoAnswer, resp.StatusCode)
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	return true, copyFlushing(w, answer)
}

// copyFlushing passes on each piece as it comes.
func copyFlushing(w http.ResponseWriter, from io.Reader) error {
	flusher := http.NewResponseController(w)
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := flusher.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
