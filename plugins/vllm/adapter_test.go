package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

var usual = []string{
	"/opt/venv/bin/vllm", "serve", "acme/chat-8b", "--port", "8000", "--max-num-seqs", "4",
	"--compilation-config.mode", "3", "--gpu-memory-utilization=0.8", "--served-model-name", "chat", "--tp", "1",
	"--no-enable-prefix-caching", "--override-generation-config", `{"temperature": 0}`,
}

func TestAdapter(t *testing.T) {
	enginetest.Run(t, adapter{}, enginetest.Options{
		Engine: "vllm",
		Argv:   usual,
		Keep: []string{
			"/opt/venv/bin/vllm", "serve", "acme/chat-8b", "--port", "8000", "--compilation-config.mode", "3",
			"--served-model-name", "chat", "--tp", "1", "--override-generation-config", `{"temperature": 0}`,
		},
		Versions: []string{"0.8.5", "0.10.2", "0.11.0", "0.17.1", "0.20.0", "0.25.1", "0.30.0", "0.32.0"},
		Stub:     stub,
		Settings: settingsCases,
	})
}

// stub serves what Describe asks of vLLM.
func stub(version string, page []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"version":%q}`, version)
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"object":"list","data":[`+
			`{"id":"summaries","owned_by":"vllm","parent":"chat"},{"id":"chat","owned_by":"vllm","parent":null}]}`)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	return mux
}

