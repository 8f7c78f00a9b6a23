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
	"python", "-m", "sglang.launch_server", "--model-path", "acme/chat-8b", "--served-model-name", "chat", "--port", "30000",
	"--max-running-requests", "16", "--mem-fraction-static=0.8", "--tp", "2", "--enable-metrics", "--disable-radix-cache",
	"--bucket-time-to-first-token", "0.1", "0.5", "1", "--json-model-override-args", `{"rope_scaling": null}`,
}

func TestAdapter(t *testing.T) {
	enginetest.Run(t, adapter{}, enginetest.Options{
		Engine: "sglang",
		Argv:   usual,
		Keep: []string{
			"python", "-m", "sglang.launch_server", "--model-path", "acme/chat-8b", "--served-model-name", "chat", "--port", "30000",
			"--enable-metrics", "--bucket-time-to-first-token", "0.1", "0.5", "1", "--json-model-override-args", `{"rope_scaling": null}`,
		},
		Versions: []string{"0.4.6", "0.5.2", "0.5.6", "0.5.10", "0.5.14", "0.5.18", "0.5.23"},
		Stub:     stub,
		PageArgv: map[string][]string{
			"0.5.23-ranks":   {"--enable-metrics-for-all-schedulers", "--dp", "2", "--enable-dp-attention", "--speculative-algorithm", "NGRAM"},
			"0.5.23-restart": {"--dp", "2", "--enable-dp-attention"}, // one rank of each replica exports
		},
		Settings: settingsCases,
	})
}

// secrets are what /server_info shows in clear and nothing may pass on.
var secrets = []string{"sesame-7f3a", "master-91cc"}

// account is what /server_info says, with the values that the engine resolved.
func account(version string) string {
	return fmt.Sprintf(`{"version":%q,"model_path":"/models/chat","served_model_name":"chat","api_key":%q,"admin_api_key":%q,
		"mem_fraction_static":0.8,"max_running_requests":16,"chunked_prefill_size":8192,"page_size":1,"schedule_policy":"fcfs",
		"schedule_conservativeness":1.0,"disable_radix_cache":true,"kv_cache_dtype":"auto","tp_size":2,"dp_size":1,"quantization":null,
		"attention_backend":"fa3","sampling_backend":"an_inner_name","enable_metrics":true,
		"internal_states":[{"effective_max_running_requests_per_dp":12,"schedule_conservativeness":0.5,"api_key":%[2]q,
		"memory_usage":{"token_capacity":131072}}]}`, version, secrets[0], secrets[1])
}

// stub serves what Describe asks of SGLang; releases before 0.5.6 have the old name only.
func stub(version string, page []byte) http.Handler {
	path := "GET /server_info"
	if v, _ := engine.ParseVersion(version); !v.Within("0.5.6", "") {
		path = "GET /get_server_info"
	}
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, account(version)) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	return mux
}

