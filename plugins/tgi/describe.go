package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

const (
	// restartEstimate is a small model whose weights are already there; large ones take minutes.
	// TGI has no compile cache to warm.
	restartEstimate = 30 * time.Second
	// healthTimeout: the probe asks the shards, which answer between two steps; a large prefill takes seconds.
	healthTimeout = 10 * time.Second
	// defaultGrace covers the router's own limit of 90 s and the shards after it.
	defaultGrace = 110 * time.Second
)

func (adapter) Describe(ctx context.Context, t *engine.Target) (*engine.Description, error) {
	seen := look(ctx, t)
	table := catalog.At(seen.version)
	effective := seen.effective(table, table.Parse(t.GetArgv(), t.GetEnv()))
	table = table.Ignore(switchedOff(table.Version, effective))
	return &engine.Description{
		Engine:          "tgi",
		Version:         seen.versionText,
		VersionSource:   seen.source,
		Model:           seen.model,
		Knobs:           table.Knobs,
		Constraints:     table.Constraints,
		Signals:         signals,
		Probes:          probes(),
		Failures:        failures,
		Progress:        progress,
		Stop:            stop(table),
		Effective:       effective,
		RestartEstimate: durationpb.New(restartEstimate),
		Warnings:        warnings(t, table, seen),
	}, nil
}

// sight is what argv and the running server show.
type sight struct {
	version     engine.Version
	versionText string
	source      string
	model       string
	info        map[string]any // nil: not told
}

func look(ctx context.Context, t *engine.Target) *sight {
	s := &sight{versionText: t.GetVersion(), model: modelOf(t.GetArgv())}
	if t.GetVersion() != "" {
		s.source = "host"
	}
	if t.GetBaseUrl() != "" {
		s.ask(ctx, t.GetBaseUrl())
	}
	if s.source == "" && launcher(t.GetArgv()) {
		s.source = engine.SourceArgv
	}
	s.version, _ = engine.ParseVersion(s.versionText)
	return s
}

// ask reads /info, which needs no key. Old releases do not name the router in it; what they all
// say is how many workers check the prompts.
func (s *sight) ask(ctx context.Context, baseURL string) {
	var info map[string]any
	if engine.GetJSON(ctx, baseURL, "/info", &info) != nil {
		return
	}
	version, _ := info["version"].(string)
	_, workers := info["validation_workers"]
	if version == "" || info["router"] != "text-generation-router" && !workers {
		return
	}
	s.info, s.versionText, s.source = info, version, "/info"
	if model, _ := info["model_id"].(string); model != "" {
		s.model = model
	}
}

// effective adds what the engine says of itself to what the command line says, defaults and knobs
// that do nothing left out. Releases after 2.0 tell only their limits; the batch budgets cannot be
// read back.
func (s *sight) effective(table *engine.Table, given engine.Settings) engine.Settings {
	table = table.Ignore(switchedOff(table.Version, given))
	_, oldName := given[inputLength]
	for _, name := range slices.Sorted(maps.Keys(s.info)) {
		k, value := table.Knob(name), plain(s.info[name])
		_, set := given[name]
		if k == nil || k.GetIgnoredBecause() != "" || value == "" || set || value == k.GetDefaultValue() || name == inputTokens && oldName {
			continue
		}
		given[name] = value
	}
	return given
}

// plain writes a JSON number as text; anything else is empty.
func plain(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return ""
}

func probes() *engine.Probes {
	body, err := json.Marshal(map[string]any{
		"inputs":     "The capital of France is",
		"parameters": map[string]any{"max_new_tokens": 4, "do_sample": false},
	})
	if err != nil {
		panic(err) // a map of plain values always marshals
	}
	return &engine.Probes{
		HealthPath:       "/health",
		HealthTimeout:    durationpb.New(healthTimeout),
		MetricsPath:      "/metrics",
		VersionPath:      "/info",
		TokenPath:        "/generate",
		TokenBody:        string(body),
		TokenTextPointer: "/generated_text",
	}
}

func stop(table *engine.Table) *engine.Stop {
	limit := "a few seconds"
	s := &engine.Stop{DefaultGrace: durationpb.New(defaultGrace)}
	if table.Knob("graceful_termination_timeout") != nil {
		s.GraceKnob, limit = "graceful_termination_timeout", "graceful_termination_timeout"
	}
	s.Note = fmt.Sprintf("on SIGTERM the port closes at once and what runs or waits is finished within %s; "+
		"exit code 0 does not prove that nothing was cut. Router and shards have process groups of their own and outlive a launcher that is killed", limit)
	return s
}
