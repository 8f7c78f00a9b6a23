package loadtest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// every is a source of n requests, one each pause.
type every struct {
	pause time.Duration
	n, at int
}

func (e *every) Next() (Request, bool) {
	if e.at == e.n {
		return Request{}, false
	}
	e.at++
	return Request{Offset: time.Duration(e.at) * e.pause, PromptTokens: 5, OutputTokens: 4}, true
}

// server answers every POST with the text; a null byte in it flushes.
func server(t *testing.T, stream string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for part := range strings.SplitSeq(stream, "\x00") {
			_, _ = io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	})
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// run carries out a run and returns its records by number.
func run(t *testing.T, cfg Config) []Record {
	t.Helper()
	var records []Record
	cfg.OnRecord = func(r Record) { records = append(records, r) }
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(records, func(a, b Record) int { return a.Number - b.Number })
	return records
}

func TestStreams(t *testing.T) {
	const (
		text  = `data: {"choices":[{"index":0,"text":" a","finish_reason":null}],"usage":null}` + "\n\n"
		usage = `data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"details":{"x":1}}}` + "\n\n"
		end   = "data: [DONE]\n\n"
		role  = `data: {"choices":[{"delta":{"role":"assistant","content":""}}]}` + "\n\n"
		said  = `data: {"choices":[{"delta":{"content":"hi"}}]}` + "\n\n"
	)
	for _, c := range []struct {
		name   string
		api    API
		stream string
		failed string
		tokens int
		prompt int
		gaps   int
	}{
		{"several tokens an event, exact count from usage", OpenAICompletions, text + "\x00" + text + text + usage + end, "", 7, 11, 2},
		{"without usage events are counted", OpenAICompletions, text + text + end, "", 2, 5, 1},
		{"comments are no tokens", OpenAICompletions, ": ping\n\n\x00:\n\n" + text + ": ping\n\n" + text + end, "", 2, 5, 1},
		{"carriage returns", OpenAICompletions, strings.ReplaceAll(text+end, "\n", "\r\n"), "", 1, 5, 0},
		{"a word that looks like an error", OpenAICompletions, `data: {"choices":[{"text":"\"error\": {"}],"error":null}` + "\n\n" + end, "", 1, 5, 0},
		{"an empty piece of a character", OpenAICompletions, `data: {"choices":[{"text":"","finish_reason":null}]}` + "\n\n" + text + end, "", 2, 5, 1},
		{"error inside a 200 stream", OpenAICompletions, text + "\x00" + `data: {"error":{"message":"dead"}}` + "\n\n" + end, FailedStream, 1, 5, 0},
		{"ended by the engine", OpenAICompletions, text + `data: {"choices":[{"text":"","finish_reason":"abort"}]}` + "\n\n" + end, FailedStream, 1, 5, 0},
		{"sglang: ended by the engine", SGLangGenerate, `data: {"text":"a","meta_info":{"finish_reason":{"type": "abort","message":"x"},"prompt_tokens":9,"completion_tokens":1}}` + "\n\n" + end, FailedStream, 0, 5, 0},
		{"named error event", OpenAICompletions, "event: error\ndata: x\n\n", FailedStream, 0, 5, 0},
		{"ends without its end", OpenAICompletions, text + text, FailedCut, 2, 5, 1},
		{"ends amid an event", OpenAICompletions, text + `data: [DONE]`, FailedCut, 1, 5, 0},
		{"complete but empty", OpenAICompletions, usage + end, FailedEmpty, 7, 11, 0},
		{"chat: the role is no token", OpenAIChat, role + "\x00" + said + said + end, "", 2, 5, 1},
		{"chat: role in every chunk", OpenAIChat, strings.Repeat(`data:{"choices":[{"delta":{"role":"assistant","content":"x"}}]}`+"\n\n", 3) + end, "", 3, 5, 2},
		{"chat: reasoning is output", OpenAIChat, role + `data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}` + "\n\n" + said + end, "", 2, 5, 1},
		{"sglang: running count", SGLangGenerate, `data: {"text":"a b","meta_info":{"prompt_tokens":9,"completion_tokens":2}}` + "\n\n" + `data: {"text":"a b c","meta_info":{"prompt_tokens":9,"completion_tokens":3}}` + "\n\n" + end, "", 3, 9, 1},
		{"tgi: no closing event", TGIGenerateStream, `data:{"token":{"id":1},"generated_text":null}` + "\n\n" + `data:{"token":{"id":2},"generated_text":"a b"}` + "\n\n", "", 2, 5, 1},
		{"tgi: cut", TGIGenerateStream, `data:{"token":{"id":1},"generated_text":null}` + "\n\n", FailedCut, 1, 5, 0},
		{"tgi: error event", TGIGenerateStream, `data: {"error":"Request failed during generation","error_type":"generation"}` + "\n\n", FailedStream, 0, 5, 0},
		{"an event longer than the buffer", OpenAICompletions, `data: {"choices":[{"text":"` + strings.Repeat("x", 100_000) + `"}]}` + "\n\n" + end, "", 1, 5, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := run(t, Config{Targets: []Target{{URL: server(t, c.stream), API: c.api}}, Source: &every{n: 1}})[0]
			if got.Failed != c.failed || got.Tokens != c.tokens || got.PromptTokens != c.prompt || len(got.GapsUS) != c.gaps || got.Status != 200 {
				t.Errorf("got %+v", got)
			}
			if c.failed == "" && (got.FirstToken.Before(got.Sent) || got.LastToken.Before(got.FirstToken) || got.Done.Before(got.LastToken) || got.Sent.Before(got.Intended)) {
				t.Errorf("times out of order: %+v", got)
			}
		})
	}
}

