package contract

// What the simulated engines keep different, and why. Everything else has to be as recorded.
const (
	whyGPU      = "the real one was recorded on a CPU, the simulated one pretends to a GPU"
	whyProcess  = "figures of the Python process, which the product takes from the operating system"
	whyPeers    = "figures of data-parallel attention, which the simulated one does not have"
	whyRouting  = "figures of routing keys, which nobody sends"
	whyHost     = "seconds of the scheduler's own processor, which the simulated one does not model"
	whyInfo     = "the product reads the model's path alone"
	whyBlocks   = "prefixes are reused in whole blocks of the simulation, and the chat is shorter than one"
	whyNoGraphs = "graphs are off, and the simulated one leaves out what did not happen"
)

var differences = map[string][]Difference{
	"vllm": {
		{"start", "log of weights", "Model loading took # GiB memory and # seconds", whyGPU},
		{"start", "log of KV bytes", "Available KV cache memory: # GiB", whyGPU},
		{"start", "log of KV tokens", "GPU KV cache size: # tokens", whyGPU},
		{"start", "log in order", "arguments, engine, weights, KV bytes, KV tokens, concurrency, engine ready, server, serving", whyGPU},
		{"metrics *", "process_*", Absent, whyProcess},
		{"metrics *", "python_*", Absent, whyProcess},
	},
	"sglang": {
		{"start", "log of summary", "max_total_num_tokens=#, chunked_prefill_size=#, max_prefill_tokens=#, max_running_requests=#, context_len=#, available_gpu_mem=# GB", whyGPU},
		{"metrics *", "sglang:dp_attention_*", Absent, whyPeers},
		{"metrics *", "sglang:routing_key*", Absent, whyRouting},
		{"metrics *", "sglang:process_cpu_seconds_total", Absent, whyProcess},
		{"metrics *", "sglang:scheduler_process_cpu_seconds_total", Absent, whyHost},
		{"metrics *", "sglang:scheduler_stage_seconds_total", Absent, whyHost},
		{"metrics *", "sglang:startup_cuda_graph_time_seconds", Absent, whyNoGraphs},
		{"metrics after traffic", "sglang:cached_tokens_total", Absent, whyBlocks},
		{"model info", "body", "*", whyInfo},
	},
	"tgi": {},
}
