package main

import (
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

type (
	familyOf   = enginev1.KnobFamily
	effect     = enginev1.Effect
	seriesPart = enginev1.SeriesPart
)

var kvKnobs = []engine.Entry{
	{Gone: "0.20", Knob: memoryFraction("0.9")},
	{Since: "0.20", Gone: "0.31", Knob: memoryFraction("0.92")},
	{Since: "0.31", Knob: aliases(memoryFraction("0.92"), "--device-memory-utilization")},
	{Since: "0.10.2", Knob: computed("from gpu_memory_utilization", aliases(
		intKnob("kv_cache_memory_bytes", 1, engine.KVCache, []effect{engine.Memory, engine.Throughput, engine.StartTime},
			"KV memory per GPU in bytes; overrides the fraction and skips profiling, so an out-of-memory is then yours"),
		"--kv-cache-memory"))},
	{Knob: neutral("block_size", computed("16, or what the attention backend wants",
		intKnob("block_size", 1, engine.KVCache, []effect{engine.Memory, engine.Throughput},
			"tokens per KV block; the attention backend refuses sizes that it cannot use")))},
	{Gone: "0.11", Knob: kvDtype("auto", "fp8", "fp8_e4m3", "fp8_e5m2")},
	{Since: "0.11", Gone: "0.27", Knob: kvDtype("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla")},
	{Since: "0.27", Gone: "0.32", Knob: kvDtype(newKVDtypes...)},
	{Since: "0.32", Knob: kvDtype(append(slices.Clone(newKVDtypes), "nvfp4_ds_mla", "turboquant_3bit_nc", "turboquant_4bit_nc",
		"turboquant_k3v4_nc", "turboquant_k8v4", "ultraquant_4bit")...)},
	{Gone: "0.26", Instead: "a checkpoint with its own scales", Knob: lossy(boolKnob("calculate_kv_scales", "false",
		engine.Quantization, []effect{engine.Memory}, "work out FP8 KV scales from the first requests"))},
	{Knob: neutral("prefix_caching", boolKnob("enable_prefix_caching", "true", engine.KVCache, []effect{engine.TTFT, engine.Throughput},
		"reuse the KV blocks of equal prompt beginnings; on by default where the model supports it"))},
	{Since: "0.11", Gone: "0.27", Knob: hashAlgorithm("sha256", "sha256_cbor")},
	{Since: "0.27", Knob: hashAlgorithm("sha256", "sha256_cbor", "xxhash", "xxhash_cbor")},
	{Since: "0.28", Knob: withDefault("0", intKnob("prefix_cache_retention_interval", 0, engine.KVCache,
		[]effect{engine.Throughput}, "how long unused prefix blocks are kept"))},
	{Knob: computed("from the KV memory", intKnob("num_gpu_blocks_override", 1, engine.KVCache, []effect{engine.Memory},
		"pins the number of KV blocks; made for tests, it hides the true capacity"))},
	{Since: "0.11.1", Knob: change(floatKnob("kv_offloading_size", engine.KVCache, []effect{engine.TTFT, engine.Throughput},
		"GiB of host memory for evicted KV blocks, summed over tensor-parallel ranks"),
		func(k *engine.Knob) { k.MinExclusive, k.DefaultRule = true, "no offloading" })},
	{Since: "0.11.1", Knob: enumKnob("kv_offloading_backend", "native", []string{"native", "lmcache"}, engine.KVCache,
		[]effect{engine.TTFT, engine.Throughput}, "who moves offloaded KV blocks")},
	{Knob: withDefault("0", floatKnob("cpu_offload_gb", engine.KVCache, []effect{engine.Memory, engine.TPOT},
		"GiB of weights per GPU kept in host memory; every step then reads them over PCIe"))},
	{Since: "0.24", Knob: change(withDefault("0", floatKnob("watermark", engine.KVCache, []effect{engine.Throughput},
		"share of KV blocks kept free when a request is admitted; cuts preemption")),
		func(k *engine.Knob) { k.Max, k.MaxExclusive = new(1.0), true })},
	{Since: "0.19", Knob: boolKnob("scheduler_reserve_full_isl", "true", engine.KVCache, []effect{engine.Throughput},
		"admit a request only when its whole prompt fits")},
	{Since: "0.31", Knob: boolKnob("swa_bounded_replay", "true", engine.KVCache, []effect{engine.Memory, engine.TTFT},
		"bounds what is kept of sliding-window layers")},
	{Since: "0.21", Knob: &engine.Knob{
		Name: "estimate_cudagraph_memory", Env: "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", Type: engine.Bool, DefaultValue: "true",
		Family: engine.KVCache, ActsOn: []effect{engine.Memory},
		Help: "count CUDA graphs when sizing the KV cache; off regains some KV and risks running out of memory at capture",
	}},
	{Knob: &engine.Knob{
		Name: "cpu_kv_cache_space", Env: "VLLM_CPU_KVCACHE_SPACE", Type: engine.Int, Min: new(0.0), DefaultRule: "decided by the CPU build",
		Family: engine.KVCache, ActsOn: []effect{engine.Memory, engine.Throughput},
		Help: "GiB of KV cache of a CPU build",
	}},
}

var newKVDtypes = []string{
	"auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla",
	"fp8_per_token_head", "int8_per_token_head", "int4_per_token_head", "nvfp4", "nvfp4_4over6",
}

func memoryFraction(byDefault string) *engine.Knob {
	k := floatKnob("gpu_memory_utilization", engine.KVCache, []effect{engine.Memory, engine.Throughput},
		"share of total device memory for this engine, weights and activations included")
	k.Neutral, k.DefaultValue = "kv_memory_fraction", byDefault
	k.MinExclusive, k.Max = true, new(1.0)
	return k
}

func kvDtype(values ...string) *engine.Knob {
	return lossy(neutral("kv_dtype", enumKnob("kv_cache_dtype", "auto", values, engine.KVCache,
		[]effect{engine.Memory, engine.Throughput, engine.TPOT},
		"number format of the KV cache; FP8 about doubles the tokens that fit, where the backend supports it")))
}

func hashAlgorithm(values ...string) *engine.Knob {
	return enumKnob("prefix_caching_hash_algo", "sha256", values, engine.KVCache, []effect{engine.TTFT},
		"hash of prefix blocks; xxhash is faster and lets one tenant aim for another's blocks")
}

var quantizationKnobs = []engine.Entry{
	{Gone: "0.27", Knob: quantization(
		"awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "compressed-tensors", "bitsandbytes", "gguf", "modelopt",
		"modelopt_fp4", "quark", "mxfp4", "torchao", "inc", "moe_wna16", "experts_int8")},
	{Since: "0.27", Knob: quantization(
		"awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "fp8", "compressed-tensors", "modelopt",
		"modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "quark", "mxfp4", "gpt_oss_mxfp4", "torchao", "inc", "moe_wna16",
		"humming", "deepseek_v4_fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8", "nvfp4_per_token",
		"int8_per_channel_weight_only", "experts_int8")},
}

func quantization(values ...string) *engine.Knob {
	k := enumKnob("quantization", "", values, engine.Quantization,
		[]effect{engine.Memory, engine.TPOT, engine.Throughput, engine.StartTime},
		"number format of the weights; most methods need a checkpoint prepared for them, fp8 and its relatives convert at start")
	k.DefaultRule = "what the checkpoint says"
	return lossy(neutral("weight_dtype", aliases(k, "-q")))
}

var limitKnobs = []engine.Entry{
	{Gone: "0.27", Knob: modelLength()},
	{Since: "0.27", Knob: modelLength("auto")},
	{Since: "0.18", Knob: neutral("shutdown_timeout", withDefault("0", intKnob("shutdown_timeout", 0, engine.Limits, nil,
		"seconds to finish running requests after SIGTERM; 0 aborts them")))},
	{Since: "0.22", Knob: &engine.Knob{
		Name: "rust_frontend", Env: "VLLM_USE_RUST_FRONTEND", Type: engine.Bool, DefaultValue: "false",
		Family: engine.Limits, ActsOn: []effect{engine.TTFT}, Help: "serve HTTP from the Rust front end",
	}},
}

func modelLength(values ...string) *engine.Knob {
	k := intKnob("max_model_len", 1, engine.Limits, []effect{engine.Memory, engine.Throughput},
		"longest request in tokens, prompt and answer; longer ones are refused")
	k.Values, k.DefaultRule = values, "the model's own limit"
	return lossy(neutral("max_model_len", k))
}
