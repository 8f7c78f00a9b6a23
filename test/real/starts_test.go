//go:build real

package real

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/controlplane/client"
	pkgengine "github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
	"github.com/optiinfra/performance-agent/test/real/engine"
	"github.com/optiinfra/performance-agent/test/real/inject"
)

// badStart is a command line that an engine refuses.
type badStart struct {
	name  string
	flags []string
	kind  enginev1.FailureKind
	words []string // in what the adapter says
	stays bool     // it neither serves nor ends
}

var badStarts = map[engine.Kind][]badStart{
	engine.VLLM: {
		{"unknown flag", []string{"--nonsense"}, pkgengine.BadFlag, []string{"--nonsense"}, false},
		{"budget below sequences", []string{"--max-num-batched-tokens", "16", "--max-num-seqs", "32"}, pkgengine.BadValue, []string{"16", "32"}, false},
		{"context above the model's", []string{"--max-model-len", "999999"}, pkgengine.BadValue, []string{"999999"}, false},
		{"no room for the cache", []string{"--num-gpu-blocks-override", "1"}, pkgengine.KVTooSmall, []string{"KV cache"}, false},
		{"no such model", []string{"--tokenizer", "/nowhere/model"}, pkgengine.ModelFault, nil, false},
		{"port taken", nil, pkgengine.PortTaken, nil, false},
	},
	engine.SGLang: {
		{"unknown flag", []string{"--nonsense"}, pkgengine.BadFlag, []string{"--nonsense"}, false},
		{"exclusive flags", []string{"--enable-hierarchical-cache", "--disable-radix-cache"}, pkgengine.BadValue, []string{"hierarchical", "radix"}, false},
		{"no such model", []string{"--model-path", "/nowhere/model"}, pkgengine.ModelFault, nil, false},
		{"port taken", nil, pkgengine.PortTaken, nil, true},
	},
}

