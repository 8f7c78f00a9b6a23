package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

const (
	warmUp      = "by warm-up, from the model and the memory"
	oldPrefill  = "4096"
	prefillRule = "an estimate of the best prefill for the GPU, 4096 where that is unknown; capped by model and memory"
)

var memoryKnobs = []engine.Entry{
	{Knob: neutral("kv_memory_fraction", withDefault("1", fraction()))},
	{Knob: flashSized(computed(warmUp, intKnob(batchTotal, 1, engine.KVCache, []effect{engine.Throughput, engine.Memory},
		"tokens that all running requests may reserve")))},
	{Since: "3.0", Knob: lossy(neutral("kv_dtype", computed("the model's own", enumKnob("kv_cache_dtype",
		[]string{"fp8_e4m3fn", "fp8_e5m2"}, engine.KVCache, []effect{engine.Memory, engine.Throughput},
		"number format of the KV cache; needs flashinfer or paged attention"))))},
	{Since: chunkingSince, Knob: neutral("prefix_caching", envSwitch("prefix_caching", engine.KVCache, []effect{engine.TTFT, engine.Throughput},
		"reuse the KV cache of equal prompt beginnings; off by itself where model or attention cannot"))},
	{Since: chunkingSince, Knob: lossy(withDefault("flashinfer", envOnly(enumKnob(attention, []string{"flashinfer", "flashdecoding", "paged"},
		engine.KVCache, []effect{engine.TTFT, engine.TPOT}, "attention kernels; their KV blocks have 1, 256 and 16 tokens"))))},
}

func fraction() *engine.Knob {
	k := floatKnob("cuda_memory_fraction", engine.KVCache, []effect{engine.Memory, engine.Throughput},
		"share of device memory that TGI may use; it stays about 10 % below")
	k.MinExclusive, k.Max = true, new(1.0)
	return k
}

// flashSized marks what flash-attention models, all usual ones on a GPU, size by themselves.
func flashSized(k *engine.Knob) *engine.Knob {
	k.IgnoredBecause = "models with flash attention take it from the free memory; use cuda_memory_fraction"
	return k
}

var batchKnobs = []engine.Entry{
	{Gone: chunkingSince, Knob: neutral("max_num_batched_tokens", withDefault(oldPrefill, prefillTokens()))},
	{Since: chunkingSince, Knob: neutral("max_num_batched_tokens", computed(prefillRule, prefillTokens()))},
	{Knob: neutral("max_num_seqs", computed("no limit", intKnob("max_batch_size", 1, engine.Batching,
		[]effect{engine.Throughput, engine.TPOT}, "requests that run at once")))},
	{Knob: withDefault("20", intKnob("max_waiting_tokens", 0, engine.Batching, []effect{engine.TTFT, engine.TPOT},
		"tokens generated before waiting requests are forced in"))},
	{Gone: "2.0", Knob: withDefault("1.2", waitingRatio())},
	{Since: "2.0", Knob: withDefault("0.3", waitingRatio())},
	{Since: chunkingSince, Knob: neutral("chunked_prefill", envSwitch(chunking, engine.Batching, []effect{engine.TPOT, engine.TTFT},
		"split long prompts over several steps; off brings max_batch_size and the waiting flags back"))},
	{Knob: neutral("max_concurrent", withDefault("128", intKnob("max_concurrent_requests", 1, engine.Batching,
		[]effect{engine.TTFT, engine.Throughput}, "requests that run or wait; beyond it the server answers 429, in streams an error event")))},
	{Knob: neutral("speculative_tokens", withDefault("0", intKnob("speculate", 0, engine.Speculation, []effect{engine.TPOT, engine.Throughput},
		"tokens guessed ahead, by n-grams unless the model has a head for it; above 0 switches chunked prefill off")))},
}

func prefillTokens() *engine.Knob {
	return intKnob(prefillLimit, 1, engine.Batching, []effect{engine.TTFT, engine.TPOT, engine.Memory},
		"prompt tokens per prefill step; more is better for time to first token, worse between tokens, and costs activation memory")
}