var settingsCases = []enginetest.SettingsCase{
	{Name: "nothing", Settings: nil},
	{Name: "a usual change", Settings: engine.Settings{"max_num_seqs": "256", "max_num_batched_tokens": "8192"}},
	{Name: "back to the default", Settings: engine.Settings{"max_num_seqs": ""}},
	{Name: "sizes as vLLM reads them", Settings: engine.Settings{"max_model_len": "32K", "max_num_batched_tokens": "8k"}},
	{
		Name: "misspelt", Settings: engine.Settings{"max_num_seq": "8"},
		Want: []string{"max_num_seq: unknown_knob"}, Words: `did you mean "max_num_seqs"?`,
	},
	{
		Name: "a flag for a name", Settings: engine.Settings{"--max-num-seqs": "8"},
		Want: []string{"--max-num-seqs: unknown_knob"}, Words: `did you mean "max_num_seqs"?`,
	},
	{
		Name: "a neutral name", Settings: engine.Settings{"kv_memory_fraction": "0.9"},
		Want: []string{"kv_memory_fraction: unknown_knob"}, Words: `did you mean "gpu_memory_utilization"?`,
	},
	{
		Name: "nothing like it", Settings: engine.Settings{"quux": "8"},
		Want: []string{"quux: unknown_knob"}, Words: `there is no knob "quux"`,
	},
	{Name: "not a number", Settings: engine.Settings{"max_num_seqs": "many"}, Want: []string{"max_num_seqs: bad_type"}, Words: "a whole number"},
	{Name: "not whole", Settings: engine.Settings{"max_num_seqs": "8.5"}, Want: []string{"max_num_seqs: bad_type"}},
	{Name: "not a switch", Settings: engine.Settings{"enforce_eager": "maybe"}, Want: []string{"enforce_eager: bad_type"}, Words: "true or false"},
	{Name: "too small", Settings: engine.Settings{"max_num_seqs": "0"}, Want: []string{"max_num_seqs: out_of_range"}, Words: "at least 1"},
	{
		Name: "open lower bound", Settings: engine.Settings{"gpu_memory_utilization": "0"},
		Want: []string{"gpu_memory_utilization: out_of_range"}, Words: "above 0 and at most 1",
	},
	{Name: "closed upper bound", Settings: engine.Settings{"gpu_memory_utilization": "1"}},
	{Name: "above the upper bound", Settings: engine.Settings{"gpu_memory_utilization": "1.01"}, Want: []string{"gpu_memory_utilization: out_of_range"}},
	{Name: "open upper bound", Settings: engine.Settings{"watermark": "1"}, Want: []string{"watermark: out_of_range"}, Words: "below 1"},
	{Name: "not a number at all", Settings: engine.Settings{"watermark": "NaN"}, Want: []string{"watermark: bad_type"}},
	{
		Name: "not among the values", Settings: engine.Settings{"kv_cache_dtype": "int3"},
		Want: []string{"kv_cache_dtype: out_of_range"}, Words: "one of auto",
	},
	{Name: "a value of a later release", Version: "0.8.5", Settings: engine.Settings{"kv_cache_dtype": "nvfp4"}, Want: []string{"kv_cache_dtype: out_of_range"}},
	{Name: "a value beside the range", Settings: engine.Settings{"max_model_len": "auto"}},
	{
		Name: "a value that would become a flag", Settings: engine.Settings{"attention_backend": "--trust-remote-code"},
		Want: []string{"attention_backend: bad_type"}, Words: "does not begin with a dash",
	},
	{
		Name: "too late", Version: "0.20.0", Settings: engine.Settings{"swap_space": "4"},
		Want: []string{"swap_space: removed"}, Words: "gone since version 0.18",
	},
	{
		Name: "too early", Version: "0.11.0", Settings: engine.Settings{"max_num_active_seqs": "4"},
		Want: []string{"max_num_active_seqs: removed"}, Words: "needs version 0.31 or newer",
	},
	{
		Name: "of the V0 engine", Version: "0.8.5", Settings: engine.Settings{"num_scheduler_steps": "8"},
		Want: []string{"num_scheduler_steps: ignored"}, Words: "only the V0 engine used it",
	},
	{
		Name: "budget below sequences", Settings: engine.Settings{"max_num_batched_tokens": "16", "max_num_seqs": "32"},
		Want: []string{"max_num_batched_tokens: constraint"}, Words: "(max_num_batched_tokens is 16, max_num_seqs is 32)",
	},
	{
		Name: "budget below the operator's sequences", Argv: []string{"vllm", "serve", "m", "--max_num_seqs", "64"},
		Settings: engine.Settings{"max_num_batched_tokens": "16"}, Want: []string{"max_num_batched_tokens: constraint"},
	},
	{
		Name: "sequences above the operator's budget", Argv: []string{"vllm", "serve", "m", "--max-num-batched-tokens", "2k"},
		Settings: engine.Settings{"max_num_seqs": "4096"}, Want: []string{"max_num_seqs: constraint"}, Words: "max_num_batched_tokens is 2000",
	},
	{
		Name: "prompts must fit without chunks", Settings: engine.Settings{"enable_chunked_prefill": "false", "max_num_batched_tokens": "2048", "max_model_len": "4096"},
		Want: []string{"max_num_batched_tokens: constraint"}, Words: "without chunked prefill",
	},
	{Name: "prompts may be longer with chunks", Settings: engine.Settings{"max_num_batched_tokens": "2048", "max_model_len": "4096"}},
	{
		Name: "does not divide", Settings: engine.Settings{"decode_context_parallel_size": "3", "tensor_parallel_size": "4"},
		Want: []string{"decode_context_parallel_size: constraint"}, Words: "must divide",
	},
	{
		Name: "does not divide the default", Settings: engine.Settings{"decode_context_parallel_size": "2"},
		Want: []string{"decode_context_parallel_size: constraint"}, Words: "tensor_parallel_size is 1 by default",
	},
	{
		Name: "speculation twice", Settings: engine.Settings{"spec_method": "ngram", "speculative_config": `{"method":"ngram"}`},
		Want: []string{"spec_method: constraint"},
	},
	{Name: "speculation that breaks answers", Settings: engine.Settings{"speculative_config": `{"rejection_sample_method":"synthetic"}`}, Want: []string{"speculative_config: out_of_range"}},
	{Name: "speculation in no JSON", Settings: engine.Settings{"speculative_config": "ngram"}, Want: []string{"speculative_config: bad_type"}, Words: "JSON object"},
	{Name: "speculation without a method", Settings: engine.Settings{"spec_tokens": "3"}, Want: []string{"spec_tokens: constraint"}},
	{Name: "experts", Settings: engine.Settings{"enable_eplb": "true"}, Want: []string{"enable_eplb: constraint"}, Words: "needs enable_expert_parallel"},
	{Name: "experts with what they need", Settings: engine.Settings{"enable_eplb": "true", "enable_expert_parallel": "true"}},
	{
		Name: "switched off by eager", Argv: []string{"vllm", "serve", "m", "--enforce-eager"}, Settings: engine.Settings{"max_cudagraph_capture_size": "256"},
		Want: []string{"max_cudagraph_capture_size: ignored"}, Words: "enforce_eager switches",
	},
	{
		Name: "not any more", Argv: []string{"vllm", "serve", "m", "--enforce-eager"},
		Settings: engine.Settings{"enforce_eager": "false", "max_cudagraph_capture_size": "256"},
	},
	{
		Name: "overridden by bytes", Argv: []string{"vllm", "serve", "m", "--kv-cache-memory-bytes", "1073741824"},
		Settings: engine.Settings{"gpu_memory_utilization": "0.5"}, Want: []string{"gpu_memory_utilization: ignored"},
	},
	{
		Name: "a CPU build", Env: map[string]string{"VLLM_CPU_KVCACHE_SPACE": "1"},
		Settings: engine.Settings{"gpu_memory_utilization": "0.5"}, Want: []string{"gpu_memory_utilization: ignored"}, Words: "VLLM_CPU_KVCACHE_SPACE",
	},
	{
		Name: "all faults at once", Settings: engine.Settings{"max_num_seqs": "0", "block_size": "x", "nonsense_knob": "1"},
		Want: []string{"block_size: bad_type", "max_num_seqs: out_of_range", "nonsense_knob: unknown_knob"},
	},
}

