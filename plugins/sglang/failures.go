package main

import (
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// spoken begins a pattern of the engine's own words. With request logging on, SGLang prints
// prompts, always in quotes: a prompt that speaks of a failure must not take an engine out of rotation.
const spoken = `^[^'"]*`

// failures are ordered from the telling to the general: the first that matches names the cause.
// Two shortages of memory want opposite moves of mem_fraction_static.
var failures = []*engine.FailureSignature{
	{
		Kind:    engine.BadFlag,
		Pattern: `error: unrecognized arguments: (.*)`,
		Words:   "SGLang does not know the flag $1 in this version; remove it or use the version that has it",
	},
	{
		Kind:    engine.BadFlag,
		Pattern: `error: argument (\S+): (.*)`,
		Words:   "SGLang refused the flag $1: $2",
	},
	{
		Kind:    engine.BadFlag,
		Pattern: `error: the following arguments are required: (.*)`,
		Words:   "SGLang cannot start without $1",
	},
	{
		Kind:    engine.KVTooSmall,
		Pattern: `Not enough memory\. Please try to (?:increase|raise) --mem-fraction-static`,
		Words:   "the weights leave no memory for the KV cache: raise mem_fraction_static, or use more GPUs or a smaller model",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: `(?i)capture (?:\w+ )?(?:cuda )?graph failed.*|set --mem-fraction-static to a smaller value`,
		Words:   "no memory is left for CUDA graphs: lower mem_fraction_static, or lower the largest captured batch",
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: spoken + `(Prefill|Decode) out of memory`,
		Words:   "$1 found no KV memory for its batch: lower max_running_requests, or raise schedule_conservativeness",
		Fatal:   true,
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: spoken + `(?:CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory)`,
		Words:   "the GPU ran out of memory beside the KV cache: lower mem_fraction_static, or lower chunked_prefill_size",
		Fatal:   true,
	},
	{
		Kind:    engine.OutOfMemory,
		Pattern: spoken + `DefaultCPUAllocator: can't allocate memory`,
		Words:   "the machine ran out of memory: lower max_total_tokens or give the container more",
		Fatal:   true,
	},
	{
		Kind:    engine.BadValue,
		Pattern: `chunked_prefill_size must be divisible by page_size`,
		Words:   "chunked_prefill_size must be a multiple of page_size: change one of them",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `max_running_requests? is zero`,
		Words:   "no request fits: raise max_running_requests, or mem_fraction_static for more KV memory",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `context_length \((\d+)\) is greater than the derived context_length \((\d+)\)`,
		Words:   "context_length $1 is above the model's own $2: lower it",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `num_attention_heads \((\d+)\) must be divisible by tp_size \((\d+)\)`,
		Words:   "$1 attention heads cannot be spread over tp_size $2: use a divisor",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `AssertionError: (\d+) is not divisible by (\d+)`,
		Words:   "$1 parts of the model cannot be spread over $2 GPUs: choose tp_size so that it divides them",
	},
	{
		Kind:    engine.BadValue,
		Pattern: `invalid device ordinal|needs more devices`,
		Words:   "tp_size × pp_size is more than the GPUs that are visible: lower it or give the container more GPUs",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `Unknown quantization method: ([\w-]+)`,
		Words:   "SGLang does not know the quantization $1: leave quantization unset or use one of its methods",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `Quantization method specified in the model config \((\S+)\) does not match the quantization method specified in the .?quantization.? argument \((\S+?)\)`,
		Words:   "the checkpoint is quantized as $1 and cannot be served as $2: leave quantization unset",
	},
	{
		Kind:    engine.ModelFault,
		Pattern: `(?:Repository Not Found|Repo id must be in the form|is not a valid model identifier|Can't load the configuration of|is not a local folder and is not a valid)`,
		Words:   "the model was not found: check its name or path, and the token for gated models",
	},
	{
		// Where it is not given, SGLang takes the fraction that its chunks and graphs leave.
		Kind:    engine.KVTooSmall,
		Pattern: `leave no GPU memory for the KV cache under --mem-fraction-static=(-?[\d.]+?)\.? `,
		Words:   "weights and activations leave no memory for the KV cache (mem_fraction_static comes out as $1): lower chunked_prefill_size or max_running_requests, or give mem_fraction_static",
	},
	{
		// It has loaded everything by then, and neither serves nor ends.
		Kind:    engine.PortTaken,
		Pattern: spoken + `error while attempting to bind on address (.*): address already in use`,
		Words:   "the port $1 is taken by another process, and SGLang waits for ever: end that process or choose another --port",
		Fatal:   true,
	},
	{
		Kind:    engine.PortTaken,
		Pattern: `(?:[Aa]ddress already in use|EADDRINUSE)`,
		Words:   "the port is taken by another process: end it or choose another --port",
	},
	{
		Kind:    engine.EngineDead,
		Pattern: spoken + `(?i:watchdog timeout)`,
		Words:   "a step hung longer than watchdog_timeout and SGLang ends itself: raise it if steps are that long, else look for a stuck GPU",
		Fatal:   true,
	},
	{
		Kind:    engine.BadValue,
		Pattern: spoken + `(?:ValueError|AssertionError): (.+)$`,
		Words:   "SGLang refused its settings: $1",
	},
	{
		Kind:    engine.EngineDead,
		Pattern: spoken + `(?:Scheduler hit an exception|Received sigquit from a child process|Rank \d+ scheduler (?:is dead|died))`,
		Words:   "a scheduler process died and takes the server with it: the lines above in the log name the cause",
		Fatal:   true,
	},
}

var progress = []*engine.ProgressPattern{
	{Pattern: `Load weight begin\. avail mem=([\d.]+) GB`, Words: "loading weights, $1 GB free"},
	{Pattern: `Load weight end\. elapsed=([\d.]+) s.*mem usage=([\d.]+) GB`, Words: "weights loaded: $2 GB in $1 s"},
	{Pattern: `KV Cache is allocated\..*#tokens: (\d+)`, Words: "the KV cache holds $1 tokens"},
	{Pattern: `(?i)Capture .*cuda graph begin`, Words: "capturing CUDA graphs"},
	{Pattern: `(?i)Capture .*cuda graph end\.(?:.*elapsed=([\d.]+) s)?`, Words: "CUDA graphs captured"},
	{Pattern: `max_total_num_tokens=(\d+).*max_running_requests=(\d+)`, Words: "settled on $1 KV tokens and $2 running requests"},
	{Pattern: `The server is fired up and ready to roll`, Words: "serving"},
	{Pattern: `Gracefully exiting.*?(\d+)`, Words: "stopping: $1 requests are left"},
}