func TestFailureClasses(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	for _, c := range []struct {
		name   string
		url    string
		change func(*Config)
		want   string
		detail string
	}{
		{"overloaded", serve(t, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "queue is full", http.StatusServiceUnavailable)
		}), nil, "http_503", "queue is full"},
		{"redirect is not followed", serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusTemporaryRedirect) }), nil, "http_307", ""},
		{"nobody listens", gone.URL, nil, FailedConnect, "refused"},
		{"cut amid a chunk", serve(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "data: {}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}), nil, FailedCut, "ended early"},
		{"never answers", serve(t, hang), func(c *Config) { c.Timeout = 50 * time.Millisecond }, FailedTimeout, ""},
		{"open at the end", serve(t, hang), func(c *Config) { c.DrainWait = 50 * time.Millisecond }, FailedUnfinished, ""},
		{"never ready", gone.URL, func(c *Config) { c.Targets[0].ReadyURL = gone.URL; c.ReadyWait = 50 * time.Millisecond }, FailedNotReady, "50ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Targets: []Target{{URL: c.url, API: OpenAICompletions}}, Source: &every{n: 1}}
			if c.change != nil {
				c.change(&cfg)
			}
			got := run(t, cfg)
			if len(got) != 1 || got[0].Failed != c.want || !strings.Contains(got[0].Detail, c.detail) {
				t.Errorf("got %+v, want class %q, detail %q", got, c.want, c.detail)
			}
		})
	}
}

func TestTooManyOpenRequestsAreNotSent(t *testing.T) {
	var posts atomic.Int32
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	got := run(t, Config{
		Targets: []Target{{URL: hang, API: OpenAICompletions}}, Source: &every{n: 5, pause: time.Millisecond},
		MaxInFlight: 2, DrainWait: 200 * time.Millisecond,
	})
	s := load.Summarize(got, time.Time{}, time.Time{}, Objectives{})
	if s.FailedBy[FailedTooMany] != 3 || s.FailedBy[FailedUnfinished] != 2 || posts.Load() > 2 {
		t.Errorf("%+v, %d sent", s.FailedBy, posts.Load())
	}
}

const okStream = `data: {"choices":[{"text":"a"}]}` + "\n\ndata: [DONE]\n\n"

