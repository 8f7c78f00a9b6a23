package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// TestParser compares the knob table with the argument parser of the release that the tests with a
// real engine run.
func TestParser(t *testing.T) {
	const atStart = "the parser leaves it to the start, which takes ours for models that generate text"
	enginetest.Parser(t, adapter{}, enginetest.ParserOptions{
		File: "testdata/parser-0.32.0.json", Report: "testdata/parser-0.32.0.golden",
		Different: map[string]string{
			"enable_prefix_caching: default":      atStart,
			"enable_chunked_prefill: default":     atStart,
			"async_scheduling: default":           atStart,
			"optimization_level: unknown flag -O": "the command line's own rewriting takes -O2 for the flag before the parser sees it",
			"optimization_level: default":         "the parser names the level O2, people and the flag write 2",
		},
		Unmanaged: []enginetest.Unmanaged{
			{Pattern: "group:Frontend|aggregate-engine-logging|config|enable-log-requests|fail-on-environ-validation|grpc|headless", Why: "how clients and logs are served"},
			{Pattern: "disable-log-stats|group:ObservabilityConfig|group:LoggingConfig", Why: "what the engine tells of itself, which is the operator's choice"},
			{Pattern: "group:ModelConfig|group:LoadConfig|group:StructuredOutputsConfig", Why: "which model, and how it is read"},
			{Pattern: "group:MultiModalConfig|group:LoRAConfig|group:MambaConfig", Why: "other inputs, adapters and layers than the traffic that is tuned for"},
			{Pattern: "group:VllmConfig", Why: "a whole configuration as JSON, whose single fields have flags or are the operator's"},
			{Pattern: "group:ParallelConfig", Why: "where ranks live and how they talk; sizes are knobs"},
			{Pattern: "group:KernelConfig|group:CompilationConfig|gdn-prefill-backend|kda-(?:decode|prefill)-backend", Why: "single kernels"},
			{Pattern: "group:CacheConfig|group:OffloadConfig", Why: "caches of other kinds of layers, and details of offloading"},
			{Pattern: "group:SchedulerConfig", Why: "the scheduler's class and details without a measured effect"},
		},
	})
}