// TestBadStarts starts the engine badly: it ends by itself, and the adapter's signatures turn what its
// log says into words.
func TestBadStarts(t *testing.T) {
	d, err := pluginOf(t).Describe(t.Context(), &pkgengine.Target{Version: engine.Versions[kind(t)]})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range badStarts[kind(t)] {
		t.Run(b.name, func(t *testing.T) {
			o := engine.Options{Core: 0, Flags: b.flags}
			if b.kind == pkgengine.PortTaken {
				o.Port = occupy(t)
			}
			p, err := recipe(t).Start(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			began := time.Now()
			found := explained(t, p, d, b.stays)
			t.Logf("after %.0f s: %s", time.Since(began).Seconds(), found[0].Words)
			if b.stays && !found[0].Fatal {
				t.Error("an engine that stays must be taken for dead by its log")
			}
			if found[0].Kind != b.kind {
				t.Errorf("kind %v, want %v; the line was %q", found[0].Kind, b.kind, found[0].Line)
			}
			for _, w := range b.words {
				if !strings.Contains(found[0].Words, w) {
					t.Errorf("%q does not name %q", found[0].Words, w)
				}
			}
		})
	}
}

// explained waits until the engine has ended, or where it stays until its log tells, and returns what
// the signatures find.
func explained(t *testing.T, p *engine.Process, d *pkgengine.Description, stays bool) []pkgengine.Explained {
	t.Helper()
	limit := time.After(engine.StartLimit)
	for {
		exited := false
		select {
		case <-p.Exited():
			exited = true
		case <-limit:
			t.Fatalf("it runs; its last lines:\n%s", p.Tail(2000))
		case <-time.After(500 * time.Millisecond):
		}
		if exited && stays {
			t.Fatalf("it ended with %d: it is said to stay", p.ExitCode())
		}
		if !exited && !stays {
			continue
		}
		log, err := os.ReadFile(p.Log)
		if err != nil {
			t.Fatal(err)
		}
		found := pkgengine.Explain(d, log)
		if len(found) > 0 {
			return found
		}
		if exited {
			t.Fatalf("exit %d, and no signature fits:\n%s", p.ExitCode(), p.Tail(2000))
		}
	}
}

// occupy listens on a port until the test ends.
func occupy(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// TestDrain asks a loaded engine to end, as the launcher does: what runs and what waits is answered
// whole, and health lies meanwhile, in each engine in its own way, so that readiness must not ask it.
func TestDrain(t *testing.T) {
	flags := map[engine.Kind][]string{
		engine.VLLM:   {"--max-num-seqs", "4", "--shutdown-timeout", "60"},
		engine.SGLang: {"--max-running-requests", "4"},
	}[kind(t)]
	p := start(t, engine.Options{Core: 0, Flags: flags})
	var mu sync.Mutex
	var records []loadtest.Record
	const requests = 12
	shape := inject.Shape{Rate: 200, OwnTokens: 10, OutputTokens: 150, Seed: 9}
	runner, err := loadtest.New(loadtest.Config{
		Targets: []loadtest.Target{{URL: p.URL, API: loadtest.OpenAICompletions}}, Source: first(shape.Source(time.Hour), requests),
		Model: engine.Model, DrainWait: time.Minute,
		OnRecord: func(r loadtest.Record) { mu.Lock(); defer mu.Unlock(); records = append(records, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	load.Go(func() {
		if err := runner.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	const running = 4
	waitFor(t, "four requests run and all others wait in the engine", 20*time.Second, func() bool {
		waiting := map[engine.Kind]string{engine.VLLM: "vllm:num_requests_waiting{", engine.SGLang: "sglang:num_queue_reqs{"}[kind(t)]
		return gaugeAbove(pageOf(t, p), waiting, requests-running-1)
	})
	began := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	health := map[int]int{}
	refused, accepted := 0, 0
	for alive := true; alive; {
		select {
		case <-p.Exited():
			alive = false
		case <-time.After(250 * time.Millisecond):
			health[statusOf(t, http.MethodGet, p.URL+"/health", "")]++
			switch code := statusOf(t, http.MethodPost, p.URL+"/v1/completions", `{"model":"`+engine.Model+`","prompt":"a","max_tokens":1}`); {
			case code == http.StatusOK:
				accepted++
			case code > 0:
				refused++
			}
		}
	}
	load.Wait()
	t.Logf("ended after %.1f s, exit %d; /health meanwhile: %v; new requests: %d taken, %d refused with a status", time.Since(began).Seconds(), p.ExitCode(), health, accepted, refused)
	for _, r := range records {
		if r.Failed != "" {
			t.Errorf("request %d, which was in the engine, was cut: %s %s", r.Number, r.Failed, r.Detail)
		}
	}
	if len(records) != requests {
		t.Errorf("%d of %d requests ended", len(records), requests)
	}
	switch kind(t) {
	case engine.VLLM: // healthy to the end, and refuses
		if health[http.StatusOK] == 0 || health[http.StatusServiceUnavailable] > 0 || refused == 0 {
			t.Error("want /health 200 all the while and new requests refused")
		}
	case engine.SGLang: // unhealthy at once, and takes what comes
		if health[http.StatusServiceUnavailable] == 0 || accepted == 0 {
			t.Error("want /health 503 and new requests taken")
		}
	}
}

// statusOf asks once; 0 when nobody answers.
func statusOf(t *testing.T, method, url, body string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

// gaugeAbove reports whether a sample that begins so is above v.
func gaugeAbove(page, sample string, v float64) bool {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, sample) {
			fields := strings.Fields(line)
			if got, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil && got > v {
				return true
			}
		}
	}
	return false
}

func waitFor(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := client.Wait(ctx, 50*time.Millisecond, func(context.Context) (bool, error) { return done(), nil })
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%s: not within %s", what, limit)
	}
	if err != nil {
		t.Fatal(err)
	}
}
