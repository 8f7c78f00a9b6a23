package main

import (
	"slices"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// rules are the relations that TGI checks at start and answers with an exit.
var rules = []engine.Rule{
	{Since: "2.0", Constraint: &engine.Constraint{
		Left: inputTokens, Comparison: engine.Excludes, Right: inputLength,
		Text: "max_input_length is the old name of max_input_tokens: set one of them",
	}},
	{Since: "2.0", Constraint: &engine.Constraint{
		Left: inputTokens, Comparison: engine.LessOrEqual, Right: totalTokens,
		Text: "max_input_tokens must be below max_total_tokens, which counts the answer as well",
	}},
	{Constraint: &engine.Constraint{
		Left: inputLength, Comparison: engine.LessOrEqual, Right: totalTokens,
		Text: "max_input_length must be below max_total_tokens, which counts the answer as well",
	}},
	{Gone: chunkingSince, Constraint: &engine.Constraint{
		Left: prefillLimit, Comparison: engine.GreaterOrEqual, Right: inputLength,
		Text: "max_batch_prefill_tokens must be at least max_input_length: a prompt must fit into one prefill",
	}},
	{Since: "2.0", Gone: chunkingSince, Constraint: &engine.Constraint{
		Left: prefillLimit, Comparison: engine.GreaterOrEqual, Right: inputTokens, Text: promptInPrefill,
	}},
	{Since: chunkingSince, Constraint: &engine.Constraint{
		Left: prefillLimit, Comparison: engine.GreaterOrEqual, Right: inputTokens,
		WhenKnob: chunking, WhenValue: "false", Text: "without chunked prefill " + promptInPrefill,
	}},
	{Constraint: &engine.Constraint{
		Left: totalTokens, Comparison: engine.LessOrEqual, Right: batchTotal,
		Text: "max_total_tokens must not exceed max_batch_total_tokens: one request must fit into the KV cache",
	}},
	{Constraint: &engine.Constraint{
		Left: "dtype", Comparison: engine.Excludes, Right: "quantize",
		Text: "dtype and quantize both decide the number format: set one of them",
	}},
}

const promptInPrefill = "max_batch_prefill_tokens must be at least max_input_tokens: a prompt must fit into one prefill"

// chunked tells whether prompts are split over steps: the v3 backend does it unless its switch,
// paged attention or speculation is in the way. A model that brings its own speculation head does
// not chunk either, which cannot be seen from here.
func chunked(v engine.Version, given engine.Settings) bool {
	return v.Within(chunkingSince, "") && given[chunking] != "false" && given[attention] != "paged" && number(given["speculate"]) <= 0
}

// switchedOff names the knobs that the release or other settings make meaningless, with the reason.
func switchedOff(v engine.Version, given engine.Settings) map[string]string {
	off := map[string]string{}
	if chunked(v, given) {
		for _, name := range []string{"max_batch_size", "max_waiting_tokens", "waiting_served_ratio"} {
			off[name] = "with chunked prefill TGI schedules by tokens and does not look at it; PREFILL_CHUNKING=0 brings it back"
		}
	}
	if number(given["speculate"]) > 0 {
		off[chunking] = "speculation switches chunked prefill off"
	}
	switch {
	case given["lora_adapters"] != "":
		off["prefix_caching"] = "LoRA adapters switch prefix caching off"
	case given[attention] == "paged":
		off["prefix_caching"] = "paged attention has no prefix caching"
		off[chunking] = "paged attention has no chunked prefill"
	}
	return off
}

// number reads a setting; 0 when it is not set or no number.
func number(value string) int {
	n, _ := strconv.Atoi(value)
	return n
}

// requirements judges what a pairwise comparison cannot say. What the settings do not touch is the
// operator's own and stays.
func requirements(v engine.Version, given, s engine.Settings) []*engine.Problem {
	var problems []*engine.Problem
	refuse := func(broken bool, why string, knobs ...string) {
		touched := slices.IndexFunc(knobs, func(name string) bool { _, ok := s[name]; return ok })
		if broken && touched >= 0 {
			problems = append(problems, &engine.Problem{Knob: knobs[touched], Code: engine.CodeConstraint, Message: why})
		}
	}
	set := func(name string) bool { return given[name] != "" }
	for _, input := range []string{inputTokens, inputLength} {
		refuse(set(input) && number(given[input]) == number(given[totalTokens]),
			input+" must be below max_total_tokens, which counts the answer as well", input, totalTokens)
		refuse(set(input) && set(prefillLimit) && !chunked(v, given) && number(given[prefillLimit]) < number(given[input]),
			promptInPrefill, prefillLimit, input, "speculate", attention, chunking)
	}
	refuse(set("kv_cache_dtype") && given[attention] == "flashdecoding",
		"kv_cache_dtype needs flashinfer or paged attention", "kv_cache_dtype", attention)
	refuse(given["quantize"] == "exl2" && number(given[shards]) > 1, "exl2 weights cannot be spread over GPUs", "quantize", shards)
	refuse(given["sharded"] == "true" && number(given[shards]) == 1, "sharded means num_shard above 1", "sharded", shards)
	refuse(given["sharded"] == "false" && number(given[shards]) > 1, "num_shard above 1 means sharded", shards, "sharded")
	return problems
}
