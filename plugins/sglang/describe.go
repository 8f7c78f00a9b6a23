package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

const (
	// restartEstimate is a small model, measured from start to the first healthy answer; large
	// weights and many graphs take minutes.
	restartEstimate = 30 * time.Second
	// healthTimeout: /health runs a generation, for which the server itself allows 20 s.
	healthTimeout = 25 * time.Second
	// defaultGrace is for what still runs, plus the drain's five-second looks and the 15 s that the
	// schedulers get.
	defaultGrace = 90 * time.Second
)

func (adapter) Describe(ctx context.Context, t *engine.Target) (*engine.Description, error) {
	seen := look(ctx, t)
	table := catalog.At(seen.version)
	effective := table.Parse(t.GetArgv(), t.GetEnv())
	if seen.info != nil {
		effective = seen.info.effective(table, effective)
	}
	table = fitted(table, effective)
	return &engine.Description{
		Engine:          "sglang",
		Version:         seen.versionText,
		VersionSource:   seen.source,
		Model:           seen.model,
		Knobs:           knobsFor(t, table),
		Constraints:     table.Constraints,
		Signals:         signalsFor(seen.allSchedulers(t.GetArgv()), effective),
		Probes:          probes(t, table),
		Failures:        failures,
		Progress:        progress,
		Stop:            stop(),
		Effective:       effective,
		RestartEstimate: durationpb.New(restartEstimate),
		Warnings:        warnings(t, table, seen, effective),
	}, nil
}

// sight is what argv and the running server show.
type sight struct {
	version     engine.Version
	versionText string
	source      string
	model       string
	info        *serverInfo // nil: not told
	refused     bool        // the server wants a key
	answered    bool        // something is there
	metrics     bool        // its page has SGLang's series
}

// allSchedulers tells whether every scheduler exports, by the server's own account or the command line.
func (s *sight) allSchedulers(argv []string) bool {
	return s.info != nil && s.info.text("enable_metrics_for_all_schedulers") == "true" || hasFlag(argv, "--enable-metrics-for-all-schedulers")
}

func look(ctx context.Context, t *engine.Target) *sight {
	s := &sight{versionText: t.GetVersion(), model: modelOf(t.GetArgv())}
	if t.GetVersion() != "" {
		s.source = "host"
	}
	if t.GetBaseUrl() != "" {
		s.ask(ctx, t.GetBaseUrl())
	}
	if s.source == "" && runsSGLang(t.GetArgv()) {
		s.source = engine.SourceArgv
	}
	s.version, _ = engine.ParseVersion(s.versionText)
	return s
}

// ask reads the server. It stops when nobody answers, so that Describe stays quick while SGLang loads.
func (s *sight) ask(ctx context.Context, baseURL string) {
	info, err := askInfo(ctx, baseURL)
	status := statusOf(err)
	s.refused = status == 401 || status == 403
	if err != nil && !s.refused {
		return
	}
	s.answered = true
	if page, err := engine.Get(ctx, baseURL, "/metrics"); err == nil {
		s.metrics = strings.Contains(string(page), "sglang:")
	}
	if info == nil {
		if s.metrics && s.source == "" {
			s.source = "/metrics"
		}
		return
	}
	s.info = info
	if v := info.text("version"); v != "" {
		s.versionText = v
	}
	s.source = "/server_info"
	for _, name := range []string{"served_model_name", "model_path"} {
		if model := info.text(name); model != "" {
			s.model = model
			return
		}
	}
}

// knobsFor takes the promise of a hot change back where management calls need a key.
func knobsFor(t *engine.Target, table *engine.Table) []*engine.Knob {
	if !keyed(t.GetArgv()) && !hasFlag(t.GetArgv(), "--admin-api-key") {
		return table.Knobs
	}
	knobs := make([]*engine.Knob, len(table.Knobs))
	for i, k := range table.Knobs {
		knobs[i] = k
		if k.GetHot() {
			knobs[i] = proto.CloneOf(k)
			knobs[i].Hot = false
		}
	}
	return knobs
}

// tokenProbe wants visible text whatever the model samples: a few tokens, none of them hidden, none
// of them the end.
const tokenProbe = `{"text":"Hello","sampling_params":{"max_new_tokens":4,"temperature":0,"ignore_eos":true,"skip_special_tokens":false},"stream":false}`

// probes says how to ask this server. Behind an API key only /health and /metrics stay open; the
// health probe runs a generation of its own, so it then stands for the token probe as well.
func probes(t *engine.Target, table *engine.Table) *engine.Probes {
	p := &engine.Probes{HealthPath: "/health", HealthTimeout: durationpb.New(healthTimeout), MetricsPath: "/metrics"}
	if keyed(t.GetArgv()) {
		return p
	}
	p.VersionPath = "/server_info"
	p.TokenPath, p.TokenBody, p.TokenTextPointer = "/generate", tokenProbe, "/text"
	if !table.Version.Within("0.5.6", "") {
		p.VersionPath = "/get_server_info"
	}
	if table.Version.Within("0.5.8", "") {
		p.LoadPath = "/v1/loads?include=core" // one entry for each data-parallel rank
		p.LoadRunningPointer, p.LoadWaitingPointer = "/loads/*/num_running_reqs", "/loads/*/num_waiting_reqs"
		p.LoadKvUsagePointer = "/loads/*/token_usage"
	}
	return p
}

func stop() *engine.Stop {
	return &engine.Stop{
		DefaultGrace:  durationpb.New(defaultGrace),
		KilledIsClean: true,
		Note: "on SIGTERM /health turns 503 at once, but new requests are still taken and the drain has no limit of its own: " +
			"take it out of rotation first; it then ends itself by SIGKILL, which is no failure",
	}
}
