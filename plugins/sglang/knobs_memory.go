package main

import (
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// fractionRule says how SGLang sizes its static memory when nothing is given.
const fractionRule = "what a reserve for activations and graphs leaves: about 512 MB + 1.5 MB per chunk token + 128 MB per GPU " +
	"+ the graphs, at least 10 GiB above 60 GiB; less for vision models"

var kvKnobs = []engine.Entry{
	{Knob: neutral("kv_memory_fraction", computed(fractionRule, open(atMost(1, floatKnob("mem_fraction_static", engine.KVCache,
		[]effect{engine.Memory, engine.Throughput},
		"share of device memory for weights and KV cache; the rest is for activations and graphs")))))},
	{Knob: computed("from mem_fraction_static", intKnob("max_total_tokens", 1, engine.KVCache, []effect{engine.Memory},
		"pins the number of KV tokens; made for tests, it hides the true capacity"))},
	{Gone: "0.4.10", Knob: withDefault("1", pageSize())},
	{Since: "0.4.10", Knob: computed("1, or what the attention backend wants", pageSize())},
	{Gone: "0.5.18", Knob: kvDtype("auto", "fp8_e5m2", "fp8_e4m3")},
	{Since: "0.5.18", Gone: "0.5.23", Knob: kvDtype("auto", "bf16", "fp8_e5m2", "fp8_e4m3", "mxfp8", "nvfp4", "fp4_mx_block16")},
	{Since: "0.5.23", Knob: kvDtype("auto", "bf16", "bfloat16", "fp8_e5m2", "fp8_e4m3", "mxfp8", "nvfp4", "fp4_mx_block16")},
	{Knob: radixCache()},
	{Since: "0.5.3", Gone: "0.5.18", Knob: eviction("lru", "lfu")},
	{Since: "0.5.18", Gone: "0.5.23", Knob: eviction("lru", "lfu", "slru", "priority")},
	{Since: "0.5.23", Knob: eviction("lru", "lfu", "slru", "priority", "tlru")},
	{Since: "0.5.2", Knob: atMost(1, withDefault("0.8", floatKnob("swa_full_tokens_ratio", engine.KVCache, []effect{engine.Memory},
		"KV tokens of sliding-window layers per token of full layers, in hybrid models")))},
	{Knob: withDefault("0", intKnob("cpu_offload_gb", 0, engine.KVCache, []effect{engine.Memory, engine.TPOT},
		"GB of weights kept in host memory; every step then reads them over PCIe"))},
}

func pageSize() *engine.Knob {
	return neutral("block_size", intKnob("page_size", 1, engine.KVCache, []effect{engine.Throughput, engine.TTFT},
		"tokens per KV page; larger pages share less of equal prompt beginnings"))
}

func kvDtype(values ...string) *engine.Knob {
	return lossy(neutral("kv_dtype", enumKnob("kv_cache_dtype", "auto", values, engine.KVCache,
		[]effect{engine.Memory, engine.Throughput, engine.TPOT},
		"number format of the KV cache; FP8 about doubles the tokens that fit, where the attention backend supports it")))
}

// radixCache turns SGLang's disable_radix_cache around, so that it means the same as other engines'
// prefix caching: on unless --disable-radix-cache is given.
func radixCache() *engine.Knob {
	return &engine.Knob{
		Name: "radix_cache", NegativeFlag: "--disable-radix-cache", Type: engine.Bool, DefaultValue: "true",
		Neutral: "prefix_caching", Family: engine.KVCache, ActsOn: []effect{engine.TTFT, engine.Throughput},
		Help: "reuse the KV cache of equal prompt beginnings; off saves a little CPU time",
	}
}

func eviction(values ...string) *engine.Knob {
	return enumKnob("radix_eviction_policy", "lru", values, engine.KVCache, []effect{engine.TTFT},
		"which cached prefix goes first when KV memory is short")
}

var hierarchicalKnobs = []engine.Entry{
	{Knob: aliases(switchKnob("enable_hierarchical_cache", engine.KVCache, []effect{engine.TTFT},
		"keep evicted prefixes in host memory"), "--enable-hicache")},
	{Knob: withDefault("2", open(floatKnob("hicache_ratio", engine.KVCache, []effect{engine.TTFT},
		"host KV memory per device KV memory")))},
	{Since: "0.5.2", Knob: withDefault("0", intKnob("hicache_size", 0, engine.KVCache, []effect{engine.TTFT},
		"GB of host KV memory per rank; above 0 it overrides the ratio"))},
	{Gone: "0.5.2", Knob: writePolicy("write_through_selective")},
	{Since: "0.5.2", Knob: writePolicy("write_through")},
	{Since: "0.5.2", Gone: "0.5.14", Knob: memoryLayout("layer_first", layouts...)},
	{Since: "0.5.14", Gone: "0.5.23", Knob: memoryLayout("page_first", layouts...)},
	{Since: "0.5.23", Knob: memoryLayout("page_first", append(slices.Clone(layouts), "page_first_direct", "page_first_kv_split", "page_head")...)},
	{Since: "0.5.2", Gone: "0.5.23", Knob: ioBackend("kernel", "direct")},
	{Since: "0.5.23", Knob: ioBackend("kernel", "direct", "kernel_ascend")},
	{Since: "0.5.18", Gone: "0.5.23", Knob: storage(stores...)},
	{Since: "0.5.23", Knob: storage(append(slices.Clone(stores), "npu_memcache", "seaweedfs", "sim", "tensorcast")...)},
}

func writePolicy(byDefault string) *engine.Knob {
	return enumKnob("hicache_write_policy", byDefault, []string{"write_back", "write_through", "write_through_selective"},
		engine.KVCache, []effect{engine.Throughput}, "when KV pages are copied to the host")
}

var (
	layouts = []string{"layer_first", "page_first"}
	stores  = []string{"file", "mooncake", "hf3fs", "nixl", "aibrix", "dynamic", "eic", "simm", "mori", "shm"}
)

func memoryLayout(byDefault string, values ...string) *engine.Knob {
	return enumKnob("hicache_mem_layout", byDefault, values, engine.KVCache,
		[]effect{engine.Throughput}, "order of KV pages in host memory")
}

func ioBackend(values ...string) *engine.Knob {
	return enumKnob("hicache_io_backend", "kernel", values, engine.KVCache, []effect{engine.TTFT},
		"how KV pages are copied between host and device")
}

func storage(values ...string) *engine.Knob {
	return computed("none", enumKnob("hicache_storage_backend", "", values, engine.KVCache, []effect{engine.TTFT},
		"third tier below host memory"))
}

var (
	oldMethods = []string{
		"awq", "awq_marlin", "gptq", "gptq_marlin", "marlin", "gguf", "bitsandbytes", "fp8", "w8a8_int8", "w8a8_fp8",
		"moe_wna16", "modelopt", "compressed-tensors",
	}
	newMethods = append(slices.Clone(oldMethods), "w4afp8", "mxfp4", "mxfp8", "nvfp4_online", "petit_nvfp4", "auto-round",
		"quark", "modelslim", "humming")
	// newestMethods are those of 0.5.23, whose parser lost marlin.
	newestMethods = []string{
		"auto-round", "auto-round-int8", "awq", "awq_marlin", "bitsandbytes", "compressed-tensors", "fp8", "gguf", "gptq",
		"gptq_marlin", "humming", "mlx_q4", "mlx_q8", "modelopt", "modelopt_fp4", "modelopt_fp8", "modelopt_mixed",
		"modelslim", "moe_wna16", "mxfp4", "mxfp8", "mxfp_w4a8", "nvfp4_online", "petit_nvfp4", "quark",
		"quark_int4fp8_moe", "quark_mxfp4", "unquant", "w4afp8", "w8a8_fp8", "w8a8_int8",
	}
)

var quantizationKnobs = []engine.Entry{
	{Gone: "0.5.18", Knob: quantization(oldMethods)},
	{Since: "0.5.18", Gone: "0.5.23", Knob: quantization(newMethods)},
	{Since: "0.5.23", Knob: quantization(newestMethods)},
	{Gone: "0.5.18", Instead: "--quantization", Knob: lossy(computed("none", textKnob("torchao_config", engine.Quantization,
		[]effect{engine.Memory, engine.TPOT}, "weight format by torchao, as int4wo-128")))},
}

func quantization(values []string) *engine.Knob {
	return lossy(neutral("weight_dtype", computed("what the checkpoint says", enumKnob("quantization", "", values,
		engine.Quantization, []effect{engine.Memory, engine.TPOT, engine.Throughput, engine.StartTime},
		"number format of the weights; fp8, mxfp8 and nvfp4_online convert at start, others need a checkpoint prepared for them"))))
}

var loraKnobs = []engine.Entry{
	{Since: "0.5.2", Knob: switchKnob("enable_lora", engine.Limits, []effect{engine.Memory}, "serve LoRA adapters")},
	{Knob: withDefault("8", intKnob("max_loras_per_batch", 1, engine.Limits, []effect{engine.Memory, engine.Throughput},
		"adapters that may run in one batch, the base model included"))},
	{Since: "0.5.2", Knob: computed("no limit", intKnob("max_loaded_loras", 1, engine.Limits, []effect{engine.Memory},
		"adapters kept in host memory"))},
	{Since: "0.5.18", Knob: enumKnob("lora_eviction_policy", "lru", []string{"lru", "fifo"}, engine.Limits, []effect{engine.TTFT},
		"which adapter leaves the device first")},
}

var limitKnobs = []engine.Entry{
	{Knob: lossy(neutral("max_model_len", computed("the model's own limit", intKnob("context_length", 1, engine.Limits,
		[]effect{engine.Memory}, "longest request in tokens, prompt and answer; longer ones are refused"))))},
	{Knob: withDefault("40", intKnob("decode_log_interval", 1, engine.Limits, nil,
		"decode steps between two refreshes of the load gauges"))},
	{Knob: withDefault("300", open(floatKnob("watchdog_timeout", engine.Limits, nil,
		"seconds after which a step that hangs ends the server")))},
	{Since: "0.5.18", Knob: switchKnob("sleep_on_idle", engine.Limits, nil,
		"let an idle scheduler sleep; without it one core is always busy")},
	{Knob: &engine.Knob{
		Name: "force_shutdown", Env: "SGL_FORCE_SHUTDOWN", Type: engine.Bool, DefaultValue: "false", Family: engine.Limits,
		Help: "end at once on SIGTERM instead of finishing what runs",
	}},
	{Since: "0.5.17", Knob: &engine.Knob{
		Name: rustServer, Env: "SGLANG_RUST_SERVER", Type: engine.Bool, DefaultValue: "false", Family: engine.Limits,
		Help: "serve HTTP from the Rust front end, which has no metrics and no drain",
	}},
}
