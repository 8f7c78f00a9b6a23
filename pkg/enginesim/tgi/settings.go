package tgi

import (
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// flagTable holds the launcher's flags of 3.3.7. Each has an environment form.
const flagTable = `
text   model-id
text   hostname
int    port,-p
int    max-concurrent-requests
int    max-input-tokens
int    max-input-length
int    max-total-tokens
int    max-batch-prefill-tokens
int    max-batch-total-tokens
float  waiting-served-ratio
int    max-waiting-tokens
int    max-batch-size
float  cuda-memory-fraction
choice kv-cache-dtype fp8_e4m3fn,fp8_e5m2
text   cuda-graphs
int    num-shard
choice sharded true,false
choice quantize awq,compressed-tensors,eetq,exl2,gptq,marlin,bitsandbytes,bitsandbytes-nf4,bitsandbytes-fp4,fp8
choice dtype float16,bfloat16
int    speculate
int    validation-workers
int    graceful-termination-timeout,-g
text   api-key
inert
text   revision
int    max-client-batch-size
int    max-best-of
int    max-stop-sequences
int    max-top-n-tokens
int    payload-limit
int    prometheus-port
text   shard-uds-path
text   master-addr
int    master-port
text   huggingface-hub-cache
text   weights-cache-override
switch trust-remote-code
switch disable-custom-kernels
switch json-output
text   otlp-endpoint
text   otlp-service-name
text   cors-allow-origin
text   watermark-gamma
text   watermark-delta
text   ngrok
text   ngrok-authtoken
text   ngrok-edge
text   tokenizer-config-path
switch disable-grammar-support
switch disable-crash-on-failure
text   lora-adapters
text   rope-scaling
float  rope-factor
choice usage-stats on,off,no-stack
switch enable-prefill-logprobs
text   env
`

func newFlags() *cli.Set {
	s := &cli.Set{Program: "text-generation-launcher", Grammar: cli.Clap}
	s.Define(flagTable)
	return s
}

// settings are a TGI launcher's flags and environment with all defaults resolved.
type settings struct {
	args        *cli.Args
	model       string
	host        string
	port        int
	apiKey      string
	core        des.Config
	layout      sim.Layout
	memory      sim.Memory
	prefill     int
	maxInput    int // 0: decided after warm-up, as maxTotal
	maxTotal    int
	concurrent  int
	workers     int
	graceful    int // seconds
	attention   string
	speculating bool
	drift       float64 // of answers, by the formats of cache and weights
}

// wiggleRoom is the share of the memory fraction that TGI dares to use.
const wiggleRoom = .9

// argumentError is the launcher's refusal of values it can check before it loads anything.
func argumentError(format string, args ...any) error {
	return fmt.Errorf("ArgumentValidation(%q)", fmt.Sprintf(format, args...))
}

// resolve checks the launcher's arguments and fills in the defaults for the machine.
func resolve(a *cli.Args, env func(string) string, m *sim.Machine) (*settings, error) {
	s := &settings{
		args: a, model: a.Text("model-id", "bigscience/bloom-560m"), host: a.Text("hostname", "0.0.0.0"), port: a.Int("port", 3000),
		apiKey: a.Text("api-key", ""), concurrent: a.Int("max-concurrent-requests", 128), workers: a.Int("validation-workers", 2),
		graceful: a.Int("graceful-termination-timeout", 90), speculating: a.Int("speculate", 0) > 0,
		maxInput: a.Int("max-input-tokens", a.Int("max-input-length", 0)), maxTotal: a.Int("max-total-tokens", 0),
		attention: "flashinfer",
	}
	if v := env("ATTENTION"); v != "" {
		s.attention = v
	}
	s.prefill = a.Int("max-batch-prefill-tokens", min(4096, m.Model.MaxModelLen))
	chunking := env("PREFILL_CHUNKING") != "0" && !s.speculating && s.attention != "paged"
	if err := s.check(a, m, chunking); err != nil {
		return nil, err
	}
	blocks := map[string]int{"flashinfer": 1, "flashdecoding": 256, "paged": 16}
	s.core = des.Config{
		Dialect: des.TGI, ChunkedPrefill: chunking, PrefixCaching: env("PREFIX_CACHING") != "0" && !a.Has("lora-adapters") && s.attention != "paged",
		BlockSize: max(blocks[s.attention], modelBlock), MaxBatchedTokens: s.prefill, MaxNumSeqs: a.Int("max-batch-size", 1<<20),
		MaxConcurrent: s.concurrent, WaitingServedRatio: a.Float("waiting-served-ratio", .3),
	}
	s.layout = sim.Layout{
		TP: a.Int("num-shard", 1), Fraction: a.Float("cuda-memory-fraction", 1) * wiggleRoom, MaxBatchedTokens: s.prefill,
		Eager: a.Text("cuda-graphs", "") == "0", Weights: weightFormat(a.Text("quantize", "")),
	}
	s.drift = sim.Drift(a.Text("kv-cache-dtype", ""), a.Text("quantize", ""))
	if a.Has("kv-cache-dtype") {
		s.layout.KV = perfmodel.FP8
	}
	return s, nil
}

// modelBlock is the block size that the model uses for smaller blocks: it keeps the simulation cheap.
const modelBlock = 16

func weightFormat(quantize string) perfmodel.Precision {
	switch quantize {
	case "fp8", "compressed-tensors":
		return perfmodel.FP8
	case "eetq", "bitsandbytes":
		return perfmodel.INT8
	case "awq", "gptq", "marlin", "exl2", "bitsandbytes-nf4", "bitsandbytes-fp4":
		return perfmodel.INT4
	}
	return ""
}

func (s *settings) check(a *cli.Args, m *sim.Machine, chunking bool) error {
	shards, fraction := a.Int("num-shard", 1), a.Float("cuda-memory-fraction", 1)
	switch {
	case a.Has("max-input-tokens") && a.Has("max-input-length"):
		return argumentError("Both `max_input_tokens` (%d) and `max_input_length` (%d) are set. Please define only `max_input_tokens` as `max_input_length is deprecated for naming consistency.",
			a.Int("max-input-tokens", 0), a.Int("max-input-length", 0))
	case s.maxTotal > 0 && s.maxInput >= s.maxTotal:
		return argumentError("`max_input_tokens` must be < `max_total_tokens`")
	case s.maxInput > 0 && a.Has("max-batch-prefill-tokens") && s.prefill < s.maxInput && !chunking:
		return argumentError("`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: %d and %d", s.prefill, s.maxInput)
	case s.workers < 1:
		return argumentError("`validation_workers` must be > 0")
	case a.Text("sharded", "") == "true" && shards <= 1:
		return argumentError("`sharded` is true but `num_shard` is 1")
	case s.concurrent < 1:
		return argumentError("`max_concurrent_requests` must be > 0")
	case a.Has("max-batch-size") && a.Int("max-batch-size", 1) < 1:
		return argumentError("`max_batch_size` must be > 0")
	case a.Has("dtype") && a.Has("quantize"):
		return argumentError("Only 1 can be set between `dtype` and `quantize`, as they both decide how goes the final model.")
	case fraction <= 0 || fraction > 1:
		return argumentError("`cuda_memory_fraction` must be in (0, 1], got %g", fraction)
	case s.prefill < 1:
		return argumentError("`max_batch_prefill_tokens` must be > 0")
	case a.Has("max-batch-total-tokens") && s.maxTotal > a.Int("max-batch-total-tokens", 0):
		return argumentError("`max_total_tokens` must be <= `max_batch_total_tokens`. Given: %d and %d", s.maxTotal, a.Int("max-batch-total-tokens", 0))
	case shards > m.GPUs:
		return fmt.Errorf("NotEnoughCUDADevices(%q)", fmt.Sprintf("`num_shard` is %d but only %d CUDA devices are available", shards, m.GPUs))
	case shards < 1 || m.Model.Heads%shards != 0:
		return fmt.Errorf("ShardCannotStart\nValueError: `num_heads` must be divisible by `num_shards` (got `num_heads`: %d and `num_shards`: %d", m.Model.Heads, shards)
	case a.Has("kv-cache-dtype") && s.attention == "flashdecoding":
		return fmt.Errorf("ShardCannotStart\nRuntimeError: FP8 KV cache is only supported with flashinfer or paged attention")
	case s.attention != "flashinfer" && s.attention != "flashdecoding" && s.attention != "paged":
		return fmt.Errorf("ShardCannotStart\nRuntimeError: Invalid ATTENTION %s, expected flashinfer, flashdecoding or paged", s.attention)
	}
	return nil
}

// fit is the warm-up: it sizes the cache and settles the lengths that were left open.
func (s *settings) fit(m *sim.Machine) error {
	s.layout.MaxNumSeqs = 128
	mem, err := m.Memory(s.layout)
	if err != nil {
		return fmt.Errorf("ShardCannotStart\n%w", err)
	}
	mem.KVTokens = mem.KVTokens / s.core.BlockSize * s.core.BlockSize
	if mem.KVTokens < s.prefill {
		return fmt.Errorf("WebserverFailed\nNot enough memory to handle %d prefill tokens. You need to decrease `--max-batch-prefill-tokens`", s.prefill)
	}
	limit := m.Model.MaxModelLen
	if s.maxTotal == 0 {
		s.maxTotal = min(limit, mem.KVTokens)
	}
	if s.maxInput == 0 {
		s.maxInput = s.maxTotal - 1
		if !s.core.ChunkedPrefill {
			s.maxInput = min(s.maxInput, s.prefill)
		}
	}
	switch {
	case s.maxTotal > mem.KVTokens:
		return fmt.Errorf("WebserverFailed\n`max_total_tokens` must be <= `max_batch_total_tokens`. Given: %d and %d: not enough memory for one request; lower `--max-total-tokens` or raise `--cuda-memory-fraction`", s.maxTotal, mem.KVTokens)
	case s.maxInput >= s.maxTotal:
		return fmt.Errorf("WebserverFailed\n`max_input_tokens` must be < `max_total_tokens`")
	}
	if !s.core.ChunkedPrefill {
		// The model cannot hold a request longer than one prefill; refuse it rather than cut its answer.
		s.maxTotal = min(s.maxTotal, s.prefill)
		s.maxInput = min(s.maxInput, s.maxTotal-1)
	}
	s.memory, s.core.KVTokens, s.core.MaxModelLen = mem, mem.KVTokens, s.maxTotal
	return nil
}

// warnings are about flags that have no effect with the settings in force.
func (s *settings) warnings() (lines []string) {
	if s.args.Has("max-batch-total-tokens") {
		lines = append(lines, "`max_batch_total_tokens` is deprecated for Flash Attention models. It is inferred from the available memory.")
	}
	if !s.core.ChunkedPrefill {
		return lines
	}
	for _, flag := range []string{"max-batch-size", "waiting-served-ratio", "max-waiting-tokens"} {
		if s.args.Has(flag) {
			lines = append(lines, fmt.Sprintf("`%s` is ignored with prefill chunking", strings.ReplaceAll(flag, "-", "_")))
		}
	}
	return lines
}
