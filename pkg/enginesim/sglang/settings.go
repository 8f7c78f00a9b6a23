package sglang

import (
	"fmt"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/cli"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// flagTable holds the flags of 0.5.23 that an operator meets.
const flagTable = `
text   model-path,model
text   served-model-name
text   host
int    port
text   api-key
float  mem-fraction-static
int    max-running-requests
int    max-queued-requests
int    max-total-tokens
int    chunked-prefill-size
int    max-prefill-tokens
choice schedule-policy lpm,random,fcfs,dfs-weight,lof,priority,routing-key
float  schedule-conservativeness
int    page-size
choice kv-cache-dtype auto,bf16,bfloat16,fp8_e5m2,fp8_e4m3,mxfp8,nvfp4,fp4_mx_block16
int    context-length
switch disable-radix-cache
switch disable-cuda-graph
switch disable-overlap-schedule
switch enable-metrics
int    decode-log-interval
int    stream-interval
switch incremental-streaming-output
int    tp-size,tensor-parallel-size,tp
int    pp-size,pipeline-parallel-size,pp
text   quantization
switch skip-server-warmup
inert
text   config
text   tokenizer-path
text   tokenizer-mode
int    tokenizer-worker-num
switch skip-tokenizer-init
text   load-format
switch trust-remote-code
switch is-embedding
text   revision
text   dtype
text   device
int    random-seed
int    watchdog-timeout
text   admin-api-key
text   chat-template
text   tool-call-parser
text   reasoning-parser
text   log-level
text   log-level-http
switch log-requests
int    log-requests-level
switch enable-metrics-for-all-schedulers
list   bucket-time-to-first-token
list   bucket-inter-token-latency
list   bucket-e2e-request-latency
list   prompt-tokens-buckets
list   generation-tokens-buckets
text   extra-metric-labels
switch enable-cache-report
switch enable-priority-scheduling
switch schedule-low-priority-values-first
int    priority-scheduling-preemption-threshold
choice retraction-policy length,priority
choice radix-eviction-policy lru,lfu,slru,priority
switch enable-mixed-chunk
int    num-continuous-decode-steps
int    batch-notify-size
int    min-free-slots-delay
switch enable-prefill-delayer
int    pp-max-micro-batch-size
switch sleep-on-idle
float  swa-full-tokens-ratio
float  cpu-offload-gb
switch enable-hierarchical-cache
float  hicache-ratio
int    hicache-size
text   hicache-write-policy
text   hicache-mem-layout
text   hicache-io-backend
text   hicache-storage-backend
int    cuda-graph-max-bs,cuda-graph-max-bs-decode
list   cuda-graph-bs,cuda-graph-bs-decode
text   cuda-graph-backend-decode
text   cuda-graph-backend-prefill
json   cuda-graph-config
switch disable-decode-cuda-graph
switch disable-prefill-cuda-graph
switch disable-cuda-graph-padding
switch enable-torch-compile
int    torch-compile-max-bs
text   attention-backend
text   prefill-attention-backend
text   decode-attention-backend
choice sampling-backend flashinfer,pytorch,ascend
text   grammar-backend
text   moe-runner-backend
text   moe-a2a-backend
int    dp-size,data-parallel-size,dp
int    ep-size,expert-parallel-size,ep
switch enable-dp-attention
choice load-balance-method auto,round_robin,total_requests,total_tokens,follow_bootstrap_room
switch enable-eplb
int    ep-num-redundant-experts
text   elastic-ep-backend
int    nnodes
int    node-rank
text   dist-init-addr
text   speculative-algorithm
text   speculative-draft-model-path
int    speculative-num-steps
int    speculative-eagle-topk
int    speculative-num-draft-tokens
float  speculative-accept-threshold-single
float  speculative-accept-threshold-acc
switch speculative-adaptive
switch enable-lora
int    max-loras-per-batch
int    max-loaded-loras
choice lora-eviction-policy lru,fifo
text   lora-backend
int    max-lora-rank
list   lora-paths
switch enable-memory-saver
switch enable-http2
text   disaggregation-mode
switch disable-custom-all-reduce
json   json-model-override-args
text   weight-version
`

func newFlags() *cli.Set {
	s := &cli.Set{Program: "launch_server.py", Grammar: cli.Argparse}
	s.Define(flagTable)
	return s
}

// settings are an SGLang server's flags with all defaults resolved.
type settings struct {
	args        *cli.Args
	model       string
	served      string
	host        string
	port        int
	apiKey      string
	page        int
	core        des.Config
	layout      sim.Layout
	memory      sim.Memory
	chunk       int
	maxPrefill  int
	maxRunning  int
	metrics     bool
	logInterval int
	stream      int
	incremental bool
	drift       float64 // of answers, by the formats of cache and weights
}

// modelBlock is the block size that the model uses for one-token pages: it keeps the simulation cheap
// and rounds a prefix hit down to a multiple of it.
const modelBlock = 16

// resolve checks the flags as ServerArgs does and fills in the defaults for the machine.
func resolve(a *cli.Args, m *sim.Machine) (*settings, error) {
	s := &settings{
		args: a, model: a.Text("model-path", ""), host: a.Text("host", "127.0.0.1"), port: a.Int("port", 30000),
		apiKey: a.Text("api-key", ""), page: a.Int("page-size", 1), metrics: a.Bool("enable-metrics", false),
		logInterval: max(a.Int("decode-log-interval", 40), 1), stream: max(a.Int("stream-interval", 1), 1),
		incremental: a.Bool("incremental-streaming-output", false), maxPrefill: a.Int("max-prefill-tokens", 16384),
	}
	s.served = a.Text("served-model-name", s.model)
	s.chunk = a.Int("chunked-prefill-size", defaultChunk(m.MemoryGiB()))
	if err := s.check(a, m); err != nil {
		return nil, err
	}
	s.layout = sim.Layout{TP: a.Int("tp-size", 1), PP: a.Int("pp-size", 1), Static: true, Eager: a.Bool("disable-cuda-graph", false)}
	var err error
	if s.layout.Weights, err = perfmodel.ParsePrecision(a.Text("quantization", "")); err != nil {
		return nil, fmt.Errorf("ValueError: Unknown quantization method: %s", a.Text("quantization", ""))
	}
	s.drift = sim.Drift(a.Text("kv-cache-dtype", "auto"), a.Text("quantization", ""))
	if kv := a.Text("kv-cache-dtype", "auto"); kv == "fp8_e5m2" || kv == "fp8_e4m3" || kv == "mxfp8" {
		s.layout.KV = perfmodel.FP8
	}
	s.layout.Fraction = a.Float("mem-fraction-static", defaultFraction(m, s.chunk, s.layout.TP*s.layout.PP))
	s.core = des.Config{
		Dialect: des.SGLang, BlockSize: max(s.page, modelBlock), PrefixCaching: !a.Bool("disable-radix-cache", false),
		ChunkedPrefill: s.chunk > 0, MaxModelLen: a.Int("context-length", m.Model.MaxModelLen),
		Conservativeness: a.Float("schedule-conservativeness", 1), AsyncScheduling: !a.Bool("disable-overlap-schedule", false),
		MaxQueued: a.Int("max-queued-requests", 0),
	}
	s.core.MaxBatchedTokens = min(s.chunk, s.maxPrefill)
	if s.chunk <= 0 {
		s.core.MaxBatchedTokens = max(s.maxPrefill, s.core.MaxModelLen)
	}
	s.layout.MaxBatchedTokens = s.core.MaxBatchedTokens
	return s, nil
}

func (s *settings) check(a *cli.Args, m *sim.Machine) error {
	tp, pp := a.Int("tp-size", 1), a.Int("pp-size", 1)
	context := a.Int("context-length", m.Model.MaxModelLen)
	fraction := a.Float("mem-fraction-static", .5)
	switch {
	case tp < 1 || pp < 1 || m.Model.Heads%tp != 0:
		return fmt.Errorf("AssertionError: num_attention_heads (%d) must be divisible by tp_size (%d)", m.Model.Heads, tp)
	case tp*pp > m.GPUs:
		return fmt.Errorf("RuntimeError: tp_size (%d) * pp_size (%d) needs more devices than the %d visible: CUDA error: invalid device ordinal", tp, pp, m.GPUs)
	case s.page < 1:
		return fmt.Errorf("AssertionError: page_size must be at least 1, got %d", s.page)
	case s.chunk == 0 || s.chunk < -1:
		return fmt.Errorf("AssertionError: chunked_prefill_size must be positive, or -1 to disable chunked prefill, got %d", s.chunk)
	case s.chunk > 0 && s.chunk%s.page != 0:
		return fmt.Errorf("AssertionError: chunked_prefill_size must be divisible by page_size")
	case s.maxPrefill < 1:
		return fmt.Errorf("AssertionError: max_prefill_tokens must be positive, got %d", s.maxPrefill)
	case a.Int("max-running-requests", 1) < 1:
		return fmt.Errorf("AssertionError: max_running_request is zero")
	case fraction <= 0 || fraction >= 1:
		return fmt.Errorf("ValueError: mem_fraction_static must be between 0 and 1, got %g", fraction)
	case a.Float("schedule-conservativeness", 1) < 0:
		return fmt.Errorf("AssertionError: schedule_conservativeness must be non-negative")
	case context < 1 || context > m.Model.MaxModelLen:
		return fmt.Errorf("ValueError: User-specified context_length (%d) is greater than the derived context_length (%d). This may lead to incorrect model outputs or CUDA errors. "+
			"To allow overriding this maximum, set the env var SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1", context, m.Model.MaxModelLen)
	}
	return nil
}

// defaultChunk is the default chunk by device memory.
func defaultChunk(gib float64) int {
	switch {
	case gib < 35:
		return 2048
	case gib < 60:
		return 4096
	case gib < 160:
		return 8192
	}
	return 16384
}

// defaultFraction leaves a reserve for activations and graphs, in MB as the engine computes it.
func defaultFraction(m *sim.Machine, chunk, ranks int) float64 {
	memory := m.MemoryGiB() * 1024
	reserve := 512 + 1.5*float64(max(chunk, 2048)) + float64(ranks)*1024/8 + 512
	if memory > 60*1024 {
		reserve = max(reserve, 10*1024)
	}
	return float64(int((memory-reserve)/memory*1000)) / 1000
}

// fit sizes the token pool. The two failures want opposite moves of the memory fraction.
func (s *settings) fit(m *sim.Machine) error {
	s.layout.MaxNumSeqs = 256 // what the graphs are captured for
	mem, err := m.Memory(s.layout)
	if err != nil {
		return fmt.Errorf("ValueError: %w", err)
	}
	if n := s.args.Int("max-total-tokens", 0); n > 0 {
		mem.KVTokens = min(mem.KVTokens, n)
	}
	mem.KVTokens = mem.KVTokens / s.core.BlockSize * s.core.BlockSize
	if mem.KVTokens <= 0 {
		return fmt.Errorf("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: self.server_args.mem_fraction_static=%g", s.layout.Fraction)
	}
	if total := m.MemoryGiB() * (1 << 30); s.layout.Fraction*total+mem.ActivationBytes+mem.GraphBytes > total {
		return fmt.Errorf("capture cuda graph failed: CUDA out of memory.\nPossible solutions:\n1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n2. set --cuda-graph-max-bs-decode to a smaller value (e.g., 16)")
	}
	s.memory, s.core.KVTokens = mem, mem.KVTokens
	s.core.MaxModelLen = min(s.core.MaxModelLen, mem.KVTokens)
	clamped := min(max(mem.KVTokens/s.core.MaxModelLen*512, 2048), 4096)
	s.maxRunning = s.args.Int("max-running-requests", clamped)
	s.core.MaxNumSeqs = s.maxRunning
	return nil
}