func TestCommand(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, c := range []struct {
		name     string
		version  string
		argv     string // words
		env      map[string]string
		settings engine.Settings
		want     string
		wantEnv  map[string]string
		warning  string
	}{
		{
			name: "replaced in place", version: "0.32.0", argv: "vllm serve m --max-num-seqs 4 --port 8000 --shutdown-timeout 30",
			settings: engine.Settings{"max_num_seqs": "256"},
			want:     "vllm serve m --max-num-seqs 256 --port 8000 --shutdown-timeout 30",
		},
		{
			name: "untouched", version: "0.32.0", argv: "vllm serve m --max_num_seqs=4 --max-num-seqs 8 -O3 --shutdown-timeout 30",
			want: "vllm serve m --max_num_seqs=4 --max-num-seqs 8 -O3 --shutdown-timeout 30",
		},
		{
			name: "the later of two", version: "0.32.0", argv: "vllm serve m --max_num_seqs=4 --max-num-seqs 8 --shutdown-timeout 30",
			settings: engine.Settings{"max_num_seqs": "16"},
			want:     "vllm serve m --max-num-seqs=16 --shutdown-timeout 30",
		},
		{
			name: "glued", version: "0.32.0", argv: "vllm serve m -O3 --shutdown-timeout 30",
			settings: engine.Settings{"optimization_level": "1"}, want: "vllm serve m --optimization-level 1 --shutdown-timeout 30",
		},
		{
			name: "negative form", version: "0.32.0", argv: "vllm serve m --enable-prefix-caching --shutdown-timeout 30",
			settings: engine.Settings{"enable_prefix_caching": "false", "enforce_eager": "true"},
			want:     "vllm serve m --no-enable-prefix-caching --shutdown-timeout 30 --enforce-eager",
		},
		{
			name: "taken out", version: "0.32.0", argv: "vllm serve m --kv-cache-memory-bytes 1000000000 --port 1 --shutdown-timeout 30",
			settings: engine.Settings{"kv_cache_memory_bytes": "", "gpu_memory_utilization": "0.9"},
			want:     "vllm serve m --port 1 --shutdown-timeout 30 --gpu-memory-utilization 0.9",
		},
		{
			name: "drain added", version: "0.18.0", argv: "python3 -m vllm.entrypoints.openai.api_server --model m",
			want: "python3 -m vllm.entrypoints.openai.api_server --model m --shutdown-timeout 60", warning: "added --shutdown-timeout 60",
		},
		{
			name: "drain refused by the operator", version: "0.32.0", argv: "vllm serve m --shutdown-timeout 0",
			want: "vllm serve m --shutdown-timeout 0", warning: "abort all running requests",
		},
		{name: "no drain before 0.18", version: "0.17.1", argv: "vllm serve m", want: "vllm serve m"},
		{name: "no drain for an unknown version", argv: "vllm serve m", want: "vllm serve m"},
		{
			name: "environment", version: "0.32.0", argv: "vllm serve m --shutdown-timeout 30", env: map[string]string{"VLLM_CPU_KVCACHE_SPACE": "1"},
			settings: engine.Settings{"cpu_kv_cache_space": "2"}, want: "vllm serve m --shutdown-timeout 30",
			wantEnv: map[string]string{"VLLM_CPU_KVCACHE_SPACE": "2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := &engine.Target{Argv: strings.Fields(c.argv), Env: c.env, Version: c.version}
			line, err := a.Command(t.Context(), target, c.settings)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, strings.Join(line.Argv, " ")); diff != "" {
				t.Errorf("command line differs (-want +got):\n%s", diff)
			}
			if len(c.wantEnv)+len(line.Env) > 0 && !cmp.Equal(c.wantEnv, line.Env) {
				t.Errorf("environment %v, want %v", line.Env, c.wantEnv)
			}
			if got := strings.Join(line.Warnings, "; "); (c.warning == "") != (got == "") || !strings.Contains(got, c.warning) {
				t.Errorf("warnings %q, want one with %q", got, c.warning)
			}
		})
	}
}

