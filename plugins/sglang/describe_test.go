package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

func describe(t *testing.T, target *engine.Target) *engine.Description {
	t.Helper()
	d, err := enginetest.Wire(t, adapter{}).Describe(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// TestRunningValues: the schedulers' own account wins over the arguments, both over the command line.
func TestRunningValues(t *testing.T) {
	d := describe(t, &engine.Target{BaseUrl: serve(t, stub("0.5.23", nil)), Argv: usual})
	for name, want := range map[string]string{
		"schedule_conservativeness": "0.5",  // differs from the argument: changed while running
		"chunked_prefill_size":      "8192", // computed at start
		"attention_backend":         "fa3",
		"sampling_backend":          "", // resolved to a name that the flag does not take
		"radix_cache":               "false",
		"tp_size":                   "2",
		"dp_size":                   "", // the default
		"quantization":              "", // null
	} {
		if got := d.GetEffective()[name]; got != want {
			t.Errorf("%s is effectively %q, want %q", name, got, want)
		}
	}
	if d.GetVersionSource() != "/server_info" || d.GetModel() != "chat" {
		t.Errorf("version from %q, model %q", d.GetVersionSource(), d.GetModel())
	}
}

func TestKeysStayInside(t *testing.T) {
	d := describe(t, &engine.Target{BaseUrl: serve(t, stub("0.5.23", nil)), Argv: append(usual, "--api-key", secrets[0])})
	for _, secret := range secrets {
		if strings.Contains(d.String(), secret) {
			t.Errorf("the description holds %q", secret)
		}
	}
}

// TestBehindAKey: only health and metrics are open; health generates a token by itself.
func TestBehindAKey(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("sglang:num_running_reqs 1\n"))
	})
	d := describe(t, &engine.Target{BaseUrl: serve(t, mux)})
	if d.GetVersionSource() != "/metrics" {
		t.Errorf("recognized from %q", d.GetVersionSource())
	}
	d = describe(t, &engine.Target{Argv: append(usual, "--api-key", "k"), Version: "0.5.23"})
	if p := d.GetProbes(); p.GetTokenPath() != "" || p.GetLoadPath() != "" || p.GetHealthPath() == "" {
		t.Errorf("probes %v", p)
	}
	for _, k := range d.GetKnobs() {
		if k.GetHot() {
			t.Errorf("%s is said to be hot", k.GetName())
		}
	}
}

func TestProbes(t *testing.T) {
	for _, c := range []struct{ name, version, flags, load, info string }{
		{name: "new", version: "0.5.23", load: "/v1/loads?include=core", info: "/server_info"},
		{name: "before the load endpoint", version: "0.5.6", info: "/server_info"},
		{name: "old", version: "0.5.2", info: "/get_server_info"},
		{name: "several replicas", version: "0.5.23", flags: "--dp 2", load: "/v1/loads?include=core", info: "/server_info"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := describe(t, &engine.Target{Argv: append(usual[:len(usual):len(usual)], strings.Fields(c.flags)...), Version: c.version})
			p := d.GetProbes()
			if p.GetLoadPath() != c.load || p.GetVersionPath() != c.info {
				t.Errorf("load %q, version %q", p.GetLoadPath(), p.GetVersionPath())
			}
			if p.GetHealthTimeout().AsDuration() <= 20*time.Second {
				t.Errorf("health timeout %v is within the server's own", p.GetHealthTimeout().AsDuration())
			}
			if s := d.GetStop(); !s.GetKilledIsClean() || s.GetDefaultGrace().AsDuration() < 30*time.Second {
				t.Errorf("stop %v", s)
			}
		})
	}
}

// TestRanks: where all schedulers export, the first rank alone counts; the front process has none.
func TestRanks(t *testing.T) {
	for _, c := range []struct {
		all  bool
		want string
	}{{false, "pp_rank"}, {true, "pp_rank tp_rank moe_ep_rank"}} {
		for _, s := range signalsFor(c.all, engine.Settings{"speculative_algorithm": "NGRAM"}) {
			want := c.want
			for _, front := range []string{"num_requests", "aborted", "http_", "prompt_tokens", "generation_tokens", "cached_tokens", "time_to_first", "inter_token", "output_token", "e2e"} {
				if strings.Contains(s.GetSeries(), front) {
					want = ""
				}
			}
			for _, part := range append([]*engine.Signal{s}, s.GetPlus()...) {
				if got := strings.Join(part.GetRanks(), " "); got != want {
					t.Errorf("%s is read with ranks %q, want %q", part.GetSeries(), got, want)
				}
			}
		}
	}
}

// TestAllSchedulers: the server's account tells what a configuration file set.
func TestAllSchedulers(t *testing.T) {
	ranks := func(target *engine.Target) int { return len(describe(t, target).GetSignals()[0].GetRanks()) }
	told := strings.Replace(account("0.5.23"), `"enable_metrics":true`, `"enable_metrics":true,"enable_metrics_for_all_schedulers":true`, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /server_info", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(told)) })
	for _, c := range []struct {
		name   string
		target *engine.Target
		want   int
	}{
		{"by default", &engine.Target{Argv: usual}, 1},
		{"by flag", &engine.Target{Argv: append(usual[:len(usual):len(usual)], "--enable-metrics-for-all-schedulers")}, 3},
		{"by the server's account", &engine.Target{BaseUrl: serve(t, mux), Argv: usual}, 3},
	} {
		if got := ranks(c.target); got != c.want {
			t.Errorf("%s: %d ranks repeat each other, want %d", c.name, got, c.want)
		}
	}
}

// TestSpeculation: its gauges stand at zero without it, which would be read as a failure of it.
func TestSpeculation(t *testing.T) {
	for _, c := range []struct {
		flags string
		want  bool
	}{{"", false}, {"--speculative-algorithm NGRAM", true}} {
		d := describe(t, &engine.Target{Argv: append(usual[:len(usual):len(usual)], strings.Fields(c.flags)...), Version: "0.5.23"})
		read := slices.ContainsFunc(d.GetSignals(), func(s *engine.Signal) bool { return s.GetSignal() == "spec_acceptance_rate" })
		if read != c.want {
			t.Errorf("with %q acceptance is read: %v", c.flags, read)
		}
	}
}

func TestModelOf(t *testing.T) {
	for argv, want := range map[string]string{
		"python -m sglang.launch_server --model-path org/model_8b --port 1": "org/model_8b",
		"sglang serve --model=org/m":                                        "org/m",
		"sglang serve --model org/m --served-model-name chat":               "chat",
		"sglang serve": "",
		"":             "",
	} {
		if got := modelOf(strings.Fields(argv)); got != want {
			t.Errorf("%q: model %q, want %q", argv, got, want)
		}
	}
}

// FuzzServerInfo: whatever a server answers, no value leaves it but those of knobs.
func FuzzServerInfo(f *testing.F) {
	f.Add([]byte(account("0.5.23")))
	f.Add([]byte(`{"model_path":1,"mem_fraction_static":null,"internal_states":[[],{"page_size":[1]}]}`))
	f.Add([]byte(`{"model_path":"m","mem_fraction_static":"","internal_states":{"0":1}}`))
	table := catalog.At(engine.Version{})
	f.Fuzz(func(t *testing.T, body []byte) {
		info, err := parseInfo(body)
		if err != nil {
			return
		}
		for name, value := range info.effective(table, engine.Settings{}) {
			if table.Knob(name) == nil || value == "" {
				t.Errorf("%q is effectively %q", name, value)
			}
		}
	})
}
