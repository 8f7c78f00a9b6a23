package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

func TestEndpoints(t *testing.T) {
	engines := func(urls ...string) (all []Engine) {
		for i, u := range urls {
			all = append(all, Engine{Name: fmt.Sprint(i), URL: u})
		}
		return all
	}
	address := netip.MustParseAddr
	for _, c := range []struct {
		name    string
		engines []Engine
		want    map[string]probe.Endpoint
		err     string
	}{
		{name: "a port each", engines: engines("http://127.0.0.1:8000", "http://localhost:8001"), want: map[string]probe.Endpoint{"0": {Port: 8000}, "1": {Port: 8001}}},
		{name: "no port", engines: engines("http://engine"), want: map[string]probe.Endpoint{"0": {Port: 80}}},
		{name: "one port, two addresses", engines: engines("http://10.0.0.1:8000", "http://[fd00::1]:8000"), want: map[string]probe.Endpoint{
			"0": {Port: 8000, Addr: address("10.0.0.1")}, "1": {Port: 8000, Addr: address("fd00::1")},
		}},
		{name: "one port, a name", engines: engines("http://10.0.0.1:8000", "http://engine:8000"), err: "engine 1 shares port 8000"},
		{name: "TLS", engines: engines("https://engine:8000"), err: "engine 0 speaks TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := endpoints(c.engines)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// needsWire skips where this process may not observe. Under PERF_REQUIRE_BPF it fails there.
func needsWire(t *testing.T) {
	t.Helper()
	if _, err := probe.Check(probe.ModeAuto); err != nil {
		if os.Getenv("PERF_REQUIRE_BPF") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// streamer streams three chunks, fails in the middle on /v1/fail, and hangs on /v1/hang.
type streamer struct{ hung chan struct{} }

func (s streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // it was sent by this test
	w.Header().Set("Content-Type", "text/event-stream")
	flush := w.(http.Flusher).Flush
	switch r.URL.Path {
	case "/v1/hang":
		s.hung <- struct{}{}
		<-r.Context().Done()
		return
	case "/v1/fail":
		fmt.Fprint(w, "data: {\"error\": {\"message\": \"full\"}}\n\n")
		flush()
	default:
		for range 3 {
			fmt.Fprint(w, "data: {\"choices\":[{\"text\":\" a\"}]}\n\n")
			flush()
		}
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// A sidecar with the rights tells what the wire shows: latencies, failures inside HTTP 200, and a
// request that hangs, within seconds.
func TestSidecarSeesTheWire(t *testing.T) {
	needsWire(t)
	eng := streamer{hung: make(chan struct{}, 1)}
	l := listen(t, "127.0.0.1:0")
	server := &http.Server{Handler: eng}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	url := "http://" + l.Addr().String()
	s := startSidecar(t, oneEngine(url), fakeAdapters{})

	var mu sync.Mutex // guards what follows
	counters, origins, last := map[string]float64{}, map[string]string{}, time.Time{}
	look := func(f func(w *fleet.Window) bool) func() bool {
		return func() bool {
			w := s.agent.collector.Last(s.agent.instances[0].id)
			if w == nil {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			if w.Start.After(last) {
				last = w.Start
				for k, v := range w.Counters {
					counters[k] += v
				}
				for k, v := range w.Origin {
					origins[k] = v
				}
			}
			return f(w)
		}
	}
	eventually(t, "the first window", look(func(*fleet.Window) bool { return true }))
	for range 5 {
		post(t, t.Context(), url+"/v1/completions")
	}
	post(t, t.Context(), url+"/v1/fail")
	eventually(t, "five finished, one failed", look(func(*fleet.Window) bool {
		return counters[fleet.RequestsFinished] == 5 && counters[fleet.RequestsFailed] == 1 && counters[fleet.StreamChunks] == 15
	}))
	for _, m := range []string{fleet.TTFT, fleet.E2E, fleet.ITL} {
		if origins[m] != fleet.SourceProbe {
			t.Errorf("%s is from %q", m, origins[m])
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { post(t, ctx, url+"/v1/hang") })
	<-eng.hung
	eventually(t, "one in flight, although the engine's page says nothing", func() bool {
		soon, stop := context.WithTimeout(ctx, 10*time.Millisecond)
		defer stop()
		n, _ := s.agent.instances[0].inFlight(soon)
		return n == 1
	})
	eventually(t, "a request that hangs", look(func(w *fleet.Window) bool {
		return w.Gauges[fleet.RequestsOpenOver1s] == 1 && w.Gauges[fleet.OldestSilentSeconds] > 1
	}))
	cancel()
	wg.Wait()
	eventually(t, "given up", look(func(w *fleet.Window) bool {
		return counters[fleet.RequestsAborted] == 1 && w.Gauges[fleet.RequestsOpen] == 0
	}))
	if _, page := s.get(t, "/metrics"); !strings.Contains(page, "perf_agent_wire_observing 1") || !strings.Contains(page, "perf_agent_wire_lost_requests_total 0") {
		t.Errorf("metrics say %s", page)
	}
}

// post sends a request and reads its answer, or gives up with ctx.
func post(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, context.Canceled) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // the observer is what is tested
}

// Switched off, or without the rights, the agent goes on without.
func TestWithoutTheWire(t *testing.T) {
	cfg := oneEngine("https://127.0.0.1:1")
	log := slog.New(slog.DiscardHandler)
	if w := openWire(cfg, log); w != nil {
		t.Error("TLS is observed")
	}
	cfg = oneEngine("http://127.0.0.1:1")
	cfg.Wire = probe.ModeOff
	w := openWire(cfg, log)
	if w != nil || w.source(cfg.Engines[0]) != nil || w.run(t.Context()) != nil {
		t.Error("off, it observes")
	}
	w.close()
	if f := examineWire(cfg); f.ok || f.fatal || !strings.Contains(f.what, "wire is off") {
		t.Errorf("doctor says %+v", f)
	}
	cfg.Wire = "sometimes"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), `wire "sometimes"`) {
		t.Errorf("validated: %v", err)
	}
}
