package enginesim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStreams(t *testing.T) {
	const tokens = 12
	cases := []struct {
		name, dialect, path, body string
		events                    int // before [DONE], when no two tokens share one
		text                      func(event) string
		done                      bool
	}{
		{"completions", "vllm", "/v1/completions", completion(50, tokens, true), tokens + 1, choiceText, true},
		{"chat", "vllm", "/v1/chat/completions", chat(tokens), tokens + 2, choiceText, true},
		{"completions", "sglang", "/v1/completions", completion(50, tokens, true), tokens + 1, choiceText, true},
		{"chat", "sglang", "/v1/chat/completions", chat(tokens), tokens + 3, choiceText, true},
		{"generate", "sglang", "/generate", `{"text":"a b c","stream":true,"sampling_params":{"max_new_tokens":12,"ignore_eos":true}}`, tokens, nil, true},
		{"completions", "tgi", "/v1/completions", completion(50, tokens, true), tokens + 1, choiceText, true},
		{"chat", "tgi", "/v1/chat/completions", chat(tokens), tokens + 1, choiceText, true},
		{"generate", "tgi", "/generate_stream", `{"inputs":"a b c","parameters":{"max_new_tokens":12,"ignore_eos_token":true,"details":true}}`, tokens, tokenText, false},
	}
	servers := map[string]*process{}
	for _, d := range []string{"vllm", "sglang", "tgi"} {
		servers[d] = start(t, d)
	}
	for _, c := range cases {
		t.Run(c.dialect+"/"+c.name, func(t *testing.T) {
			status, events, err := servers[c.dialect].stream(t.Context(), c.path, c.body)
			if err != nil || status != http.StatusOK {
				t.Fatalf("status %d, error %v", status, err)
			}
			if c.done {
				if last := events[len(events)-1]; last.data != "[DONE]" {
					t.Errorf("last event %q", last.data)
				}
				events = events[:len(events)-1]
			}
			if len(events) > c.events || len(events) < 3 {
				t.Errorf("%d events, want %d", len(events), c.events)
			}
			checkText(t, events, c.text, tokens)
			if whole := events[len(events)-1].at - events[0].at; whole < 20*time.Millisecond {
				t.Errorf("%d tokens within %v: faster than any H100", tokens, whole)
			}
		})
	}
}

func chat(tokens int) string {
	return fmt.Sprintf(`{"messages":[{"role":"user","content":"how are you"}],"max_tokens":%d,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}`, tokens)
}

func choiceText(e event) string {
	var body struct {
		Choices []struct {
			Text  string
			Delta struct{ Content string }
		}
	}
	if json.Unmarshal([]byte(e.data), &body) != nil {
		return "INVALID"
	}
	if len(body.Choices) == 0 {
		return ""
	}
	return body.Choices[0].Text + body.Choices[0].Delta.Content
}

func tokenText(e event) string {
	var body struct{ Token struct{ Text string } }
	if json.Unmarshal([]byte(e.data), &body) != nil {
		return "INVALID"
	}
	return body.Token.Text
}

// checkText counts the words of all events; with no text function the last event has them all.
func checkText(t *testing.T, events []event, text func(event) string, tokens int) {
	t.Helper()
	var whole strings.Builder
	if text == nil {
		var body struct {
			Text string
			Meta struct {
				Tokens int `json:"completion_tokens"`
			} `json:"meta_info"`
		}
		if err := json.Unmarshal([]byte(events[len(events)-1].data), &body); err != nil || body.Meta.Tokens != tokens {
			t.Errorf("last event %s (%v), want %d tokens", events[len(events)-1].data, err, tokens)
		}
		whole.WriteString(body.Text)
	} else {
		for _, e := range events {
			whole.WriteString(text(e))
		}
	}
	if n := len(strings.Fields(whole.String())); n != tokens {
		t.Errorf("%d words in %q, want %d", n, whole.String(), tokens)
	}
}