func TestCommandRefusesShellStrings(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, argv := range [][]string{nil, {"/bin/bash", "-c", "vllm serve m"}, {"sh", "-ec", "exec vllm serve m"}} {
		_, err := a.Command(t.Context(), &engine.Target{Argv: argv, Version: "0.32.0"}, engine.Settings{"max_num_seqs": "8"})
		if err == nil || !strings.Contains(err.Error(), "cannot be changed") {
			t.Errorf("%q: %v", argv, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, c := range []struct {
		name, version, argv string
		env                 map[string]string
		want                string
	}{
		{name: "newer than known", version: "0.40.0", argv: "vllm serve m", want: "newer than 0.33"},
		{name: "older than known", version: "0.6.6", argv: "vllm serve m", want: "V0 engine"},
		{name: "not a release", version: "dev", argv: "vllm serve m", want: `"dev" is not a release number`},
		{name: "cannot drain", version: "0.11.0", argv: "vllm serve m", want: "before 0.18 abort"},
		{name: "gone flag", version: "0.20.0", argv: "vllm serve m --swap_space 8", want: "--swap-space is gone since version 0.18"},
		{name: "flag of a later release", version: "0.20.0", argv: "vllm serve m --max-num-queued-reqs 8", want: "--max-num-queued-reqs needs version 0.29"},
		{name: "settings in a file", version: "0.32.0", argv: "vllm serve m --config=c.yaml", want: "--config are not seen"},
		{name: "no metrics", version: "0.32.0", argv: "vllm serve m --disable-log-stats", want: "exports no metrics"},
		{name: "rust", version: "0.32.0", argv: "vllm serve m", env: map[string]string{"VLLM_USE_RUST_FRONTEND": "1"}, want: "Rust front end"},
		{name: "several API servers", version: "0.32.0", argv: "vllm serve m --api-server-count 2", want: "several API servers"},
		{name: "as many as replicas", version: "0.32.0", argv: "vllm serve m --data-parallel-size=2", want: "several API servers"},
		{name: "one for two replicas", version: "0.32.0", argv: "vllm serve m --data-parallel-size 2 --api-server-count 1"},
		{name: "nothing", version: "0.32.0+cpu", argv: "vllm serve m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := a.Describe(t.Context(), &engine.Target{Argv: strings.Fields(c.argv), Version: c.version, Env: c.env})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(d.GetWarnings(), "; ")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("warnings %q, want one with %q", got, c.want)
			}
		})
	}
}

func TestModelOf(t *testing.T) {
	for argv, want := range map[string]string{
		"vllm serve org/model_8b --port 1":                                   "org/model_8b",
		"vllm serve --model org/m":                                           "org/m",
		"vllm serve org/m --served_model_name chat other":                    "chat",
		"python -m vllm.entrypoints.openai.api_server --model=/models/a_b=c": "/models/a_b=c",
		"vllm serve": "",
		"":           "",
	} {
		if got := modelOf(strings.Fields(argv)); got != want {
			t.Errorf("%q: model %q, want %q", argv, got, want)
		}
	}
}

// TestLoad: the load endpoint counts the requests in one server, running and waiting.
func TestLoad(t *testing.T) {
	for argv, want := range map[string]string{
		"vllm serve m": "",
		"vllm serve m --enable-server-load-tracking":                        "/server_load",
		"vllm serve m --enable_server_load_tracking":                        "/server_load",
		"vllm serve m --enable-server-load-tracking --api-server-count 2":   "",
		"vllm serve m --enable-server-load-tracking --data-parallel-size=4": "",
	} {
		d, err := adapter{}.Describe(t.Context(), &engine.Target{Argv: strings.Fields(argv), Version: "0.32.0"})
		if err != nil {
			t.Fatal(err)
		}
		p := d.GetProbes()
		if p.GetLoadInFlightPointer() != want || (p.GetLoadPath() == "") != (want == "") || p.GetLoadRunningPointer() != "" {
			t.Errorf("%q: load %q at %q", argv, p.GetLoadPath(), p.GetLoadInFlightPointer())
		}
	}
}
