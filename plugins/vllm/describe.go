package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// restartEstimate is a small model on a warm compile cache; large weights take minutes.
const restartEstimate = 60 * time.Second

// healthTimeout: a busy API server answers its health probe late, not never.
const healthTimeout = 5 * time.Second

// defaultGrace covers the drain of a managed engine and the few seconds that its exit takes.
const defaultGrace = 75 * time.Second

func (adapter) Describe(ctx context.Context, t *engine.Target) (*engine.Description, error) {
	seen := look(ctx, t)
	table := catalog.At(seen.version)
	effective := table.Parse(t.GetArgv(), t.GetEnv())
	table = table.Ignore(switchedOff(effective))
	d := &engine.Description{
		Engine:          "vllm",
		Version:         seen.versionText,
		VersionSource:   seen.source,
		Model:           seen.model,
		Knobs:           table.Knobs,
		Constraints:     table.Constraints,
		Signals:         signalsFor(seen),
		Probes:          probes(t.GetArgv(), seen),
		Failures:        failures,
		Progress:        progress,
		Stop:            stop(table),
		Effective:       seen.effective(table, effective),
		RestartEstimate: durationpb.New(restartEstimate),
		Warnings:        warnings(t, table, seen),
	}
	return d, nil
}

// sight is what argv and the running server show.
type sight struct {
	version     engine.Version
	versionText string
	source      string
	model       string
	serving     bool
	stranger    string // owner of the models when it is not vllm
	page        string // metrics page
	cacheLabels map[string]string
	rust        bool // the Rust front end
	servers     bool // several API servers behind one page
}

func look(ctx context.Context, t *engine.Target) *sight {
	s := &sight{versionText: t.GetVersion(), model: modelOf(t.GetArgv())}
	if t.GetVersion() != "" {
		s.source = "host"
	}
	if t.GetBaseUrl() != "" {
		s.ask(ctx, t)
	}
	if s.source == "" && runsVLLM(t.GetArgv()) {
		s.source = engine.SourceArgv
	}
	s.version, _ = engine.ParseVersion(s.versionText)
	given := catalog.At(s.version).Parse(t.GetArgv(), t.GetEnv())
	s.rust = given["rust_frontend"] == "true" || strings.HasSuffix(strings.TrimSpace(s.page), "# EOF")
	s.servers = !s.rust && severalServers(given, s.page)
	return s
}

// severalServers tells whether more than one API server answers. Where the settings do not say, a
// common page shows it: it has nothing of the process and no times of creation. Until there is a page,
// there are as many as data-parallel replicas.
func severalServers(given engine.Settings, page string) bool {
	count := given["api_server_count"]
	if count == "" && strings.Contains(page, "vllm:") {
		return !slices.ContainsFunc([]string{"process_", "python_", "_created"}, func(sign string) bool { return strings.Contains(page, sign) })
	}
	if count == "" {
		count = given["data_parallel_size"]
	}
	n, err := strconv.Atoi(count)
	return err == nil && n > 1
}

// ask reads the server. It stops at the first sign that nobody answers, so that Describe stays
// quick while vLLM loads: its socket accepts connections long before it serves.
func (s *sight) ask(ctx context.Context, t *engine.Target) {
	var answer struct {
		Version string `json:"version"`
	}
	if err := engine.GetJSON(ctx, t.GetBaseUrl(), "/version", &answer); err != nil || answer.Version == "" {
		return
	}
	owner, model, refused := askModels(ctx, t.GetBaseUrl())
	if owner != "" && !strings.HasPrefix(owner, "vllm") {
		s.stranger = owner
		return
	}
	if page, err := engine.Get(ctx, t.GetBaseUrl(), "/metrics"); err == nil {
		s.page = string(page)
		s.cacheLabels = cacheConfig(page)
	}
	if owner == "" && !refused && !strings.Contains(s.page, "vllm:") && !runsVLLM(t.GetArgv()) {
		return // something else that happens to have /version
	}
	s.serving = true
	s.versionText, s.source = answer.Version, "/version"
	if model != "" {
		s.model = model
	}
}

