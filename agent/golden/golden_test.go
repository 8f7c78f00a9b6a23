package golden

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/quality"
)

// simulated starts a simulated engine and returns its address.
func simulated(t *testing.T, kind string, flags ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	own := map[string][]string{
		"vllm":   {"vllm", "serve", "m", "--host", "127.0.0.1", "--port", port},
		"sglang": {"python", "-m", "sglang.launch_server", "--model-path", "m", "--host", "127.0.0.1", "--port", port},
		"tgi":    {"text-generation-launcher", "--model-id", "m", "--hostname", "127.0.0.1", "--port", port},
	}[kind]
	args := append([]string{"--dialect", kind, "--sim-start-scale", "0", "--sim-gpus", "1", "--"}, append(own, flags...)...)
	ctx, stop := context.WithCancel(context.Background())
	var out bytes.Buffer
	var running sync.WaitGroup
	running.Go(func() { enginesim.Main(ctx, args, io.Discard, &out) })
	t.Cleanup(func() { stop(); running.Wait() })
	url := "http://127.0.0.1:" + port
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Get(url + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return url
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come up: %v %s", kind, err, out.String())
		}
		<-time.After(20 * time.Millisecond)
	}
}

func short() []quality.Question {
	qs := quality.Questions(nil)
	for i := range qs {
		qs[i].MaxTokens = 4
	}
	return qs
}

func ask1(t *testing.T, kind, url string, qs []quality.Question) []quality.Answer {
	t.Helper()
	a, err := New(kind, url, "m", http.Header{"X-Perf-Synthetic": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Ask(t.Context(), qs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestSimulatedEngines: on all engines a cache in the format that hardly loses anything passes, one in
// the format that loses much does not, and an engine that does not tell log-probabilities cannot be
// judged.
func TestSimulatedEngines(t *testing.T) {
	for _, c := range []struct {
		kind       string
		flags      []string
		good, poor []string
	}{
		{"vllm", nil, []string{"--kv-cache-dtype", "fp8_e4m3"}, []string{"--kv-cache-dtype", "fp8_e5m2"}},
		{"sglang", nil, []string{"--kv-cache-dtype", "fp8_e4m3"}, []string{"--kv-cache-dtype", "fp8_e5m2"}},
		{"tgi", []string{"--enable-prefill-logprobs"}, []string{"--kv-cache-dtype", "fp8_e4m3fn"}, []string{"--kv-cache-dtype", "fp8_e5m2"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			qs := short()
			base := simulated(t, c.kind, c.flags...)
			first := ask1(t, c.kind, base, qs)
			forced := quality.Force(qs, first)
			again := ask1(t, c.kind, base, forced)
			good := quality.Judge(qs, first, again, ask1(t, c.kind, simulated(t, c.kind, append(c.good, c.flags...)...), forced), load.Quality{})
			if !good.Passed || good.SelfAgreement != 1 || good.LogprobNoise != 0 || good.LogprobDiff == 0 || good.LogprobDiff > .02 || good.ForcedTokens < 3*200 {
				t.Errorf("good: %+v", good)
			}
			poor := quality.Judge(qs, first, again, ask1(t, c.kind, simulated(t, c.kind, append(c.poor, c.flags...)...), forced), load.Quality{})
			if poor.Passed || !poor.Ran || poor.Agreement > .8 || poor.LogprobDiff < .1 || !strings.Contains(poor.Words, "log-probabilities differ") {
				t.Errorf("poor: %+v", poor)
			}
		})
	}
	t.Run("tgi without log-probabilities", func(t *testing.T) {
		t.Parallel()
		qs := short()
		got := ask1(t, "tgi", simulated(t, "tgi"), qs)
		if j := quality.Judge(qs, got, got, got, load.Quality{}); j.Passed || j.Ran || !strings.Contains(j.Words, "--enable-prefill-logprobs") {
			t.Errorf("%+v", j)
		}
	})
}

// TestBadAnswers: what an engine answers amiss is in the answers, in words; what forbids the test ends
// it.
func TestBadAnswers(t *testing.T) {
	if _, err := New("other", "http://a", "m", nil); err == nil {
		t.Error("an unknown kind is asked")
	}
	qs := short()[:6]
	for kind, body := range map[string]string{
		"vllm": `{"choices":[]}`, "sglang": `{"text":"a","meta_info":{"input_token_logprobs":[[null]]}}`, "tgi": `{"generated_text":"a","details":{"tokens":[]}}`,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		for _, a := range ask1(t, kind, s.URL, qs) {
			if a.Error == "" && a.LogprobError == "" {
				t.Errorf("%s: %+v", kind, a)
			}
		}
		s.Close()
		for _, a := range ask1(t, kind, s.URL, qs) {
			if !strings.Contains(a.Error, "refused") {
				t.Errorf("%s, gone: %+v", kind, a)
			}
		}
	}
	a, err := New("vllm", "http://127.0.0.1:1", "m", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ask(t.Context(), qs, func() string { return "it serves users again" }); err == nil || err.Error() != "it serves users again" {
		t.Errorf("forbidden: %v", err)
	}
}