var settingsCases = []enginetest.SettingsCase{
	{Name: "nothing", Settings: nil},
	{Name: "a usual change", Settings: engine.Settings{"max_running_requests": "256", "chunked_prefill_size": "4096", "schedule_conservativeness": "0.3"}},
	{Name: "back to the default", Settings: engine.Settings{"max_running_requests": ""}},
	{
		Name: "a neutral name", Settings: engine.Settings{"max_num_seqs": "8"},
		Want: []string{"max_num_seqs: unknown_knob"}, Words: `did you mean "max_running_requests"?`,
	},
	{
		Name: "another engine's polarity", Settings: engine.Settings{"disable_radix_cache": "true"},
		Want: []string{"disable_radix_cache: unknown_knob"}, Words: "use radix_cache, which says the opposite",
	},
	{Name: "not a number", Settings: engine.Settings{"max_running_requests": "many"}, Want: []string{"max_running_requests: bad_type"}},
	{Name: "too small", Settings: engine.Settings{"max_running_requests": "0"}, Want: []string{"max_running_requests: out_of_range"}},
	{Name: "the whole device", Settings: engine.Settings{"mem_fraction_static": "1"}, Want: []string{"mem_fraction_static: out_of_range"}, Words: "above 0 and below 1"},
	{Name: "no chunks", Settings: engine.Settings{"chunked_prefill_size": "-1"}},
	{Name: "no chunks, any page", Settings: engine.Settings{"chunked_prefill_size": "-1", "page_size": "64"}},
	{Name: "a chunk of nothing", Settings: engine.Settings{"chunked_prefill_size": "0"}, Want: []string{"chunked_prefill_size: out_of_range"}, Words: "or -1"},
	{
		Name: "a chunk that ends inside a page", Settings: engine.Settings{"chunked_prefill_size": "1000", "page_size": "64"},
		Want: []string{"page_size: constraint"}, Words: "a chunk ends at a page",
	},
	{Name: "conservative below nothing", Settings: engine.Settings{"schedule_conservativeness": "-0.1"}, Want: []string{"schedule_conservativeness: out_of_range"}},
	{Name: "a value of a later release", Version: "0.5.10", Settings: engine.Settings{"kv_cache_dtype": "nvfp4"}, Want: []string{"kv_cache_dtype: out_of_range"}},
	{Name: "the later release", Settings: engine.Settings{"kv_cache_dtype": "nvfp4"}},
	{
		Name: "too late", Version: "0.5.14", Settings: engine.Settings{"enable_ep_moe": "true"},
		Want: []string{"enable_ep_moe: removed"}, Words: "gone since version 0.5.3; use --ep-size",
	},
	{
		Name: "too early", Version: "0.5.10", Settings: engine.Settings{"retraction_policy": "priority"},
		Want: []string{"retraction_policy: removed"}, Words: "needs version 0.5.16 or newer",
	},
	{Name: "renamed", Settings: engine.Settings{"cuda_graph_max_bs": "64"}, Want: []string{"cuda_graph_max_bs: removed"}, Words: "use --cuda-graph-max-bs-decode"},
	{
		Name: "no graphs at all", Settings: engine.Settings{"disable_cuda_graph": "true", "cuda_graph_max_bs_decode": "64"},
		Want: []string{"cuda_graph_max_bs_decode: ignored"}, Words: "switches all CUDA graphs off",
	},
	{Name: "host memory that is not used", Settings: engine.Settings{"hicache_ratio": "4"}, Want: []string{"hicache_ratio: ignored"}},
	{Name: "host memory", Settings: engine.Settings{"hicache_ratio": "4", "enable_hierarchical_cache": "true"}},
	{
		Name: "longest prefix without prefixes", Settings: engine.Settings{"schedule_policy": "lpm"},
		Want: []string{"schedule_policy: constraint"}, Words: "needs radix_cache",
	},
	{Name: "longest prefix", Settings: engine.Settings{"schedule_policy": "lpm", "radix_cache": "true"}},
	{
		Name: "priorities under a policy of its own", Settings: engine.Settings{"schedule_policy": "random", "enable_priority_scheduling": "true"},
		Want: []string{"enable_priority_scheduling: constraint"}, Words: "fcfs and lof",
	},
	{Name: "an order of nothing", Settings: engine.Settings{"schedule_low_priority_values_first": "true"}, Want: []string{"schedule_low_priority_values_first: constraint"}},
	{
		Name: "two of three", Settings: engine.Settings{"speculative_algorithm": "EAGLE", "speculative_num_steps": "3", "speculative_eagle_topk": "1"},
		Want: []string{"speculative_num_steps: constraint"}, Words: "together or not at all",
	},
	{
		Name: "all three", Settings: engine.Settings{
			"speculative_algorithm": "EAGLE", "speculative_num_steps": "3", "speculative_eagle_topk": "1", "speculative_num_draft_tokens": "4",
		},
	},
	{Name: "numbers of no speculation", Settings: engine.Settings{"speculative_num_steps": "3"}, Want: []string{"speculative_num_steps: ignored"}},
	{
		Name: "speculation over stages", Settings: engine.Settings{"speculative_algorithm": "NGRAM", "pp_size": "2"},
		Want: []string{"speculative_algorithm: constraint"}, Words: "pp_size above 1",
	},
	{
		Name: "speculation with mixed chunks", Settings: engine.Settings{"speculative_algorithm": "NGRAM", "enable_mixed_chunk": "true"},
		Want: []string{"speculative_algorithm: constraint"},
	},
	{Name: "micro-batches of one stage", Settings: engine.Settings{"pp_max_micro_batch_size": "4"}, Want: []string{"pp_max_micro_batch_size: ignored"}},
	{
		Name: "attention over odd ranks", Settings: engine.Settings{"enable_dp_attention": "true", "dp_size": "3", "tp_size": "4"},
		Want: []string{"dp_size: constraint"}, Words: "must divide tp_size",
	},
	{Name: "attention over one rank", Settings: engine.Settings{"enable_dp_attention": "true"}, Want: []string{"enable_dp_attention: constraint"}},
	{
		Name: "the operator's own fault", Argv: []string{"sglang", "serve", "--model-path", "m", "--schedule-policy", "lpm", "--disable-radix-cache"},
		Settings: engine.Settings{"max_running_requests": "8"},
	},
	{
		Name: "the Rust front end", Env: map[string]string{"SGLANG_RUST_SERVER": "1"}, Settings: engine.Settings{"max_running_requests": "8"},
		Want: []string{": constraint"}, Words: "drops running requests",
	},
	{Name: "the Rust front end as it is", Env: map[string]string{"SGLANG_RUST_SERVER": "1"}},
	{
		Name: "all faults at once", Settings: engine.Settings{"max_running_requests": "0", "page_size": "x", "nonsense_knob": "1"},
		Want: []string{"max_running_requests: out_of_range", "nonsense_knob: unknown_knob", "page_size: bad_type"},
	},
}

