// Package fleet holds the nouns that agents and the control plane share: names of measurements,
// one-second windows and their merged form, configuration bodies. Their wire form is agentv1.
package fleet

// Sketch metrics, in seconds.
const (
	TTFT  = "ttft_seconds"
	TPOT  = "tpot_seconds" // per request: decode time ÷ (tokens − 1)
	ITL   = "itl_seconds"  // between two outputs of one request
	E2E   = "e2e_seconds"
	Queue = "queue_seconds"
)

// Counters, as increases within a window.
const (
	RequestsFinished  = "requests_finished"
	RequestsFailed    = "requests_failed"
	RequestsAborted   = "requests_aborted"
	PromptTokens      = "prompt_tokens"
	GenerationTokens  = "generation_tokens"
	Preemptions       = "preemptions"
	PrefixQueryTokens = "prefix_query_tokens"
	PrefixHitTokens   = "prefix_hit_tokens"
	IterationTokens   = "iteration_tokens" // tokens of all engine steps, prefill and decode
	Iterations        = "iterations"       // engine steps
)

// Gauges, last value of a window.
const (
	RequestsRunning  = "requests_running"
	RequestsWaiting  = "requests_waiting"
	KVUsage          = "kv_usage" // 0–1
	KVCapacityTokens = "kv_capacity_tokens"
)

// Sources of a sketch.
const (
	SourceEngine = "engine" // the engine's own histograms
	SourceProbe  = "probe"  // requests seen on the wire
	SourceClient = "client" // a load test's own clock
)
