package sglang

import (
	"math"
	"math/big"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/expo"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// unstreamedInterval is how many tokens a request that is not streamed gathers before its first output
// leaves the scheduler: its "first token" in the metrics.
const unstreamedInterval = 50

// Upper bounds of the histograms, in seconds or tokens.
var (
	firstTokenBounds = []float64{.1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400}
	endToEndBounds   = append(append([]float64{}, firstTokenBounds...), 600, 1200, 1800, 2400)
	perTokenBounds   = []float64{.002, .004, .006, .008, .01, .015, .02, .025, .03, .035, .04, .06, .08, .1, .2, .4, .6, .8, 1, 2, 4, 6, 8}
	queueBounds      = queueTimeBounds()
	stageBounds      = geometric(.001, 1.62, 30)
	tokenBounds      = tokenCountBounds()
	loadsBounds      = []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1}
)

func steps(from, to, by float64) (out []float64) {
	for v := from; v <= to; v += by {
		out = append(out, v)
	}
	return out
}

func queueTimeBounds() []float64 {
	b := []float64{0, .001, .005, .01, .05, .1, .2, .5, 1, 2, 3, 4, 5, 10, 15, 20}
	b = append(b, steps(30, 100, 10)...)
	b = append(b, steps(200, 1000, 100)...)
	return append(b, 1200, 1400, 1600, 1800, 2000, 2500, 3000)
}

func tokenCountBounds() []float64 {
	b := []float64{100, 300, 500, 700, 1000, 1500}
	b = append(b, steps(2000, 10000, 1000)...)
	b = append(b, steps(12500, 30000, 2500)...)
	b = append(b, 35000, 40000, 60000, 80000)
	b = append(b, steps(100000, 400000, 100000)...)
	return append(b, 600000, 800000, 1000000, 1100000)
}

// geometric bounds as Python's 0.001*1.62**i makes them: the power is rounded once.
func geometric(first, ratio float64, n int) []float64 {
	b, power := make([]float64, n), big.NewFloat(1).SetPrec(4096)
	for i := range b {
		p, _ := power.Float64()
		b[i] = first * p
		power.Mul(power, big.NewFloat(ratio))
	}
	return b
}

// metrics are the series of one server; it is the engine's observer. Most appear with their first event.
type metrics struct {
	reg      *expo.Registry
	set      *settings
	families map[string]*expo.Family
	gauges   map[string]*expo.Series
	// interToken is the series that every token touches, made with the first.
	interToken func() *expo.Series

	mu      sync.Mutex // guards the rest: the current log interval
	decodes int
	since   time.Time
	tokens  int // decode tokens in it
	flushed des.Stats
	hitRate float64
	perSec  float64
}

func newMetrics(s *settings, start []phase) *metrics {
	m := &metrics{reg: expo.New(expo.Multiprocess, 0), set: s, families: map[string]*expo.Family{}, gauges: map[string]*expo.Series{}, since: time.Now()}
	m.declareHistograms()
	m.interToken = sync.OnceValue(func() *expo.Series { return m.of("inter_token_latency_seconds", m.front()) })
	m.declareGauges(start)
	m.declareCounters()
	return m
}

// front labels are those of the HTTP process, scheduler labels those of its child.
func (m *metrics) front(extra ...string) []string {
	return append([]string{"engine_type", "unified", "model_name", m.set.served}, extra...)
}

func (m *metrics) scheduler(extra ...string) []string {
	return m.front(append([]string{"moe_ep_rank", "0", "pp_rank", "0", "tp_rank", "0"}, extra...)...)
}

func (m *metrics) declareHistograms() {
	for _, h := range []struct {
		name, help string
		bounds     []float64
	}{
		{"time_to_first_token_seconds", "Histogram of time to first token in seconds.", firstTokenBounds},
		{"e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds", endToEndBounds},
		{"request_time_per_output_token_seconds", "Per-request TPOT in seconds: (finished_time - first_token_time) / (completion_tokens - 1).", perTokenBounds},
		{"prompt_tokens_histogram", "Histogram of prompt token length.", tokenBounds},
		{"uncached_prompt_tokens_histogram", "Histogram of uncached (compute) prompt token length.", tokenBounds},
		{"generation_tokens_histogram", "Histogram of generation token length.", tokenBounds},
		{"inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", perTokenBounds},
		{"get_loads_duration_seconds", "Time spent serving /v1/loads requests (seconds).", loadsBounds},
		{"per_stage_req_latency_seconds", "The latency of each stage of requests.", stageBounds},
		{"queue_time_seconds", "Histogram of queueing time in seconds.", queueBounds},
	} {
		m.families[h.name] = m.reg.Histogram("sglang:"+h.name, h.help, h.bounds)
	}
}

