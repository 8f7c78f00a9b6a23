package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// TestParser compares the knob table with the argument parser of the release that the tests with a
// real engine run. Its help has no groups, so that families are told by their names.
func TestParser(t *testing.T) {
	const atStart = "the parser leaves it to the start, which takes ours"
	enginetest.Parser(t, adapter{}, enginetest.ParserOptions{
		File: "testdata/parser-0.5.23.json", Report: "testdata/parser-0.5.23.golden",
		Different: map[string]string{
			"swa_full_tokens_ratio: default":  atStart,
			"hicache_ratio: default":          atStart,
			"enable_lora: default":            "none is off unless adapters are named",
			"disable_cuda_graph: deprecated":  "still what operators write; it stays until a release refuses it",
			"enable_dp_attention: deprecated": "still what operators write; it stays until a release refuses it",
		},
		Unmanaged: []enginetest.Unmanaged{
			{Pattern: "host|port|.*-port|.*-root-path|ssl-.*|.*-ssl-.*|api-key|admin-api-key|grpc-.*|smg-.*|.*http2.*|enable-http-.*|uvicorn-.*|sidecar.*|gated-launch-.*", Why: "where and how it listens"},
			{Pattern: "log-.*|.*-metrics.*|.*metrics-.*|.*-buckets|bucket-.*|extra-metric-.*|show-time-cost|otlp-.*|enable-trace|trace-modules|spec-trace-dir|enable-request-time-.*|enable-cache-report|kv-events-.*|kv-canary.*|enable-forward-pass-.*|forward-pass-.*|expert-(?:balancedness|distribution)-.*|load-(?:publish|snapshot)-.*|crash-.*|debug-.*|msprobe-.*|enable-(?:profile|layerwise)-.*|enable-torch-compile-debug-mode|gc-.*|enable-cudagraph-gc|soft-watchdog-.*|prefill-delayer-.*-buckets", Why: "what it tells of itself, and debugging"},
			{Pattern: "model-.*|tokenizer-.*|served-model-name|revision|trust-.*|dtype|load-format|download-dir|weight-.*|custom-weight-.*|.*-ckpt-.*|checkpoint-engine-.*|json-model-.*|is-embedding|random-seed|skip-.*|startup-.*|remote-instance-.*|modelexpress-.*|modelopt-.*|decrypted-.*|quantiz.*|rl-.*|config|warmups|delete-.*|enable-(?:.*-)?weights-.*|preferred-.*|device|language-.*", Why: "which model, and how it is read"},
			{Pattern: "chat-template|completion-template|hf-chat-.*|default-chat-.*|tool-.*|reasoning-.*|grammar-.*|constrained-.*|.*-thinking.*|sampling-.*|stream-response-.*|incremental-.*|default-priority-.*|abort-on-.*|.*-preemption.*|file-storage-path|allow-auto-truncate|allowed-media-.*|asr-.*|.*watermark.*|enable-(?:response-store|custom-logit-processor|deterministic-inference|fp32-lm-head|streaming-session|mis)|enable-return-.*|return-.*|forward-hooks|mlx-.*", Why: "what requests may ask for and what answers look like"},
			{Pattern: "mm-.*|.*-mm-.*|.*multimodal|media-.*|image-.*|limit-mm-.*|encoder-.*|.*-image-.*|enable-adaptive-dispatch-.*|enable-precise-.*|lora-.*|.*-lora-.*|.*-loras|max-lora-.*|mamba-.*|.*-mamba-.*|linear-.*|.*-linear-.*|dllm-.*|uno-.*|int8-mamba-.*", Why: "other inputs, adapters and layers than the traffic that is tuned for"},
			{Pattern: "disaggregation-.*|.*pd-role.*|.*pdmux.*|optimistic-prefill-.*|num-reserved-.*|decoupled-.*|elastic-.*|max-ep-size|enable-elastic-.*|mooncake-.*|engine-info-.*", Why: "prefill and decode on different servers, and servers that change their size"},
			{Pattern: "dist-.*|nnodes|node-rank|nccl-port|base-gpu-id|gpu-id-step|numa-node|use-ray|.*-comm-.*|.*nccl.*|enable-p2p-check|.*symm-mem|enable-mscclpp|disable-custom-all-reduce|.*allreduce.*|.*-all-reduce.*|attn-.*-size|.*-tp-.*|.*-dp-.*|moe-d.*-size|moe-dense-.*|dcp-.*|cp-strategy|.*-cp|dwdp-.*|.*-tp|.*-attn-tp|pp-async-.*|boundary-.*|enable-layernorm-sp|shared-experts-.*|.*shared-experts.*|enable-quant-communications", Why: "where ranks live and how they talk; sizes are knobs"},
			{Pattern: "cuda-graph-.*|.*-attn-backend|dsv4-.*|dsa-.*|qsa-.*|.*-gemm-backend|deepep-.*|ep-dispatch-.*|eplb-.*|flashinfer-.*|.*flashinfer.*|fuseep-.*|triton-.*|.*megamoe.*|monokernel-.*|.*monokernel|.*megakernel|.*fused.*|.*fusion.*|.*overlap|tbo-.*|enable-(?:waterfill|scattered-.*|lean-.*|tf32-.*|paged-experts|dense-.*|deepseek-.*|dsa-.*|linker-.*)|init-expert-.*|paged-experts-.*|kt-.*|enable-.*-bounded-replay|disable-outlines-.*|c128-.*|swa-prefix-tails|sm-group-num|ple-.*|speculative-.*|.*eagle", Why: "single kernels, experts' placement and details of speculation"},
			{Pattern: "hicache-.*|hisparse-.*|enable-hisparse|.*lmcache.*|.*flexkv.*|radix-.*|unified-.*|enable-unified-.*|enable-(?:kv-cache-sharding|page-major-.*|session-radix-.*|memory-saver)|prefill-(?:kv|only)-.*|disable-(?:chunked-prefix-cache|hybrid-.*)|offload-.*", Why: "details of caches and offloading"},
			{Pattern: "prefill-.*|detokenizer-.*|dynamic-batch-.*|enable-dynamic-.*|scheduler-recv-.*|disable-tokenizer-.*|enable-tokenizer-.*", Why: "the scheduler's details without a measured effect"},
		},
	})
}
