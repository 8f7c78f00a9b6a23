package main

import (
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// setting is one configuration of a real engine: how it is started and how the simulator sees it.
type setting struct {
	name  string
	flags []string
	des   des.Config
}

// liveSetting is the configuration that the calibration sees; the others are predicted.
const liveSetting = "seqs4"

// settings of an engine, the live one first.
func settings(kind engine.Kind) []setting {
	if kind == engine.SGLang {
		return sglangSettings()
	}
	return vllmSettings()
}

// vllmSetting is one of a vLLM with that many sequences and that budget of tokens a step.
func vllmSetting(name, seqs, budget string, cfg des.Config, more ...string) setting {
	cfg.ChunkedPrefill, cfg.MaxModelLen, cfg.KVTokens = true, 2048, vllmKVTokens
	flags := append([]string{"--max-model-len", "2048", "--max-num-seqs", seqs, "--max-num-batched-tokens", budget}, more...)
	return setting{name: name, flags: flags, des: cfg}
}

func vllmSettings() []setting {
	const off = "--no-enable-prefix-caching"
	s := vllmSetting
	return []setting{
		s("seqs4", "4", "2048", des.Config{MaxNumSeqs: 4, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs2", "2", "2048", des.Config{MaxNumSeqs: 2, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs8", "8", "2048", des.Config{MaxNumSeqs: 8, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs16-budget128", "16", "128", des.Config{MaxNumSeqs: 16, MaxBatchedTokens: 128, PrefixCaching: true}),
		s("seqs16-nocache", "16", "2048", des.Config{MaxNumSeqs: 16, MaxBatchedTokens: 2048}, off),
		s("seqs32", "32", "2048", des.Config{MaxNumSeqs: 32, MaxBatchedTokens: 2048, PrefixCaching: true}),
	}
}

// vllmKVTokens is what one GiB holds of the tiny model: 16 KiB a token.
const vllmKVTokens = 65536

// sglangSetting is one of an SGLang with that many running requests and chunks of that many tokens.
func sglangSetting(name, seqs, chunk string, cfg des.Config, more ...string) setting {
	cfg.Dialect, cfg.ChunkedPrefill, cfg.MaxModelLen, cfg.KVTokens, cfg.BlockSize = des.SGLang, true, 2048, 65536, 1
	cfg.AsyncScheduling = true // the overlapped loop is its default
	flags := append([]string{"--max-running-requests", seqs, "--chunked-prefill-size", chunk}, more...)
	return setting{name: name, flags: flags, des: cfg}
}

func sglangSettings() []setting {
	s := sglangSetting
	return []setting{
		s("seqs4", "4", "2048", des.Config{MaxNumSeqs: 4, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs2", "2", "2048", des.Config{MaxNumSeqs: 2, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs8", "8", "2048", des.Config{MaxNumSeqs: 8, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs16-chunk128", "16", "128", des.Config{MaxNumSeqs: 16, MaxBatchedTokens: 128, PrefixCaching: true}),
		s("seqs16-nocache", "16", "2048", des.Config{MaxNumSeqs: 16, MaxBatchedTokens: 2048}, "--disable-radix-cache"),
		s("seqs32", "32", "2048", des.Config{MaxNumSeqs: 32, MaxBatchedTokens: 2048, PrefixCaching: true}),
	}
}

// load is one kind of traffic.
type load struct {
	name string
	spec workload.Spec
}

// liveRequests is how many requests the calibration sees.
const liveRequests = 75

// liveLoad is the traffic of the calibration. Its lengths and its arrivals vary, as real traffic's do;
// it leaves the engine room, as production does.
func liveLoad(kind engine.Kind) load {
	rate := 4.0
	if kind == engine.SGLang {
		rate = 2
	}
	return load{"live", workload.Spec{
		Arrivals: workload.Arrivals{Rate: rate, CV: 1.5}, Prompt: between(16, 512), Output: between(8, 64), Count: liveRequests,
	}}
}

// loads under which every setting is measured.
func loads() []load {
	const span = 15 * time.Second
	return []load{
		{"light", workload.Spec{Arrivals: workload.Arrivals{Rate: 3}, Prompt: between(32, 128), Output: between(16, 32), Duration: span}},
		{"busy", workload.Spec{Arrivals: workload.Arrivals{Rate: 6}, Prompt: between(64, 256), Output: between(32, 64), Duration: span}},
		{"burst", workload.Spec{
			Arrivals: workload.Arrivals{Rate: 5, BatchMean: 8, BatchGap: 10 * time.Millisecond},
			Prompt:   between(32, 128), Output: between(24, 48), Duration: span,
		}},
		{"long", workload.Spec{
			Arrivals: workload.Arrivals{Rate: 3}, Prompt: between(320, 900), Output: between(16, 32), Duration: span,
			Shared: workload.Shared{Groups: 3, Tokens: 256, Share: .6},
		}},
	}
}

// between spreads lengths evenly.
func between(low, high float64) workload.Quantiles {
	return workload.Quantiles{{P: 0, Tokens: low}, {P: 1, Tokens: high}}
}
