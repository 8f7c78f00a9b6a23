package enginesim

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// drainCase is what a stopping engine does to running requests, to /health and to newcomers.
func TestDrain(t *testing.T) {
	cases := []struct {
		name, dialect string
		flags         []string
		health        int // 0: connection refused
		newcomer      int
		says          string // in the newcomer's answer
		finishes      bool
	}{
		{"with timeout", "vllm", []string{"--shutdown-timeout", "20"}, 200, 200, `"finish_reason":"abort"`, true},
		{"default aborts", "vllm", nil, -1, -1, "", false},
		{"drains", "sglang", nil, 503, 200, `"finish_reason":"length"`, true},
		{"closes the port", "tgi", nil, 0, 0, "", true},
	}
	for _, c := range cases {
		t.Run(c.dialect+"/"+c.name, func(t *testing.T) {
			p := start(t, c.dialect, c.flags...)
			type result struct {
				events []event
				err    error
			}
			done := make(chan result, 1)
			go func() {
				_, events, err := p.stream(t.Context(), "/v1/completions", completion(5, 60, true))
				done <- result{events, err}
			}()
			p.until("the stream runs", func() bool { _, page := p.get("/metrics"); return running(page) })
			p.cancel()
			if c.health >= 0 {
				p.until("health says so", func() bool { return p.status(http.MethodGet, "/health", "") == c.health })
				if c.dialect == "vllm" { // whose health is the same before
					p.until("it drains", func() bool { return strings.Contains(p.out.String(), "[shutdown] draining") })
				}
				if got := p.status(http.MethodPost, "/v1/completions", completion(3, 1, false)); got != c.newcomer {
					t.Errorf("newcomer got %d, want %d", got, c.newcomer)
				}
				if c.says != "" {
					if _, body := p.post("/v1/completions", completion(3, 1, false)); !strings.Contains(body, c.says) {
						t.Errorf("newcomer got %s, want %s", body, c.says)
					}
				}
			}
			r := <-done
			whole := r.err == nil && len(r.events) > 0 && r.events[len(r.events)-1].data == "[DONE]"
			if whole != c.finishes {
				t.Errorf("running stream whole: %v (%d events, %v), want %v", whole, len(r.events), r.err, c.finishes)
			}
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func running(page string) bool {
	for _, zero := range []string{`vllm:num_requests_running{engine="0",model_name="m"} 0.0`, "tgi_batch_current_size 0"} {
		if strings.Contains(page, zero) {
			return false
		}
	}
	return strings.Contains(page, "vllm:") || strings.Contains(page, "tgi_batch_current_size") || strings.Contains(page, `sglang:num_running_reqs{engine_type="unified",model_name="m",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 1.0`)
}

// status of a request on a fresh connection; 0 when none can be made.
func (p *process) status(method, path, body string) int {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	req, _ := http.NewRequest(method, p.url+path, strings.NewReader(body))
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestGraceEndsATGIDrain(t *testing.T) {
	p := start(t, "tgi", "-g", "1")
	release := occupy(p, "/v1/completions", 1, completion(5, 4000, true))
	defer release()
	p.until("the stream runs", func() bool { _, page := p.get("/metrics"); return running(page) })
	began := time.Now()
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d, want 0 though a stream was cut", code)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopped after %v, want about 1 s", took)
	}
}

func TestStarting(t *testing.T) {
	scale := []string{"--sim-start-scale", "0.02"}
	t.Run("vllm refuses", func(t *testing.T) {
		t.Parallel()
		p := launch(t, "vllm", scale, "--enforce-eager")
		p.until("the engine starts", func() bool { return strings.Contains(p.out.String(), "Initializing a V1 LLM engine") })
		if got := p.status(http.MethodGet, "/health", ""); got != 0 {
			t.Errorf("health answered %d before the engine was there", got)
		}
		p.until("health answers", func() bool { return p.status(http.MethodGet, "/health", "") == http.StatusOK })
	})
	t.Run("sglang answers 503", func(t *testing.T) {
		t.Parallel()
		p := launch(t, "sglang", []string{"--sim-start-scale", "0.1"}, "--disable-cuda-graph")
		p.until("health answers 503", func() bool { return p.status(http.MethodGet, "/health", "") == http.StatusServiceUnavailable })
		p.until("health answers 200", func() bool { return p.status(http.MethodGet, "/health", "") == http.StatusOK })
	})
	t.Run("tgi refuses", func(t *testing.T) {
		t.Parallel()
		p := launch(t, "tgi", scale)
		p.until("it warms up", func() bool { return strings.Contains(p.out.String(), "Warming up model") })
		if got := p.status(http.MethodGet, "/health", ""); got != 0 {
			t.Errorf("health answered %d before the warm-up was over", got)
		}
		p.until("health answers", func() bool { return p.status(http.MethodGet, "/health", "") == http.StatusOK })
	})
	t.Run("stopped while starting", func(t *testing.T) {
		t.Parallel()
		for dialect, want := range map[string]int{"vllm": 1, "sglang": 0, "tgi": 0} {
			p := launch(t, dialect, []string{"--sim-start-scale", "1"})
			p.until("it runs", func() bool { return strings.Contains(p.out.String(), "SIMULATED engine") })
			if code := p.stop(); code != want {
				t.Errorf("%s: exit code %d, want %d", dialect, code, want)
			}
		}
	})
}

func TestSGLangHealthGenerates(t *testing.T) {
	p := start(t, "sglang")
	_, before := p.get("/metrics")
	began := time.Now()
	status, _ := p.get("/health")
	if took := time.Since(began); status != http.StatusOK || took < time.Second {
		t.Errorf("idle: %d after %v, want 200 after at least a second", status, took)
	}
	_, after := p.get("/metrics")
	const counter = "sglang:num_requests_total{"
	if a, b := grep(before, counter), grep(after, counter); a != b || a == "" {
		t.Errorf("requests before and after a health probe:\n%s%s", a, b)
	}
}
