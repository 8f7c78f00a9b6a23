package main

import (
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// signalsFor maps our names to SGLang's series, the best first. What is on the page decides, but for
// two things that the page cannot tell: whether all schedulers export, so that each tensor-parallel rank
// repeats what the first one says, and whether speculation is on, since its gauges are there without it
// and stand at zero.
func signalsFor(allSchedulers bool, effective engine.Settings) []*engine.Signal {
	ranks := []string{"pp_rank"}
	if allSchedulers {
		ranks = append(ranks, "tp_rank", "moe_ep_rank")
	}
	out := slices.Concat(requestGauges(), cacheGauges(), schedulerCounters())
	if effective["speculative_algorithm"] != "" {
		out = append(out, speculation()...)
	}
	for _, s := range out {
		setRanks(s, ranks)
	}
	return slices.Concat(out, requestCounters(), latencies(ranks))
}

// setRanks keeps one of the ranks that tell the same: the first pipeline stage and, where all
// schedulers export, the first tensor-parallel rank of each data-parallel one. Without that flag the
// rank that exports is not always 0: with attention data parallelism each group has its own. Releases
// before these labels are read as they are.
func setRanks(s *engine.Signal, ranks []string) {
	s.Ranks = ranks
	for _, more := range s.GetPlus() {
		setRanks(more, ranks)
	}
}

// requestGauges are moved by the scheduler's log interval. With priorities their total has an empty
// label, and beside it stands what each priority has of it.
func requestGauges() []*engine.Signal {
	queue := func(series string) *engine.Signal {
		return match(slow(gauge("requests_deferred", series)), "priority", "")
	}
	return []*engine.Signal{
		match(slow(gauge("requests_running", "sglang:num_running_reqs")), "priority", ""),
		match(slow(gauge("requests_waiting", "sglang:num_queue_reqs")), "priority", ""),
		since("0.4.6.post4", plus(queue("sglang:num_grammar_queue_reqs"),
			since("0.5.12", queue("sglang:num_prefill_bootstrap_queue_reqs")), // split prefill and decode
			gone("0.5.12", queue("sglang:num_prefill_prealloc_queue_reqs")),
			since("0.5.1.post2", queue("sglang:num_prefill_inflight_queue_reqs")),
			queue("sglang:num_decode_prealloc_queue_reqs"), queue("sglang:num_decode_transfer_queue_reqs"),
		)),
		since("0.5.5.post1", mean(slow(gauge("new_token_ratio", "sglang:new_token_ratio")))),
		slow(gauge("generation_tokens_per_second", "sglang:gen_throughput")),
		since("0.4.5.post1", gone("0.5.3", mean(slow(gauge("queue_mean_seconds", "sglang:avg_request_queue_latency"))))),
		since("0.5.2", slow(gauge("preempted_lately", "sglang:num_retracted_reqs"))),
	}
}

func cacheGauges() []*engine.Signal {
	return []*engine.Signal{
		// Cached prefixes that may be evicted do not count as used; of hybrid models it is the worst pool.
		slow(gauge("kv_usage", "sglang:token_usage")),
		largest(slow(gauge("kv_usage_max", "sglang:token_usage"))),
		since("0.5.6", gauge("kv_capacity_tokens", "sglang:max_total_num_tokens")),
		since("0.5.11", slow(gauge("kv_used_tokens", "sglang:kv_used_tokens"))),
		slow(gauge("kv_used_tokens", "sglang:num_used_tokens")),
		since("0.5.11", slow(gauge("kv_evictable_tokens", "sglang:kv_evictable_tokens"))),
		since("0.5.10", atEvent(dividedBy("sglang:hicache_host_total_tokens", slow(gauge("kv_host_usage", "sglang:hicache_host_used_tokens"))))),
		mean(slow(gauge("prefix_hit_rate", "sglang:cache_hit_rate"))),
		since("0.5.7", atEvent(gauge("lora_slots", "sglang:lora_pool_slots_total"))),
		since("0.5.7", atEvent(slow(gauge("lora_slots_used", "sglang:lora_pool_slots_used")))),
	}
}

func speculation() []*engine.Signal {
	return []*engine.Signal{
		since("0.5.3.post2", mean(slow(gauge("spec_acceptance_rate", "sglang:spec_accept_rate")))),
		since("0.4.1.post7", mean(slow(gauge("spec_accepted_length", "sglang:spec_accept_length")))),
	}
}

func schedulerCounters() []*engine.Signal {
	const tokens = "sglang:realtime_tokens_total"
	return []*engine.Signal{
		// Live counts first: the others move only when a request ends.
		since("0.5.7", match(counter("prompt_tokens", tokens), "mode", "prefill_compute|prefill_cache")),
		since("0.5.7", match(counter("prompt_computed_tokens", tokens), "mode", "prefill_compute")),
		since("0.5.7", match(counter("generation_tokens", tokens), "mode", "decode")),
		since("0.5.7", match(counter("iteration_tokens", tokens), "mode", "prefill_compute|decode")),
		since("0.5.7", counter("iterations", "sglang:cuda_graph_passes_total")),
		since("0.5.7", atEvent(counter("preemptions", "sglang:num_retracted_requests_total"))),
		since("0.4.9.post3", gone("0.5.3", counter("preemptions", "sglang:total_retracted_reqs"))),
		since("0.5.11", atEvent(counter("forward_seconds", "sglang:forward_execution_seconds_total"))),
		since("0.5.7", gone("0.5.11", atEvent(counter("forward_seconds", "sglang:gpu_execution_seconds_total")))),
		since("0.5.5.post1", atEvent(counter("kv_evicted_tokens", "sglang:evicted_tokens_total"))),
		since("0.5.5.post1", atEvent(counter("kv_loaded_back_tokens", "sglang:load_back_tokens_total"))),
		since("0.5.13", atEvent(counter("spec_drafts", "sglang:spec_verify_calls_total"))),
		since("0.5.10", atEvent(mean(counter("estimated_flops", "sglang:estimated_flops_per_gpu_total")))),
		since("0.5.10", atEvent(mean(counter("estimated_read_bytes", "sglang:estimated_read_bytes_per_gpu_total")))),
		since("0.5.10", atEvent(mean(counter("estimated_write_bytes", "sglang:estimated_write_bytes_per_gpu_total")))),
	}
}

// inference are the paths of the HTTP counters that run the model.
const inference = "/generate|/v1/completions|/v1/chat/completions|/v1/responses|/v1/messages"

// requestCounters are the front process's, which knows no ranks. A request that a full queue turns
// away in a stream is answered 200 and shows only as aborted.
func requestCounters() []*engine.Signal {
	answered := func(signal, status string) *engine.Signal {
		return since("0.5.23", atEvent(match(match(counter(signal, "sglang:http_responses_total"), "status_code", status), "endpoint", inference)))
	}
	return []*engine.Signal{
		since("0.4.1.post6", atEnd(counter("requests_finished", "sglang:num_requests_total"))),
		answered("requests_failed", "500|502|503|504"),
		answered("requests_rejected", "503"),
		since("0.5.3", atEvent(counter("requests_aborted", "sglang:num_aborted_requests_total"))),
		since("0.4.7", gone("0.5.3", atEvent(counter("requests_aborted", "sglang:num_aborted_requests")))),
		atEnd(counter("prompt_tokens", "sglang:prompt_tokens_total")),
		atEnd(counter("generation_tokens", "sglang:generation_tokens_total")),
		atEnd(counter("prefix_query_tokens", "sglang:prompt_tokens_total")),
		since("0.4.3.post4", atEvent(atEnd(counter("prefix_hit_tokens", "sglang:cached_tokens_total")))),
	}
}

// latencies: requests that are not streamed leave the scheduler in lumps of 50 tokens, so that their
// first token is not the first. Where the page tells them apart only streamed ones count.
func latencies(ranks []string) []*engine.Signal {
	streamed := func(s *engine.Signal) *engine.Signal { return atEvent(match(s, "is_streaming", "true")) }
	queue := since("0.5.3", histogram("queue_seconds", "sglang:queue_time_seconds"))
	oldQueue := since("0.5.2", gone("0.5.3", histogram("queue_seconds", "sglang:queue_time_s")))
	prefill := since("0.5.3", atFirst(match(histogram("prefill_seconds", "sglang:per_stage_req_latency_seconds"), "stage", "prefill_forward")))
	for _, s := range []*engine.Signal{queue, oldQueue, prefill} {
		setRanks(s, ranks)
	}
	return []*engine.Signal{
		since("0.5.17", streamed(histogram("ttft_seconds", "sglang:time_to_first_token_seconds"))),
		gone("0.5.17", match(histogram("ttft_seconds", "sglang:time_to_first_token_seconds"), "is_streaming", "")),
		// Only streamed requests have gaps; the engine's own warm-up has none.
		since("0.4.3.post3", atEvent(histogram("itl_seconds", "sglang:inter_token_latency_seconds"))),
		gone("0.4.5", atEvent(histogram("itl_seconds", "sglang:time_per_output_token_seconds"))),
		since("0.5.23", streamed(atEnd(histogram("tpot_seconds", "sglang:request_time_per_output_token_seconds")))),
		atEnd(atFirst(histogram("e2e_seconds", "sglang:e2e_request_latency_seconds"))),
		queue, oldQueue, prefill,
		// No decode_seconds: the stage decode_loop is one step of a request, not its whole decode.
		atEvent(atEnd(histogram("prompt_length_tokens", "sglang:prompt_tokens_histogram"))), // before 0.5.23 with a flag
		atEvent(atEnd(histogram("output_length_tokens", "sglang:generation_tokens_histogram"))),
	}
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

func dividedBy(series string, s *engine.Signal) *engine.Signal {
	s.DivideBy = series
	return s
}

func match(s *engine.Signal, name, values string) *engine.Signal {
	if s.Match == nil {
		s.Match = map[string]string{}
	}
	s.Match[name] = values
	return s
}

func plus(s *engine.Signal, more ...*engine.Signal) *engine.Signal {
	s.Plus = append(s.Plus, more...)
	return s
}

func mean(s *engine.Signal) *engine.Signal {
	s.Combine = engine.Mean
	return s
}

func largest(s *engine.Signal) *engine.Signal {
	s.Combine = engine.Max
	return s
}

// slow marks a gauge that the scheduler moves once in so many decode steps, and not while it idles.
func slow(s *engine.Signal) *engine.Signal {
	s.ByInterval = true
	return s
}

// since and gone name the first release with a series and the first without.
func since(release string, s *engine.Signal) *engine.Signal {
	s.Since = release
	return s
}

func gone(release string, s *engine.Signal) *engine.Signal {
	s.Gone = release
	return s
}

// atEnd marks a series that SGLang writes when a request ends.
func atEnd(s *engine.Signal) *engine.Signal {
	s.AtEnd = true
	return s
}

// atFirst marks a series that is on the page once a request was served, atEvent one that is there only
// once its event has come, or with a setting.
func atFirst(s *engine.Signal) *engine.Signal {
	s.Appears = engine.AfterFirstRequest
	return s
}

func atEvent(s *engine.Signal) *engine.Signal {
	s.Appears = engine.AfterFirstEvent
	return s
}
