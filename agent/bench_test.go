package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/load"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		text string
		want loadtest.Target
		ok   bool
	}{
		{"http://a:1", loadtest.Target{URL: "http://a:1", API: loadtest.OpenAICompletions}, true},
		{"http://a:1,http://b:2/ready", loadtest.Target{URL: "http://a:1", ReadyURL: "http://b:2/ready", API: loadtest.OpenAICompletions}, true},
		{"http://a:1,http://b:2/ready,sglang-generate", loadtest.Target{URL: "http://a:1", ReadyURL: "http://b:2/ready", API: loadtest.SGLangGenerate}, true},
		{"http://a:1,openai-chat", loadtest.Target{URL: "http://a:1", API: loadtest.OpenAIChat}, true},
		{"a:1", loadtest.Target{}, false},
		{"http://a:1,telnet", loadtest.Target{}, false},
		{"http://a:1,http://b:2,openai-chat,x", loadtest.Target{}, false},
	} {
		got, err := parseTarget(c.text)
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v", c.text, err)
		}
		if c.ok && got != c.want {
			t.Errorf("%s: %+v, want %+v", c.text, got, c.want)
		}
	}
}

func TestTrafficOptions(t *testing.T) {
	count := func(o trafficOptions) (n int, last loadtest.Request) {
		t.Helper()
		s, err := o.source()
		if err != nil {
			t.Fatal(err)
		}
		for r, ok := s.Next(); ok; r, ok = s.Next() {
			n, last = n+1, r
		}
		return n, last
	}
	base := trafficOptions{workload: "azure-conv", scale: 1, duration: 5 * time.Minute, seed: 3, maxOutputTokens: 10}
	plain, last := count(base)
	base.scale = 3
	tripled, lastTripled := count(base)
	if ratio := float64(tripled) / float64(plain); ratio < 2 || ratio > 4 {
		t.Errorf("%d requests at three times the rate of %d", tripled, plain)
	}
	for _, r := range []loadtest.Request{last, lastTripled} {
		if r.Offset < 4*time.Minute || r.Offset > 5*time.Minute || r.OutputTokens > 10 {
			t.Errorf("last request %+v, want it near the end of five minutes and cut to 10 tokens", r)
		}
	}
	if n, r := count(trafficOptions{workload: poisson, rate: 50, scale: 1, promptTokens: 7, outputTokens: 9, duration: 10 * time.Second, seed: 1}); n < 300 || n > 700 || r.PromptTokens != 7 || r.OutputTokens != 9 {
		t.Errorf("%d requests, last %+v", n, r)
	}
	if n, _ := count(trafficOptions{workload: "arxiv", scale: 1, duration: time.Minute, seed: 1}); n == 0 {
		t.Error("arxiv is empty")
	}
	for _, bad := range []trafficOptions{{workload: "unheard-of", scale: 1}, {workload: poisson, scale: 0}, {trace: "missing.csv", scale: 1}} {
		if _, err := bad.source(); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestBench(t *testing.T) {
	headers := make(chan http.Header, 1000)
	eng := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			fmt.Fprint(w, "data: {\"choices\":[{\"text\":\" a\"}]}\n\n")
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
	t.Cleanup(eng.Close)
	dir := t.TempDir()
	cmd := newBenchCommand()
	var out strings.Builder
	cmd.SetOut(&out)
	requests, summary, save := filepath.Join(dir, "requests.jsonl"), filepath.Join(dir, "summary.json"), filepath.Join(dir, "result.json")
	cmd.SetArgs([]string{
		"--target", eng.URL, "--rate", "60", "--duration", "500ms", "--out", requests, "--summary", summary, "--objective-ttft", "10s", "--prompt-tokens", "5",
		"--save", save, "--vocabulary", "100", "--header", "X-Team: a", "--synthetic",
	})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	var s load.Summary
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(requests)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := load.ReadRecords(f)
	if err != nil {
		t.Fatal(err)
	}
	if s.Requests == 0 || s.Failed != 0 || s.Good != s.Requests || len(records) != s.Requests {
		t.Errorf("summary %+v, %d records", s, len(records))
	}
	for _, says := range []string{"Serving Benchmark Result", "Request goodput (req/s):", "P99 E2EL (ms):"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("%q is not in\n%s", says, out.String())
		}
	}
	if h := <-headers; h.Get("X-Team") != "a" || h.Get(loadtest.Synthetic) != "1" {
		t.Errorf("sent %v", h)
	}
	if raw, err = os.ReadFile(save); err != nil {
		t.Fatal(err)
	}
	var result load.Result
	if err := json.Unmarshal(raw, &result); err != nil || result.Completed != s.Succeeded || len(result.TTFTs) != s.Requests {
		t.Errorf("%d of %d requests saved, %v", len(result.TTFTs), s.Requests, err)
	}
	bad := newBenchCommand()
	bad.SilenceErrors, bad.SilenceUsage = true, true
	bad.SetArgs([]string{"--target", "nowhere", "--workload", "unheard-of", "--header", "token"})
	err = bad.ExecuteContext(t.Context())
	for _, says := range []string{"nowhere", "unheard-of", "Name: value"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not tell %q", err, says)
		}
	}
	if err != nil && strings.Contains(err.Error(), "token\n") {
		t.Errorf("a header may be a key: %v", err)
	}
}

