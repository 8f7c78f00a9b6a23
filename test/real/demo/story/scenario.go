package story

import (
	"fmt"

	"github.com/optiinfra/performance-agent/test/real/demo/stage"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// scenario is a documented mistake, and traffic that it cannot serve while better settings can.
type scenario struct {
	words   string
	flags   []string
	traffic stage.Traffic
	refused map[string]string // settings that the engine refuses at its start
	slower  map[string]string // settings that at least halve its throughput
}

// key of the table below.
type key struct {
	name string
	kind engine.Kind
}

// Rates are above what one replica completes with the mistake and below what it completes without, so
// that what piled up during the restart is answered too; three times as much where there is room.
// Two replicas get no more: on two cores, which they share with the load and the gateway, they complete hardly more than
// one. The tiny model's tokenizer makes three tokens of a word.
var scenarios = map[key]scenario{
	{"sequences", engine.VLLM}: {
		words: "two sequences at once", flags: []string{"--max-num-seqs", "2"},
		traffic: stage.Traffic{Rate: 9.5, PromptWords: 40, OutputTokens: 64},
	},
	{"sequences", engine.SGLang}: {
		words: "two requests at once", flags: []string{"--max-running-requests", "2"},
		traffic: stage.Traffic{Rate: 5.5, PromptWords: 20, OutputTokens: 64},
	},
	{"prefix", engine.VLLM}: {
		words: "no prefix cache under a long shared prompt", flags: []string{"--no-enable-prefix-caching", "--max-num-seqs", "32"},
		traffic: stage.Traffic{Rate: 24, PromptWords: 400, SharedWords: 380, OutputTokens: 16},
	},
	{"prefix", engine.SGLang}: {
		words: "no prefix cache under a long shared prompt", flags: []string{"--disable-radix-cache", "--max-running-requests", "32"},
		traffic: stage.Traffic{Rate: 8, PromptWords: 400, SharedWords: 390, OutputTokens: 8},
	},
	{"budget", engine.VLLM}: {
		words: "sixteen tokens a step", flags: []string{"--max-num-batched-tokens", "16", "--max-num-seqs", "16"},
		traffic: stage.Traffic{Rate: 10, PromptWords: 160, OutputTokens: 16},
	},
	{"budget", engine.SGLang}: {
		words: "32 tokens of a prompt a step", flags: []string{"--chunked-prefill-size", "32", "--max-running-requests", "16"},
		traffic: stage.Traffic{Rate: 5, PromptWords: 160, OutputTokens: 16},
	},
}

// Scenarios are the names of the mistakes.
var Scenarios = []string{"sequences", "prefix", "budget"}

func scenarioOf(name string, kind engine.Kind) (scenario, error) {
	s, ok := scenarios[key{name, kind}]
	if !ok {
		return s, fmt.Errorf("no scenario %q for %s", name, kind)
	}
	s.traffic.Seed = 7
	switch kind {
	case engine.VLLM:
		s.refused, s.slower = map[string]string{"num_gpu_blocks_override": "1"}, map[string]string{"max_num_seqs": "2"}
	case engine.SGLang:
		s.refused = map[string]string{"enable_hierarchical_cache": "true", "radix_cache": "false"}
		s.slower = map[string]string{"max_running_requests": "2"}
	}
	return s, nil
}