// askModels names the owner and the base model. refused: the list is behind an API key.
func askModels(ctx context.Context, baseURL string) (owner, id string, refused bool) {
	var list struct {
		Data []struct {
			ID      string  `json:"id"`
			OwnedBy string  `json:"owned_by"`
			Parent  *string `json:"parent"`
		} `json:"data"`
	}
	err := engine.GetJSON(ctx, baseURL, "/v1/models", &list)
	var status *engine.StatusError
	if errors.As(err, &status) {
		return "", "", status.Code == http.StatusUnauthorized
	}
	for _, m := range list.Data {
		if m.Parent == nil { // a LoRA adapter has its base model as parent
			return m.OwnedBy, m.ID, false
		}
	}
	return "", "", false
}

// cacheConfig reads the labels of vllm:cache_config_info.
func cacheConfig(page []byte) map[string]string {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		return nil
	}
	labels := map[string]string{}
	for _, m := range families["vllm:cache_config_info"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetValue() != "None" {
				labels[l.GetName()] = l.GetValue()
			}
		}
	}
	return labels
}

// effective adds what the engine says of itself to what the command line says. Only this series
// tells: no endpoint returns the batch limits.
func (s *sight) effective(table *engine.Table, given engine.Settings) engine.Settings {
	for label, knob := range map[string]string{
		"block_size":             "block_size",
		"cache_dtype":            "kv_cache_dtype",
		"gpu_memory_utilization": "gpu_memory_utilization",
		"enable_prefix_caching":  "enable_prefix_caching",
	} {
		value, told := s.cacheLabels[label]
		if _, set := given[knob]; told && !set && table.Knob(knob) != nil {
			given[knob] = strings.ToLower(value)
		}
	}
	return given
}

// runsVLLM recognises "vllm serve" and the older module form anywhere in argv, so that a wrapper
// (numactl, a python interpreter) does not hide it.
func runsVLLM(argv []string) bool {
	for i, token := range argv {
		if filepath.Base(token) == "vllm" && slices.Contains(argv[i+1:], "serve") || strings.HasPrefix(token, "vllm.entrypoints.") {
			return true
		}
	}
	return false
}

// modelOf reads the served model's name from argv: --served-model-name, --model, or the argument
// after serve.
func modelOf(argv []string) string {
	name := ""
	for i, token := range argv {
		flag, value, inline := strings.Cut(strings.ReplaceAll(token, "_", "-"), "=")
		if inline {
			value = token[len(flag)+1:]
		} else if i+1 < len(argv) {
			value = argv[i+1]
		}
		switch {
		case flag == "--served-model-name" && value != "":
			return value
		case flag == "--model", flag == "--model-tag", token == "serve" && !strings.HasPrefix(value, "-"):
			name = value
		}
	}
	return name
}

// probes says how to ask this server. The token probe wants visible text whatever the model
// samples: a few tokens, none of them hidden, none of them the end.
func probes(argv []string, s *sight) *engine.Probes {
	body, err := json.Marshal(map[string]any{
		"model": s.model, "prompt": "Hello", "max_tokens": 4, "temperature": 0,
		"ignore_eos": true, "skip_special_tokens": false, "stream": false,
	})
	if err != nil {
		panic(err) // a map of plain values always marshals
	}
	p := &engine.Probes{
		HealthPath:       "/health",
		HealthTimeout:    durationpb.New(healthTimeout),
		MetricsPath:      "/metrics",
		VersionPath:      "/version",
		TokenPath:        "/v1/completions",
		TokenBody:        string(body),
		TokenTextPointer: "/choices/0/text",
	}
	if hasFlag(argv, "--enable-server-load-tracking") && !s.servers { // each server would tell of its own
		p.LoadPath, p.LoadInFlightPointer = "/load", "/server_load"
	}
	return p
}

func stop(table *engine.Table) *engine.Stop {
	s := &engine.Stop{
		DefaultGrace: durationpb.New(defaultGrace),
		Note:         "vLLM aborts all running requests on SIGTERM; drain it before it is stopped",
	}
	if table.Knob("shutdown_timeout") != nil {
		s.GraceKnob = "shutdown_timeout"
		s.Note = "while it drains, /health stays 200 and new requests get HTTP 500: take it out of rotation before SIGTERM"
	}
	return s
}
