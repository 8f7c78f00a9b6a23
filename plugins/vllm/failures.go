package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// spoken begins a pattern of the engine's own words. With request logging on, vLLM prints prompts,
// always in quotes: a prompt that speaks of a failure must not take an engine out of rotation.
const spoken = `^[^'"]*`

// failures are ordered from the telling to the general: the first that matches names the cause.
var failures = []*engine.FailureSignature{
	{
		Kind:    engine.BadFlag,
		Pattern: `error: unrecognized arguments: (.*)`,
		Words:   "vLLM does not know the flag $1 in this version; remove it or use the version that has it",
	},
	{
		Kind:    engine.BadFlag,
		Pattern: `error: argument (\S+): (.*)`,
		Words:   "vLLM refused the flag $1: $2",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `max_num_batched_tokens \((\d+)\) must be greater than or equal to max_num_seqs \((\d+)\)`,
		Words:   "max_num_batched_tokens is $1 but max_num_seqs is $2: raise the first or lower the second",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `max_num_batched_tokens \((\d+)\) is smaller than max_model_len \((\d+)\)`,
		Words:   "without chunked prefill a prompt of max_model_len $2 must fit into max_num_batched_tokens, which is $1: raise it or switch chunked prefill on",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `User-specified max_model_len \((\d+)\) is greater than the derived max_model_len`,
		Words:   "max_model_len $1 is above what the model supports: lower it",
	},
	{
		Kind:    engine.KVTooSmall,
		Pattern: `To serve at least one request with the models?'s max seq len \((\d+)\), \(?([\d.]+) GiB KV cache is needed`,
		Words:   "one request of $1 tokens needs $2 GiB of KV cache and less is there: lower max_model_len or raise gpu_memory_utilization (and leave num_gpu_blocks_override out)",
	},
	{
		Kind:    engine.KVTooSmall,
		Pattern: `No available memory for the cache blocks`,
		Words:   "weights and activations leave no memory for the KV cache: raise gpu_memory_utilization, or lower max_num_batched_tokens or max_model_len",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `Free memory on device .*\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory utilization`,
		Words:   "only $1 of $2 GiB of the GPU are free, less than gpu_memory_utilization asks for: lower it or end what else uses the GPU",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `CUDA out of memory occurred when warming up sampler with (\d+) dummy requests`,
		Words:   "out of GPU memory while warming up with $1 sequences: lower max_num_seqs or gpu_memory_utilization",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: spoken + `(?:CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory)`,
		Words:   "the GPU ran out of memory: lower gpu_memory_utilization, max_num_batched_tokens or max_num_seqs",
		Fatal:   true,
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: spoken + `DefaultCPUAllocator: can't allocate memory`,
		Words:   "the machine ran out of memory: lower VLLM_CPU_KVCACHE_SPACE or max_num_batched_tokens, or give the container more",
		Fatal:   true,
	},
	{
		Kind:    engine.BadValue,
		Pattern: `Total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)`,
		Words:   "$1 attention heads cannot be spread over tensor_parallel_size $2: use a divisor",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `Quantization method specified in the model config \((\S+)\) does not match the quantization method specified in the .?quantization.? argument \((\S+?)\)`,
		Words:   "the checkpoint is quantized as $1 and cannot be served as $2: leave quantization unset",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `Input should be (.+?) \[type=`,
		Words:   "vLLM refused a value: it should be $1",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `(?:Repository Not Found|Repo id must be in the form|is not a valid model identifier|Can't load the configuration of|Invalid repository ID or local directory specified)`,
		Words:   "the model was not found: check its name or path, and the token for gated models",
	},
	{
		Kind:    engine.PortTaken,
		Pattern: `(?:[Aa]ddress already in use|EADDRINUSE)`,
		Words:   "the port is taken by another process: end it or choose another --port",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `VLLM_PORT '?(\S+?)'? appears to be a URI`,
		Words:   "a Kubernetes Service called vllm injects VLLM_PORT=$1: set enableServiceLinks to false",
	},
	{
		Kind:    engine.EngineDead,
		Pattern: spoken + `(?:EngineDeadError|EngineCore encountered (?:a fatal error|an issue))`,
		Words:   "the engine core died while the API server lives on: it answers nothing any more and must be restarted",
		Fatal:   true,
	},
	{
		Kind:    engine.BadValue,
		Pattern: spoken + `(?:ValueError|Value error[:,]?) *:? *(.+?)(?: \[type=.*)?$`,
		Words:   "vLLM refused its settings: $1",
	},
	{
		Kind:    engine.EngineDead,
		Pattern: `Engine core initialization failed`,
		Words:   "the engine core did not start: the lines above in the log name the cause",
	},
}

var progress = []*engine.ProgressPattern{
	{Pattern: `Initializing a V1 LLM engine \(v([^)\s]+)\)`, Words: "vLLM $1 is starting"},
	{Pattern: `Model loading took ([\d.]+) Gi?B(?: memory)? and ([\d.]+) seconds`, Words: "weights loaded: $1 GiB in $2 s"},
	{Pattern: `torch\.compile takes ([\d.]+) s in total`, Words: "compiled in $1 s"},
	{Pattern: `Available KV cache memory: ([\d.]+) GiB`, Words: "$1 GiB are left for the KV cache"},
	{Pattern: `(?:GPU|CPU) KV cache size: ([\d,]+) tokens`, Words: "the KV cache holds $1 tokens"},
	{Pattern: `Graph capturing finished in (\d+) secs, took ([\d.]+) GiB`, Words: "CUDA graphs captured in $1 s, $2 GiB"},
	{Pattern: `init engine \(.*\) took ([\d.]+) s`, Words: "engine ready after $1 s"},
	{Pattern: `Starting vLLM (?:API )?server`, Words: "the HTTP server is starting"},
	{Pattern: `Application startup complete`, Words: "serving"},
	{Pattern: `\[shutdown\] (.*)`, Words: "stopping: $1"},
}
