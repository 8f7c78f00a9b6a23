package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// TestTestsRunOnce: asked again under the same id, a test is not run again; another one waits its
// turn; one that is cancelled says so to all who wait.
func TestTestsRunOnce(t *testing.T) {
	var desk tests
	var ran atomic.Int32
	begun, release := make(chan struct{}), make(chan struct{})
	run := func(ctx context.Context) ([]byte, error) {
		ran.Add(1)
		close(begun)
		select {
		case <-release:
			return []byte("figures"), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	results := make(chan string, 2)
	ask := func() {
		b, err := desk.do(t.Context(), "t-1/1", run)
		if err != nil {
			results <- err.Error()
			return
		}
		results <- string(b) + "<nil>"
	}
	latest := func() chan struct{} {
		desk.mu.Lock()
		defer desk.mu.Unlock()
		return desk.runs["t-1/1"].latest
	}
	go ask()
	<-begun
	before := latest()
	go ask()
	if _, err := desk.do(t.Context(), "t-2/1", run); err == nil || !strings.Contains(err.Error(), "t-1/1 runs on this engine") {
		t.Errorf("a second test: %v", err)
	}
	eventually(t, "asked twice", func() bool { return latest() != before })
	close(release)
	got := []string{<-results, <-results}
	if slices.Sort(got); got[0] != "figures<nil>" || got[1] != errAskedAgain.Error() {
		t.Errorf("the last to ask alone gets the result: %q", got)
	}
	if b, err := desk.do(t.Context(), "t-1/1", run); string(b) != "figures" || err != nil || ran.Load() != 1 {
		t.Errorf("asked later: %q, %v, ran %d times", b, err, ran.Load())
	}

	begun, release = make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() { _, err := desk.do(t.Context(), "t-3/1", run); ended <- err }()
	<-begun
	if !desk.cancel("t-3/1") || desk.cancel("t-9/1") {
		t.Error("cancel does not tell what ran")
	}
	if err := <-ended; !errors.Is(err, errTestCancelled) {
		t.Errorf("cancelled: %v", err)
	}
	if desk.cancel("t-3/1") {
		t.Error("cancelled what has ended")
	}
}

func planJSON(t *testing.T) []byte {
	t.Helper()
	raw, err := json.Marshal(load.Plan{Arrivals: load.Constant, Rate: 50, Duration: .4, Prompt: workload.Fixed(3), Output: workload.Fixed(1)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestLoadTestNeedsConsent: an engine that serves users gets load when it is drained, for staging, or
// when somebody named accepts it.
func TestLoadTestNeedsConsent(t *testing.T) {
	mux := http.NewServeMux()
	var synthetic, other atomic.Int32
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /probe", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"text":"Paris"}`) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Perf-Synthetic") == "1" {
			synthetic.Add(1)
		} else {
			other.Add(1)
		}
		fmt.Fprint(w, `data: {"choices":[{"text":" a"}]}`+"\n\n"+"data: [DONE]\n\n")
	})
	eng := httptest.NewServer(mux)
	t.Cleanup(eng.Close)
	s := startSidecar(t, oneEngine(eng.URL), fakeAdapters{"fake": fakeAdapter{describe: describeFake}})
	eventually(t, "in rotation", func() bool { return s.ready(t) })
	in := s.agent.instances[0]
	test := func(id, consent string) (*load.Report, *agentv1.Ack) {
		ack := s.agent.Handle(t.Context(), &agentv1.Directive{InstanceId: in.id, Action: &agentv1.Directive_LoadTest{
			LoadTest: &agentv1.LoadTest{TestId: id, PlanJson: planJSON(t), Consent: consent},
		}})
		if ack.GetTestId() != id {
			t.Errorf("test %q answers as %q", id, ack.GetTestId())
		}
		if ack.GetResult() != agentv1.AckResult_ACK_RESULT_ACCEPTED {
			return nil, ack
		}
		var r load.Report
		if err := json.Unmarshal(ack.GetResultJson(), &r); err != nil || r.Check() != nil {
			t.Fatal(err, r.Check())
		}
		return &r, ack
	}

	if r, ack := test("a", ""); r != nil || !strings.Contains(ack.GetDetail(), "serves users: drain it") || synthetic.Load() != 0 {
		t.Fatalf("a load test in production: %v", ack)
	}
	r, ack := test("b", "kim")
	if r == nil {
		t.Fatal(ack)
	}
	if r.Summary.Succeeded != 20 || r.Engine.Kind != "fake" || r.Engine.Instance != in.id || synthetic.Load() != 20 || other.Load() != 0 {
		t.Errorf("with consent: %d requests, %d unmarked, %+v", synthetic.Load(), other.Load(), r)
	}
	in.cfg.Staging = true
	if r, ack := test("c", ""); r == nil {
		t.Errorf("for staging: %v", ack)
	}
	in.cfg.Staging = false
	drain := &agentv1.Directive{InstanceId: in.id, Group: "chat", Fence: &agentv1.Fence{Incarnation: 1, Index: 3}, Action: &agentv1.Directive_Drain{Drain: &agentv1.Drain{Drained: true}}}
	if ack := s.agent.Handle(t.Context(), drain); ack.GetResult() != agentv1.AckResult_ACK_RESULT_ACCEPTED {
		t.Fatal(ack)
	}
	if r, ack := test("d", ""); r == nil {
		t.Errorf("drained: %v", ack)
	}
}

// TestOldLoadTest: a control plane of before plans names a rate and two lengths.
func TestOldLoadTest(t *testing.T) {
	if _, err := planOf(&agentv1.LoadTest{RequestsPerSecond: 3}); err == nil {
		t.Error("a test without a duration is taken")
	}
	if _, err := planOf(&agentv1.LoadTest{PlanJson: []byte("{")}); err == nil {
		t.Error("half a plan is taken")
	}
}