func (m *metrics) declareGauges(start []phase) {
	pid := strconv.Itoa(os.Getpid())
	for _, g := range []struct {
		name, help string
		value      float64
		extra      []string
	}{
		{"num_retracted_reqs", "The number of retracted requests.", 0, []string{"pid", pid}},
		{"num_paused_reqs", "The number of paused requests by async weight sync.", 0, []string{"pid", pid}},
		{"max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", float64(m.set.core.KVTokens), nil},
		{"weight_memory_usage_gb", "Memory used by model weights in GB.", gib(m.set.memory.WeightBytes), nil},
		{"kv_cache_memory_usage_gb", "Memory used by the KV cache pools in GB.", gib(m.set.memory.KVBytes), nil},
		{"page_size", "KV cache page size in tokens.", float64(m.set.page), nil},
		{"num_pages", "Number of KV cache pages.", float64(m.set.core.KVTokens / m.set.page), nil},
		{"context_len", "Maximum context length.", float64(m.set.core.MaxModelLen), nil},
		{"num_running_reqs", "The number of running requests.", 0, nil},
		{"num_queue_reqs", "The number of requests in the waiting queue.", 0, nil},
		{"num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", 0, nil},
		{"gen_throughput", "The generation throughput (token/s).", 0, nil},
		{"cache_hit_rate", "The prefix cache hit rate.", 0, nil},
		{"decode_sum_seq_lens", "The sum of all sequence lengths in decode.", 0, nil},
		{"token_usage", "The token usage.", 0, nil},
		{"full_token_usage", "The token usage for full attention layers.", 0, nil},
		{"swa_token_usage", "The token usage for SWA layers.", 0, nil},
		{"mamba_usage", "The token usage for Mamba layers.", 0, nil},
		{"num_used_tokens", "The number of used tokens.", 0, nil},
		{"kv_available_tokens", "Number of free token slots in the KV cache pool.", float64(m.set.core.KVTokens), nil},
		{"kv_evictable_tokens", "Number of evictable (radix-cached) token slots in the KV cache pool.", 0, nil},
		{"kv_used_tokens", "Number of actively used token slots in the KV cache pool.", 0, nil},
		{"spec_accept_length", "Mean acceptance length of speculative decoding (accepted drafts + bonus token per forward).", 0, nil},
		{"spec_accept_rate", "Speculative acceptance rate (`accepted drafts / proposed drafts` in batch).", 0, nil},
		{"num_prefill_bootstrap_queue_reqs", "The number of requests in the prefill bootstrap queue.", 0, nil},
		{"num_prefill_inflight_queue_reqs", "The number of requests in the prefill inflight queue.", 0, nil},
		{"num_decode_prealloc_queue_reqs", "The number of requests in the decode prealloc queue.", 0, nil},
		{"num_decode_transfer_queue_reqs", "The number of requests in the decode transfer queue.", 0, nil},
		{"utilization", "The utilization.", 0, nil},
		{"fwd_occupancy", "Forward pass GPU occupancy percentage.", math.NaN(), nil},
		{"new_token_ratio", "The new token ratio.", 0, nil},
		{"mamba_available_tokens", "Number of free Mamba state slots.", 0, nil},
		{"mamba_evictable_tokens", "Number of evictable Mamba state slots.", 0, nil},
		{"mamba_used_tokens", "Number of used Mamba state slots.", 0, nil},
		{"swa_available_tokens", "Number of free token slots of sliding-window layers.", 0, nil},
		{"swa_evictable_tokens", "Number of evictable token slots of sliding-window layers.", 0, nil},
		{"swa_used_tokens", "Number of used token slots of sliding-window layers.", 0, nil},
		{"num_decode_deferred_kv_release_reqs", "The number of decode requests whose cache is yet to be released.", 0, nil},
		{"num_decode_host_receive_queue_reqs", "The number of requests in the decode host receive queue.", 0, nil},
		{"num_unique_running_routing_keys", "The number of routing keys of running requests.", 0, nil},
		{"pending_prealloc_token_usage", "The token usage of pending preallocations.", 0, nil},
		{"prealloc_full_token_usage", "The preallocated token usage of full attention layers.", 0, nil},
		{"prealloc_swa_token_usage", "The preallocated token usage of sliding-window layers.", 0, nil},
		{"spec_block_accept_length", "Mean accepted length of a speculated block.", 0, nil},
		{"spec_cap_length", "Cap of the speculated length.", 0, nil},
		{"spec_num_draft_tokens", "Number of draft tokens.", 0, nil},
		{"spec_num_steps", "Number of speculative steps.", 0, nil},
		{"startup_available_gpu_memory_gb", "Memory that start-up left free in GB.", gib(m.set.memory.KVBytes) / 10, nil},
		{"is_cuda_graph", "Whether the batch is using CUDA graph.", 0, nil},
	} {
		s := m.reg.Gauge("sglang:"+g.name, g.help).With(m.scheduler(g.extra...)...)
		s.Set(g.value)
		m.gauges[g.name] = s
	}
	graph := m.reg.Gauge("sglang:graph_memory_usage_gb", "Memory used by captured device graphs in GB.")
	graph.With(m.scheduler("phase", "prefill")...)
	graph.With(m.scheduler("phase", "decode")...).Set(gib(m.set.memory.GraphBytes))
	phases := m.reg.Gauge("sglang:startup_time_seconds", "Engine startup duration by phase in seconds.")
	for _, p := range start {
		phases.With(m.front("phase", p.name)...).Set(p.took.Seconds())
	}
}

