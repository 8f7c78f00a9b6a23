package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// sidecar runs a whole agent against an engine and a control plane that need not be there yet.
type sidecar struct {
	agent *agent
	base  string // of its own HTTP server
}

func startSidecar(t *testing.T, cfg Config, all adapters) *sidecar {
	t.Helper()
	return startSidecarLogging(t, cfg, all, io.Discard)
}

// syncBuffer is what several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex // guards what follows
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startSidecarLogging(t *testing.T, cfg Config, all adapters, log io.Writer) *sidecar {
	t.Helper()
	cfg.DataDir, cfg.ScrapeInterval = t.TempDir(), 100*time.Millisecond
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dir.Close)
	a, err := newAgent(cfg, dir, all, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, "127.0.0.1:0")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &sidecar{agent: a, base: "http://" + l.Addr().String()}
}

func (s *sidecar) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(s.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (s *sidecar) ready(t *testing.T) bool {
	code, _ := s.get(t, "/ready")
	return code == http.StatusOK
}

func oneEngine(url string, controlPlane ...string) Config {
	cfg := DefaultConfig()
	e := defaultEngine()
	e.URL, e.Group, e.Drain = url, "chat", Drain{Timeout: 5 * time.Second, Settle: 10 * time.Millisecond}
	cfg.Engines, cfg.ControlPlane = []Engine{e}, controlPlane
	return cfg
}

// The life of a sidecar that is there before everything else: engine and control plane appear, the
// engine is restarted, it is drained and put back, the control plane goes away and comes back.
func TestSidecar(t *testing.T) {
	eng, node := &httpEngine{addr: freeAddr(t)}, &nodeServer{addr: freeAddr(t)}
	s := startSidecar(t, oneEngine("http://"+eng.addr, node.addr), fakeAdapters{"broken": nil, "fake": fakeAdapter{describe: describeFake}})
	if code, why := s.get(t, "/ready"); code != http.StatusServiceUnavailable || why == "" {
		t.Errorf("ready answers %d %q before there is an engine", code, why)
	}
	if code, _ := s.get(t, "/live"); code != http.StatusOK {
		t.Errorf("live answers %d", code)
	}

	eng.start(t)
	node.start(t)
	eventually(t, "in rotation", func() bool { return s.ready(t) })
	eventually(t, "described to the control plane", func() bool {
		return node.sees(func() bool { return node.engine.GetDescription().GetVersion() == "1.2.3" })
	})
	if e := node.engine; e.GetGroup() != "chat" || e.GetInstanceId() != s.agent.id+"/0" || e.GetBaseSettings()["seats"] != "8" || !strings.HasSuffix(e.GetReadyUrl(), "/ready") {
		t.Errorf("engine %v", e)
	}

	eventually(t, "first page read", func() bool { return !s.agent.instances[0].source.Status().Answered.IsZero() })
	eng.generate(70)
	eng.generate(30)
	eventually(t, "100 tokens", func() bool { return node.total(fleet.GenerationTokens) == 100 })

	eng.stop()
	eng.start(t)
	eng.generate(40)
	eventually(t, "40 tokens more after a restart of the engine", func() bool { return node.total(fleet.GenerationTokens) == 140 })
	eventually(t, "in rotation again", func() bool { return s.ready(t) })

	testDirectives(t, s, node)

	node.server.Stop()
	eng.generate(5)
	eventually(t, "noticed", func() bool { return !s.agent.reporter.Status().Connected })
	node.start(t)
	eng.generate(5)
	eventually(t, "nothing lost over the break", func() bool { return node.total(fleet.GenerationTokens) == 150 })
	node.mu.Lock()
	defer node.mu.Unlock()
	first := int64(1 << 62)
	for start := range node.windows {
		first = min(first, start)
	}
	for i := range int64(len(node.windows)) {
		if node.windows[first+i*1000] == nil {
			t.Errorf("the window %d s after the first is missing", i)
		}
	}
}

func testDirectives(t *testing.T, s *sidecar, node *nodeServer) {
	t.Helper()
	id := s.agent.id + "/0"
	directive := func(index uint64, action any) *agentv1.Directive {
		d := &agentv1.Directive{InstanceId: id, ClusterId: "c1", Group: "chat", Fence: &agentv1.Fence{Incarnation: 1, Index: index}}
		switch a := action.(type) {
		case *agentv1.Drain:
			d.Action = &agentv1.Directive_Drain{Drain: a}
		case *agentv1.Collect:
			d.Action = &agentv1.Directive_Collect{Collect: a}
		case *agentv1.Offer:
			d.Action = &agentv1.Directive_Offer{Offer: a}
		}
		return d
	}
	if a := node.direct(t, directive(11, &agentv1.Drain{Drained: true, Reason: "maintenance"})); a.GetResult() != agentv1.AckResult_ACK_RESULT_ACCEPTED {
		t.Fatalf("drain: %v", a)
	}
	if code, why := s.get(t, "/ready"); code != http.StatusServiceUnavailable || !strings.Contains(why, "maintenance") {
		t.Errorf("drained, ready answers %d %q", code, why)
	}
	eventually(t, "the state went up", func() bool {
		return node.sees(func() bool { return node.states[len(node.states)-1].GetDrained() })
	})
	node.direct(t, directive(12, &agentv1.Drain{Drained: false}))
	eventually(t, "back in rotation", func() bool { return s.ready(t) })

	body := &agentv1.Body{Engine: "fake", Settings: map[string]string{"seats": "16"}}
	offer := directive(13, &agentv1.Offer{Epoch: 13, BodyHash: fleet.BodyHash(body), Body: body})
	if a := node.direct(t, offer); a.GetResult() != agentv1.AckResult_ACK_RESULT_REFUSED || !strings.Contains(a.GetDetail(), "observed only") {
		t.Errorf("offer to an engine without a launcher: %v", a)
	}
	a := node.direct(t, directive(14, &agentv1.Collect{RequestId: "r"}))
	var w struct {
		InstanceID string `json:"instanceId"`
	}
	if err := json.Unmarshal(a.GetResultJson(), &w); err != nil || w.InstanceID != id {
		t.Errorf("collect: %v, %v", a, err)
	}
	stray := directive(15, &agentv1.Collect{})
	stray.InstanceId = "somebody/else"
	if a := node.direct(t, stray); a.GetResult() != agentv1.AckResult_ACK_RESULT_REFUSED || !strings.Contains(a.GetDetail(), id) {
		t.Errorf("a stranger's directive: %v", a)
	}
}

func TestNodeAgentAnswersPerEngine(t *testing.T) {
	one, two := &httpEngine{addr: freeAddr(t)}, &httpEngine{addr: freeAddr(t)}
	one.start(t)
	cfg := oneEngine("http://" + one.addr)
	second := cfg.Engines[0]
	second.Name, second.URL = "b", "http://"+two.addr
	cfg.Engines = append(cfg.Engines, second)
	s := startSidecar(t, cfg, fakeAdapters{"fake": fakeAdapter{describe: describeFake}})
	eventually(t, "the first engine in rotation", func() bool { code, _ := s.get(t, "/ready/0"); return code == http.StatusOK })
	if code, why := s.get(t, "/ready"); code != http.StatusServiceUnavailable || !strings.HasPrefix(why, "b: ") {
		t.Errorf("ready answers %d %q while one of two serves", code, why)
	}
	if code, _ := s.get(t, "/ready/b"); code != http.StatusServiceUnavailable {
		t.Errorf("the engine that is down: %d", code)
	}
	if code, why := s.get(t, "/ready/c"); code != http.StatusNotFound || !strings.Contains(why, s.agent.id+"/b") {
		t.Errorf("an unknown engine: %d %q", code, why)
	}
	eventually(t, "status and metrics tell", func() bool {
		_, raw := s.get(t, "/status")
		var st statusReport
		if err := json.Unmarshal([]byte(raw), &st); err != nil {
			t.Fatal(err)
		}
		_, metrics := s.get(t, "/metrics")
		return len(st.Engines) == 2 && st.Engines[0].Serving && st.Engines[0].Model == "tiny" && len(st.Engines[0].Sources) > 0 &&
			!st.Engines[0].Sources[0].Stale && st.Engines[1].Reason != "" &&
			strings.Contains(metrics, `perf_agent_serving{engine="0",group="chat"} 1`) &&
			strings.Contains(metrics, `perf_agent_phase{engine="b",group="chat",phase="idle"} 1`)
	})
	problems, err := testutil.GatherAndLint(s.agent.registry())
	if err != nil || len(problems) > 0 {
		t.Errorf("promtool check metrics would say: %v, %v", problems, err)
	}
}

// TestWhatThePageDoesNotTell: a page without a series that answers rest on is told once in the log, in
// /status and in the window.
func TestWhatThePageDoesNotTell(t *testing.T) {
	e := &httpEngine{addr: freeAddr(t)}
	e.start(t)
	without := func(target *engine.Target) (*engine.Description, error) {
		d, err := describeFake(target)
		d.Signals = append(d.Signals, &engine.Signal{Signal: fleet.KVUsage, Series: "f:usage", Kind: engine.Gauge})
		return d, err
	}
	const words = "the metrics page does not tell how full the KV cache is (no f:usage)"
	log := &syncBuffer{}
	s := startSidecarLogging(t, oneEngine("http://"+e.addr), fakeAdapters{"fake": fakeAdapter{describe: without}}, log)
	eventually(t, "status warns", func() bool {
		_, raw := s.get(t, "/status")
		var st statusReport
		if err := json.Unmarshal([]byte(raw), &st); err != nil {
			t.Fatal(err)
		}
		in := st.Engines[0]
		return len(in.Sources) > 0 && in.Sources[0].Warning == words && !in.Sources[0].AnsweredAt.IsZero() && slices.Equal(in.MissingSignals, []string{fleet.KVUsage})
	})
	eventually(t, "the log tells", func() bool { return strings.Contains(log.String(), words) })
	w := s.agent.collector.Last(s.agent.instances[0].id)
	if src := w.Sources[0]; src.GetWarning() != words || src.GetStale() || src.GetError() != "" {
		t.Errorf("the window's source: %v", src)
	}
	eventually(t, "two windows later", func() bool {
		return s.agent.collector.Last(s.agent.instances[0].id).Start.Sub(w.Start) >= 2*time.Second
	})
	if n := strings.Count(log.String(), words); n != 1 {
		t.Errorf("told %d times", n)
	}
}
