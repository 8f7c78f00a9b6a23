package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// leftOut are the series that are not read.
var leftOut = []enginetest.Unmanaged{
	{Pattern: "sglang:(?:mamba|swa|prealloc|pending_prealloc)_.*|sglang:full_token_usage|sglang:max_total_num_tokens_swa", Why: "pools of one kind of layer; the usage that is read is that of the worst pool"},
	{Pattern: "sglang:(?:dp_attention|dp_cooperation|routing_key|num_unique_running_routing|eplb)_.*|sglang:routing_keys_active|sglang:prefill_delayer_.*", Why: "how evenly replicas and keys are loaded, which no setting that is tuned changes"},
	{Pattern: "sglang:(?:num_)?decode_(?:host_receive|deferred_kv_release).*|sglang:num_paused_reqs|sglang:kv_transfer_.*|sglang:num_(?:bootstrap_failed|transfer_failed)_reqs_total|sglang:num_prefill_retries_total", Why: "details of split prefill and decode and of weight updates; requests that wait for a transfer are read as deferred"},
	{Pattern: "sglang:spec_(?:block_accept_length|cap_length|num_steps|num_draft_tokens)", Why: "settings of speculation, and bounds of its length"},
	{Pattern: "sglang:(?:startup|graph_memory|weight_memory|weight_load|kv_cache_memory)_.*|sglang:engine_(?:startup|load_weights)_time|sglang:(?:page_size|num_pages|context_len|cache_config_info)", Why: "of the start, which the server's own account and its log tell"},
	{Pattern: "sglang:is_cuda_graph|sglang:decode_sum_seq_lens|sglang:(?:utilization|fwd_occupancy)", Why: "of the last batch or interval only; counters give means"},
	{Pattern: "sglang:kv_available_tokens|sglang:lora_pool_utilization", Why: "what is left, or the quotient, of figures that are read"},
	{Pattern: "sglang:http_(?:requests_total|requests_active)|sglang:num_so_requests_total", Why: "health checks count too; finished requests are counted where they end"},
	{Pattern: "sglang:(?:process|scheduler_process)_cpu_seconds_total|sglang:scheduler_(?:idle|stage)_seconds_total", Why: "its own processor time, which the host tells of every engine alike"},
	{Pattern: "sglang:uncached_prompt_tokens_histogram|sglang:prefill_effective_tokens_total|sglang:num_retracted_(?:input|output)_tokens_total", Why: "the counters of computed, cached and retracted work say the same"},
	{Pattern: "sglang:(?:eviction|load_back)_duration_seconds|sglang:load_back_bytes_total|sglang:hicache_(?:backup|dropped|prefetch|host_mamba)_.*|sglang:(?:storage_prefetch|prefetch|prefetched|backup|backuped)_.*", Why: "the counters of tokens moved to and from the host are read"},
	{Pattern: "sglang:(?:num_)?grammar_.*|sglang:func_latency_seconds|sglang:get_loads_duration_seconds|sglang:max_running_requests_under_SLO", Why: "single functions of the server"},
	{Pattern: "sglang:(?:diffusion|encoder)_.*|sglang:num_streaming_sessions|sglang:streaming_session_held_tokens|sglang:failed_session_recoveries_total", Why: "kinds of models and requests that are not tuned"},
}

// TestFamilies: every family that a real 0.5.23 exports, and every one that other releases and settings
// have, is read or left out for a reason.
func TestFamilies(t *testing.T) {
	enginetest.Families(t, adapter{}, enginetest.FamiliesOptions{
		Version: "0.5.23", File: "testdata/families-0.5.23.txt", Also: "testdata/series.txt", Report: "testdata/families-0.5.23.golden",
		LeftOut: leftOut, Argv: speculating,
	})
}

// TestDocument: the document says what is read.
func TestDocument(t *testing.T) {
	enginetest.SignalTable(t, adapter{}, "../../docs/METRICS.md", "sglang", speculating, leftOut)
}

// speculating switches on what is read only with speculation.
var speculating = []string{"sglang", "serve", "--model-path", "m", "--speculative-algorithm", "NGRAM"}
