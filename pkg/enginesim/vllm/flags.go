package vllm

import "github.com/optiinfra/performance-agent/pkg/enginesim/cli"

// flagTable holds the flags of 0.32 that an operator meets. Choices are the parser's own.
const flagTable = `
text   model
text   host
int    port
list   served-model-name
list   api-key
text   uds
human  max-model-len
float  gpu-memory-utilization,device-memory-utilization
human  kv-cache-memory-bytes
int    block-size
choice kv-cache-dtype auto,float16,bfloat16,fp8,fp8_e4m3,fp8_e5m2,fp8_inc,fp8_ds_mla,fp8_per_token_head,int8_per_token_head,int4_per_token_head,nvfp4,nvfp4_4over6,nvfp4_ds_mla
switch enable-prefix-caching
int    num-gpu-blocks-override
float  watermark
switch scheduler-reserve-full-isl
human  max-num-batched-tokens
human  max-num-seqs
human  max-num-scheduled-tokens
int    max-num-active-seqs
int    max-num-queued-reqs
switch enable-chunked-prefill
human  long-prefill-token-threshold
choice scheduling-policy fcfs,priority
switch async-scheduling
int    stream-interval
choice performance-mode balanced,interactivity,throughput
int    tensor-parallel-size,-tp
int    pipeline-parallel-size,-pp
text   quantization,-q
switch enforce-eager
int    shutdown-timeout
switch disable-log-stats
switch enable-server-load-tracking
switch enable-force-include-usage
int    sse-keep-alive-interval
int    optimization-level,-O
inert
text   config
text   tokenizer
choice tokenizer-mode auto,hf,slow,mistral,custom,deepseek_v32
switch trust-remote-code
text   dtype
int    seed
text   revision
text   code-revision
text   tokenizer-revision
text   hf-config-path
json   hf-overrides
text   load-format
text   download-dir
json   model-loader-extra-config
text   chat-template
text   response-role
switch enable-auto-tool-choice
text   tool-call-parser
text   reasoning-parser
text   root-path
text   middleware
text   allowed-origins
text   allowed-methods
text   allowed-headers
switch allow-credentials
text   uvicorn-log-level
switch disable-uvicorn-access-log
switch disable-access-log-for-endpoints
switch disable-log-requests
switch enable-log-requests
int    max-log-len
text   ssl-keyfile
text   ssl-certfile
text   ssl-ca-certs
text   ssl-cert-reqs
int    api-server-count,-asc
int    data-parallel-size,-dp
int    data-parallel-rank,-dpn
int    data-parallel-start-rank,-dpr
int    data-parallel-size-local,-dpl
text   data-parallel-address,-dpa
int    data-parallel-rpc-port,-dpp
text   data-parallel-backend,-dpb
switch data-parallel-external-lb,-dpe
switch data-parallel-hybrid-lb,-dph
switch enable-expert-parallel,-ep
text   all2all-backend
switch enable-eplb
json   eplb-config
switch enable-dbo
int    ubatch-size
int    decode-context-parallel-size,-dcp
int    prefill-context-parallel-size,-pcp
switch enable-elastic-ep
switch enable-scale-out
text   distributed-executor-backend
int    max-parallel-loading-workers
int    nnodes,-n
int    node-rank,-r
text   master-addr
int    master-port
switch disable-custom-all-reduce
switch headless
json   compilation-config,-cc
human  max-cudagraph-capture-size
list   cudagraph-capture-sizes
text   attention-backend
text   moe-backend
text   linear-backend
json   attention-config,-ac
json   kernel-config
json   speculative-config,-sc
text   spec-method
text   spec-model
int    spec-tokens
switch allow-deprecated-quantization
switch enable-lora
int    max-loras
choice max-lora-rank 1,8,16,32,64,128,256,320,512
int    max-cpu-loras
list   lora-modules
switch enable-sleep-mode
json   kv-transfer-config
json   kv-events-config
float  kv-offloading-size
choice kv-offloading-backend native,lmcache
float  cpu-offload-gb
text   offload-backend
int    offload-group-size
text   kv-cache-dtype-skip-layers
choice prefix-caching-hash-algo sha256,sha256_cbor,xxhash,xxhash_cbor
int    prefix-cache-retention-interval
switch swa-bounded-replay
int    prefill-schedule-interval
human  max-num-queued-tokens
switch disable-hybrid-kv-cache-manager
switch disable-chunked-mm-input
text   scheduler-cls
json   limit-mm-per-prompt
json   mm-processor-kwargs
float  mm-processor-cache-gb
switch skip-mm-profiling
switch language-model-only
text   runner
text   convert
json   override-generation-config
text   generation-config
text   logits-processors
int    max-logprobs
text   logprobs-mode
switch skip-tokenizer-init
switch disable-sliding-window
switch disable-cascade-attn
switch enable-prompt-embeds
switch enable-prompt-tokens-details
switch enable-request-id-headers
switch return-tokens-as-token-ids
switch enable-tokenizer-info-endpoint
switch enable-mfu-metrics
switch kv-cache-metrics
float  kv-cache-metrics-sample
switch cudagraph-metrics
text   show-hidden-metrics-for-version
text   otlp-traces-endpoint
text   collect-detailed-traces
json   structured-outputs-config
json   reasoning-config
json   profiler-config
json   additional-config
json   custom-histogram-buckets
choice fingerprint-mode full,hash,custom,none
text   worker-cls
text   worker-extension-cls
text   model-impl
text   io-processor-plugin
`

func newFlags() *cli.Set {
	s := &cli.Set{Program: "vllm serve", Grammar: cli.Argparse, Underscore: true, Negatable: true, Positional: 1}
	s.Define(flagTable)
	return s
}
