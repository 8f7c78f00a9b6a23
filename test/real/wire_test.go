//go:build real

package real

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// The live streams that the observer is held against.
const (
	wireClients  = 4
	wireEach     = 40 // requests of each
	wireTokens   = 30
	wireP99Limit = time.Millisecond
	// wireNear is how far apart client and observer may put the beginning of one request.
	wireNear = 200 * time.Millisecond
)

// wireFlags make SGLang refuse what is more than it runs and queues.
var wireFlags = map[engine.Kind][]string{
	engine.VLLM:   {"--no-enable-prefix-caching"},
	engine.SGLang: {"--disable-radix-cache", "--max-running-requests", "16", "--max-queued-requests", "8"},
}

// TestWire holds what the observer sees of live streams against the client's clock, the engine's
// usage and its own count of running requests, and fails requests inside HTTP 200.
func TestWire(t *testing.T) {
	if _, err := probe.Check(probe.ModePacket); err != nil {
		if os.Getenv("PERF_REQUIRE_BPF") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	w := &wireTest{t: t, engine: start(t, engine.Options{Core: 0, Flags: wireFlags[kind(t)]})}
	w.apart()
	w.observe()
	for range 2 { // compiles, caches
		w.ask(newWireClient(t, w.engine.URL), "/v1/completions", wireTokens)
	}
	w.drain(2)
	t.Run("completions", func(t *testing.T) { w.streams(t, "/v1/completions") })
	t.Run("chat", func(t *testing.T) { w.streams(t, "/v1/chat/completions") })
	t.Run("in flight", w.inFlight)
	t.Run("errors inside 200", w.failures)
}

// wireTest is an engine with an observer beside it.
type wireTest struct {
	t        *testing.T
	engine   *engine.Process
	endpoint probe.Endpoint
	observer *probe.Observer
}

// apart gives the client a core of its own, and the first turn there: what it waits for a core is no
// error of the observer's.
func (w *wireTest) apart() {
	w.t.Helper()
	var engines, own unix.CPUSet
	engines.Set(0)
	own.Set(1)
	pin := func(pid int, to *unix.CPUSet, nice int) {
		tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*"))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(filepath.Base(task))
			if err != nil {
				w.t.Fatal(err)
			}
			if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) {
				w.t.Fatalf("a core for process %d: %v", pid, err)
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				w.t.Fatalf("the priority of process %d: %v", pid, err)
			}
		}
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		w.t.Fatal(err)
	}
	for _, pid := range w.engine.Members() {
		pin(pid, &engines, 0)
	}
	pin(os.Getpid(), &own, -15)
	w.t.Cleanup(func() { pin(os.Getpid(), &before, 0) })
}

func (w *wireTest) observe() {
	u, err := url.Parse(w.engine.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		w.t.Fatal(err)
	}
	w.endpoint = probe.Endpoint{Port: uint16(port)}
	if w.observer, err = probe.Open(probe.DefaultConfig(w.endpoint), slog.New(slog.DiscardHandler)); err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.observer.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ran, w.observer.Close()); err != nil {
			w.t.Error(err)
		}
	})
}

// ask streams one answer of so many tokens.
func (w *wireTest) ask(c *wireClient, path string, tokens int) wireAnswer {
	body := map[string]any{
		"model": engine.Model, "stream": true, "max_tokens": tokens, "ignore_eos": true, "temperature": 0,
		"stream_options": map[string]any{"include_usage": true},
	}
	const words = "the quick brown fox jumps over the lazy dog "
	if strings.Contains(path, "chat") {
		body["messages"] = []map[string]string{{"role": "user", "content": words}}
	} else {
		body["prompt"] = words
	}
	a, err := c.post(path, body)
	if err != nil {
		w.t.Error(err)
	}
	return a
}

// drain waits until n users' requests have ended, and returns them with the chunks seen meanwhile.
func (w *wireTest) drain(n int) (seen []probe.Request, chunks uint64) {
	w.t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := w.observer.Drain(w.endpoint)
		chunks += s.Chunks
		for _, r := range s.Requests {
			if r.Class == probe.ClassInference {
				seen = append(seen, r)
			}
		}
		if len(seen) >= n || time.Now().After(limit) {
			return seen, chunks
		}
	}
}