func (m *metrics) declareCounters() {
	for _, c := range [][2]string{
		{"scheduler_idle_seconds_total", "Total wall time while the scheduler has no runnable or queued work."},
		{"cuda_graph_passes_total", "Total number of forward passes categorized by CUDA graph."},
		{"realtime_tokens_total", "Total number of tokens processed (updated on each log interval). mode: prefill_compute, prefill_cache, decode."},
		{"prefill_effective_tokens_total", "Effective prefill tokens with retracted-request re-counts excluded, updated on each log interval. mode: device_hit, host_hit, storage_hit, input. Windowed prefix cache hit rate = rate(sum of *_hit) / rate(sum of all modes); per-tier rate uses a single *_hit mode in the numerator."},
		{"num_retracted_requests_total", "Number of retracted requests."},
		{"http_requests_total", "Total number of HTTP requests by endpoint and method"},
		{"http_responses_total", "Total number of HTTP responses by endpoint and status code"},
		{"prompt_tokens_total", "Number of prefill tokens processed."},
		{"generation_tokens_total", "Number of generation tokens processed."},
		{"num_requests_total", "Number of requests processed."},
		{"num_aborted_requests_total", "Number of requests aborted."},
		{"cached_tokens_total", "Number of cached prompt tokens by source (device/host/storage)."},
	} {
		m.families[c[0]] = m.reg.Counter("sglang:"+c[0], c[1])
	}
	m.families["http_requests_active"] = m.reg.Gauge("sglang:http_requests_active", "Number of currently active HTTP requests")
}

func (m *metrics) of(family string, labels []string) *expo.Series {
	return m.families[family].With(labels...)
}

func streaming(c *live.Call) []string {
	return []string{"is_streaming", strconv.FormatBool(c.Streamed)}
}

// Token implements live.Observer.
func (m *metrics) Token(c *live.Call, first bool, gap time.Duration) {
	m.mu.Lock()
	m.tokens++
	m.mu.Unlock()
	if c.Internal {
		return
	}
	if first {
		m.of("queue_time_seconds", m.scheduler()).Observe(c.Queued().Seconds())
		m.of("per_stage_req_latency_seconds", m.scheduler("stage", "prefill_waiting")).Observe(c.Queued().Seconds())
		m.of("per_stage_req_latency_seconds", m.scheduler("stage", "prefill_forward")).Observe((c.FirstToken - c.Admitted).Seconds())
	}
	if c.Streamed && !first {
		m.interToken().Observe(gap.Seconds())
	}
	if c.Streamed && first || !c.Streamed && c.Tokens == unstreamedInterval {
		m.of("time_to_first_token_seconds", m.front(streaming(c)...)).Observe((c.LastToken - c.Arrived).Seconds())
	}
}

// Ended implements live.Observer.
func (m *metrics) Ended(c *live.Call) {
	switch {
	case c.Internal:
		return
	case c.Aborted:
		m.of("num_aborted_requests_total", m.front()).Add(1)
		m.of("e2e_request_latency_seconds", m.front(streaming(c)...)).Observe((c.LastToken - c.Arrived).Seconds())
		return
	}
	kind := m.front(streaming(c)...)
	m.of("e2e_request_latency_seconds", kind).Observe((c.LastToken - c.Arrived).Seconds())
	m.of("num_requests_total", kind).Add(1)
	m.of("prompt_tokens_total", kind).Add(float64(c.PromptTokens))
	m.of("generation_tokens_total", kind).Add(float64(c.Tokens))
	m.of("prompt_tokens_histogram", m.front()).Observe(float64(c.PromptTokens))
	m.of("uncached_prompt_tokens_histogram", m.front()).Observe(float64(c.PromptTokens - c.Cached))
	m.of("generation_tokens_histogram", m.front()).Observe(float64(c.Tokens))
	m.of("per_stage_req_latency_seconds", m.scheduler("stage", "decode_loop")).Observe((c.LastToken - c.FirstToken).Seconds())
	if c.Cached > 0 {
		m.of("cached_tokens_total", m.front("cache_source", "device")).Add(float64(c.Cached))
	}
	if c.Tokens > 1 {
		m.of("request_time_per_output_token_seconds", kind).Observe(c.TimePerToken().Seconds())
	}
	if !c.Streamed {
		m.endedUnstreamed(c)
	}
}