func TestCommand(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, c := range []struct {
		name     string
		argv     string // words
		env      map[string]string
		settings engine.Settings
		want     string
		warning  string
	}{
		{
			name: "replaced in place", argv: "sglang serve --model-path m --max-running-requests 4 --port 30000 --enable-metrics",
			settings: engine.Settings{"max_running_requests": "256"},
			want:     "sglang serve --model-path m --max-running-requests 256 --port 30000 --enable-metrics",
		},
		{
			name: "under a wrapper", argv: "perf-agent sim-engine --dialect sglang --sim-seed 3 -- python -m sglang.launch_server --model-path m --port 1",
			settings: engine.Settings{"mem_fraction_static": "0.85"},
			want: "perf-agent sim-engine --dialect sglang --sim-seed 3 -- python -m sglang.launch_server --model-path m --port 1 " +
				"--mem-fraction-static 0.85 --enable-metrics",
			warning: "added --enable-metrics",
		},
		{
			name: "prefix cache off", argv: "sglang serve --model-path m --enable-metrics",
			settings: engine.Settings{"radix_cache": "false"}, want: "sglang serve --model-path m --enable-metrics --disable-radix-cache",
		},
		{
			name: "prefix cache on", argv: "sglang serve --model-path m --disable-radix-cache --enable-metrics",
			settings: engine.Settings{"radix_cache": "true"}, want: "sglang serve --model-path m --enable-metrics",
		},
		{
			name: "another spelling", argv: "sglang serve --model-path m --tensor-parallel-size=2 --enable-hicache --enable-metrics",
			settings: engine.Settings{"tp_size": "4", "enable_hierarchical_cache": "true"},
			want:     "sglang serve --model-path m --tp-size=4 --enable-hicache --enable-metrics",
		},
		{
			name: "no chunks", argv: "sglang serve --model-path m --chunked-prefill-size -1 --enable-metrics",
			settings: engine.Settings{"chunked_prefill_size": "2048"}, want: "sglang serve --model-path m --chunked-prefill-size 2048 --enable-metrics",
		},
		{
			name: "speculation", argv: "sglang serve --model-path m --enable-metrics", settings: engine.Settings{"speculative_algorithm": "NGRAM"},
			want: "sglang serve --model-path m --enable-metrics --speculative-algorithm NGRAM", warning: "48 requests at once",
		},
		{
			name: "drops what runs", argv: "sglang serve --model-path m --enable-metrics", env: map[string]string{"SGL_FORCE_SHUTDOWN": "1"},
			want: "sglang serve --model-path m --enable-metrics", warning: "SGL_FORCE_SHUTDOWN",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := &engine.Target{Argv: strings.Fields(c.argv), Env: c.env, Version: "0.5.23"}
			line, err := a.Command(t.Context(), target, c.settings)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, strings.Join(line.Argv, " ")); diff != "" {
				t.Errorf("command line differs (-want +got):\n%s", diff)
			}
			if got := strings.Join(line.Warnings, "; "); (c.warning == "") != (got == "") || !strings.Contains(got, c.warning) {
				t.Errorf("warnings %q, want one with %q", got, c.warning)
			}
		})
	}
}

func TestCommandRefusesShellStrings(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, argv := range [][]string{nil, {"/bin/bash", "-c", "sglang serve"}, {"sh", "-ec", "exec python -m sglang.launch_server --api-key " + secrets[0]}} {
		_, err := a.Command(t.Context(), &engine.Target{Argv: argv, Version: "0.5.23"}, engine.Settings{"max_running_requests": "8"})
		if err == nil || !strings.Contains(err.Error(), "cannot be changed") || strings.Contains(err.Error(), secrets[0]) {
			t.Errorf("%q: %v", argv, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	const metered = "sglang serve --model-path m --enable-metrics "
	for _, c := range []struct {
		name, version, argv string
		env                 map[string]string
		want                string
	}{
		{name: "newer than known", version: "0.6.0", argv: metered, want: "newer than 0.5.23"},
		{name: "older than known", version: "0.4.1", argv: metered, want: "before 0.4.6"},
		{name: "not a release", version: "main", argv: metered, want: `"main" is not a release number`},
		{name: "gone flag", version: "0.5.14", argv: metered + "--enable-ep-moe", want: "--enable-ep-moe is gone since version 0.5.3"},
		{name: "settings in a file", version: "0.5.23", argv: "sglang serve --config=c.yaml", want: "--config are not seen"},
		{name: "no metrics", version: "0.5.23", argv: "sglang serve --model-path m", want: "no metrics without --enable-metrics"},
		{name: "behind a key", version: "0.5.23", argv: metered + "--api-key k", want: "asks for an API key"},
		{name: "rust", version: "0.5.23", argv: metered, env: map[string]string{"SGLANG_RUST_SERVER": "1"}, want: "Rust front end"},
		{name: "nothing", version: "0.5.23", argv: metered},
		{name: "a post-release", version: "0.4.6.post4", argv: metered},
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
