package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const chunksOfStream = 20

// moments of one request, as its server and its client saw them.
type moments struct {
	sent, entered, writing, read, ended, over time.Time
}

// station is a real HTTP server that streams, and what it noted by request.
type station struct {
	port uint16
	mu   sync.Mutex // guards seen
	seen map[string]*moments
}

func newStation(t testing.TB, network, address string) *station {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	st := &station{port: netip.MustParseAddrPort(l.Addr().String()).Port(), seen: map[string]*moments{}}
	s := &http.Server{Handler: st, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return st
}

func (st *station) of(id string) *moments {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.seen[id] == nil {
		st.seen[id] = &moments{}
	}
	return st.seen[id]
}

// ServeHTTP streams to POST, hangs on /hang until the client goes, and dies on /die.
func (st *station) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := st.of(r.Header.Get("X-Request"))
	m.entered = time.Now()
	_, _ = io.Copy(io.Discard, r.Body) // what cannot be read was not sent
	switch r.URL.Path {
	case "/health":
		fmt.Fprint(w, "ok")
		return
	case "/hang":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: x\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	case "/die":
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.(http.Flusher).Flush()
	for i := range chunksOfStream {
		if i == 0 {
			m.writing = time.Now()
		}
		fmt.Fprintf(w, "data: {\"text\":\"%d\"}\n\n", i)
		w.(http.Flusher).Flush()
		time.Sleep(time.Millisecond) // the pace of a stream
	}
	m.ended = time.Now()
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// ask sends one request and reads all of the answer.
func (st *station) ask(t testing.TB, c *http.Client, host, id string) {
	m := st.of(id)
	body := strings.NewReader(`{"prompt":"` + strings.Repeat("x", 20000) + `"}`)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+net.JoinHostPort(host, fmt.Sprint(st.port))+"/v1/completions?n="+id, body)
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("X-Request", id)
	m.sent = time.Now()
	resp, err := c.Do(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Error(err)
	}
	m.read = time.Now()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Error(err)
	}
	m.over = time.Now()
}

// observe opens an observer that runs until the test ends.
func observe(t testing.TB, cfg Config) *Observer {
	t.Helper()
	cfg.Poll = 5 * time.Millisecond
	o, err := Open(cfg, slog.New(slog.DiscardHandler))
	needs(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, o.Close()); err != nil {
			t.Error(err)
		}
	})
	return o
}

// gather drains until n requests have ended.
func gather(t testing.TB, o *Observer, e Endpoint, n int) (all []Request, chunks uint64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for len(all) < n && time.Now().Before(deadline) {
		s := o.Drain(e)
		all, chunks = append(all, s.Requests...), chunks+s.Chunks
		time.Sleep(5 * time.Millisecond)
	}
	if len(all) != n {
		t.Fatalf("%d requests were observed, want %d", len(all), n)
	}
	return all, chunks
}

// skew of the wall clock to the kernel's, at most, in a test.
const skew = time.Millisecond

// The observer's times lie between what server and client say of the same moments.
func TestRealStreams(t *testing.T) {
	for _, c := range []struct {
		name, network, listen, host string
		mode                        Mode
	}{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1", ModePacket},
		{"IPv6", "tcp6", "[::1]:0", "::1", ModePacket},
		{"control group, IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1", ModeCgroup},
		{"control group, IPv6", "tcp6", "[::1]:0", "::1", ModeCgroup},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStation(t, c.network, c.listen)
			e := Endpoint{Port: st.port}
			cfg := DefaultConfig(e)
			cfg.Mode = c.mode
			o := observe(t, cfg)
			streams(t, st, o, e, c.host)
		})
	}
}

