package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// TestFamilies: every family that a real 0.5.23 exports is read, or left out for a reason.
func TestFamilies(t *testing.T) {
	enginetest.Families(t, adapter{}, enginetest.FamiliesOptions{
		Version: "0.5.23", File: "testdata/families-0.5.23.txt", Report: "testdata/families-0.5.23.golden",
		LeftOut: []enginetest.Unmanaged{
			{Pattern: "sglang:(?:mamba|swa|prealloc|pending_prealloc|dp_attention|spec|routing_key|num_unique_running_routing)_.*|sglang:routing_keys_active", Why: "of other layers, of data-parallel attention, of speculation and of routers"},
			{Pattern: "sglang:num_(?:decode|prefill)_.*|sglang:num_(?:grammar_queue|paused)_reqs", Why: "queues of disaggregated servers and of grammars"},
			{Pattern: "sglang:(?:startup|graph|weight|kv_cache_memory)_.*|sglang:(?:page_size|num_pages|context_len|is_cuda_graph|cuda_graph_passes_total)", Why: "of the start, which the server's own description tells"},
			{Pattern: "sglang:http_.*|sglang:num_requests_total", Why: "health checks and the engine's own probes count too: finished requests are counted by their latency"},
			{Pattern: "sglang:(?:process|scheduler_process)_cpu_seconds_total|sglang:scheduler_(?:idle|stage)_seconds_total|sglang:utilization|sglang:fwd_occupancy|sglang:realtime_tokens_total", Why: "its own processor time, which the host tells of every engine alike"},
			{Pattern: "sglang:(?:cache_hit_rate|gen_throughput|new_token_ratio|num_retracted_reqs|decode_sum_seq_lens)", Why: "of the last batch only: counters give means"},
			{Pattern: "sglang:(?:full_token_usage|kv_available_tokens|kv_evictable_tokens|kv_used_tokens|num_used_tokens)", Why: "the usage of the cache says the same"},
			{Pattern: "sglang:(?:prompt|generation|uncached_prompt)_tokens_histogram|sglang:prefill_effective_tokens_total", Why: "lengths a request, of which the counters' means are used"},
		},
	})
}
