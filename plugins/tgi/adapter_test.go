package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

var usual = []string{
	"text-generation-launcher", "--model-id", "acme/chat-8b", "--port", "8080", "--max-concurrent-requests", "64",
	"--max-total-tokens=8192", "--json-output", "--trust-remote-code", "--env",
}

func TestAdapter(t *testing.T) {
	enginetest.Run(t, adapter{}, enginetest.Options{
		Engine: "tgi",
		Argv:   usual,
		Keep: []string{
			"text-generation-launcher", "--model-id", "acme/chat-8b", "--port", "8080", "--json-output", "--trust-remote-code", "--env",
		},
		Versions: []string{"1.4.5", "2.0.4", "2.4.1", "3.0.2", "3.2.3", "3.3.7"},
		Stub:     stub,
		Settings: settingsCases,
	})
}

// stub serves what Describe asks of TGI. Old releases do not name the router, and tell the batch
// budgets that later ones keep to themselves.
func stub(version string, page []byte) http.Handler {
	info := map[string]any{
		"model_id": "acme/chat-8b", "version": version, "max_concurrent_requests": 64, "max_best_of": 2, "max_stop_sequences": 4,
		"validation_workers": 2, "max_total_tokens": 8192, "sha": nil,
	}
	if v, _ := engine.ParseVersion(version); v.Within("2.0", "") {
		info["router"], info["max_input_tokens"], info["max_client_batch_size"] = "text-generation-router", 8191, 4
	} else {
		info["max_input_length"], info["waiting_served_ratio"], info["max_batch_total_tokens"] = 4000, 1.2, 16000
		info["max_waiting_tokens"], info["max_batch_size"] = 20, nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(info) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	return mux
}

var unchunked = map[string]string{"PREFILL_CHUNKING": "0"}

var settingsCases = []enginetest.SettingsCase{
	{Name: "nothing", Settings: nil},
	{Name: "a usual change", Settings: engine.Settings{"max_batch_prefill_tokens": "8192", "max_concurrent_requests": "256", "cuda_memory_fraction": "0.95"}},
	{Name: "back to the default", Settings: engine.Settings{"max_concurrent_requests": ""}},
	{
		Name: "a neutral name", Settings: engine.Settings{"kv_memory_fraction": "0.9"},
		Want: []string{"kv_memory_fraction: unknown_knob"}, Words: `did you mean "cuda_memory_fraction"?`,
	},
	{
		Name: "a variable for a name", Settings: engine.Settings{"PREFILL_CHUNKING": "false"},
		Want: []string{"PREFILL_CHUNKING: unknown_knob"}, Words: `did you mean "prefill_chunking"?`,
	},
	{Name: "not a number", Settings: engine.Settings{"max_concurrent_requests": "many"}, Want: []string{"max_concurrent_requests: bad_type"}},
	{Name: "no worker", Settings: engine.Settings{"validation_workers": "0"}, Want: []string{"validation_workers: out_of_range"}},
	{Name: "the whole device", Settings: engine.Settings{"cuda_memory_fraction": "1"}},
	{Name: "none of the device", Settings: engine.Settings{"cuda_memory_fraction": "0"}, Want: []string{"cuda_memory_fraction: out_of_range"}, Words: "above 0 and at most 1"},
	{
		Name: "batch size under chunks", Settings: engine.Settings{"max_batch_size": "32"},
		Want: []string{"max_batch_size: ignored"}, Words: "PREFILL_CHUNKING=0 brings it back",
	},
	{
		Name: "waiting under chunks", Settings: engine.Settings{"max_waiting_tokens": "5", "waiting_served_ratio": "0.5"},
		Want: []string{"max_waiting_tokens: ignored", "waiting_served_ratio: ignored"},
	},
	{Name: "batch size without chunks", Settings: engine.Settings{"max_batch_size": "32", "prefill_chunking": "false"}},
	{Name: "batch size without the operator's chunks", Env: unchunked, Settings: engine.Settings{"max_batch_size": "32"}},
	{Name: "batch size under speculation", Settings: engine.Settings{"max_batch_size": "32", "speculate": "2"}},
	{Name: "batch size before chunks", Version: "2.4.1", Settings: engine.Settings{"max_batch_size": "32"}},
	{
		Name: "chunks under speculation", Settings: engine.Settings{"prefill_chunking": "false", "speculate": "2"},
		Want: []string{"prefill_chunking: ignored"}, Words: "speculation switches",
	},
	{
		Name: "the KV budget", Settings: engine.Settings{"max_batch_total_tokens": "65536"},
		Want: []string{"max_batch_total_tokens: ignored"}, Words: "use cuda_memory_fraction",
	},
	{Name: "prefixes beside adapters", Settings: engine.Settings{"prefix_caching": "false", "lora_adapters": "a/b"}, Want: []string{"prefix_caching: ignored"}},
	{
		Name: "chunks too early", Version: "2.4.1", Settings: engine.Settings{"prefill_chunking": "false"},
		Want: []string{"prefill_chunking: removed"}, Words: "needs version 3.0 or newer",
	},
	{
		Name: "a new name too early", Version: "1.4.5", Settings: engine.Settings{"max_input_tokens": "100"},
		Want: []string{"max_input_tokens: removed"}, Words: "needs version 2.0",
	},
	{
		Name: "both names", Settings: engine.Settings{"max_input_tokens": "100"}, Env: map[string]string{"MAX_INPUT_LENGTH": "90"},
		Want: []string{"max_input_tokens: constraint"}, Words: "old name",
	},
	{
		Name: "prompt above all", Settings: engine.Settings{"max_input_tokens": "9000"},
		Want: []string{"max_input_tokens: constraint"}, Words: "(max_input_tokens is 9000, max_total_tokens is 8192)",
	},
	{Name: "no room for an answer", Settings: engine.Settings{"max_input_tokens": "8192"}, Want: []string{"max_input_tokens: constraint"}, Words: "below max_total_tokens"},
	{
		Name: "prompt above a prefill", Env: unchunked, Settings: engine.Settings{"max_batch_prefill_tokens": "2048", "max_input_tokens": "4000"},
		Want: []string{"max_batch_prefill_tokens: constraint"}, Words: "without chunked prefill",
	},
	{
		Name: "prompt above a prefill by speculation", Settings: engine.Settings{"max_batch_prefill_tokens": "2048", "max_input_tokens": "4000", "speculate": "3"},
		Want: []string{"max_batch_prefill_tokens: constraint"}, Words: "fit into one prefill",
	},
	{Name: "prompt above a chunk", Settings: engine.Settings{"max_batch_prefill_tokens": "2048", "max_input_tokens": "4000"}},
	{
		Name: "old prefill default", Version: "1.4.5", Settings: engine.Settings{"max_input_length": "6000"},
		Want: []string{"max_input_length: constraint"}, Words: "max_batch_prefill_tokens is 4096 by default",
	},
	{Name: "two formats", Settings: engine.Settings{"dtype": "float16", "quantize": "fp8"}, Want: []string{"dtype: constraint"}},
	{Name: "FP8 KV", Settings: engine.Settings{"kv_cache_dtype": "fp8_e5m2"}},
	{
		Name: "FP8 KV under flashdecoding", Env: map[string]string{"ATTENTION": "flashdecoding"}, Settings: engine.Settings{"kv_cache_dtype": "fp8_e5m2"},
		Want: []string{"kv_cache_dtype: constraint"}, Words: "flashinfer or paged",
	},
	{Name: "exl2 over GPUs", Settings: engine.Settings{"quantize": "exl2", "num_shard": "2"}, Want: []string{"quantize: constraint"}},
	{Name: "sharded alone", Settings: engine.Settings{"sharded": "true", "num_shard": "1"}, Want: []string{"sharded: constraint"}},
	{
		Name: "the operator's own fault", Argv: []string{"text-generation-launcher", "--quantize", "exl2", "--num-shard", "2"},
		Settings: engine.Settings{"max_concurrent_requests": "8"},
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
		wantEnv  map[string]string
		warning  string
	}{
		{
			name: "replaced in place", argv: "text-generation-launcher --max-concurrent-requests 64 --port 80",
			settings: engine.Settings{"max_concurrent_requests": "128"}, want: "text-generation-launcher --max-concurrent-requests 128 --port 80",
		},
		{
			name: "flag over the environment", argv: "text-generation-launcher", env: map[string]string{"MAX_CONCURRENT_REQUESTS": "64"},
			settings: engine.Settings{"max_concurrent_requests": "128"}, want: "text-generation-launcher --max-concurrent-requests 128",
		},
		{
			name: "as the environment has it", argv: "text-generation-launcher", env: map[string]string{"MAX_CONCURRENT_REQUESTS": "64"},
			settings: engine.Settings{"max_concurrent_requests": "64"}, want: "text-generation-launcher",
		},
		{
			name: "environment only", argv: "text-generation-launcher --port 80", settings: engine.Settings{"prefill_chunking": "false", "attention": "flashdecoding"},
			want: "text-generation-launcher --port 80", wantEnv: map[string]string{"PREFILL_CHUNKING": "0", "ATTENTION": "flashdecoding"},
			warning: "refuses prompts above max_batch_prefill_tokens",
		},
		{
			name: "short form", argv: "text-generation-launcher -g 30", settings: engine.Settings{"graceful_termination_timeout": "60"},
			want: "text-generation-launcher --graceful-termination-timeout 60",
		},
		{
			name: "a switch that wants a word", argv: "text-generation-launcher", settings: engine.Settings{"sharded": "true", "num_shard": "2"},
			want: "text-generation-launcher --num-shard 2 --sharded true",
		},
		{
			name: "under a wrapper", argv: "perf-agent sim-engine --dialect tgi --sim-seed 3 -- text-generation-launcher --model-id m --port 1",
			settings: engine.Settings{"cuda_memory_fraction": "0.9"},
			want:     "perf-agent sim-engine --dialect tgi --sim-seed 3 -- text-generation-launcher --model-id m --port 1 --cuda-memory-fraction 0.9",
		},
		{
			name: "prompts cut by speculation", argv: "text-generation-launcher", settings: engine.Settings{"speculate": "2"},
			want: "text-generation-launcher --speculate 2", warning: "refuses prompts above max_batch_prefill_tokens",
		},
		{
			name: "prompts as the operator limits them", argv: "text-generation-launcher --max-input-tokens 1000", settings: engine.Settings{"speculate": "2"},
			want: "text-generation-launcher --max-input-tokens 1000 --speculate 2",
		},
		{
			name: "never in chunks", argv: "text-generation-launcher", env: unchunked, settings: engine.Settings{"max_concurrent_requests": "8"},
			want: "text-generation-launcher --max-concurrent-requests 8",
		},
		{
			name: "the operator's idle flag", argv: "text-generation-launcher --max-batch-size 2",
			want: "text-generation-launcher --max-batch-size 2", warning: "max_batch_size 2 does nothing",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := &engine.Target{Argv: strings.Fields(c.argv), Env: c.env, Version: "3.3.7"}
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
	for _, argv := range [][]string{nil, {"/bin/bash", "-c", "text-generation-launcher"}} {
		_, err := a.Command(t.Context(), &engine.Target{Argv: argv, Version: "3.3.7"}, engine.Settings{"max_concurrent_requests": "8"})
		if err == nil || !strings.Contains(err.Error(), "cannot be changed") {
			t.Errorf("%q: %v", argv, err)
		}
	}
}

// TestKeyStaysHidden: what a person reads never shows the API key of a command line.
func TestKeyStaysHidden(t *testing.T) {
	const key = "hunter-two"
	a := enginetest.Wire(t, adapter{})
	var said []any
	for _, argv := range [][]string{
		{"text-generation-launcher", "--api-key", key, "--max-batch-size", "2"},
		{"text-generation-launcher", "--api-key=" + key},
		{"sh", "-c", "text-generation-launcher --api-key " + key},
	} {
		target := &engine.Target{Argv: argv, Version: "3.3.7"}
		d, err := a.Describe(t.Context(), target)
		said = append(said, d, err)
		for _, s := range []engine.Settings{{"max_concurrent_requests": "8"}, {"max_concurrent_requests": "0", "api_key": "x"}} {
			problems, err := a.Validate(t.Context(), target, s)
			said = append(said, problems, err)
			line, err := a.Command(t.Context(), target, s)
			if line != nil {
				said = append(said, line.Effective, line.Warnings)
			}
			said = append(said, err)
		}
	}
	if got := fmt.Sprint(said...); strings.Contains(got, key) || !strings.Contains(got, "cannot be changed") {
		t.Errorf("the key is shown, or nothing was said: %s", got)
	}
}

func TestWarnings(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, c := range []struct {
		name, version, argv string
		env                 map[string]string
		want                string
	}{
		{name: "newer than known", version: "3.4.0", argv: "text-generation-launcher", want: "newer than 3.3.7"},
		{name: "older than known", version: "1.1.0", argv: "text-generation-launcher", want: "before 1.4"},
		{name: "not a release", version: "latest", argv: "text-generation-launcher", want: `"latest" is not a release number`},
		{name: "cut when stopped", version: "3.0.2", argv: "text-generation-launcher", want: "before 3.2 cut requests"},
		{name: "flag of a later release", version: "3.0.2", argv: "text-generation-launcher -g 10", want: "-g needs version 3.2"},
		{name: "behind a key", version: "3.3.7", argv: "text-generation-launcher --api-key k", want: "API key"},
		{name: "idle flag", version: "3.3.7", argv: "text-generation-launcher --max-batch-total-tokens 9000", want: "max_batch_total_tokens 9000 does nothing"},
		{name: "idle variable", version: "3.3.7", argv: "text-generation-launcher", env: map[string]string{"MAX_BATCH_SIZE": "4"}, want: "max_batch_size 4 does nothing"},
		{name: "not idle without chunks", version: "3.3.7", argv: "text-generation-launcher --max-batch-size 4", env: unchunked},
		{name: "late build", version: "3.3.6-dev0", argv: "text-generation-launcher"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := a.Describe(t.Context(), &engine.Target{Argv: strings.Fields(c.argv), Version: c.version, Env: c.env})
			if err != nil {
				t.Fatal(err)
			}
			rest := slices.DeleteFunc(slices.Clone(d.GetWarnings()), func(w string) bool { return w == maintenance || w == untold })
			if len(rest) != len(d.GetWarnings())-2 {
				t.Errorf("the end of TGI and what it never tells are not told once: %q", d.GetWarnings())
			}
			got := strings.Join(rest, "; ")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("warnings %q, want one with %q", got, c.want)
			}
		})
	}
}

// TestIgnoredWhileChunking: what a proposal must not touch follows the settings in effect.
func TestIgnoredWhileChunking(t *testing.T) {
	a := enginetest.Wire(t, adapter{})
	for _, c := range []struct {
		name, version, argv string
		env                 map[string]string
		ignored             bool
	}{
		{name: "by default", version: "3.3.7", ignored: true},
		{name: "an unknown version", ignored: true},
		{name: "switched off", version: "3.3.7", env: unchunked},
		{name: "paged attention", version: "3.3.7", env: map[string]string{"ATTENTION": "paged"}},
		{name: "speculation", version: "3.3.7", argv: "--speculate 2"},
		{name: "the v2 backend", version: "2.4.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			argv := append([]string{"text-generation-launcher"}, strings.Fields(c.argv)...)
			d, err := a.Describe(t.Context(), &engine.Target{Argv: argv, Env: c.env, Version: c.version})
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range d.GetKnobs() {
				if k.GetName() == "max_batch_size" && (k.GetIgnoredBecause() != "") != c.ignored {
					t.Errorf("ignored because %q", k.GetIgnoredBecause())
				}
			}
		})
	}
}

// TestOldNameIsKept: a server that tells max_input_tokens does not make a second name of a flag
// that the operator gave under its old one.
func TestOldNameIsKept(t *testing.T) {
	server := httptest.NewServer(stub("3.3.7", nil))
	t.Cleanup(server.Close)
	argv := []string{"text-generation-launcher", "--max-input-length", "4000"}
	d, err := enginetest.Wire(t, adapter{}).Describe(t.Context(), &engine.Target{BaseUrl: server.URL, Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	if e := d.GetEffective(); e["max_input_length"] != "4000" || e["max_input_tokens"] != "" || e["max_total_tokens"] != "8192" {
		t.Errorf("effective: %v", e)
	}
}

func TestModelOf(t *testing.T) {
	for argv, want := range map[string]string{
		"text-generation-launcher --model-id org/m --port 1":   "org/m",
		"text-generation-launcher --model-id=/models/a_b=c":    "/models/a_b=c",
		"text-generation-launcher --model-id":                  "",
		"text-generation-launcher --revision main --port 8080": "",
	} {
		if got := modelOf(strings.Fields(argv)); got != want {
			t.Errorf("%q: model %q, want %q", argv, got, want)
		}
	}
}