// together asks by several clients, each on one connection.
func (w *wireTest) together(clients, each int, ask func(c *wireClient) wireAnswer) (answers []wireAnswer) {
	var mu sync.Mutex // guards answers
	var wg sync.WaitGroup
	for range clients {
		c := newWireClient(w.t, w.engine.URL)
		wg.Go(func() {
			for range each {
				a := ask(c)
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return answers
}

// streams compares times with the client's clock, chunks with what the client got, and tokens with
// the engine's usage.
func (w *wireTest) streams(t *testing.T, path string) {
	before := w.generated()
	answers := w.together(wireClients, wireEach, func(c *wireClient) wireAnswer { return w.ask(c, path, wireTokens) })
	seen, chunks := w.drain(len(answers))
	if len(seen) != len(answers) {
		t.Fatalf("%d of %d requests were seen", len(seen), len(answers))
	}
	ratio := (w.generated() - before) / float64(chunks)
	var ttft, e2e []time.Duration
	var worst float64
	for _, a := range answers {
		r := twin(t, &seen, a)
		if r.Status != 200 || a.status != 200 || !r.Stream || !r.Done || r.Failed() || r.Outcome != probe.Completed || int(r.Chunks) != a.text() || int(r.Parts) != len(a.chunks) {
			t.Errorf("seen %+v of an answer of %d chunks, %d with text", r, len(a.chunks), a.text())
		}
		if a.usage() != wireTokens {
			t.Errorf("usage tells of %d tokens, want %d", a.usage(), wireTokens)
		}
		ttft = append(ttft, (r.FirstChunk.Sub(r.Start) - a.first.Sub(a.sent)).Abs())
		e2e = append(e2e, (r.Last.Sub(r.Start) - a.last.Sub(a.sent)).Abs())
		worst = max(worst, math.Abs(float64(r.Chunks)*ratio/float64(a.usage())-1))
	}
	slices.Sort(ttft)
	slices.Sort(e2e)
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("%s: error of TTFT p50 %v p99 %v, of E2E p50 %v p99 %v; %d requests, %d chunks, %.3f tokens per chunk; tokens of a request off by %.1f %% at most",
		path, ttft[len(ttft)/2], p99(ttft), e2e[len(e2e)/2], p99(e2e), len(answers), chunks, ratio, 100*worst)
	if p99(ttft) > wireP99Limit || p99(e2e) > wireP99Limit {
		t.Errorf("p99 error of TTFT %v, of E2E %v, want at most %v", p99(ttft), p99(e2e), wireP99Limit)
	}
	// Every request has one chunk for its usage and at most one for its role: both make tokens per chunk
	// too small for all alike. What is left is how unevenly chunks take several tokens.
	if worst > .05 {
		t.Errorf("tokens estimated from chunks are off by %.1f %% of usage", 100*worst)
	}
}

// twin takes the request out of seen that is the client's.
func twin(t *testing.T, seen *[]probe.Request, a wireAnswer) probe.Request {
	t.Helper()
	i := slices.IndexFunc(*seen, func(r probe.Request) bool { return r.Client == a.client && r.Start.Sub(a.sent).Abs() < wireNear })
	if i < 0 {
		t.Fatalf("no request was seen from %v at %v", a.client, a.sent)
	}
	r := (*seen)[i]
	*seen = slices.Delete(*seen, i, i+1)
	return r
}

// inFlight compares open requests with the engine's count of what it runs, while nothing comes or goes.
func (w *wireTest) inFlight(t *testing.T) {
	const n, tokens = 6, 600
	var wg sync.WaitGroup
	wg.Go(func() {
		w.together(n, 1, func(c *wireClient) wireAnswer { return w.ask(c, "/v1/completions", tokens) })
	})
	agreed, compared := 0, 0
	for limit := time.Now().Add(30 * time.Second); compared < 5 && time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		before := w.observer.InFlight(w.endpoint)
		engine := w.running(t)
		if after := w.observer.InFlight(w.endpoint); before != n || after != n {
			continue
		}
		compared++
		if engine == n {
			agreed++
		}
		t.Logf("%d open requests on the wire, %d in the engine", before, engine)
	}
	wg.Wait()
	if seen, _ := w.drain(n); len(seen) != n {
		t.Errorf("%d of %d requests were seen", len(seen), n)
	}
	if left := w.observer.InFlight(w.endpoint); left != 0 {
		t.Errorf("%d requests are in flight after the last", left)
	}
	if compared < 3 || agreed < compared-1 {
		t.Errorf("the wire agreed with the engine %d times of %d", agreed, compared)
	}
}

var (
	vllmLoad    = regexp.MustCompile(`(?m)^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([0-9.e+]+)$`)
	sglangLoad  = regexp.MustCompile(`"num_(?:running|waiting)_reqs":\s*([0-9]+)`)
	tokensTotal = regexp.MustCompile(`(?m)^(?:vllm|sglang):generation_tokens_total\{[^}]*\} ([0-9.e+]+)$`)
)

// running is how many requests the engine says it has.
func (w *wireTest) running(t *testing.T) int {
	t.Helper()
	if kind(t) == engine.SGLang {
		return int(sum(sglangLoad, w.page("/v1/loads?include=core")))
	}
	return int(sum(vllmLoad, w.page("/metrics")))
}

// generated is the engine's count of generated tokens.
func (w *wireTest) generated() float64 { return sum(tokensTotal, w.page("/metrics")) }

func (w *wireTest) page(path string) string {
	w.t.Helper()
	res, err := http.Get(w.engine.URL + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(raw)
}

func sum(series *regexp.Regexp, page string) (total float64) {
	for _, m := range series.FindAllStringSubmatch(page, -1) {
		v, _ := strconv.ParseFloat(m[1], 64) // the expression matches numbers
		total += v
	}
	return total
}

// failures makes the engine fail inside streams of status 200: SGLang refuses what its queue does not
// take, vLLM loses its engine core. The observer must tell each of them from a success.
func (w *wireTest) failures(t *testing.T) {
	n, tokens := 60, 8
	if kind(t) == engine.VLLM {
		n, tokens = 8, 400
	}
	var answers []wireAnswer
	var wg sync.WaitGroup
	wg.Go(func() {
		answers = w.together(n, 1, func(c *wireClient) wireAnswer { return w.ask(c, "/v1/completions", tokens) })
	})
	if kind(t) == engine.VLLM {
		w.loseCore(t, n)
	}
	wg.Wait()
	seen, _ := w.drain(n)
	if len(seen) != n {
		t.Errorf("%d of %d requests were seen", len(seen), n)
	}
	failed := 0
	for _, a := range answers {
		r := twin(t, &seen, a)
		bad := a.failed() || a.cut
		if bad {
			failed++
		}
		if r.Status != a.status || r.Failed() != bad || r.StreamError != a.failed() {
			t.Errorf("the client saw failed %v (cut %v) with status %d, the observer %+v", a.failed(), a.cut, a.status, r)
		}
	}
	t.Logf("%d of %d streams failed inside status 200", failed, n)
	if failed == 0 || kind(t) == engine.VLLM && failed != n {
		t.Errorf("%d of %d streams failed", failed, n)
	}
}

// loseCore kills vLLM's engine core when n streams have begun.
func (w *wireTest) loseCore(t *testing.T, n int) {
	t.Helper()
	begun := func() (n int) {
		for _, r := range w.observer.Drain(w.endpoint).Open { // none has ended
			if r.Answering {
				n++
			}
		}
		return n
	}
	for limit := time.Now().Add(30 * time.Second); begun() < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d of %d streams began", begun(), n)
		}
	}
	if err := syscall.Kill(member(t, w.engine, "VLLM::EngineCor"), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