// A server that stalls must not slow down what is sent, and what was due during the stall must show
// the whole of it. A closed loop would send one request and see one slow answer.
func TestNoCoordinatedOmission(t *testing.T) {
	const stall, pause, n = 500 * time.Millisecond, 10 * time.Millisecond, 60
	begin := time.Now()
	var one sync.Mutex // the server does one thing at a time
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		one.Lock()
		defer one.Unlock()
		if left := time.Until(begin.Add(stall)); left > 0 {
			<-time.After(left)
		}
		_, _ = io.WriteString(w, okStream)
	})
	got := run(t, Config{Targets: []Target{{URL: url, API: OpenAICompletions}}, Source: &every{n: n, pause: pause}})
	if len(got) != n {
		t.Fatalf("%d records", len(got))
	}
	slow := 0
	for _, r := range got {
		if r.Failed != "" {
			t.Fatalf("record %+v", r)
		}
		if late := r.Sent.Sub(r.Intended); late > stall/2 {
			t.Errorf("request %d was sent %v late", r.Number, late)
		}
		if r.TTFT() > 100*time.Millisecond {
			slow++
		}
	}
	if slow < 30 { // about 40 were due more than 100 ms before the stall's end
		t.Errorf("only %d of %d requests show the stall", slow, n)
	}
}

// A request that waits for a ready target waits on the user's clock.
func TestWaitingForReadinessCounts(t *testing.T) {
	begin := time.Now()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" && time.Since(begin) < 300*time.Millisecond {
			w.WriteHeader(503)
			return
		}
		_, _ = io.WriteString(w, okStream)
	})
	got := run(t, Config{Targets: []Target{{URL: url, ReadyURL: url + "/ready", API: OpenAICompletions}}, Source: &every{n: 1, pause: time.Millisecond}})[0]
	if got.Failed != "" || got.TTFT() < 200*time.Millisecond || got.FirstToken.Sub(got.Sent) > 150*time.Millisecond {
		t.Errorf("got %+v", got)
	}
}

// replica is a target with a switchable readiness.
type replica struct {
	ready   atomic.Bool
	refused atomic.Int64 // readiness answers of 503 since the switch
	posts   atomic.Int64
	url     string
}

func newReplica(t *testing.T) *replica {
	r := &replica{}
	r.ready.Store(true)
	r.url = serve(t, func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.Method == http.MethodPost:
			r.posts.Add(1)
			_, _ = io.WriteString(w, okStream)
		case !r.ready.Load():
			w.WriteHeader(503)
			r.refused.Add(1)
		}
	})
	return r
}

func (r *replica) target() Target {
	return Target{Name: r.url, URL: r.url, ReadyURL: r.url + "/ready", API: OpenAICompletions}
}

