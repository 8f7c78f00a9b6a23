package main

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// signals maps our names to vLLM's series, the newest name first. One list serves all releases and
// both front ends: what is on the page decides, the releases are for people. Where an old name
// outlives its successor for some releases, both mean the same.
//
// Behind one page there may be several engines (data parallelism), told apart by the label engine;
// their requests and tokens add up, of their KV usage the mean is read, and the fullest one's beside it.
// Releases 0.9.2 to 0.10 label that gauge with the pid of each API server as well.
var signals = slices.Concat(gauges, counters, histograms)

var gauges = []*engine.Signal{
	gauge("requests_running", "vllm:num_requests_running"),
	// Requests deferred for grammars or KV transfers are no load, but they are in the engine.
	since("0.20", match(gauge("requests_waiting", "vllm:num_requests_waiting_by_reason"), "reason", "capacity")),
	gauge("requests_waiting", "vllm:num_requests_waiting"),
	since("0.20", match(gauge("requests_deferred", "vllm:num_requests_waiting_by_reason"), "reason", "deferred")),
	gone("0.9.1", gauge("requests_swapped", "vllm:num_requests_swapped")),
	since("0.9.2", gauge("kv_usage", "vllm:kv_cache_usage_perc")),
	gone("0.12", gauge("kv_usage", "vllm:gpu_cache_usage_perc")),
	since("0.9.2", largest(gauge("kv_usage_max", "vllm:kv_cache_usage_perc"))),
	gone("0.12", largest(gauge("kv_usage_max", "vllm:gpu_cache_usage_perc"))),
	gone("0.9.1", mean(gauge("kv_host_usage", "vllm:cpu_cache_usage_perc"))),
	// Blocks × block size overstates hybrid models; from 0.24 the engine says it in tokens.
	since("0.24", label("kv_capacity_tokens", cacheInfo, "kv_cache_size_tokens")),
	label("kv_capacity_tokens", cacheInfo, "num_gpu_blocks*block_size"),
	since("0.11.1", match(gauge("engines_asleep", "vllm:engine_sleep_state"), "sleep_state", "weights_offloaded|discard_all")),
	// One label set for each list of adapters that there ever was; the newest has the highest value.
	since("0.8", atEvent(largest(label("lora_slots", "vllm:lora_requests_info", "max_lora")))),
	since("0.8", atEvent(items("lora_slots_used", "vllm:lora_requests_info", "running_lora_adapters"))),
	since("0.8", atEvent(items("lora_adapters_waiting", "vllm:lora_requests_info", "waiting_lora_adapters"))),
	gone("0.9.1", mean(gauge("prefix_hit_rate", "vllm:gpu_prefix_cache_hit_rate"))),                      // V0
	gone("0.10", atEvent(mean(gauge("spec_acceptance_rate", "vllm:spec_decode_draft_acceptance_rate")))), // V0
}

// inference are the handlers of the HTTP counters that run the model.
const inference = "/v1/chat/completions|/v1/completions|/v1/responses|/v1/messages|/v1/chat/completions/batch|/inference/v1/generate"

var counters = []*engine.Signal{
	match(atEnd(counter("requests_finished", "vllm:request_success_total")), "finished_reason", "stop|length|repetition"),
	// Requests that a full queue turns away are answered 503 and are not among those that ended.
	since("0.13", plus(match(atEnd(counter("requests_failed", "vllm:request_success_total")), "finished_reason", "error"), rejected("requests_failed"))),
	// Before, only the answers' status tells, and not of streams that broke.
	atEvent(match(match(counter("requests_failed", "http_requests_total"), "status", "5xx|500|502|503|504"), "handler", inference)),
	rejected("requests_rejected"),
	match(atEnd(counter("requests_aborted", "vllm:request_success_total")), "finished_reason", "abort"),
	since("0.11.1", atEvent(counter("requests_corrupted", "vllm:corrupted_requests_total"))),
	counter("prompt_tokens", "vllm:prompt_tokens_total"),
	since("0.16", match(counter("prompt_computed_tokens", "vllm:prompt_tokens_by_source_total"), "source", "local_compute")),
	counter("generation_tokens", "vllm:generation_tokens_total"),
	counter("preemptions", "vllm:num_preemptions_total"),
	since("0.9.2", counter("prefix_query_tokens", "vllm:prefix_cache_queries_total")),
	since("0.7.3", gone("0.12", counter("prefix_query_tokens", "vllm:gpu_prefix_cache_queries_total"))), // at first in blocks
	since("0.9.2", counter("prefix_hit_tokens", "vllm:prefix_cache_hits_total")),
	since("0.7.3", gone("0.12", counter("prefix_hit_tokens", "vllm:gpu_prefix_cache_hits_total"))),
	since("0.11.1", counter("external_query_tokens", "vllm:external_prefix_cache_queries_total")),
	since("0.11.1", counter("external_hit_tokens", "vllm:external_prefix_cache_hits_total")),
	since("0.11.1", counter("media_query_items", "vllm:mm_cache_queries_total")),
	since("0.11.1", counter("media_hit_items", "vllm:mm_cache_hits_total")),
	since("0.6.6", part(histogram("iteration_tokens", "vllm:iteration_tokens_total"), engine.SumPart)),
	since("0.6.6", part(histogram("iterations", "vllm:iteration_tokens_total"), engine.CountPart)),
	since("0.8.5", atEvent(counter("spec_drafts", "vllm:spec_decode_num_drafts_total"))),
	since("0.8.5", atEvent(counter("spec_draft_tokens", "vllm:spec_decode_num_draft_tokens_total"))),
	since("0.8.5", atEvent(counter("spec_accepted_tokens", "vllm:spec_decode_num_accepted_tokens_total"))),
	since("0.17", mean(counter("estimated_flops", "vllm:estimated_flops_per_gpu_total"))),
	since("0.17", mean(counter("estimated_read_bytes", "vllm:estimated_read_bytes_per_gpu_total"))),
	since("0.17", mean(counter("estimated_write_bytes", "vllm:estimated_write_bytes_per_gpu_total"))),
}

