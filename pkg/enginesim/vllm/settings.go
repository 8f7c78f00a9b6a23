package vllm

import (
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// settings are a vLLM server's flags with all defaults resolved.
type settings struct {
	model      string
	served     []string
	host       string
	port       int
	apiKeys    []string
	core       des.Config
	layout     sim.Layout
	memory     sim.Memory
	stream     int // tokens per event
	keepAlive  int // seconds between comments in a silent stream; 0: none
	drain      int // seconds that SIGTERM leaves running requests; 0: none
	noStats    bool
	trackLoad  bool
	forceUsage bool
	kvDtype    string
	drift      float64 // of answers, by the formats of cache and weights
	maxQueued  int     // requests in the engine, waiting or running, beyond which new ones are refused; 0: no limit
	args       *cli.Args
}

// refusal is an error of vLLM's own configuration check: a traceback and exit code 1.
type refusal struct {
	kind string // the exception that the last line names
	text string
}

func (r *refusal) Error() string { return r.kind + ": " + r.text }

func valueError(format string, args ...any) error {
	return &refusal{"ValueError", fmt.Sprintf(format, args...)}
}

// invalid is how pydantic words a rejected field or combination.
func invalid(config, text, kind string) error {
	return &refusal{"pydantic_core._pydantic_core.ValidationError", fmt.Sprintf(
		"1 validation error for %s\n%s [type=%s]\n    For further information visit https://errors.pydantic.dev/2.12/v/%s", config, text, kind, kind)}
}

func atLeastOne(a *cli.Args, config, flag string) error {
	if a.Has(flag) && a.Int(flag, 1) < 1 {
		field := strings.ReplaceAll(flag, "-", "_")
		return invalid(config, fmt.Sprintf("%s\n  Input should be greater than or equal to 1", field), "greater_than_equal")
	}
	return nil
}

// resolve checks the flags in the order vLLM does and fills in its defaults for the machine.
func resolve(a *cli.Args, m *sim.Machine) (*settings, error) {
	s := &settings{
		args: a, model: a.Text("model", "Qwen/Qwen3-0.6B"), host: a.Text("host", "0.0.0.0"), port: a.Int("port", 8000),
		stream: max(a.Int("stream-interval", 1), 1), keepAlive: a.Int("sse-keep-alive-interval", 0),
		drain: a.Int("shutdown-timeout", 0), noStats: a.Bool("disable-log-stats", false),
		trackLoad: a.Bool("enable-server-load-tracking", false), forceUsage: a.Bool("enable-force-include-usage", false),
		kvDtype: a.Text("kv-cache-dtype", "auto"), drift: sim.Drift(a.Text("kv-cache-dtype", "auto"), a.Text("quantization", "")),
	}
	if len(a.Positional) > 0 {
		s.model = a.Positional[0]
	}
	if s.served = strings.Fields(a.Text("served-model-name", "")); len(s.served) == 0 {
		s.served = []string{s.model}
	}
	s.apiKeys = strings.Fields(a.Text("api-key", ""))
	for _, check := range []func(*cli.Args, *sim.Machine) error{s.parallel, s.cache, s.length, s.scheduler} {
		if err := check(a, m); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *settings) parallel(a *cli.Args, m *sim.Machine) error {
	for _, flag := range []string{"tensor-parallel-size", "pipeline-parallel-size"} {
		if err := atLeastOne(a, "ParallelConfig", flag); err != nil {
			return err
		}
	}
	s.layout.TP, s.layout.PP = a.Int("tensor-parallel-size", 1), a.Int("pipeline-parallel-size", 1)
	if m.Model.Heads%s.layout.TP != 0 {
		return invalid("VllmConfig", fmt.Sprintf("  Value error, Total number of attention heads (%d) must be divisible by tensor parallel size (%d).", m.Model.Heads, s.layout.TP), "value_error")
	}
	if world := s.layout.TP * s.layout.PP; world > m.GPUs {
		return invalid("ParallelConfig", fmt.Sprintf("  Value error, World size (%d) is larger than the number of available GPUs (%d) in this node.", world, m.GPUs), "value_error")
	}
	w, err := perfmodel.ParsePrecision(strings.TrimSuffix(strings.TrimSuffix(a.Text("quantization", ""), "_per_tensor"), "_per_channel"))
	if err != nil {
		return invalid("ModelConfig", fmt.Sprintf("  Value error, Unknown quantization method: %s.", a.Text("quantization", "")), "value_error")
	}
	s.layout.Weights = w
	return nil
}

func (s *settings) cache(a *cli.Args, _ *sim.Machine) error {
	s.layout.Fraction = a.Float("gpu-memory-utilization", .92)
	if s.layout.Fraction <= 0 {
		return invalid("CacheConfig", "gpu_memory_utilization\n  Input should be greater than 0", "greater_than")
	}
	if s.layout.Fraction > 1 {
		return invalid("CacheConfig", "gpu_memory_utilization\n  Input should be less than or equal to 1", "less_than_equal")
	}
	if w := a.Float("watermark", 0); w < 0 || w >= 1 {
		return invalid("CacheConfig", "watermark\n  Input should be less than 1", "less_than")
	}
	s.layout.KVBytes = a.Int("kv-cache-memory-bytes", 0)
	if strings.HasPrefix(s.kvDtype, "fp8") || strings.HasPrefix(s.kvDtype, "int8") {
		s.layout.KV = perfmodel.FP8
	}
	s.core.BlockSize = a.Int("block-size", 16)
	if s.core.BlockSize < 1 || s.core.BlockSize%8 != 0 {
		return valueError("block_size %d is not supported by the attention backend FLASH_ATTN: it must be a multiple of 16.", s.core.BlockSize)
	}
	s.core.PrefixCaching = a.Bool("enable-prefix-caching", true)
	s.core.Watermark = a.Float("watermark", 0)
	return nil
}

func (s *settings) length(a *cli.Args, m *sim.Machine) error {
	derived := m.Model.MaxModelLen
	s.core.MaxModelLen = a.Int("max-model-len", derived)
	if a.Text("max-model-len", "") != "" && s.core.MaxModelLen < 1 {
		return invalid("ModelConfig", "max_model_len\n  Input should be greater than or equal to 1", "greater_than_equal")
	}
	if s.core.MaxModelLen > derived {
		return invalid("ModelConfig", fmt.Sprintf("  Value error, User-specified max_model_len (%d) is greater than the derived max_model_len (max_position_embeddings=%d or model_max_length=None in model's config.json). "+
			"To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.", s.core.MaxModelLen, derived), "value_error")
	}
	return nil
}

func (s *settings) scheduler(a *cli.Args, m *sim.Machine) error {
	const config = "SchedulerConfig"
	for _, flag := range []string{"max-num-batched-tokens", "max-num-seqs", "max-num-active-seqs", "max-num-queued-reqs", "stream-interval"} {
		if err := atLeastOne(a, config, flag); err != nil {
			return err
		}
	}
	c := &s.core
	c.Dialect = des.VLLM
	c.ChunkedPrefill = a.Bool("enable-chunked-prefill", true)
	c.AsyncScheduling = a.Bool("async-scheduling", true)
	c.ReserveFullPrompt = a.Bool("scheduler-reserve-full-isl", true)
	c.LongPrefillThreshold = a.Int("long-prefill-token-threshold", 0)
	s.maxQueued = a.Int("max-num-queued-reqs", 0)
	c.MaxBatchedTokens, c.MaxNumSeqs = batchDefaults(a, m, c.MaxModelLen)
	switch {
	case c.MaxBatchedTokens < c.MaxModelLen && !c.ChunkedPrefill:
		return invalid(config, fmt.Sprintf("  Value error, max_num_batched_tokens (%d) is smaller than max_model_len (%d). This effectively limits the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. "+
			"Please increase max_num_batched_tokens or decrease max_model_len.", c.MaxBatchedTokens, c.MaxModelLen), "value_error")
	case c.MaxBatchedTokens < c.MaxNumSeqs:
		return invalid(config, fmt.Sprintf("  Value error, max_num_batched_tokens (%d) must be greater than or equal to max_num_seqs (%d).", c.MaxBatchedTokens, c.MaxNumSeqs), "value_error")
	case c.LongPrefillThreshold > c.MaxModelLen:
		return invalid(config, fmt.Sprintf("  Value error, long_prefill_token_threshold (%d) cannot be greater than the max_model_len (%d).", c.LongPrefillThreshold, c.MaxModelLen), "value_error")
	}
	c.MaxNumSeqs = min(c.MaxNumSeqs, a.Int("max-num-active-seqs", c.MaxNumSeqs))
	s.layout.Eager = a.Bool("enforce-eager", false) || a.Int("optimization-level", 2) == 0
	s.layout.MaxBatchedTokens, s.layout.MaxNumSeqs = c.MaxBatchedTokens, c.MaxNumSeqs
	if n := a.Int("max-num-scheduled-tokens", 0); n > 0 {
		c.MaxBatchedTokens = min(c.MaxBatchedTokens, n)
	}
	return nil
}

// batchDefaults are the token budget and sequence cap: given, or by the GPU's memory and name.
func batchDefaults(a *cli.Args, m *sim.Machine, maxLen int) (tokens, seqs int) {
	tokens, seqs = 2048, 256
	switch {
	case m.MemoryGiB() >= 160:
		tokens, seqs = 16384, 1024
	case m.MemoryGiB() >= 70 && !strings.Contains(strings.ToLower(m.GPUName), "a100"):
		tokens, seqs = 8192, 1024
	}
	if a.Text("performance-mode", "") == "throughput" {
		tokens, seqs = 2*tokens, 2*seqs
	}
	seqsGiven, tokensGiven := a.Has("max-num-seqs"), a.Has("max-num-batched-tokens")
	seqs, tokens = a.Int("max-num-seqs", seqs), a.Int("max-num-batched-tokens", tokens)
	if !tokensGiven {
		if !a.Bool("enable-chunked-prefill", true) {
			tokens = max(tokens, maxLen)
		}
		tokens = max(min(tokens, seqs*maxLen), seqs*boolInt(seqsGiven))
	}
	if !seqsGiven {
		seqs = min(seqs, tokens)
	}
	return tokens, seqs
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fit is the engine core's part of start-up: how many tokens the cache holds, and whether that is enough.
func (s *settings) fit(m *sim.Machine) error {
	mem, err := m.Memory(s.layout)
	if err != nil {
		return &refusal{"ValueError", err.Error()}
	}
	if mem.KVTokens <= 0 {
		return valueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.")
	}
	if n := s.args.Int("num-gpu-blocks-override", 0); n > 0 {
		mem.KVTokens = n * s.core.BlockSize
	}
	mem.KVTokens = mem.KVTokens / s.core.BlockSize * s.core.BlockSize
	if s.args.Text("max-model-len", "") == "auto" {
		s.core.MaxModelLen = min(s.core.MaxModelLen, mem.KVTokens)
	}
	if mem.KVTokens < s.core.MaxModelLen {
		need := float64(s.core.MaxModelLen) * mem.KVBytesPerToken
		return valueError("To serve at least one request with the model's max seq len (%d), (%.2f GiB KV cache is needed, which is larger than the available KV cache memory (%.2f GiB). "+
			"Based on the available memory, the estimated maximum model length is %d. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.",
			s.core.MaxModelLen, need/(1<<30), mem.KVBytes/(1<<30), mem.KVTokens)
	}
	s.memory, s.core.KVTokens = mem, mem.KVTokens
	return nil
}