// After a target has said 503 once, and that answer has been read, it gets nothing more until it is
// ready again.
func TestNotReadyGetsNothing(t *testing.T) {
	a, b := newReplica(t), newReplica(t)
	var records atomic.Int64
	r, err := New(Config{
		Targets: []Target{a.target(), b.target()}, Source: &every{n: 1 << 30, pause: 2 * time.Millisecond},
		OnRecord: func(rec Record) {
			records.Add(1)
			if rec.Failed != "" {
				t.Errorf("record %+v", rec)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	eventually(t, "both serve", func() bool { return a.posts.Load() > 5 && b.posts.Load() > 5 })
	a.ready.Store(false)
	eventually(t, "a second refusal", func() bool { return a.refused.Load() >= 2 })
	before, other := a.posts.Load(), b.posts.Load()
	eventually(t, "the other serves on", func() bool { return b.posts.Load() > other+50 })
	if got := a.posts.Load(); got != before {
		t.Errorf("%d requests to a target that is not ready", got-before)
	}
	a.ready.Store(true)
	eventually(t, "back in rotation", func() bool { return a.posts.Load() > before })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if records.Load() != a.posts.Load()+b.posts.Load() {
		t.Errorf("%d records of %d requests", records.Load(), a.posts.Load()+b.posts.Load())
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPolicies(t *testing.T) {
	targets := []Target{{Name: "a", URL: "http://a"}, {Name: "b", URL: "http://b"}, {Name: "c", URL: "http://c"}}
	pick := func(b *balancer, n int) string {
		var s strings.Builder
		for range n {
			k, _ := b.pick()
			s.WriteString(k.Name)
		}
		return s.String()
	}
	made := func(p Policy) *balancer {
		b, err := newBalancer(targets, p, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rr := made(RoundRobin)
	if got := pick(rr, 4); got != "abca" {
		t.Errorf("round robin %s", got)
	}
	rr.set(rr.backends[1], false, time.Now())
	if got := pick(rr, 4); got != "caca" {
		t.Errorf("round robin without b %s", got)
	}
	least := made(LeastInFlight)
	if got := pick(least, 3); got != "abc" {
		t.Errorf("least in flight %s", got)
	}
	least.release(least.backends[1])
	if got := pick(least, 1); got != "b" {
		t.Errorf("least in flight after b ended %s", got)
	}
	if got := pick(made(Random), 300); strings.Count(got, "a") < 60 || strings.Count(got, "b") < 60 || strings.Count(got, "c") < 60 {
		t.Errorf("random %s", got)
	}
	for _, k := range rr.backends {
		rr.set(k, false, time.Now())
	}
	if k, _ := rr.pick(); k != nil {
		t.Errorf("picked %s of none", k.Name)
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	_, err := New(Config{Policy: "best", Targets: []Target{{URL: "localhost:8000", API: OpenAIChat}, {URL: "http://a", API: "grpc"}}})
	for _, words := range []string{"no source", "no http:// address", "unknown api", "unknown policy"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v lacks %q", err, words)
		}
	}
	if _, err := New(Config{Source: &every{}}); err == nil || !strings.Contains(err.Error(), "no target") {
		t.Errorf("without targets: %v", err)
	}
}

func TestBodies(t *testing.T) {
	for api, want := range map[API]string{
		OpenAICompletions: `{"model":"m","prompt":"p","max_tokens":7,"temperature":0,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}`,
		OpenAIChat:        `{"model":"m","messages":[{"role":"user","content":"p"}],"max_tokens":7,"temperature":0,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}`,
		SGLangGenerate:    `{"text":"p","sampling_params":{"max_new_tokens":7,"temperature":0,"ignore_eos":true},"stream":true}`,
		TGIGenerateStream: `{"inputs":"p","parameters":{"max_new_tokens":7}}`,
	} {
		if got, err := api.body("m", "p", nil, 7); string(got) != want || err != nil {
			t.Errorf("%s: %s, %v", api, got, err)
		}
	}
}

func TestPoissonAndPrompts(t *testing.T) {
	a, b := NewPoisson(50, 10, 20, 3), NewPoisson(50, 10, 20, 3)
	var last Request
	for range 10000 {
		x, _ := a.Next()
		if y, _ := b.Next(); x.Offset != y.Offset || x.PromptTokens != 10 || x.OutputTokens != 20 || x.Offset < last.Offset {
			t.Fatalf("%+v, %+v after %+v", x, y, last)
		}
		last = x
	}
	if s := last.Offset.Seconds(); s < 190 || s > 210 {
		t.Errorf("10,000 arrivals at 50/s took %.1f s", s)
	}
	p := prompt(40, nil, 1, 2)
	if n := len(strings.Fields(p)); n != 40 || p != prompt(40, nil, 1, 2) || p == prompt(40, nil, 1, 3) || p == prompt(40, nil, 2, 2) {
		t.Errorf("%d words: %s", n, p)
	}
}

func FuzzStream(f *testing.F) {
	for _, s := range []string{okStream, ":\n\n", "data\n\n", "data:\ndata: [DONE]\n\n", `data: {"usage":{"completion_tokens":-1}}` + "\n\n", `data: {"error":` + "\n\n", "event: error\r\n\r\n", `data: {"choices":[`, `data: {"token":{},"generated_text":"x"}` + "\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for api := range paths {
			var rec Record
			err := readStream(bytes.NewReader(b), api, &rec)
			if err == nil && rec.FirstToken.IsZero() {
				t.Errorf("%s: success without a token from %q", api, b)
			}
			if rec.Tokens < 0 || rec.PromptTokens < 0 {
				t.Errorf("%s: negative counts from %q", api, b)
			}
		}
	})
}

// A token costs the client one or two microseconds and no allocation of its own.
func BenchmarkToken(b *testing.B) {
	chunk := []byte(`data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}` + "\n\n")
	stream := append(bytes.Repeat(chunk, 1000), "data: [DONE]\n\n"...)
	b.ReportAllocs()
	for b.Loop() {
		var rec Record
		if err := readStream(bytes.NewReader(stream), OpenAICompletions, &rec); err != nil || rec.Tokens != 1000 {
			b.Fatal(err, rec.Tokens)
		}
	}
}
