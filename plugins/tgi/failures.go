package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// failures are ordered from the telling to the general: the first that matches names the cause.
// The launcher escapes quotes and newlines when it repeats an error of its children.
var failures = []*engine.FailureSignature{
	{
		Kind:    engine.BadFlag,
		Pattern: `error: unexpected argument '([^']+)' found`,
		Words:   "TGI does not know the flag $1 in this version; remove it or use the version that has it",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `error: invalid value '([^']*)' for '(--[^ ']+)[^']*'(: .*)?`,
		Words:   "TGI refused the value $1 of $2$3",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `Not enough memory to handle (\d+) prefill tokens`,
		Words:   "warm-up ran out of memory with $1 prefill tokens: lower max_batch_prefill_tokens, or raise cuda_memory_fraction or num_shard",
	},
	{
		Kind:    engine.BadValue,
		Pattern: "`max_batch_prefill_tokens` must be >= `max_input_tokens`\\. Given: (\\d+) and (\\d+)",
		Words:   "without chunked prefill a prompt of max_input_tokens $2 must fit into max_batch_prefill_tokens, which is $1: raise it or lower the other",
	},
	{
		Kind:    engine.KVTooSmall,
		Pattern: "`max_total_tokens` must be <= `max_batch_total_tokens`\\. Given: (\\d+) and (\\d+)",
		Words:   "one request of $1 tokens does not fit into a KV cache of $2: lower max_total_tokens or raise cuda_memory_fraction",
	},
	{
		Kind:    engine.BadValue,
		Pattern: "`max_input_tokens` must be < `max_total_tokens`",
		Words:   "max_input_tokens must leave room for an answer below max_total_tokens: lower the first or raise the second",
	},
	{
		Kind:    engine.BadValue,
		Pattern: "Both `max_input_tokens` \\((\\d+)\\) and `max_input_length` \\((\\d+)\\) are set",
		Words:   "max_input_tokens ($1) and its old name max_input_length ($2) are both set: remove the old one, MAX_INPUT_LENGTH included",
	},
	{
		Kind:    engine.BadValue,
		Pattern: "`num_shard` is (\\d+) but only (\\d+) CUDA devices are available",
		Words:   "num_shard is $1 and $2 GPUs are visible: lower it or give the container more GPUs",
	},
	{
		Kind:    engine.BadValue,
		Pattern: "`?num_heads`? must be divisible by `?num_shards`?(?: \\(got `?num_heads`?: (\\d+) and `?num_shards`?: (\\d+))?",
		Words:   "$1 attention heads cannot be spread over num_shard $2: use a divisor",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `FP8 KV cache is only supported|FP8 KV cache is not supported`,
		Words:   "an FP8 KV cache needs flashinfer or paged attention: set ATTENTION to one of them or leave kv_cache_dtype unset",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `Invalid ATTENTION (\S+?),`,
		Words:   "ATTENTION is $1 and must be flashinfer, flashdecoding or paged",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `ArgumentValidation\(["']?(.*?)["']?\)\s*$`,
		Words:   "TGI refused its settings: $1",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory`,
		Words:   "the GPU ran out of memory: lower max_batch_prefill_tokens or cuda_memory_fraction",
		Fatal:   true,
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `DefaultCPUAllocator: can't allocate memory`,
		Words:   "the machine ran out of memory: lower max_batch_total_tokens or give the container more",
		Fatal:   true,
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `RepositoryNotFoundError|Repository Not Found|is not a valid model identifier|LocalEntryNotFoundError|EntryNotFoundError`,
		Words:   "the model was not found: check --model-id, and the token for gated models",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `Error: DownloadError`,
		Words:   "the weights could not be fetched or converted: the lines above in the log name the cause",
	},
	{
		Kind:    engine.PortTaken,
		Pattern: `(?:[Aa]ddress already in use|EADDRINUSE)`,
		Words:   "the port is taken by another process: end it or choose another --port",
	},
	{
		Kind:    engine.EngineDead,
		Pattern: `Server error: transport error|Error: ShardFailed|[Ss]hard \d+ crashed`,
		Words:   "a shard died and the launcher ends the rest: streams that ran got an error under status 200",
		Fatal:   true,
	},
	{
		Kind:    engine.EngineDead,
		Pattern: `Webserver [Cc]rashed|Error: WebserverFailed`,
		Words:   "the router ended, at start mostly over its settings: the lines above in the log name the cause",
		Fatal:   true,
	},
	{
		Kind:    engine.EngineDead,
		Pattern: `Error: ShardCannotStart`,
		Words:   "a shard did not start: the lines above in the log name the cause",
	},
}

var progress = []*engine.ProgressPattern{
	{Pattern: "Default `max_batch_prefill_tokens` to (\\d+)", Words: "settled on $1 prefill tokens"},
	{Pattern: `Using attention (\w+) - Prefix caching (\w+)`, Words: "attention $1, prefix caching $2"},
	{Pattern: `Successfully downloaded weights`, Words: "weights are there"},
	{Pattern: `Shard ready in ([\d.]+)`, Words: "a shard is ready after $1 s"},
	{Pattern: `Warming up model`, Words: "warming up"},
	{Pattern: `KV-cache blocks: (\d+), size: (\d+)`, Words: "the KV cache has $1 blocks of $2 tokens"},
	{Pattern: `Setting max batch total tokens to (\d+)`, Words: "the KV cache holds $1 tokens"},
	{Pattern: `Maximum input tokens defaulted to (\d+)`, Words: "prompts may have $1 tokens"},
	{Pattern: `Maximum total tokens defaulted to (\d+)`, Words: "requests may have $1 tokens"},
	{Pattern: `Using prefill chunking = (\w+)`, Words: "chunked prefill: $1"},
	{Pattern: `Connected\s*$`, Words: "serving"},
	{Pattern: `Terminating webserver`, Words: "stopping: the port is closed, running requests finish"},
}
