package vllm

import (
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

func TestDefaultsFollowTheGPU(t *testing.T) {
	for _, c := range []struct {
		gpu, flags   string
		tokens, seqs int
	}{
		{"h100-sxm", "", 8192, 1024},
		{"a100-80-sxm", "", 2048, 256},
		{"b200-sxm", "", 16384, 1024},
		{"h100-sxm", "--performance-mode throughput", 16384, 2048},
		{"h100-sxm", "--max-num-seqs 4", 8192, 4},
		{"h100-sxm", "--max-num-seqs 4 --max-model-len 512", 2048, 4}, // no more than seqs × length
		{"h100-sxm", "--max-num-batched-tokens 512", 512, 512},
		{"h100-sxm", "--no-enable-chunked-prefill --max-model-len 16k", 16000, 1024},
	} {
		m, err := (&sim.Env{Options: sim.Options{GPU: c.gpu, GPUs: 1, Model: "llama-3.1-8b"}}).Machine()
		if err != nil {
			t.Fatal(err)
		}
		args, err := newFlags().Parse(strings.Fields(c.flags))
		if err != nil {
			t.Fatal(err)
		}
		s, err := resolve(args, m)
		if err != nil {
			t.Fatal(err)
		}
		if s.core.MaxBatchedTokens != c.tokens || s.core.MaxNumSeqs != c.seqs {
			t.Errorf("%s %s: %d tokens, %d sequences; want %d and %d", c.gpu, c.flags, s.core.MaxBatchedTokens, s.core.MaxNumSeqs, c.tokens, c.seqs)
		}
	}
}

func TestServeArgs(t *testing.T) {
	for argv, want := range map[string]string{
		"vllm serve m --port 1": "m --port 1", "serve m": "m", "/usr/bin/python3 -m vllm.entrypoints.openai.api_server --model m": "--model m", "bash -c x": "error",
	} {
		got, err := serveArgs(strings.Fields(argv))
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", argv, got, want)
		}
	}
}
