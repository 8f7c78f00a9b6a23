package engine

// SignalInfo tells what one of our names for a measurement means.
type SignalInfo struct {
	Name string
	// Kind is Gauge for a value that goes up and down, Counter for one that is reported as an increase
	// and HistogramSeries for a distribution.
	Kind seriesKind
	// Means says it in words, with its unit.
	Means string
	// Without says what is not known where an engine that has the signal does not tell it; empty for
	// signals on which no answer rests.
	Without string
	// Or names a signal that serves as well.
	Or string
}

// SignalNames are all the names that an adapter may map series to, in the order in which people read them.
func SignalNames() []SignalInfo { return signalNames }

var signalNames = []SignalInfo{
	{Name: "requests_running", Kind: Gauge, Means: "requests in the running batch", Without: "how many requests run, and when a drain is over"},
	{Name: "requests_waiting", Kind: Gauge, Means: "requests that wait for room in the batch", Without: "how many requests wait, so that an overload is seen late"},
	{Name: "requests_deferred", Kind: Gauge, Means: "requests held back for a grammar, a KV transfer or an adapter: in the engine, but no load"},
	{Name: "requests_swapped", Kind: Gauge, Means: "requests whose KV cache was moved to the host (vLLM's V0 engine)"},
	{Name: "kv_usage", Kind: Gauge, Means: "share of the KV cache in use, 0–1; the mean over replicas behind one page", Without: "how full the KV cache is"},
	{Name: "kv_usage_max", Kind: Gauge, Means: "the same of the fullest replica"},
	{Name: "kv_capacity_tokens", Kind: Gauge, Means: "tokens that fit the KV cache", Without: "how many tokens fit the KV cache: batch sizes are judged without that limit"},
	{Name: "kv_used_tokens", Kind: Gauge, Means: "tokens in the KV cache; for TGI tokens reserved"},
	{Name: "kv_evictable_tokens", Kind: Gauge, Means: "cached tokens that nobody uses, which do not count as used"},
	{Name: "kv_host_usage", Kind: Gauge, Means: "share of the KV space on the host in use, 0–1"},
	{Name: "engines_asleep", Kind: Gauge, Means: "engines that were put to sleep"},
	{Name: "lora_slots", Kind: Gauge, Means: "adapters that fit on the GPU at once"},
	{Name: "lora_slots_used", Kind: Gauge, Means: "adapters that hold a slot"},
	{Name: "lora_adapters_waiting", Kind: Gauge, Means: "adapters whose requests wait"},
	{Name: "new_token_ratio", Kind: Gauge, Means: "share of its allowed answer that SGLang expects of a request when it admits it"},

	{Name: "requests_finished", Kind: Counter, Means: "requests that ended well", Without: "how many requests end well, so neither their rate nor the share that fails"},
	{Name: "requests_failed", Kind: Counter, Means: "requests that failed or were refused, except for faults of their own", Without: "how many requests fail, unless the wire shows it"},
	{Name: "requests_rejected", Kind: Counter, Means: "requests refused because a queue was full; they are among the failed"},
	{Name: "requests_aborted", Kind: Counter, Means: "requests that the client or the engine gave up"},
	{Name: "requests_corrupted", Kind: Counter, Means: "requests with values that are no numbers"},
	{Name: "prompt_tokens", Kind: Counter, Means: "tokens of prompts, cached ones included", Without: "how much prompt is processed"},
	{Name: "prompt_computed_tokens", Kind: Counter, Means: "tokens of prompts that no cache spared"},
	{Name: "generation_tokens", Kind: Counter, Means: "tokens generated", Without: "how much is generated, so no throughput"},
	{Name: "preemptions", Kind: Counter, Means: "requests thrown out of the batch for want of KV cache", Without: "whether requests are thrown out for want of KV cache"},
	{Name: "prefix_query_tokens", Kind: Counter, Means: "tokens looked up in the prefix cache (blocks in vLLM's first releases)", Without: "how much the prefix cache spares"},
	{Name: "prefix_hit_tokens", Kind: Counter, Means: "of these, tokens found", Without: "how much the prefix cache spares"},
	{Name: "external_query_tokens", Kind: Counter, Means: "tokens looked up in a cache outside the engine"},
	{Name: "external_hit_tokens", Kind: Counter, Means: "of these, tokens found"},
	{Name: "media_query_items", Kind: Counter, Means: "images and other media looked up in their cache"},
	{Name: "media_hit_items", Kind: Counter, Means: "of these, items found"},
	{Name: "kv_evicted_tokens", Kind: Counter, Means: "tokens that left the KV cache on the GPU"},
	{Name: "kv_loaded_back_tokens", Kind: Counter, Means: "tokens fetched back from the host"},
	{Name: "iterations", Kind: Counter, Means: "steps of the engine", Without: "how large the engine's steps are, so how well its token budget fits"},
	{Name: "iteration_tokens", Kind: Counter, Means: "tokens of all steps, prompts and answers", Without: "how large the engine's steps are, so how well its token budget fits"},
	{Name: "prefill_step_seconds", Kind: Counter, Means: "seconds spent in steps that process prompts"},
	{Name: "decode_step_seconds", Kind: Counter, Means: "seconds spent in steps that generate"},
	{Name: "decode_steps", Kind: Counter, Means: "steps that generate"},
	{Name: "forward_seconds", Kind: Counter, Means: "seconds that the GPU spent in forward passes"},
	{Name: "spec_drafts", Kind: Counter, Means: "rounds of speculation"},
	{Name: "spec_draft_tokens", Kind: Counter, Means: "tokens speculated"},
	{Name: "spec_accepted_tokens", Kind: Counter, Means: "of these, tokens accepted"},
	{Name: "estimated_flops", Kind: Counter, Means: "operations per GPU as the engine reckons them; 0 unless it is told to"},
	{Name: "estimated_read_bytes", Kind: Counter, Means: "bytes read per GPU, likewise"},
	{Name: "estimated_write_bytes", Kind: Counter, Means: "bytes written per GPU, likewise"},

	{Name: "prefix_hit_rate", Kind: Gauge, Means: "share of tokens found in the prefix cache, 0–1, where there are no counters: of the engine's last log interval"},
	{Name: "generation_tokens_per_second", Kind: Gauge, Means: "tokens generated a second in the engine's last log interval"},
	{Name: "queue_mean_seconds", Kind: Gauge, Means: "mean time in the queue in the engine's last log interval"},
	{Name: "preempted_lately", Kind: Gauge, Means: "preemptions in the engine's last log interval"},
	{Name: "spec_acceptance_rate", Kind: Gauge, Means: "share of speculated tokens accepted, 0–1, in the engine's last log interval"},
	{Name: "spec_accepted_length", Kind: Gauge, Means: "tokens a round of speculation, the engine's own included, in its last log interval"},

	{Name: "ttft_seconds", Kind: HistogramSeries, Means: "time to first token, of streamed requests where the engine tells them apart", Without: "time to first token, unless the wire shows it"},
	{Name: "itl_seconds", Kind: HistogramSeries, Means: "time between two outputs of a request", Without: "the pace of answers, unless the wire shows it", Or: "tpot_seconds"},
	{Name: "tpot_seconds", Kind: HistogramSeries, Means: "time per output token, one mean a request", Without: "the pace of answers, unless the wire shows it", Or: "itl_seconds"},
	{Name: "e2e_seconds", Kind: HistogramSeries, Means: "from a request's arrival to its end", Without: "how long requests take, unless the wire shows it"},
	{Name: "queue_seconds", Kind: HistogramSeries, Means: "from a request's arrival to its first step", Without: "how long requests wait"},
	{Name: "validation_seconds", Kind: HistogramSeries, Means: "checking and tokenizing a request"},
	{Name: "inference_seconds", Kind: HistogramSeries, Means: "from a request's first step to its end"},
	{Name: "prefill_seconds", Kind: HistogramSeries, Means: "from a request's first step to its first token"},
	{Name: "decode_seconds", Kind: HistogramSeries, Means: "from a request's first token to its last"},
	{Name: "prompt_length_tokens", Kind: HistogramSeries, Means: "tokens of a request's prompt"},
	{Name: "output_length_tokens", Kind: HistogramSeries, Means: "tokens of a request's answer"},
	{Name: "asked_length_tokens", Kind: HistogramSeries, Means: "tokens that a request allows its answer"},
	{Name: "kv_block_lifetime_seconds", Kind: HistogramSeries, Means: "life of a KV block, sampled, where the engine is told to"},
	{Name: "kv_block_idle_seconds", Kind: HistogramSeries, Means: "how long it was unused before it was evicted, likewise"},
	{Name: "kv_block_reuse_gap_seconds", Kind: HistogramSeries, Means: "time between two uses of it, likewise"},
}
