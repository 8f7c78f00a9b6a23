package main

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// radixName is the knob that means the opposite of the engine's own name for it.
const radixName = "radix_cache"

// chunkPages is the text of the one rule that does not hold when chunked prefill is off.
const chunkPages = "page_size must divide chunked_prefill_size: a chunk ends at a page"

// rules are the relations that SGLang checks at start and answers with an exit.
var rules = []engine.Rule{
	{Constraint: &engine.Constraint{
		Left: "page_size", Comparison: engine.Divides, Right: "chunked_prefill_size", Text: chunkPages,
	}},
	{Constraint: &engine.Constraint{
		Left: "dp_size", Comparison: engine.Divides, Right: "tp_size", WhenKnob: "enable_dp_attention", WhenValue: "true",
		Text: "with enable_dp_attention dp_size must divide tp_size",
	}},
	{Since: "0.5.2", Constraint: &engine.Constraint{
		Left: "max_loras_per_batch", Comparison: engine.LessOrEqual, Right: "max_loaded_loras",
		Text: "max_loaded_loras must be at least max_loras_per_batch",
	}},
	{Constraint: &engine.Constraint{
		Left: "speculative_algorithm", Comparison: engine.Excludes, Right: "enable_mixed_chunk",
		Text: "mixed chunks do not work with speculation",
	}},
}

// fitted makes the table fit the rest of the settings: what they switch off does nothing.
func fitted(table *engine.Table, given engine.Settings) *engine.Table {
	table = table.Ignore(switchedOff(given))
	if given["chunked_prefill_size"] != "-1" {
		return table
	}
	unchunked := *table
	unchunked.Constraints = slices.DeleteFunc(slices.Clone(table.Constraints), func(c *engine.Constraint) bool {
		return c.GetText() == chunkPages
	})
	return &unchunked
}

// switchedOff names the knobs that other settings make meaningless, with the reason.
func switchedOff(given engine.Settings) map[string]string {
	off := map[string]string{}
	ignore := func(why string, names ...string) {
		for _, name := range names {
			off[name] = why
		}
	}
	if given["disable_cuda_graph"] == "true" {
		ignore("disable_cuda_graph switches all CUDA graphs off", "cuda_graph_max_bs", "cuda_graph_max_bs_decode",
			"cuda_graph_backend_decode", "cuda_graph_backend_prefill", "disable_cuda_graph_padding")
	}
	if given["enable_hierarchical_cache"] != "true" {
		ignore("nothing is kept in host memory without enable_hierarchical_cache", "hicache_ratio", "hicache_size",
			"hicache_write_policy", "hicache_mem_layout", "hicache_io_backend", "hicache_storage_backend")
	}
	if given[radixName] == "false" {
		ignore("there is no prefix cache to evict from", "radix_eviction_policy")
	}
	if given["speculative_algorithm"] == "" {
		ignore("nothing is guessed without speculative_algorithm", "speculative_draft_model_path", "speculative_num_steps",
			"speculative_eagle_topk", "speculative_num_draft_tokens", "speculative_adaptive",
			"speculative_accept_threshold_single", "speculative_accept_threshold_acc")
	}
	if given["enable_torch_compile"] != "true" {
		ignore("nothing is compiled without enable_torch_compile", "torch_compile_max_bs")
	}
	if above1(given["pp_size"]) {
		ignore("pipeline parallelism switches the overlap schedule off", "disable_overlap_schedule")
	} else {
		ignore("there is one pipeline stage", "pp_max_micro_batch_size")
	}
	if given["speculative_adaptive"] == "true" {
		ignore("speculative_adaptive adjusts it while serving", "speculative_num_steps")
	}
	return off
}

func above1(number string) bool {
	n, err := strconv.Atoi(number)
	return err == nil && n > 1
}

// trio are the numbers of speculation that SGLang wants together or not at all.
var trio = []string{"speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens"}

// requirements judges what a pairwise comparison cannot say. What the settings do not touch is the
// operator's own and stays.
func requirements(table *engine.Table, given, s engine.Settings) []*engine.Problem {
	if len(s) == 0 {
		return nil
	}
	if table.Knob(rustServer) != nil && given[rustServer] == "true" {
		return []*engine.Problem{{
			Code:    engine.CodeConstraint,
			Message: "the Rust front end (SGLANG_RUST_SERVER) has no metrics and drops running requests when it stops: nothing is changed under it",
		}}
	}
	var problems []*engine.Problem
	refuse := func(broken bool, why string, knobs ...string) {
		touched := slices.IndexFunc(knobs, func(name string) bool { return s[name] != "" })
		if broken && touched >= 0 {
			problems = append(problems, &engine.Problem{Knob: knobs[touched], Code: engine.CodeConstraint, Message: why})
		}
	}
	speculating := given["speculative_algorithm"] != ""
	numbers := present(given, trio)
	policy := cmp.Or(given["schedule_policy"], "fcfs")
	priorities := given["enable_priority_scheduling"] == "true"

	refuse(speculating && above1(given["pp_size"]), "speculation does not work with pp_size above 1", "speculative_algorithm", "pp_size")
	refuse(speculating && numbers > 0 && numbers < len(trio),
		"speculative_num_steps, speculative_eagle_topk and speculative_num_draft_tokens are set together or not at all",
		append(slices.Clone(trio), "speculative_algorithm")...)
	refuse(policy == "lpm" && given[radixName] == "false",
		"the schedule policy lpm looks for cached prefixes and needs radix_cache", "schedule_policy", radixName)
	refuse(priorities && policy != "fcfs" && policy != "lof",
		"enable_priority_scheduling works with the schedule policies fcfs and lof", "enable_priority_scheduling", "schedule_policy")
	refuse(given["schedule_low_priority_values_first"] == "true" && !priorities,
		"schedule_low_priority_values_first says nothing without enable_priority_scheduling",
		"schedule_low_priority_values_first", "enable_priority_scheduling")
	refuse(given["enable_dp_attention"] == "true" && !above1(given["dp_size"]),
		"enable_dp_attention needs dp_size above 1", "enable_dp_attention", "dp_size")
	return problems
}

// present counts the names that have a value.
func present(given engine.Settings, names []string) int {
	n := 0
	for _, name := range names {
		if given[name] != "" {
			n++
		}
	}
	return n
}
