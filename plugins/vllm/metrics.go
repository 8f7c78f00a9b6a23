package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// signals maps our names to vLLM's series, the newest name first. One list serves all releases:
// what is on the page decides. Where an old name outlives its successor for some releases, both
// mean the same.
var signals = []*engine.Signal{
	gauge("requests_running", "vllm:num_requests_running"),
	// Requests deferred for grammars or KV transfers are no load (≥ 0.20).
	match(gauge("requests_waiting", "vllm:num_requests_waiting_by_reason"), "reason", "capacity"),
	gauge("requests_waiting", "vllm:num_requests_waiting"),
	gauge("kv_usage", "vllm:kv_cache_usage_perc"),  // ≥ 0.9.2
	gauge("kv_usage", "vllm:gpu_cache_usage_perc"), // ≤ 0.11
	// Blocks × block size overstates hybrid models; from 0.24 the engine says it in tokens.
	label("kv_capacity_tokens", "vllm:cache_config_info", "kv_cache_size_tokens"),
	label("kv_capacity_tokens", "vllm:cache_config_info", "num_gpu_blocks*block_size"),

	match(atEnd(counter("requests_finished", "vllm:request_success_total")), "finished_reason", "stop|length|repetition"),
	match(atEnd(counter("requests_failed", "vllm:request_success_total")), "finished_reason", "error"), // ≥ 0.13
	match(atEnd(counter("requests_aborted", "vllm:request_success_total")), "finished_reason", "abort"),
	counter("prompt_tokens", "vllm:prompt_tokens_total"),
	counter("generation_tokens", "vllm:generation_tokens_total"),
	counter("preemptions", "vllm:num_preemptions_total"),
	counter("prefix_query_tokens", "vllm:prefix_cache_queries_total"),     // ≥ 0.9.2
	counter("prefix_query_tokens", "vllm:gpu_prefix_cache_queries_total"), // ≤ 0.11.2
	counter("prefix_hit_tokens", "vllm:prefix_cache_hits_total"),
	counter("prefix_hit_tokens", "vllm:gpu_prefix_cache_hits_total"),
	part(histogram("iteration_tokens", "vllm:iteration_tokens_total"), engine.SumPart),
	part(histogram("iterations", "vllm:iteration_tokens_total"), engine.CountPart),

	histogram("ttft_seconds", "vllm:time_to_first_token_seconds"),
	histogram("itl_seconds", "vllm:inter_token_latency_seconds"),                   // ≥ 0.10.2
	histogram("itl_seconds", "vllm:time_per_output_token_seconds"),                 // ≤ 0.14
	atEnd(histogram("tpot_seconds", "vllm:request_time_per_output_token_seconds")), // ≥ 0.11
	atEnd(histogram("e2e_seconds", "vllm:e2e_request_latency_seconds")),
	atEnd(histogram("queue_seconds", "vllm:request_queue_time_seconds")),
	atEnd(histogram("queue_seconds", "vllm:time_in_queue_requests")), // ≤ 0.9.0
	atEnd(histogram("prefill_seconds", "vllm:request_prefill_time_seconds")),
	atEnd(histogram("decode_seconds", "vllm:request_decode_time_seconds")),
}

func gauge(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Gauge}
}

func counter(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Counter}
}

func histogram(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.HistogramSeries}
}

func label(signal, series, name string) *engine.Signal {
	s := gauge(signal, series)
	s.Part, s.Label = engine.LabelPart, name
	return s
}

func part(s *engine.Signal, p seriesPart) *engine.Signal {
	s.Part = p
	return s
}

func match(s *engine.Signal, name, values string) *engine.Signal {
	s.Match = map[string]string{name: values}
	return s
}

// atEnd marks a series that vLLM writes when a request ends.
func atEnd(s *engine.Signal) *engine.Signal {
	s.AtEnd = true
	return s
}
