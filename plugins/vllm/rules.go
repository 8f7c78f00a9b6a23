package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// rules are the relations that vLLM checks at start and answers with an exit.
var rules = []engine.Rule{
	{Constraint: &engine.Constraint{
		Left: "max_num_batched_tokens", Comparison: engine.GreaterOrEqual, Right: "max_num_seqs",
		Text: "max_num_batched_tokens must be at least max_num_seqs: each running sequence needs one token per step",
	}},
	{Constraint: &engine.Constraint{
		Left: "max_num_batched_tokens", Comparison: engine.GreaterOrEqual, Right: "max_model_len",
		WhenKnob: "enable_chunked_prefill", WhenValue: "false",
		Text: "without chunked prefill max_num_batched_tokens must be at least max_model_len: a prompt must fit into one step",
	}},
	{Constraint: &engine.Constraint{
		Left: "long_prefill_token_threshold", Comparison: engine.LessOrEqual, Right: "max_model_len",
		Text: "long_prefill_token_threshold must not exceed max_model_len",
	}},
	{Since: "0.28", Constraint: &engine.Constraint{
		Left: "max_num_scheduled_tokens", Comparison: engine.LessOrEqual, Right: "max_num_batched_tokens",
		Text: "max_num_scheduled_tokens must not exceed max_num_batched_tokens, which sizes the buffer",
	}},
	{Since: "0.31", Constraint: &engine.Constraint{
		Left: "max_num_active_seqs", Comparison: engine.LessOrEqual, Right: "max_num_seqs",
		Text: "max_num_active_seqs must not exceed max_num_seqs, which sizes the buffer",
	}},
	{Since: "0.10.2", Constraint: &engine.Constraint{
		Left: "decode_context_parallel_size", Comparison: engine.Divides, Right: "tensor_parallel_size",
		Text: "decode_context_parallel_size must divide tensor_parallel_size",
	}},
	{Since: "0.22", Constraint: &engine.Constraint{
		Left: "spec_method", Comparison: engine.Excludes, Right: "speculative_config",
		Text: "speculation is set either by spec_method or by speculative_config, not by both",
	}},
}

// needs lists switches that vLLM refuses without another one.
var needs = []struct{ knob, other, why string }{
	{"enable_eplb", "enable_expert_parallel", "enable_eplb balances experts and needs enable_expert_parallel"},
	{"enable_dbo", "enable_expert_parallel", "enable_dbo overlaps expert exchange and needs enable_expert_parallel"},
}

// requirements judges what a pairwise comparison cannot say.
func requirements(table *engine.Table, given, s engine.Settings) []*engine.Problem {
	var problems []*engine.Problem
	for _, n := range needs {
		if table.Knob(n.knob) != nil && given[n.knob] == "true" && given[n.other] != "true" {
			problems = append(problems, &engine.Problem{Knob: n.knob, Code: engine.CodeConstraint, Message: n.why})
		}
	}
	if c := s["speculative_config"]; c != "" && !json.Valid([]byte(c)) {
		problems = append(problems, &engine.Problem{
			Knob: "speculative_config", Code: engine.CodeBadType,
			Message: fmt.Sprintf("speculative_config is %q and must be a JSON object", c),
		})
	}
	if strings.Contains(s["speculative_config"], "synthetic") {
		problems = append(problems, &engine.Problem{
			Knob: "speculative_config", Code: engine.CodeOutOfRange,
			Message: "speculative_config must not use the rejection method synthetic: it is for benchmarks and breaks the answers",
		})
	}
	if table.Knob("spec_method") != nil && given["spec_method"] == "" {
		for _, name := range []string{"spec_tokens", "spec_model"} {
			if s[name] != "" {
				problems = append(problems, &engine.Problem{
					Knob: name, Code: engine.CodeConstraint, Message: fmt.Sprintf("%s says nothing without spec_method", name),
				})
			}
		}
	}
	return problems
}

// switchedOff names the knobs that other settings make meaningless, with the reason.
func switchedOff(given engine.Settings) map[string]string {
	off := map[string]string{}
	if given["enforce_eager"] == "true" {
		for _, name := range []string{"max_cudagraph_capture_size", "optimization_level"} {
			off[name] = "enforce_eager switches compilation and CUDA graphs off"
		}
	}
	if given["kv_cache_memory_bytes"] != "" {
		off["gpu_memory_utilization"] = "kv_cache_memory_bytes overrides the fraction"
	}
	if given["cpu_kv_cache_space"] != "" {
		off["gpu_memory_utilization"] = "a CPU build takes its KV memory from VLLM_CPU_KVCACHE_SPACE"
	}
	if given["kv_offloading_size"] == "" {
		off["kv_offloading_backend"] = "nothing is offloaded without kv_offloading_size"
	}
	return off
}