func TestPromptsAndPrefixes(t *testing.T) {
	dir := t.TempDir()
	trace, prompts := filepath.Join(dir, "trace.jsonl"), filepath.Join(dir, "prompts.jsonl")
	write(t, trace, `{"timestamp":1000,"input_length":600,"output_length":5,"hash_ids":[7,8]}
{"timestamp":1500.5,"input_length":700,"output_length":6,"hash_ids":[7,9]}
{"timestamp":1600,"input_length":10,"output_length":7,"hash_ids":[]}
`)
	write(t, prompts, `{"prompt":"one","output_tokens":3}
{"prompt":"two"}
`)
	all := func(o trafficOptions) (got []loadtest.Request) {
		t.Helper()
		o.scale = 1
		s, err := o.source()
		if err != nil {
			t.Fatal(err)
		}
		for r, ok := s.Next(); ok; r, ok = s.Next() {
			got = append(got, r)
		}
		return got
	}
	first := []loadtest.Block{{ID: 7, Tokens: 512}, {ID: 8, Tokens: 512}}
	want := []loadtest.Request{
		{PromptTokens: 600, OutputTokens: 5, Prefix: first},
		{Offset: 500500 * time.Microsecond, PromptTokens: 700, OutputTokens: 6, Prefix: []loadtest.Block{{ID: 7, Tokens: 512}, {ID: 9, Tokens: 512}}},
		{Offset: 600 * time.Millisecond, PromptTokens: 10, OutputTokens: 7},
	}
	if diff := cmp.Diff(want, all(trafficOptions{trace: trace})); diff != "" {
		t.Error(diff)
	}
	got := all(trafficOptions{trace: trace, prompts: prompts})
	if got[0].Prompt != "one" || got[0].OutputTokens != 3 || got[1].Prompt != "two" || got[1].OutputTokens != 6 || got[2].Prompt != "one" {
		t.Errorf("prompts do not come in turn: %+v", got)
	}
	shared := map[uint64]bool{}
	for _, r := range all(trafficOptions{workload: poisson, rate: 50, promptTokens: 100, outputTokens: 1, duration: 10 * time.Second, sharedGroups: 3, sharedTokens: 80}) {
		if len(r.Prefix) != 1 || r.Prefix[0].Tokens != 80 {
			t.Fatalf("request %+v", r)
		}
		shared[r.Prefix[0].ID] = true
	}
	if len(shared) != 3 {
		t.Errorf("%d different prefixes, want 3", len(shared))
	}
	for _, text := range []string{"", "{}", "x"} {
		write(t, prompts, text)
		if _, err := (trafficOptions{trace: trace, prompts: prompts, scale: 1}).source(); err == nil || !strings.Contains(err.Error(), "prompt 1") {
			t.Errorf("%q as prompts: %v", text, err)
		}
	}
}

func TestDoctorSaysWhatIsMissing(t *testing.T) {
	eng := &httpEngine{addr: freeAddr(t)}
	eng.start(t)
	cfg := oneEngine("http://"+eng.addr, freeAddr(t))
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.Plugins.Dir = t.TempDir()
	gone := cfg.Engines[0]
	gone.Name, gone.URL, gone.Launcher = "gone", "http://"+freeAddr(t), filepath.Join(t.TempDir(), "no.sock")
	cfg.Engines = append(cfg.Engines, gone)
	var out strings.Builder
	if !tell(&out, examine(t.Context(), cfg)) {
		t.Error("an agent would start here")
	}
	for _, says := range []string{
		"ok  data folder", "ok  engine 0 at", "no  there are no engine adapters", "no  engine 0 has no launcher", "no  engine gone: launcher does not answer",
		"no  engine gone at", "no  control plane", "without it: no configuration can be tried on it",
	} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("nothing like %q in:\n%s", says, out.String())
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	if diff := cmp.Diff(true, examineDataDir(file).fatal); diff != "" {
		t.Error("a data folder that is a file does not keep the agent from starting")
	}
}
