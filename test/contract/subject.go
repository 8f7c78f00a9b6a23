package contract

import (
	"regexp"
	"strings"
)

// Subject is an engine that has just been started, with the flags that Flags names. The script waits
// until it serves and ends it.
type Subject struct {
	Kind      string // vllm, sglang or tgi
	URL       string // base URL of its HTTP server
	Log       func() string
	Terminate func() // sends SIGTERM
	Exited    <-chan struct{}
	ExitCode  func() int // once it has exited; -1 after a signal
}

// dialect is what the script has to know of a kind of engine.
type dialect struct {
	flags    string
	calls    []call    // beside those that all kinds get
	log      []pattern // what the product reads in the log, or a person would
	draining string    // in the log as soon as SIGTERM is obeyed
	counters []string  // that one request moves; the first is moved last
	aborted  string    // counter of requests whose client left
	texts    bool      // prompts as text: token numbers are not taken
}

type pattern struct {
	name, form string
}

// find returns what matches in a log, with # for its numbers.
func (p pattern) find(log string) (at int, text string) {
	where := regexp.MustCompile(p.form).FindStringIndex(log)
	if where == nil {
		return -1, Absent
	}
	return where[0], numbers.ReplaceAllString(log[where[0]:where[1]], "#")
}

var numbers = regexp.MustCompile(`\d[\d.,]*\d|\d`)

var dialects = map[string]dialect{
	"vllm": {
		flags: "--max-model-len 2048 --max-num-seqs 2 --max-num-queued-reqs 2 --shutdown-timeout 60",
		calls: []call{
			{name: "load", method: "GET", path: "/load"},
			{name: "tokenize", path: "/tokenize", body: `{"prompt":"a"}`},
		},
		log: []pattern{
			{"arguments", `non-default args: \{'`},
			{"engine", `Initializing a V1 LLM engine \(v[\d.]+\) with config: model=`},
			{"weights", `Model loading took [\d.]+ GiB memory and [\d.]+ seconds`},
			{"KV bytes", `Available KV cache memory: [\d.]+ GiB`},
			{"KV tokens", `\w+ KV cache size: [\d,]+ tokens`},
			{"concurrency", `Maximum concurrency for [\d,]+ tokens per request: [\d.]+x`},
			{"engine ready", `init engine \(.*\) took [\d.]+ s`},
			{"server", `Starting vLLM server on http`},
			{"serving", `Application startup complete`},
		},
		draining: `\[shutdown\][^\n]*`,
		counters: []string{
			`vllm:e2e_request_latency_seconds_count`, `vllm:prompt_tokens_total`, `vllm:generation_tokens_total`, `vllm:time_to_first_token_seconds_count`,
			`vllm:request_success_total{finished_reason="length"}`, `vllm:request_queue_time_seconds_count`, `vllm:prefix_cache_queries_total`, `vllm:request_time_per_output_token_seconds_count`,
		},
		aborted: `vllm:request_success_total{finished_reason="abort"}`,
	},
	"sglang": {
		flags: "--max-running-requests 2 --max-queued-requests 2",
		calls: []call{
			{name: "loads", method: "GET", path: "/v1/loads"},
			{name: "old load", method: "GET", path: "/get_load"},
			{name: "model info", method: "GET", path: "/model_info"},
			{name: "generate", path: "/generate", body: `{"input_ids":PROMPT,"sampling_params":{"max_new_tokens":5,"ignore_eos":true,"temperature":0}}`},
			{name: "generate, streamed", path: "/generate", body: `{"input_ids":PROMPT,"stream":true,"sampling_params":{"max_new_tokens":5,"ignore_eos":true,"temperature":0}}`},
			{name: "generate, too long", path: "/generate", body: `{"input_ids":LONG,"sampling_params":{"max_new_tokens":5}}`},
		},
		log: []pattern{
			{"arguments", `server_args=\{'model_path': '`},
			{"weights", `Load weight end\. elapsed=[\d.]+ s.*mem usage=[\d.]+ GB`},
			{"KV", `KV Cache is allocated\..*#tokens: \d+`},
			{"pool", `Memory pool end\. avail mem=[\d.]+ GB`},
			{"summary", `max_total_num_tokens=\d+, .*max_running_requests=\d+, context_len=\d+, available_\w+=[\d.]+ GB`},
			{"serving", `The server is fired up and ready to roll!`},
		},
		draining: `SIGTERM received[^\n]*`,
		counters: []string{
			`sglang:e2e_request_latency_seconds_count`, `sglang:prompt_tokens_total`, `sglang:generation_tokens_total`, `sglang:time_to_first_token_seconds_count`,
			`sglang:num_requests_total`, `sglang:queue_time_seconds_count`,
		},
		aborted: `sglang:num_aborted_requests_total`,
	},
	"tgi": {
		flags: "--max-concurrent-requests 3 --max-input-tokens 1024 --max-total-tokens 2048",
		calls: []call{
			{name: "info", method: "GET", path: "/info"},
			{name: "generate, streamed", path: "/generate_stream", body: `{"inputs":PROMPT,"parameters":{"max_new_tokens":5,"details":true}}`},
		},
		log: []pattern{
			{"attention", `Using attention \w+ - Prefix caching \w+`},
			{"shard", `Shard ready in [\d.]+`},
			{"warm-up", `Warming up model`},
			{"KV", `Setting max batch total tokens to \d+`},
			{"chunking", `Using prefill chunking = \w+`},
			{"serving", `Connected`},
		},
		draining: `Terminating webserver|Shutting down shards`,
		counters: []string{`tgi_request_success`, `tgi_request_duration_count`, `tgi_request_count`},
		aborted:  `tgi_request_failure{err="dropped"}`,
		texts:    true,
	},
}

// Flags with which an engine of the kind has to be started, after whatever makes it start at all. Its
// context is 2,048 tokens, and little more than two requests fit in.
func Flags(kind string) []string { return strings.Fields(dialects[kind].flags) }
