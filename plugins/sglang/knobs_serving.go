package main

import (
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

const (
	chunkRule = "by device memory: 2048 below 35 GB, 4096 below 60 GB, 8192 below 160 GB, else 16384"
	seqRule   = "KV tokens ÷ context length × 512, between 2048 and 4096; 48 with speculation"
	graphRule = "by device memory, 8 to 512"
)

var policies = []string{"lpm", "random", "fcfs", "dfs-weight"}

var batchKnobs = []engine.Entry{
	{Knob: neutral("max_num_seqs", computed(seqRule, intKnob("max_running_requests", 1, engine.Batching,
		[]effect{engine.Throughput, engine.TPOT, engine.TTFT, engine.Memory},
		"requests that run at once, split over attention-DP ranks; with chunked prefill the batch may stay one below it")))},
	{Since: "0.5.2", Knob: neutral("max_queue", computed("no limit", intKnob("max_queued_requests", 0, engine.Limits,
		[]effect{engine.TTFT}, "waiting requests; beyond it the newest is refused with 503, in streams by an error event")))},
	{Knob: neutral("max_num_batched_tokens", computed(chunkRule, chunk()))},
	{Knob: withDefault("16384", intKnob("max_prefill_tokens", 1, engine.Batching, []effect{engine.TTFT, engine.Memory},
		"prompt tokens per prefill batch; without chunks at least the context length counts"))},
	{Gone: "0.5.3", Knob: schedulePolicy(policies...)},
	{Since: "0.5.3", Gone: "0.5.18", Knob: schedulePolicy(append(slices.Clone(policies), "lof")...)},
	{Since: "0.5.18", Gone: "0.5.23", Knob: schedulePolicy(append(slices.Clone(policies), "lof", "priority", "routing-key")...)},
	{Since: "0.5.23", Knob: schedulePolicy(append(slices.Clone(policies), "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first")...)},
	{Knob: neutral("schedule_conservativeness", withDefault("1", floatKnob("schedule_conservativeness", engine.Batching,
		[]effect{engine.Throughput, engine.TPOT},
		"how much KV memory a request is assumed to need; raise it when requests are retracted, lower it when a queue stands before unused KV memory")))},
	{Since: "0.5.3", Knob: switchKnob("enable_priority_scheduling", engine.Batching, []effect{engine.TTFT},
		"order waiting requests by priority; the larger number goes first")},
	{Since: "0.5.3", Knob: switchKnob("schedule_low_priority_values_first", engine.Batching, []effect{engine.TTFT},
		"the smaller priority number goes first")},
	{Since: "0.5.16", Knob: enumKnob("retraction_policy", "length", []string{"length", "priority"}, engine.Batching,
		[]effect{engine.TPOT}, "which running request gives its KV memory back first")},
	{Knob: switchKnob("enable_mixed_chunk", engine.Batching, []effect{engine.TPOT, engine.TTFT},
		"run prefill chunks and decode in one step; not with speculation")},
	{Knob: withDefault("1", intKnob("num_continuous_decode_steps", 1, engine.Batching, []effect{engine.Throughput, engine.TTFT},
		"decode steps between two looks at the queue"))},
	{Knob: switchKnob("disable_overlap_schedule", engine.Batching, []effect{engine.Throughput},
		"schedule only when the GPU is done")},
	{Knob: withDefault("1", intKnob("stream_interval", 1, engine.Batching, []effect{engine.Throughput},
		"tokens per streamed chunk"))},
	{Since: "0.5.11", Knob: withDefault("16", intKnob("batch_notify_size", 1, engine.Batching, nil,
		"outputs handed over per wake-up of the HTTP server"))},
	{Since: "0.5.15", Knob: computed("decided by the engine", intKnob("min_free_slots_delay", 1, engine.Batching,
		[]effect{engine.TTFT, engine.Throughput}, "free slots to wait for before a prefill"))},
	{Since: "0.5.8", Knob: switchKnob("enable_prefill_delayer", engine.Batching, []effect{engine.Throughput},
		"hold prefills back until all attention-DP ranks have one")},
}

// chunk may be −1, which switches chunked prefill off.
func chunk() *engine.Knob {
	k := intKnob("chunked_prefill_size", 1, engine.Batching,
		[]effect{engine.TTFT, engine.TPOT, engine.Throughput, engine.Memory},
		"prompt tokens per step; more is better for time to first token, worse between tokens, and costs activation memory; -1 is off")
	k.Values = []string{"-1"}
	return k
}

func schedulePolicy(values ...string) *engine.Knob {
	return neutral("schedule_policy", enumKnob("schedule_policy", "fcfs", values, engine.Batching,
		[]effect{engine.TTFT, engine.Throughput}, "order of waiting requests; lpm serves the longest cached prefix first and acts as fcfs above 128 waiting"))
}

// hotKnobs are what a running SGLang takes: its own list of three.
var hotKnobs = []engine.Entry{
	{Since: "0.5.2", Knob: hot(computed("max_running_requests ÷ pp_size", intKnob("pp_max_micro_batch_size", 1, engine.Parallelism,
		[]effect{engine.Throughput}, "requests per micro-batch of pipeline parallelism")))},
	{Knob: acceptance("speculative_accept_threshold_single", "accept a guessed token from this probability on; below 1 the answers change")},
	{Knob: acceptance("speculative_accept_threshold_acc", "accept a guess by its accumulated probability; below 1 the answers change")},
}

func hot(k *engine.Knob) *engine.Knob {
	k.Hot = true
	return k
}

func acceptance(name, help string) *engine.Knob {
	return hot(lossy(withDefault("1", atMost(1, floatKnob(name, engine.Speculation, []effect{engine.TPOT, engine.Throughput}, help)))))
}

var graphKnobs = []engine.Entry{
	{Gone: "0.5.14", Instead: "--cuda-graph-max-bs-decode", Knob: computed(graphRule, intKnob("cuda_graph_max_bs", 1, engine.Graphs,
		[]effect{engine.TPOT, engine.Memory, engine.StartTime}, "largest decode batch with a CUDA graph; larger ones run eagerly"))},
	{Since: "0.5.14", Gone: "0.5.23", Knob: aliases(decodeGraphs(), "--cuda-graph-max-bs")},
	// The old name is now short for two flags, and refused.
	{Since: "0.5.23", Knob: decodeGraphs()},
	{Since: "0.5.14", Gone: "0.5.23", Knob: captureDecode("full", "breakable", "tc_piecewise", "disabled")},
	{Since: "0.5.23", Knob: captureDecode("full", "breakable", "disabled")},
	{Since: "0.5.14", Gone: "0.5.23", Knob: capturePrefill("breakable", "tc_piecewise", "disabled")},
	{Since: "0.5.23", Knob: capturePrefill("full", "breakable", "disabled")},
	{Knob: neutral("eager", switchKnob("disable_cuda_graph", engine.Graphs, []effect{engine.StartTime, engine.TPOT, engine.Memory},
		"no CUDA graphs: starts faster, serves slower"))},
	{Knob: switchKnob("disable_cuda_graph_padding", engine.Graphs, []effect{engine.TPOT},
		"use a graph only for batches of exactly its size")},
	{Since: "0.5.14", Knob: switchKnob("disable_decode_cuda_graph", engine.Graphs, []effect{engine.TPOT, engine.Memory}, "no CUDA graphs for decode")},
	{Since: "0.5.14", Knob: switchKnob("disable_prefill_cuda_graph", engine.Graphs, []effect{engine.TTFT, engine.Memory}, "no CUDA graphs for prefill")},
	{Knob: switchKnob("enable_torch_compile", engine.Graphs, []effect{engine.TPOT, engine.StartTime},
		"compile the model; helps small models at small batches and makes the start long")},
	{Knob: withDefault("32", intKnob("torch_compile_max_bs", 1, engine.Graphs, []effect{engine.TPOT, engine.StartTime},
		"largest batch that is compiled"))},
}

func decodeGraphs() *engine.Knob {
	return computed(graphRule, intKnob("cuda_graph_max_bs_decode", 1, engine.Graphs,
		[]effect{engine.TPOT, engine.Memory, engine.StartTime}, "largest decode batch with a CUDA graph; larger ones run eagerly"))
}

func captureDecode(values ...string) *engine.Knob {
	return computed("full where it works", enumKnob("cuda_graph_backend_decode", "", values, engine.Graphs,
		[]effect{engine.TPOT, engine.StartTime}, "how decode steps are captured"))
}

func capturePrefill(values ...string) *engine.Knob {
	return computed("the best that works", enumKnob("cuda_graph_backend_prefill", "", values, engine.Graphs,
		[]effect{engine.TTFT, engine.StartTime}, "how prefill steps are captured"))
}

var (
	attentionBackends = []string{
		"triton", "flashinfer", "fa3", "fa4", "flashmla", "cutlass_mla", "trtllm_mla", "trtllm_mha", "cutedsl_mla", "tokenspeed_mla",
		"dsa", "dsv4", "hpc_ops", "flex_attention", "torch_native", "aiter", "wave", "intel_amx", "intel_xpu", "ascend", "dual_chunk_flash_attn",
	}
	newAttentionBackends = []string{
		"triton", "flashinfer", "fa3", "fa4", "flashmla", "trtllm_mla", "trtllm_mha", "cutedsl_mla", "tokenspeed_mla",
		"dsa", "dsv4", "hpc_ops", "flex_attention", "torch_native", "aiter", "wave", "intel_amx", "intel_xpu", "ascend",
		"compressed", "llada2_cfg_flashinfer", "minicpm_flashattn", "minicpm_flashinfer", "nsa", "qsa",
	}
)

const attentionRule = "by device and model: fa3 on Hopper, trtllm_mha on data-centre Blackwell, else flashinfer, else triton"

var kernelKnobs = []engine.Entry{
	{Gone: "0.5.18", Knob: lossy(computed(attentionRule, textKnob("attention_backend", engine.Graphs,
		[]effect{engine.TPOT, engine.Throughput, engine.TTFT}, "attention kernels; some force a page size")))},
	{Since: "0.5.18", Gone: "0.5.23", Knob: attention("attention_backend", attentionBackends, attentionHelp)},
	{Since: "0.5.23", Knob: attention("attention_backend", newAttentionBackends, attentionHelp)},
	{Since: "0.5.18", Gone: "0.5.23", Knob: attention("prefill_attention_backend", attentionBackends, prefillHelp)},
	{Since: "0.5.23", Knob: attention("prefill_attention_backend", newAttentionBackends, prefillHelp)},
	{Since: "0.5.18", Gone: "0.5.23", Knob: attention("decode_attention_backend", attentionBackends, decodeHelp)},
	{Since: "0.5.23", Knob: attention("decode_attention_backend", newAttentionBackends, decodeHelp)},
	{Since: "0.5.18", Gone: "0.5.23", Knob: sampling("flashinfer", "pytorch", "ascend")},
	{Since: "0.5.23", Knob: sampling("flashinfer", "pytorch", "ascend", "intel_xpu")},
	{Since: "0.5.2", Knob: lossy(withDefault("auto", textKnob("moe_runner_backend", engine.Graphs,
		[]effect{engine.TPOT, engine.Throughput}, "kernels of expert layers")))},
	{Since: "0.5.2", Knob: withDefault("none", textKnob("moe_a2a_backend", engine.Parallelism, []effect{engine.Throughput},
		"who exchanges tokens between expert-parallel ranks"))},
}

const (
	attentionHelp = "attention kernels; some force a page size"
	prefillHelp   = "attention kernels of prefill alone"
	decodeHelp    = "attention kernels of decode alone"
)

func attention(name string, values []string, help string) *engine.Knob {
	return lossy(computed(attentionRule, enumKnob(name, "", values, engine.Graphs,
		[]effect{engine.TPOT, engine.Throughput, engine.TTFT}, help)))
}

func sampling(values ...string) *engine.Knob {
	return lossy(computed("flashinfer where it runs", enumKnob("sampling_backend", "", values, engine.Graphs,
		[]effect{engine.TPOT}, "sampling kernels")))
}

const pipelineHelp = "GPUs that share the stack of layers; no overlap schedule, no speculation"

// parallel is a number of ranks with its other spellings.
func parallel(neutralName, name, help string, spellings ...string) *engine.Knob {
	return neutral(neutralName, aliases(withDefault("1", intKnob(name, 1, engine.Parallelism,
		[]effect{engine.Throughput, engine.TPOT, engine.TTFT, engine.Memory}, help)), spellings...))
}

var parallelKnobs = []engine.Entry{
	{Knob: parallel("tensor_parallel", "tp_size", "GPUs that share each layer; must divide the attention heads", "--tensor-parallel-size", "--tp")},
	{Gone: "0.5.23", Knob: parallel("pipeline_parallel", "pp_size", pipelineHelp, "--pipeline-parallel-size", "--pp")},
	// The short form has become short for three flags, and refused.
	{Since: "0.5.23", Knob: parallel("pipeline_parallel", "pp_size", pipelineHelp, "--pipeline-parallel-size")},
	{Knob: parallel("data_parallel", "dp_size", "engine replicas behind one server, or attention ranks with enable_dp_attention", "--data-parallel-size", "--dp")},
	// How many ranks the experts are spread over; other engines have a switch here, so no neutral name.
	{Since: "0.5.2", Knob: parallel("", "ep_size", "GPUs that share the experts", "--expert-parallel-size", "--ep")},
	{Knob: switchKnob("enable_dp_attention", engine.Parallelism, []effect{engine.Throughput, engine.Memory},
		"data-parallel attention with shared experts; for MLA and expert models")},
	{Gone: "0.5.8", Knob: withDefault("round_robin", textKnob("load_balance_method", engine.Parallelism, []effect{engine.TTFT},
		"how requests are spread over data-parallel ranks"))},
	{Since: "0.5.8", Knob: enumKnob("load_balance_method", "auto",
		[]string{"auto", "round_robin", "total_requests", "total_tokens", "follow_bootstrap_room"}, engine.Parallelism, []effect{engine.TTFT},
		"how requests are spread over data-parallel ranks")},
	{Since: "0.5.2", Knob: switchKnob("enable_eplb", engine.Parallelism, []effect{engine.Throughput}, "balance experts over the ranks while serving")},
	{Since: "0.5.2", Knob: withDefault("0", intKnob("ep_num_redundant_experts", 0, engine.Parallelism, []effect{engine.Throughput, engine.Memory},
		"extra copies of busy experts"))},
	{Since: "0.5.16", Gone: "0.5.23", Knob: elastic("mooncake", "nixl")},
	{Since: "0.5.23", Knob: elastic("none", "mooncake", "nixl")},
}

func elastic(values ...string) *engine.Knob {
	return computed("none", enumKnob("elastic_ep_backend", "", values, engine.Parallelism, nil,
		"lets the number of expert-parallel ranks change while serving"))
}

var speculationKnobs = []engine.Entry{
	{Gone: "0.5.18", Knob: algorithm("EAGLE", "EAGLE3", "NEXTN")},
	{Since: "0.5.18", Knob: algorithm("EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM", "DFLASH", "DSPARK")},
	{Knob: aliases(computed("none", textKnob("speculative_draft_model_path", engine.Speculation, []effect{engine.TPOT, engine.Memory},
		"the second model that guesses; takes memory from the KV cache")), "--speculative-draft-model")},
	{Knob: computed("by model", intKnob("speculative_num_steps", 1, engine.Speculation, []effect{engine.TPOT, engine.Throughput},
		"steps that the second model guesses ahead"))},
	{Knob: computed("by model", intKnob("speculative_eagle_topk", 1, engine.Speculation, []effect{engine.TPOT, engine.Throughput},
		"branches per guessed step"))},
	{Knob: neutral("speculative_tokens", computed("by model", intKnob("speculative_num_draft_tokens", 1, engine.Speculation,
		[]effect{engine.TPOT, engine.Throughput}, "guessed tokens that are verified per step")))},
	{Since: "0.5.11", Knob: switchKnob("speculative_adaptive", engine.Speculation, []effect{engine.TPOT},
		"the engine adjusts the number of guessed steps itself")},
}

func algorithm(values ...string) *engine.Knob {
	return computed("no speculation", enumKnob("speculative_algorithm", "", values, engine.Speculation,
		[]effect{engine.TPOT, engine.Throughput, engine.Memory},
		"how tokens are guessed ahead; wins at small batches, loses near compute saturation"))
}

// goneKnobs are flags that end the life of a command line on upgrade: the parser of a later release
// exits with status 2.
var goneKnobs = []engine.Entry{
	{Gone: "0.5.3", Instead: "--ep-size", Knob: switchKnob("enable_ep_moe", engine.Parallelism, []effect{engine.Throughput}, "spread experts over the ranks")},
	{Gone: "0.5.3", Instead: "--moe-a2a-backend deepep", Knob: switchKnob("enable_deepep_moe", engine.Parallelism, []effect{engine.Throughput}, "exchange tokens between experts by DeepEP")},
	{Gone: "0.5.11", Instead: "nothing: sparse attention is part of the models that have it", Knob: lossy(switchKnob("enable_double_sparsity", engine.KVCache,
		[]effect{engine.TPOT}, "attend to a chosen part of the context"))},
}