var histograms = []*engine.Signal{
	histogram("ttft_seconds", "vllm:time_to_first_token_seconds"),
	since("0.10.2", histogram("itl_seconds", "vllm:inter_token_latency_seconds")),
	gone("0.15", histogram("itl_seconds", "vllm:time_per_output_token_seconds")),
	since("0.11", atEnd(histogram("tpot_seconds", "vllm:request_time_per_output_token_seconds"))),
	atEnd(histogram("e2e_seconds", "vllm:e2e_request_latency_seconds")),
	since("0.6.6", atEnd(histogram("queue_seconds", "vllm:request_queue_time_seconds"))),
	gone("0.9.1", atEnd(histogram("queue_seconds", "vllm:time_in_queue_requests"))),
	since("0.6.6", atEnd(histogram("prefill_seconds", "vllm:request_prefill_time_seconds"))),
	since("0.6.6", atEnd(histogram("decode_seconds", "vllm:request_decode_time_seconds"))),
	atEnd(histogram("prompt_length_tokens", "vllm:request_prompt_tokens")),
	atEnd(histogram("output_length_tokens", "vllm:request_generation_tokens")),
	atEnd(histogram("asked_length_tokens", "vllm:request_params_max_tokens")),
	since("0.12", atEvent(histogram("kv_block_lifetime_seconds", "vllm:kv_block_lifetime_seconds"))),
	since("0.12", atEvent(histogram("kv_block_idle_seconds", "vllm:kv_block_idle_before_evict_seconds"))),
	since("0.12", atEvent(histogram("kv_block_reuse_gap_seconds", "vllm:kv_block_reuse_gap_seconds"))),
}

// rejected counts requests that a limit of the queue turned away, first seen in 0.32.
func rejected(signal string) *engine.Signal {
	return since("0.32", counter(signal, "vllm:admission_rejections_total"))
}

// several are the signals that several API servers spoil: each counts the steps of its own requests,
// so that a step counts more than once, and what is the newest list of adapters is not told.
var several = []string{"iterations", "iteration_tokens", "lora_slots_used", "lora_adapters_waiting"}

// signalsFor leaves out what cannot be trusted of this server, and knows what shows itself late: all of
// the Rust front end's series but one, and the gauges of several API servers, which have none in their
// common registry before an engine has stepped.
func signalsFor(s *sight) []*engine.Signal {
	out := slices.Clone(signals)
	if s.servers {
		out = slices.DeleteFunc(out, func(sig *engine.Signal) bool { return slices.Contains(several, sig.GetSignal()) })
	}
	for i, sig := range out {
		late := s.rust || s.servers && sig.GetKind() == engine.Gauge
		if late && sig.GetAppears() == 0 && sig.GetSeries() != cacheInfo {
			out[i] = proto.CloneOf(sig)
			out[i].Appears = engine.AfterFirstRequest
		}
	}
	return out
}

// cacheInfo is there from the start, or not at all.
const cacheInfo = "vllm:cache_config_info"

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

// items counts the names in a label.
func items(signal, series, name string) *engine.Signal {
	s := label(signal, series, name)
	s.Part = engine.LabelItemsPart
	return s
}

func part(s *engine.Signal, p seriesPart) *engine.Signal {
	s.Part = p
	return s
}

func match(s *engine.Signal, name, values string) *engine.Signal {
	if s.Match == nil {
		s.Match = map[string]string{}
	}
	s.Match[name] = values
	return s
}

func plus(s, more *engine.Signal) *engine.Signal {
	s.Plus = append(s.Plus, more)
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

// since and gone name the first release with a series and the first without.
func since(release string, s *engine.Signal) *engine.Signal {
	s.Since = release
	return s
}

func gone(release string, s *engine.Signal) *engine.Signal {
	s.Gone = release
	return s
}

// atEnd marks a series that vLLM writes when a request ends.
func atEnd(s *engine.Signal) *engine.Signal {
	s.AtEnd = true
	return s
}

// atEvent marks a series that is on the page only once its event has come, or with a setting.
func atEvent(s *engine.Signal) *engine.Signal {
	s.Appears = engine.AfterFirstEvent
	return s
}
