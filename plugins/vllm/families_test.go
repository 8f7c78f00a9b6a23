package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// leftOut are the series that are not read.
var leftOut = []enginetest.Unmanaged{
	{Pattern: ".*_created", Why: "times at which a series began, which the client library adds"},
	{Pattern: "vllm:prompt_tokens_(?:cached|cached_by_source|recomputed)_total|vllm:request_prefill_kv_computed_tokens", Why: "the counters of the prefix cache and of computed prompt tokens say the same"},
	{Pattern: "vllm:request_(?:max_num_generation_tokens|params_n)", Why: "samples of one prompt; the lengths of prompts, answers and limits are read"},
	{Pattern: "vllm:request_inference_time_seconds", Why: "prefill and decode times say it in parts"},
	{Pattern: "vllm:request_num_preemptions", Why: "the counter of preemptions says it at once, and not only when a request ends"},
	{Pattern: "vllm:spec_decode_num_accepted_tokens_per_pos_total|vllm:spec_decode_efficiency", Why: "drafts, draft tokens and accepted tokens give the rate and the mean length"},
	{Pattern: "vllm:num_requests_kv_fetch_by_stage", Why: "stages of requests that count as deferred"},
	{Pattern: "vllm:(?:kv_offload|simple_kv_offload|hisparse|nixl|mooncake|hf3fs)_.*", Why: "transfers and stores of a single connector, of which the hits in caches outside the engine are read"},
	{Pattern: "vllm:(?:diffusion|sleep_mode|rl_weight_update|watermark|tool_call|websocket)_.*", Why: "kinds of models, requests and operations that are not tuned"},
	{Pattern: "http_request_duration_.*|http_(?:request|response)_size_bytes", Why: "health checks and one handler of all streams, up to the head of the answer; the wire shows the requests themselves"},
}

// TestFamilies: every family that a real 0.32.0 exports, and every one that other releases, settings
// and the Rust front end have, is read or left out for a reason.
func TestFamilies(t *testing.T) {
	enginetest.Families(t, adapter{}, enginetest.FamiliesOptions{
		Version: "0.32.0", File: "testdata/families-0.32.0.txt", Also: "testdata/series.txt", Report: "testdata/families-0.32.0.golden",
		LeftOut: leftOut,
	})
}

// TestDocument: the document says what is read.
func TestDocument(t *testing.T) {
	enginetest.SignalTable(t, adapter{}, "../../docs/METRICS.md", "vllm", nil, leftOut)
}
