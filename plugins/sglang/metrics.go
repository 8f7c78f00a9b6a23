package main

import (
	"maps"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// streamsLabeled is the release from which latencies say whether the request was streamed. Others
// leave the scheduler in lumps of 50 tokens, so that their first token is not the first.
const streamsLabeled = "0.5.17"

// signalsFor maps our names to SGLang's series, the best first. What is on the page decides, but
// for two things that the page cannot tell: whether its latencies are told apart by streaming, and
// whether each rank repeats what the first one says.
func signalsFor(v engine.Version, argv []string) []*engine.Signal {
	scheduler := firstRanks(hasFlag(argv, "--enable-metrics-for-all-schedulers"))
	streamed := func(s *engine.Signal) *engine.Signal { return s }
	if v.Within(streamsLabeled, "") {
		streamed = func(s *engine.Signal) *engine.Signal { return match(s, "is_streaming", "true") }
	}
	return slices.Concat(
		scheduler(gauge("requests_running", "sglang:num_running_reqs")),
		scheduler(gauge("requests_waiting", "sglang:num_queue_reqs")),
		// Cached prefixes that may be evicted do not count as used.
		scheduler(gauge("kv_usage", "sglang:token_usage")),
		scheduler(gauge("kv_capacity_tokens", "sglang:max_total_num_tokens")), // ≥ 0.5.6

		requestCounters,
		// Live counts first: the others move only when a request ends.
		scheduler(match(counter("prompt_tokens", "sglang:realtime_tokens_total"), "mode", "prefill_compute|prefill_cache")),
		alone(atEnd(counter("prompt_tokens", "sglang:prompt_tokens_total"))),
		scheduler(match(counter("generation_tokens", "sglang:realtime_tokens_total"), "mode", "decode")),
		alone(atEnd(counter("generation_tokens", "sglang:generation_tokens_total"))),
		scheduler(match(counter("iteration_tokens", "sglang:realtime_tokens_total"), "mode", "prefill_compute|decode")),
		scheduler(counter("iterations", "sglang:cuda_graph_passes_total")),       // ≥ 0.5.7
		scheduler(counter("preemptions", "sglang:num_retracted_requests_total")), // ≥ 0.5.7
		alone(atEnd(counter("prefix_query_tokens", "sglang:prompt_tokens_total"))),
		alone(atEnd(counter("prefix_hit_tokens", "sglang:cached_tokens_total"))),

		alone(streamed(histogram("ttft_seconds", "sglang:time_to_first_token_seconds"))),
		alone(histogram("itl_seconds", "sglang:inter_token_latency_seconds")),
		alone(streamed(atEnd(histogram("tpot_seconds", "sglang:request_time_per_output_token_seconds")))),
		alone(atEnd(histogram("e2e_seconds", "sglang:e2e_request_latency_seconds"))),
		scheduler(histogram("queue_seconds", "sglang:queue_time_seconds")), // ≥ 0.5.3
		alone(histogram("queue_seconds", "sglang:queue_time_s")),           // 0.5.2
		scheduler(match(histogram("prefill_seconds", "sglang:per_stage_req_latency_seconds"), "stage", "prefill_forward")),
		// No decode_seconds: the stage decode_loop is one step of a request, not its whole decode.
	)
}

// requestCounters: a request that is refused in a stream is answered 200 and shows only as aborted.
var requestCounters = []*engine.Signal{
	atEnd(counter("requests_finished", "sglang:num_requests_total")),
	match(match(counter("requests_failed", "sglang:http_responses_total"), "status_code", "500|502|503|504"),
		"endpoint", "/generate|/v1/completions|/v1/chat/completions|/v1/responses|/v1/messages"),
	counter("requests_aborted", "sglang:num_aborted_requests_total"), // ≥ 0.5.3
	counter("requests_aborted", "sglang:num_aborted_requests"),
}

// firstRanks keeps one of the ranks that tell the same: the first pipeline stage and, where all
// schedulers export, the first tensor-parallel rank. Without the latter flag the rank that exports
// is not always 0: with attention data parallelism each group has its own. Releases before these
// labels are read as they are.
func firstRanks(all bool) func(*engine.Signal) []*engine.Signal {
	return func(s *engine.Signal) []*engine.Signal {
		first := gauge(s.GetSignal(), s.GetSeries())
		first.Kind, first.Part, first.AtEnd = s.GetKind(), s.GetPart(), s.GetAtEnd()
		first.Match = map[string]string{"pp_rank": "0"}
		if all {
			first.Match["tp_rank"] = "0"
		}
		maps.Copy(first.Match, s.GetMatch())
		return []*engine.Signal{first, s}
	}
}

func alone(s *engine.Signal) []*engine.Signal { return []*engine.Signal{s} }

func gauge(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Gauge}
}

func counter(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.Counter}
}

func histogram(signal, series string) *engine.Signal {
	return &engine.Signal{Signal: signal, Series: series, Kind: engine.HistogramSeries}
}

func match(s *engine.Signal, name, values string) *engine.Signal {
	if s.Match == nil {
		s.Match = map[string]string{}
	}
	s.Match[name] = values
	return s
}

// atEnd marks a series that SGLang writes when a request ends.
func atEnd(s *engine.Signal) *engine.Signal {
	s.AtEnd = true
	return s
}
