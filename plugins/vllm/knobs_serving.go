package main

import (
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// tokenRule and seqRule say how the API server sizes its batch when nothing is given.
const (
	tokenRule = "by device memory: 16384 from 160 GiB, 8192 from 70 GiB (not A100), else 2048; CPU 2048 per rank; " +
		"at most max_num_seqs × max_model_len"
	seqRule = "by device memory: 1024 from 70 GiB (not A100), else 256; CPU 128 per rank; at most max_num_batched_tokens"
)

var batchKnobs = []engine.Entry{
	{Knob: neutral("max_num_batched_tokens", computed(tokenRule, intKnob("max_num_batched_tokens", 1, engine.Batching,
		[]effect{engine.TTFT, engine.TPOT, engine.Throughput, engine.Memory},
		"tokens per engine step; more is better for throughput and time to first token, worse between tokens, and costs KV memory")))},
	{Knob: neutral("max_num_seqs", computed(seqRule, intKnob("max_num_seqs", 1, engine.Batching,
		[]effect{engine.Throughput, engine.TPOT, engine.TTFT, engine.Memory},
		"sequences that run at once; more raises throughput until KV memory forces preemption")))},
	{Since: "0.28", Knob: computed("max_num_batched_tokens", intKnob("max_num_scheduled_tokens", 1, engine.Batching,
		[]effect{engine.TTFT, engine.TPOT}, "tokens scheduled per step, below the buffer that max_num_batched_tokens sizes"))},
	{Since: "0.31", Knob: neutral("max_concurrent", computed("max_num_seqs", intKnob("max_num_active_seqs", 1, engine.Batching,
		[]effect{engine.Throughput, engine.TPOT}, "sequences admitted at once, apart from the buffer that max_num_seqs sizes")))},
	{Since: "0.29", Knob: neutral("max_queue", computed("no limit", intKnob("max_num_queued_reqs", 0, engine.Limits,
		[]effect{engine.TTFT}, "waiting requests per API server; beyond it the server answers 503")))},
	{Since: "0.29", Knob: computed("no limit", intKnob("max_num_queued_tokens", 0, engine.Limits,
		[]effect{engine.TTFT}, "waiting prompt tokens per API server; beyond it the server answers 503"))},
	{Knob: neutral("chunked_prefill", boolKnob("enable_chunked_prefill", "true", engine.Batching, []effect{engine.TTFT, engine.TPOT},
		"split long prompts over several steps; vLLM warns against switching it off for most models"))},
	{Knob: withDefault("0", intKnob("long_prefill_token_threshold", 0, engine.Batching, []effect{engine.TPOT},
		"prompts above this many tokens count as long and yield to others; 0 is off"))},
	{Knob: neutral("schedule_policy", enumKnob("scheduling_policy", "fcfs", []string{"fcfs", "priority"}, engine.Batching,
		[]effect{engine.TTFT}, "order of waiting requests; with priority the smaller number goes first"))},
	{Since: "0.10", Gone: "0.14", Knob: asyncScheduling("false")},
	{Since: "0.14", Knob: asyncScheduling("true")},
	{Since: "0.11.1", Knob: withDefault("1", intKnob("stream_interval", 1, engine.Batching, []effect{engine.Throughput},
		"tokens per streamed chunk after the first"))},
	{Since: "0.24", Knob: withDefault("1", intKnob("prefill_schedule_interval", 1, engine.Batching, []effect{engine.TPOT, engine.TTFT},
		"steps between two prefills"))},
	{Knob: computed("decided by the model and connector", boolKnob("disable_hybrid_kv_cache_manager", "", engine.KVCache,
		[]effect{engine.Memory}, "one KV pool for all kinds of layers; some connectors need it"))},
	{Since: "0.17", Knob: enumKnob("performance_mode", "balanced", []string{"balanced", "interactivity", "throughput"}, engine.Batching,
		[]effect{engine.TTFT, engine.TPOT, engine.Throughput}, "preset; throughput doubles the batch limits that are not set")},
	{Gone: "0.26", Knob: withDefault("1", intKnob("max_num_partial_prefills", 1, engine.Batching, []effect{engine.TTFT},
		"prompts that may be in prefill at once"))},
	{Gone: "0.26", Knob: withDefault("1", intKnob("max_long_partial_prefills", 1, engine.Batching, []effect{engine.TTFT},
		"long prompts that may be in prefill at once"))},
}

func asyncScheduling(byDefault string) *engine.Knob {
	return boolKnob("async_scheduling", byDefault, engine.Batching, []effect{engine.TPOT, engine.Throughput},
		"schedule the next step while the GPU works; explicit on is refused by executors that cannot")
}

var graphKnobs = []engine.Entry{
	{Knob: neutral("eager", boolKnob("enforce_eager", "false", engine.Graphs, []effect{engine.StartTime, engine.TPOT, engine.Memory},
		"no compilation and no CUDA graphs: starts faster, serves slower"))},
	{Since: "0.12", Knob: change(withDefault("2", intKnob("optimization_level", 0, engine.Graphs, []effect{engine.StartTime, engine.TPOT},
		"how much to compile, 0 to 3")), func(k *engine.Knob) { k.Max, k.Aliases = new(3.0), []string{"-O"} })},
	{Since: "0.11.1", Knob: computed("twice max_num_seqs, at most 512 (1024 on the newest GPUs)",
		intKnob("max_cudagraph_capture_size", 0, engine.Graphs, []effect{engine.TPOT, engine.Memory, engine.StartTime},
			"largest batch with a CUDA graph; larger batches run eagerly"))},
	{Gone: "0.11", Instead: "max_cudagraph_capture_size from 0.11.1 on", Knob: withDefault("8192",
		intKnob("max_seq_len_to_capture", 0, engine.Graphs, []effect{engine.TPOT, engine.Memory}, "longest sequence covered by CUDA graphs"))},
	{Since: "0.13", Knob: lossy(computed("the platform's choice", textKnob("attention_backend", "", engine.Graphs,
		[]effect{engine.TPOT, engine.Throughput}, "attention kernels; an unsupported pair is refused at start with the reasons")))},
	{Since: "0.17", Knob: lossy(textKnob("moe_backend", "auto", engine.Graphs, []effect{engine.TPOT, engine.Throughput},
		"kernels of expert layers; changes rounding slightly"))},
	{Since: "0.22", Knob: lossy(textKnob("linear_backend", "auto", engine.Graphs, []effect{engine.TPOT, engine.Throughput},
		"kernels of linear layers; changes rounding slightly"))},
}

var parallelKnobs = []engine.Entry{
	{Knob: neutral("tensor_parallel", aliases(withDefault("1", intKnob("tensor_parallel_size", 1, engine.Parallelism,
		[]effect{engine.TPOT, engine.TTFT, engine.Memory}, "GPUs that share each layer; must divide the attention heads")), "-tp"))},
	{Knob: neutral("pipeline_parallel", aliases(withDefault("1", intKnob("pipeline_parallel_size", 1, engine.Parallelism,
		[]effect{engine.Memory, engine.TPOT}, "GPUs that share the stack of layers; adds latency per token")), "-pp"))},
	{Since: "0.8.5", Knob: neutral("data_parallel", aliases(withDefault("1", intKnob("data_parallel_size", 1, engine.Parallelism,
		[]effect{engine.Throughput}, "engine replicas behind one server")), "-dp"))},
	{Knob: neutral("expert_parallel", aliases(boolKnob("enable_expert_parallel", "false", engine.Parallelism,
		[]effect{engine.Throughput, engine.Memory}, "spread whole experts over GPUs; mixture-of-experts models only"), "-ep"))},
	{Since: "0.11.1", Knob: textKnob("all2all_backend", "allgather_reducescatter", engine.Parallelism,
		[]effect{engine.Throughput, engine.TPOT}, "how expert-parallel ranks exchange tokens")},
	{Knob: boolKnob("enable_eplb", "false", engine.Parallelism, []effect{engine.Throughput, engine.Memory},
		"rebalance experts; costs memory for redundant ones")},
	{Since: "0.11", Knob: boolKnob("enable_dbo", "false", engine.Parallelism, []effect{engine.Throughput},
		"overlap the halves of a batch in expert-parallel data-parallel service")},
	{Since: "0.10.2", Knob: aliases(withDefault("1", intKnob("decode_context_parallel_size", 1, engine.Parallelism,
		[]effect{engine.Memory, engine.TPOT}, "splits the KV cache of long contexts in decode; divides tensor_parallel_size")), "-dcp")},
	{Since: "0.12", Knob: aliases(withDefault("1", intKnob("prefill_context_parallel_size", 1, engine.Parallelism,
		[]effect{engine.TTFT}, "splits long prompts in prefill")), "-pcp")},
	{Since: "0.17", Knob: boolKnob("enable_elastic_ep", "false", engine.Parallelism, []effect{engine.Throughput},
		"allow the number of expert-parallel ranks to change while serving; Ray only")},
	{Since: "0.9", Knob: aliases(computed("data_parallel_size", intKnob("api_server_count", 1, engine.Parallelism,
		[]effect{engine.TTFT, engine.Throughput}, "HTTP server processes; connections spread over them")), "-asc")},
}

var (
	methods = []string{
		"ngram", "ngram_gpu", "suffix", "medusa", "mlp_speculator", "draft_model", "eagle", "eagle3", "mtp", "dflash", "dspark", "custom_class",
	}
	// modelMethods are names for the guessing head that a model family brings along; mtp stands for all.
	modelMethods = []string{
		"bailing_hybrid_mtp", "bailing_hybrid_v3_mtp", "deepseek_mtp", "dots3_note_mtp", "ernie_mtp", "exaone4_5_mtp",
		"exaone_moe_mtp", "extract_hidden_states", "gemma4_mtp", "glm4_moe_lite_mtp", "glm4_moe_mtp", "glm5_next_mtp",
		"glm_ocr_mtp", "hy_v3_mtp", "hy_v4_mtp", "inkling_mtp", "kimi_k3_mtp", "longcat_flash_mtp", "mimo_mtp",
		"mimo_v2_mtp", "minimax_m3_mtp", "nemotron_h_mtp", "pangu_ultra_moe_mtp", "qwen3_5_mtp", "qwen3_next_mtp",
		"qwen4_exp_mtp", "step3p5_mtp",
	}
)

func speculation(values ...string) *engine.Knob {
	return computed("no speculation", enumKnob("spec_method", "", values, engine.Speculation,
		[]effect{engine.TPOT, engine.Throughput, engine.Memory},
		"how tokens are guessed ahead; ngram and suffix need no second model"))
}

var speculationKnobs = []engine.Entry{
	{Since: "0.8.5", Knob: aliases(computed("no speculation", textKnob("speculative_config", "", engine.Speculation,
		[]effect{engine.TPOT, engine.Throughput, engine.Memory},
		"speculative decoding as JSON; wins at small batches, loses near compute saturation")), "-sc")},
	{Since: "0.22", Gone: "0.32", Knob: speculation(methods...)},
	{Since: "0.32", Knob: speculation(slices.Concat(methods, modelMethods)...)},
	{Since: "0.22", Knob: computed("none", textKnob("spec_model", "", engine.Speculation, []effect{engine.TPOT, engine.Memory},
		"the second model that guesses; takes memory from the KV cache"))},
	{Since: "0.22", Knob: neutral("speculative_tokens", computed("the method's own", intKnob("spec_tokens", 1, engine.Speculation,
		[]effect{engine.TPOT, engine.Throughput}, "tokens guessed ahead per step")))},
}

// goneKnobs are flags of the V0 engine and other flags that end the life of a command line on
// upgrade: the parser of a later release exits with status 2.
var goneKnobs = []engine.Entry{
	v0Knob("0.10.1", withDefault("1", intKnob("num_scheduler_steps", 1, engine.Batching, nil, "steps per scheduling round of the V0 engine"))),
	v0Knob("0.11", computed("decided by the engine", enumKnob("preemption_mode", "", []string{"recompute", "swap"}, engine.Batching, nil, "what the V0 engine did with preempted requests"))),
	v0Knob("0.11", withDefault("0", floatKnob("scheduler_delay_factor", engine.Batching, nil, "delay before prefill in the V0 engine"))),
	v0Knob("0.11", boolKnob("disable_async_output_proc", "false", engine.Batching, nil, "output processing of the V0 engine")),
	v0Knob("0.10", boolKnob("use_v2_block_manager", "true", engine.KVCache, nil, "block manager of the V0 engine")),
	v0Knob("0.12", withDefault("0", intKnob("num_lookahead_slots", 0, engine.Batching, nil, "slots for speculation in the V0 engine"))),
	v0Knob("0.18", withDefault("4", floatKnob("swap_space", engine.KVCache, nil, "GiB of host memory for swapped requests of the V0 engine"))),
	{Gone: "0.8.5", Instead: "speculative_config", Knob: computed("none", textKnob("speculative_model", "", engine.Speculation, []effect{engine.TPOT}, "the model that guesses ahead"))},
	{Gone: "0.8.5", Instead: "speculative_config", Knob: computed("none", intKnob("num_speculative_tokens", 1, engine.Speculation, []effect{engine.TPOT}, "tokens guessed ahead"))},
}

func v0Knob(gone string, k *engine.Knob) engine.Entry {
	k.IgnoredBecause = "only the V0 engine used it"
	return engine.Entry{Gone: gone, Instead: "nothing: the V1 engine does without", Knob: k}
}
