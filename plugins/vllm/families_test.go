package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// TestFamilies: every family that a real 0.32.0 exports is read, or left out for a reason.
func TestFamilies(t *testing.T) {
	enginetest.Families(t, adapter{}, enginetest.FamiliesOptions{
		Version: "0.32.0", File: "testdata/families-0.32.0.txt", Report: "testdata/families-0.32.0.golden",
		LeftOut: []enginetest.Unmanaged{
			{Pattern: ".*_created", Why: "times at which a series began, which the client library adds"},
			{Pattern: "vllm:(?:mm_cache|external_prefix_cache)_.*", Why: "caches of other inputs and of other servers"},
			{Pattern: "vllm:estimated_.*", Why: "guessed from the model's shape, not measured"},
			{Pattern: "vllm:prompt_tokens_(?:by_source|cached|cached_by_source)_total|vllm:request_prefill_kv_computed_tokens", Why: "the prefix cache's counters say the same"},
			{Pattern: "vllm:request_(?:prompt_tokens|generation_tokens|max_num_generation_tokens|params_max_tokens|params_n)", Why: "lengths a request, of which the counters' means are used"},
			{Pattern: "vllm:request_inference_time_seconds|vllm:request_num_preemptions", Why: "prefill and decode times, and the counter of preemptions, say it in parts"},
			{Pattern: "vllm:admission_rejections_total", Why: "nothing answers a finding of refused requests yet"},
			{Pattern: "vllm:engine_sleep_state", Why: "sleeping engines are not used"},
		},
	})
}