// endedUnstreamed records what left the scheduler in lumps.
func (m *metrics) endedUnstreamed(c *live.Call) {
	if c.Tokens < unstreamedInterval {
		m.of("time_to_first_token_seconds", m.front(streaming(c)...)).Observe((c.LastToken - c.Arrived).Seconds())
	} else {
		m.interToken().ObserveN(c.TimePerToken().Seconds(), c.Tokens-unstreamedInterval)
	}
}

// Stepped implements live.Observer. Gauges move with each prefill batch and each log interval of
// decode steps, and keep their values when nothing runs.
func (m *metrics) Stepped(s *des.Step, st des.Stats, _ int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	prefill := s.Shape.PromptTokens() > 0
	graph := "decode_full"
	switch {
	case prefill:
		graph = "prefill_none"
	case m.set.layout.Eager:
		graph = "decode_none"
	}
	m.of("cuda_graph_passes_total", m.scheduler("mode", graph)).Add(1)
	if n := len(s.Preempted); n > 0 {
		m.of("num_retracted_requests_total", m.scheduler()).Add(float64(n))
	}
	m.decodes++
	if prefill || m.decodes >= m.set.logInterval {
		m.refresh(s, st)
	}
}

func (m *metrics) refresh(s *des.Step, st des.Stats) {
	m.realtime(st)
	total := float64(max(st.KVTotal, 1))
	set := func(name string, v float64) { m.gauges[name].Set(v) }
	set("num_running_reqs", float64(st.Running))
	set("num_queue_reqs", float64(st.Waiting))
	set("num_used_tokens", float64(st.KVUsed))
	set("kv_used_tokens", float64(st.KVUsed))
	set("kv_available_tokens", total-float64(st.KVUsed))
	set("token_usage", math.Round(100*float64(st.KVUsed)/total)/100)
	set("full_token_usage", float64(st.KVUsed)/total)
	set("decode_sum_seq_lens", float64(s.Shape.ContextTokens))
	set("new_token_ratio", st.NewTokenRatio)
	set("cache_hit_rate", m.hitRate)
	set("num_retracted_reqs", float64(len(s.Preempted)))
	set("utilization", float64(st.Running)/float64(max(m.set.maxRunning, 1)))
	set("is_cuda_graph", boolFloat(!m.set.layout.Eager && s.Shape.PromptTokens() == 0))
	if s.Shape.PromptTokens() > 0 && m.decodes < m.set.logInterval {
		return // throughput belongs to decode intervals
	}
	if took := time.Since(m.since).Seconds(); took > 0 {
		m.perSec = float64(m.tokens) / took
		set("gen_throughput", m.perSec)
	}
	m.decodes, m.tokens, m.since = 0, 0, time.Now()
}

// realtime moves the live token counters to the model's.
func (m *metrics) realtime(st des.Stats) {
	add := func(family, mode string, n uint64) {
		m.of(family, m.scheduler("mode", mode)).Add(float64(n))
	}
	computed, hits := st.ComputedTokens-m.flushed.ComputedTokens, st.PrefixHitTokens-m.flushed.PrefixHitTokens
	add("realtime_tokens_total", "prefill_compute", computed)
	add("realtime_tokens_total", "prefill_cache", hits)
	add("realtime_tokens_total", "decode", st.GeneratedTokens-m.flushed.GeneratedTokens)
	add("prefill_effective_tokens_total", "input", computed)
	add("prefill_effective_tokens_total", "device_hit", hits)
	if queried := st.PrefixQueryTokens - m.flushed.PrefixQueryTokens; queried > 0 {
		m.hitRate = float64(hits) / float64(queried)
	}
	m.flushed = st
}

// interval returns the figures of the last log interval.
func (m *metrics) interval() (tokensPerSecond, hitRate float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.perSec, m.hitRate
}

func boolFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) serve(e *live.Engine) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		idle := e.Uptime() - e.Stats().Busy
		m.of("scheduler_idle_seconds_total", m.scheduler()).Set(idle.Seconds())
		if strings.Contains(r.Header.Get("Accept"), "openmetrics") { // with any weight
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores")
			m.reg.WriteOpenMetrics(w)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.reg.WriteTo(w)
	}
}