func waitingRatio() *engine.Knob {
	return floatKnob("waiting_served_ratio", engine.Batching, []effect{engine.TTFT, engine.TPOT},
		"waiting requests per running one that stop decode for a prefill")
}

var modelKnobs = []engine.Entry{
	{Since: "2.0", Knob: computed("1,2,4,8,16,32", textKnob("cuda_graphs", engine.Graphs, []effect{engine.TPOT, engine.Memory, engine.StartTime},
		"batch sizes with a CUDA graph; larger batches run eagerly; 0 is none"))},
	{Knob: neutral("tensor_parallel", computed("all GPUs that are visible", intKnob(shards, 1, engine.Parallelism,
		[]effect{engine.Memory, engine.TTFT, engine.TPOT}, "GPUs that share each layer; must divide the attention heads")))},
	// The launcher wants the word: --sharded true.
	{Knob: computed("true where num_shard is above 1", enumKnob("sharded", []string{"true", "false"}, engine.Parallelism, nil,
		"spread the model over the GPUs"))},
	{Gone: chunkingSince, Knob: quantization("awq", "eetq", "exl2", "gptq", "marlin", "fp8", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")},
	{Since: chunkingSince, Knob: quantization("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "fp8",
		"bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")},
	{Knob: lossy(computed("the model's own", enumKnob("dtype", []string{"float16", "bfloat16"}, engine.Quantization,
		[]effect{engine.Memory, engine.TPOT}, "number format of weights and activations; not together with quantize")))},
	{Since: "2.0", Knob: computed("none", textKnob("lora_adapters", engine.Limits, []effect{engine.Memory},
		"adapters served beside the model; they switch prefix caching off"))},
}

func quantization(values ...string) *engine.Knob {
	return lossy(neutral("weight_dtype", computed("what the checkpoint says", enumKnob("quantize", values, engine.Quantization,
		[]effect{engine.Memory, engine.TPOT, engine.Throughput, engine.StartTime},
		"number format of the weights; fp8, eetq and bitsandbytes convert at start, others need a checkpoint prepared for them"))))
}

var limitKnobs = []engine.Entry{
	{Gone: "2.0", Knob: lossy(withDefault("1024", longestPrompt(inputLength)))},
	{Since: "2.0", Knob: lossy(computed(warmUp, longestPrompt(inputTokens)))},
	{Since: "2.0", Knob: lossy(computed("max_input_tokens", longestPrompt(inputLength)))},
	{Gone: "2.0", Knob: withDefault("2048", longestRequest())},
	{Since: "2.0", Knob: computed(warmUp, longestRequest())},
	{Knob: withDefault("4", intKnob("max_client_batch_size", 1, engine.Limits, nil, "prompts per request"))},
	{Knob: withDefault("2", intKnob("validation_workers", 1, engine.Limits, []effect{engine.TTFT}, "threads that turn prompts into tokens"))},
	{Knob: withDefault("2", intKnob("max_best_of", 1, engine.Limits, nil, "answers per request to choose from"))},
	{Knob: withDefault("4", intKnob("max_stop_sequences", 0, engine.Limits, nil, "stop sequences per request"))},
	{Knob: withDefault("5", intKnob("max_top_n_tokens", 0, engine.Limits, nil, "alternatives shown per token"))},
	{Since: "3.0", Knob: withDefault("2000000", intKnob("payload_limit", 1, engine.Limits, nil, "bytes per request"))},
	{Since: "3.2", Knob: neutral("shutdown_timeout", withDefault("90", termination()))},
}

func longestPrompt(name string) *engine.Knob {
	return intKnob(name, 1, engine.Limits, []effect{engine.Memory}, "longest prompt in tokens; longer ones are refused with 422")
}

func longestRequest() *engine.Knob {
	return lossy(neutral("max_model_len", intKnob(totalTokens, 2, engine.Limits, []effect{engine.Memory, engine.Throughput},
		"longest request in tokens, prompt and answer; all of it is reserved when the request is taken in")))
}

func termination() *engine.Knob {
	k := intKnob("graceful_termination_timeout", 0, engine.Limits, nil, "seconds to finish running requests after SIGTERM; then they are cut")
	k.Aliases = []string{"-g"}
	return k
}