func TestUnstreamed(t *testing.T) {
	for dialect, path := range map[string]string{"vllm": "/v1/completions", "sglang": "/v1/completions", "tgi": "/v1/completions"} {
		p := start(t, dialect)
		status, body := p.post(path, completion(10, 5, false))
		var answer struct {
			Choices []struct {
				Text   string
				Finish string `json:"finish_reason"`
			}
			Usage struct {
				Prompt     int `json:"prompt_tokens"`
				Completion int `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
			t.Fatalf("%s: status %d, %v: %s", dialect, status, err, body)
		}
		if c := answer.Choices[0]; len(strings.Fields(c.Text)) != 5 || c.Finish != "length" || answer.Usage.Prompt != 10 || answer.Usage.Completion != 5 {
			t.Errorf("%s: %s", dialect, body)
		}
	}
}

func TestBadRequests(t *testing.T) {
	long := completion(300, 5, false)
	cases := []struct {
		dialect, path, body string
		flags               []string
		status              int
		words               string
	}{
		{"vllm", "/v1/completions", "{", nil, 400, "JSON decode error"},
		{"vllm", "/v1/completions", `{"model":"other","prompt":"x"}`, nil, 404, "The model `other` does not exist."},
		{"vllm", "/v1/completions", long, []string{"--max-model-len", "256"}, 400, "maximum context length is 256 tokens"},
		{"sglang", "/v1/completions", long, []string{"--context-length", "256"}, 400, "longer than the model's context length (256 tokens)"},
		{"tgi", "/generate", `{"inputs":"a b","parameters":{"max_new_tokens":0}}`, nil, 422, "strictly positive"},
		{"tgi", "/v1/completions", long, []string{"--max-input-tokens", "128", "--max-total-tokens", "256"}, 422, "`inputs` must have less than 128 tokens. Given: 300"},
	}
	for _, c := range cases {
		p := start(t, c.dialect, c.flags...)
		if status, body := p.post(c.path, c.body); status != c.status || !strings.Contains(body, c.words) {
			t.Errorf("%s: status %d: %s; want %d with %q", c.dialect, status, body, c.status, c.words)
		}
	}
}

// occupy keeps n streams open until the returned function is called.
func occupy(p *process, path string, n int, body string) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for range n {
		go func() { p.stream(ctx, path, body); done <- struct{}{} }()
	}
	return func() {
		cancel()
		for range n {
			<-done
		}
	}
}

func TestOverload(t *testing.T) {
	cases := []struct {
		dialect string
		flags   []string
		status  int
		event   string // of the streamed refusal; "" when the status says it
		page    string // where a full engine shows
		full    string
	}{
		{"vllm", []string{"--max-num-seqs", "1", "--max-num-queued-reqs", "2"}, 503, "", "/metrics", `vllm:num_requests_waiting{engine="0",model_name="m"} 1.0`}, // running ones count
		{"sglang", []string{"--max-running-requests", "1", "--max-queued-requests", "1"}, 503, `"code": 503`, "/v1/loads", `"num_waiting_reqs":1`},
		{"tgi", []string{"--max-concurrent-requests", "2"}, 429, `"http_status_code":422`, "/metrics", "tgi_batch_current_size 2"},
	}
	for _, c := range cases {
		t.Run(c.dialect, func(t *testing.T) {
			p := start(t, c.dialect, c.flags...)
			defer occupy(p, "/v1/completions", 1, completion(5, 4000, true))()
			p.until("the stream runs", func() bool { _, page := p.get("/metrics"); return running(page) })
			defer occupy(p, "/v1/completions", 1, completion(5, 4000, true))()
			p.until("the engine is full", func() bool { _, page := p.get(c.page); return strings.Contains(page, c.full) })
			if status := p.status(http.MethodPost, "/v1/completions", completion(5, 1, false)); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			status, events, _ := p.stream(t.Context(), "/v1/completions", completion(5, 1, true))
			if c.event == "" {
				if status != c.status {
					t.Errorf("streamed: status %d, want %d", status, c.status)
				}
			} else if status != http.StatusOK || len(events) == 0 || !strings.Contains(events[0].data, c.event) {
				t.Errorf("streamed: status %d, events %v; want 200 with %s", status, events, c.event)
			}
		})
	}
}

// TestDisconnectFreesTheEngine: SGLang and TGI count who leaves, vLLM does not.
func TestDisconnectFreesTheEngine(t *testing.T) {
	for dialect, want := range map[string]string{
		"vllm":   `vllm:num_requests_running{engine="0",model_name="m"} 0.0`,
		"sglang": `sglang:num_aborted_requests_total{engine_type="unified",model_name="m"} 1.0`,
		"tgi":    `tgi_request_failure{err="dropped"} 1`,
	} {
		t.Run(dialect, func(t *testing.T) {
			p := start(t, dialect)
			leave := occupy(p, "/v1/completions", 1, completion(5, 4000, true))
			p.until("the stream runs", func() bool { _, page := p.get("/metrics"); return running(page) })
			leave()
			p.until("the engine is free", func() bool { _, page := p.get("/metrics"); return strings.Contains(page, want) })
		})
	}
}

func TestPrefixCacheHitsShowInMetrics(t *testing.T) {
	p := start(t, "vllm")
	body := completion(320, 1, false)
	p.post("/v1/completions", body)
	p.post("/v1/completions", body)
	if _, page := p.get("/metrics"); !strings.Contains(page, `vllm:prefix_cache_hits_total{engine="0",model_name="m"} 304.0`) {
		t.Errorf("want 19 of 20 blocks of 16 tokens hit:\n%s", grep(page, "prefix_cache"))
	}
}

func TestFaults(t *testing.T) {
	t.Run("nan", func(t *testing.T) {
		p := launch(t, "vllm", []string{"--sim-start-scale", "0", "--sim-fault", "nan"})
		p.until("it serves", func() bool { return strings.Contains(p.out.String(), "startup complete") })
		if _, body := p.post("/v1/completions", completion(3, 4, false)); !strings.Contains(body, `"text":"!!!!"`) {
			t.Errorf("got %s", body)
		}
	})
	t.Run("slow", func(t *testing.T) {
		p := launch(t, "vllm", []string{"--sim-start-scale", "0", "--sim-fault", "slow@0s:10"})
		p.until("it serves", func() bool { return strings.Contains(p.out.String(), "startup complete") })
		began := time.Now()
		p.post("/v1/completions", completion(3, 5, false))
		if took := time.Since(began); took < 200*time.Millisecond {
			t.Errorf("5 tokens at a tenth of the speed took %v", took)
		}
	})
}

func grep(text, word string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