func streams(t *testing.T, st *station, o *Observer, e Endpoint, host string) {
	t.Helper()
	const clients, each = 8, 10
	var wg sync.WaitGroup
	byPort := make([]*http.Client, clients)
	for i := range byPort {
		byPort[i] = &http.Client{Transport: &http.Transport{}}
		defer byPort[i].CloseIdleConnections()
		wg.Go(func() {
			for j := range each {
				st.ask(t, byPort[i], host, fmt.Sprintf("%d-%d", i, j))
			}
		})
	}
	wg.Wait()
	all, chunks := gather(t, o, e, clients*each)
	if want := uint64(clients * each * chunksOfStream); chunks != want {
		t.Errorf("%d chunks with text, want %d", chunks, want)
	}
	conns := map[uint64][]Request{}
	for _, r := range all {
		conns[r.Conn] = append(conns[r.Conn], r)
		if r.Status != 200 || !r.Stream || !r.Done || r.Chunks != chunksOfStream || r.Outcome != Completed || r.Class != ClassInference {
			t.Errorf("request %+v", r)
		}
	}
	if len(conns) != clients {
		t.Errorf("%d connections, want %d: they are kept alive", len(conns), clients)
	}
	for _, m := range st.seen {
		if !within(all, m) {
			t.Errorf("no request lies within %+v", *m)
		}
	}
	c, err := o.Counts(e.Port)
	if err != nil || c.Lost+c.Dropped+c.LostRequests+c.Malformed+c.Unmatched != 0 {
		t.Errorf("counts %+v, %v", c, err)
	}
}

// within finds the request whose times lie where server and client put them.
func within(all []Request, m *moments) bool {
	in := func(at, from, to time.Time) bool { return !at.Before(from.Add(-skew)) && !at.After(to.Add(skew)) }
	for _, r := range all {
		if in(r.Start, m.sent, m.entered) && in(r.FirstChunk, m.writing, m.read) && in(r.Last, m.ended, m.over) {
			return true
		}
	}
	return false
}

// abandoned requests of both sides, and one that stays open.
func TestRealAborts(t *testing.T) {
	st := newStation(t, "tcp4", "127.0.0.1:0")
	e := Endpoint{Port: st.port}
	cfg := DefaultConfig(e)
	cfg.Mode = ModePacket
	o := observe(t, cfg)
	conn := dial(t, st.port)
	fmt.Fprint(conn, "POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("answer %q, %v", line, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for o.InFlight(e) != 1 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := o.InFlight(e); n != 1 {
		t.Fatalf("%d requests in flight, want 1", n)
	}
	conn.Close()
	other := dial(t, st.port)
	defer other.Close()
	fmt.Fprint(other, "POST /die HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	all, _ := gather(t, o, e, 2)
	want := map[Outcome]int{AbortedByClient: 1, AbortedByServer: 1}
	for _, r := range all {
		want[r.Outcome]--
	}
	for how, n := range want {
		if n != 0 {
			t.Errorf("%v: %d too few", how, n)
		}
	}
}

func dial(t testing.TB, port uint16) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Where rights are missing, the error says which.
func TestRights(t *testing.T) {
	for _, c := range []struct {
		name string
		have capabilities
		want Mode
		mode Mode
		err  string
	}{
		{"sidecar", 1<<39 | 1<<13, ModeAuto, ModePacket, ""},
		{"node agent", 1<<39 | 1<<12, ModeAuto, ModeCgroup, ""},
		{"both", 1<<39 | 1<<13 | 1<<12, ModeAuto, ModePacket, ""},
		{"nothing", 0, ModeAuto, "", "CAP_BPF and CAP_NET_RAW missing for mode packet"},
		{"no raw sockets", 1 << 39, ModePacket, "", "CAP_NET_RAW missing for mode packet"},
		{"no administration", 1 << 39, ModeCgroup, "", "CAP_NET_ADMIN missing for mode cgroup"},
		{"system administrator", 1<<21 | 1<<13, ModePacket, ModePacket, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			mode, err := c.have.choose(c.want)
			if mode != c.mode || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("mode %q, error %v", mode, err)
			}
			if err != nil && !errors.Is(err, ErrUnavailable) {
				t.Error("it is not ErrUnavailable")
			}
		})
	}
}
