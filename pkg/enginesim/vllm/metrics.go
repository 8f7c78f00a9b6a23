package vllm

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/expo"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// Upper bounds of the histograms, in seconds or tokens.
var (
	firstTokenBounds = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	perTokenBounds   = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	requestBounds    = []float64{.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	iterationBounds  = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
	paramNBounds     = []float64{1, 2, 5, 10, 20}
	preemptionBounds = []float64{1, 2, 3, 4, 5, 10, 20}
	httpBounds       = []float64{.1, .5, 1}
	httpFineBounds   = []float64{.01, .025, .05, .075, .1, .25, .5, .75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60}
)

// tokenBounds are 1, 2, 5 times powers of ten up to the model length.
func tokenBounds(maxLen int) []float64 {
	var bounds []float64
	for scale := 1; ; scale *= 10 {
		for _, m := range []int{1, 2, 5} {
			if m*scale > maxLen {
				return bounds
			}
			bounds = append(bounds, float64(m*scale))
		}
	}
}

// metrics are the series of one server; it is the engine's observer.
type metrics struct {
	reg    *expo.Registry
	labels []string
	off    bool // --disable-log-stats

	running, waiting, waitingCapacity, kvUsage         *expo.Series
	prefixQueries, prefixHits, preemptions             *expo.Series
	promptTokens, computed, cacheHit, cached, onDevice *expo.Series
	generated                                          *expo.Series
	success                                            map[string]*expo.Series
	rejectedFull                                       *expo.Series

	prompts, generations, iteration, maxGeneration, paramN, paramMax *expo.Series
	firstToken, interToken, perToken                                 *expo.Series
	endToEnd, queued, inference, prefill, decode                     *expo.Series
	perPreemptions, kvComputed                                       *expo.Series

	httpTotal, httpRequestSize, httpResponseSize, httpDuration *expo.Family
	httpFine                                                   *expo.Series
}

func newMetrics(s *settings, now time.Time) *metrics {
	m := &metrics{
		reg: expo.New(expo.Python, float64(now.UnixNano())/1e9), off: s.noStats,
		labels: []string{"engine", "0", "model_name", s.served[0]},
	}
	if !m.off {
		m.throughput()
		m.gauges()
		m.counters()
		m.histograms(s)
		m.reg.Gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig").With(cacheLabels(s)...).Set(1)
	}
	m.httpTotal = m.reg.Counter("http_requests_total", "Total number of requests by method, status and handler.")
	m.httpRequestSize = m.reg.Summary("http_request_size_bytes", "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ")
	m.httpResponseSize = m.reg.Summary("http_response_size_bytes", "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ")
	m.httpFine = m.reg.Histogram("http_request_duration_highr_seconds", "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ", httpFineBounds).With()
	m.httpDuration = m.reg.Histogram("http_request_duration_seconds", "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ", httpBounds)
	return m
}

func (m *metrics) with(f *expo.Family, extra ...string) *expo.Series {
	return f.With(append(append([]string{}, m.labels...), extra...)...)
}

func (m *metrics) counter(name, help string, extra ...string) *expo.Series {
	return m.with(m.reg.Counter(name, help), extra...)
}

// byLabel declares a counter with one series per value of a label.
func (m *metrics) byLabel(name, help, label string, values ...string) map[string]*expo.Series {
	f, out := m.reg.Counter(name, help), map[string]*expo.Series{}
	for _, v := range values {
		out[v] = m.with(f, label, v)
	}
	return out
}

// throughput declares counters that stay 0 unless the engine is asked to fill them.
func (m *metrics) throughput() {
	m.counter("vllm:estimated_flops_per_gpu_total", "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).")
	m.counter("vllm:estimated_read_bytes_per_gpu_total", "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).")
	m.counter("vllm:estimated_write_bytes_per_gpu_total", "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).")
}

func (m *metrics) gauges() {
	m.running = m.with(m.reg.Gauge("vllm:num_requests_running", "Number of requests in model execution batches."))
	m.waiting = m.with(m.reg.Gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed."))
	reasons := m.reg.Gauge("vllm:num_requests_waiting_by_reason", "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.")
	m.waitingCapacity = m.with(reasons, "reason", "capacity")
	m.with(reasons, "reason", "deferred")
	sleep := m.reg.Gauge("vllm:engine_sleep_state", "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.")
	m.with(sleep, "sleep_state", "awake").Set(1)
	m.with(sleep, "sleep_state", "weights_offloaded")
	m.with(sleep, "sleep_state", "discard_all")
	m.kvUsage = m.with(m.reg.Gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."))
}

func (m *metrics) counters() {
	m.prefixQueries = m.counter("vllm:prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.")
	m.prefixHits = m.counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.")
	m.counter("vllm:external_prefix_cache_queries_total", "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.")
	m.counter("vllm:external_prefix_cache_hits_total", "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.")
	m.counter("vllm:mm_cache_queries_total", "Multi-modal cache queries, in terms of number of queried items.")
	m.counter("vllm:mm_cache_hits_total", "Multi-modal cache hits, in terms of number of cached items.")
	m.preemptions = m.counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.")
	m.promptTokens = m.counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.")
	sources := m.byLabel("vllm:prompt_tokens_by_source_total", "Number of prompt tokens by source.", "source", "local_compute", "local_cache_hit", "external_kv_transfer")
	m.computed, m.cacheHit = sources["local_compute"], sources["local_cache_hit"]
	m.cached = m.counter("vllm:prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).")
	m.onDevice = m.byLabel("vllm:prompt_tokens_cached_by_source_total", "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
		"source", "device", "host", "p2p", "disk", "external_unspecified")["device"]
	m.generated = m.counter("vllm:generation_tokens_total", "Number of generation tokens processed.")
	m.success = m.byLabel("vllm:request_success_total", "Count of successfully processed requests.", "finished_reason", "stop", "length", "abort", "error", "repetition")
	rejections := m.reg.Counter("vllm:admission_rejections_total", "Number of admission attempts rejected by a queue limit, by reason.")
	m.rejectedFull = rejections.With("model_name", m.labels[3], "reason", "max_num_queued_reqs")
	rejections.With("model_name", m.labels[3], "reason", "max_num_queued_tokens")
}

func (m *metrics) histograms(s *settings) {
	tokens := tokenBounds(s.core.MaxModelLen)
	h := func(name, help string, bounds []float64) *expo.Series {
		return m.with(m.reg.Histogram("vllm:"+name, help, bounds))
	}
	m.prompts = h("request_prompt_tokens", "Number of prefill tokens processed.", tokens)
	m.generations = h("request_generation_tokens", "Number of generation tokens processed.", tokens)
	m.iteration = h("iteration_tokens_total", "Histogram of number of tokens per engine_step.", iterationBounds)
	m.maxGeneration = h("request_max_num_generation_tokens", "Histogram of maximum number of requested generation tokens.", tokens)
	m.paramN = h("request_params_n", "Histogram of the n request parameter.", paramNBounds)
	m.paramMax = h("request_params_max_tokens", "Histogram of the max_tokens request parameter.", tokens)
	m.firstToken = h("time_to_first_token_seconds", "Histogram of time to first token in seconds.", firstTokenBounds)
	m.interToken = h("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", perTokenBounds)
	m.perToken = h("request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.", perTokenBounds)
	m.endToEnd = h("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", requestBounds)
	m.queued = h("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", requestBounds)
	m.inference = h("request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", requestBounds)
	m.prefill = h("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", requestBounds)
	m.decode = h("request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", requestBounds)
	m.perPreemptions = h("request_num_preemptions", "Histogram of the number of times a request was preempted.", preemptionBounds)
	m.kvComputed = h("request_prefill_kv_computed_tokens", "Histogram of new KV tokens computed during prefill (excluding cached tokens).", tokens)
}

// cacheLabels are the cache configuration's fields as labels, unset ones "None".
func cacheLabels(s *settings) []string {
	kvBytes := "None"
	if s.layout.KVBytes > 0 {
		kvBytes = strconv.Itoa(s.layout.KVBytes)
	}
	concurrency := float64(s.core.KVTokens) / float64(s.core.MaxModelLen)
	labels := []string{
		"engine", "0", "block_size", strconv.Itoa(s.core.BlockSize), "effective_attention_block_size", strconv.Itoa(s.core.BlockSize),
		"_block_size_resolved", "True", "cache_dtype", s.kvDtype, "enable_prefix_caching", pyBool(s.core.PrefixCaching),
		"gpu_memory_utilization", strconv.FormatFloat(s.layout.Fraction, 'g', -1, 64), "kv_cache_memory_bytes", kvBytes,
		"kv_cache_size_tokens", strconv.Itoa(s.core.KVTokens), "kv_cache_max_concurrency", fmt.Sprint(concurrency),
		"num_gpu_blocks", strconv.Itoa(s.core.KVTokens / s.core.BlockSize), "prefix_caching_hash_algo", s.args.Text("prefix-caching-hash-algo", "sha256"),
		"num_gpu_blocks_override", s.args.Text("num-gpu-blocks-override", "None"), "is_attention_free", "False",
		"kv_offloading_backend", "native", "user_specified_block_size", pyBool(s.args.Has("block-size")), "kv_cache_dtype_skip_layers", "[]",
		"mamba_cache_dtype", "auto", "mamba_ssm_cache_dtype", "float32", "mamba_cache_mode", "none", "swa_bounded_replay", "True",
		"prefix_cache_retention_interval", "0", "kv_sharing_fast_prefill", "False", "enable_mamba_shared_prefix_checkpoint", "False",
		"use_kda_recoverssm", "False", "use_replayssm", "False", "skip_page_size_padded", "False",
	}
	for _, unset := range []string{
		"hash_block_size", "kv_offloading_size", "mamba_block_size", "num_cpu_blocks", "sliding_window", "kv_cache_layout",
		"cache_hit_alignment_tokens", "mamba_page_size_padded", "prefix_match_unit", "replayssm_buffer_len",
	} {
		labels = append(labels, unset, "None")
	}
	return labels
}

func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// Token implements live.Observer.
func (m *metrics) Token(c *live.Call, first bool, gap time.Duration) {
	if m.off {
		return
	}
	m.generated.Add(1)
	if !first {
		m.interToken.Observe(gap.Seconds())
		return
	}
	m.firstToken.Observe(gap.Seconds())
	m.promptTokens.Add(float64(c.PromptTokens))
	m.computed.Add(float64(c.PromptTokens - c.Cached))
	for _, s := range []*expo.Series{m.cacheHit, m.cached, m.onDevice} {
		s.Add(float64(c.Cached))
	}
}

// Ended implements live.Observer.
func (m *metrics) Ended(c *live.Call) {
	if m.off {
		return
	}
	switch {
	case c.Aborted:
		return // whose client has left is in no count
	case c.Tokens < c.MaxNewTokens:
		m.success["stop"].Add(1)
	default:
		m.success["length"].Add(1)
	}
	m.prompts.Observe(float64(c.PromptTokens))
	m.generations.Observe(float64(c.Tokens))
	m.maxGeneration.Observe(float64(c.MaxNewTokens))
	m.paramMax.Observe(float64(c.MaxNewTokens))
	m.paramN.Observe(1)
	m.endToEnd.Observe((c.LastToken - c.Arrived).Seconds())
	m.perPreemptions.Observe(float64(c.Preemptions))
	m.queued.Observe(c.Queued().Seconds())
	m.inference.Observe((c.LastToken - c.Admitted).Seconds())
	m.prefill.Observe((c.FirstToken - c.Admitted).Seconds())
	m.decode.Observe((c.LastToken - c.FirstToken).Seconds())
	m.perToken.Observe(c.TimePerToken().Seconds())
	m.kvComputed.Observe(float64(c.PromptTokens - c.Cached))
}

// Stepped implements live.Observer.
func (m *metrics) Stepped(s *des.Step, st des.Stats, prompts int) {
	if m.off {
		return
	}
	m.iteration.Observe(float64(len(s.Tokens) + prompts))
	m.refresh(st)
}

func (m *metrics) refresh(st des.Stats) {
	m.running.Set(float64(st.Running))
	m.waiting.Set(float64(st.Waiting))
	m.waitingCapacity.Set(float64(st.Waiting))
	m.kvUsage.Set(float64(st.KVUsed) / float64(max(st.KVTotal, 1)))
	m.prefixQueries.Set(float64(st.PrefixQueryTokens))
	m.prefixHits.Set(float64(st.PrefixHitTokens))
	m.preemptions.Set(float64(st.Preemptions))
}

func (m *metrics) rejected() {
	if !m.off {
		m.rejectedFull.Add(1)
	}
}

// http counts one answered request of an API route.
func (m *metrics) http(route string, r *http.Request, status int, took time.Duration) {
	m.httpTotal.With("handler", route, "method", r.Method, "status", strconv.Itoa(status/100)+"xx").Add(1)
	m.httpRequestSize.With("handler", route).Observe(float64(max(r.ContentLength, 0)))
	m.httpResponseSize.With("handler", route).Observe(0)
	m.httpFine.Observe(took.Seconds())
	m.httpDuration.With("handler", route, "method", r.Method).Observe(took.Seconds())
}

func (m *metrics) serve(e *live.Engine) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !m.off {
			m.refresh(e.Stats())
		}
		w.Header().Set("Content-Type", "text/plain; version=1.0.0; charset=utf-8")
		m.reg.WriteTo(w)
	}
}
