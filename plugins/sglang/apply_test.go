package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// hotEngine is an SGLang that takes some settings while it runs and answers 200 for all.
type hotEngine struct {
	takes  []string
	status int  // of a change; 200 when 0
	split  bool // the second scheduler keeps its settings

	mu    sync.Mutex
	state []map[string]any // per scheduler
	asked []string
}

func newHotEngine(takes ...string) *hotEngine {
	e := &hotEngine{takes: takes}
	for range 2 {
		e.state = append(e.state, map[string]any{
			"speculative_accept_threshold_single": 1.0, "schedule_conservativeness": 1.0, "max_running_requests": 32, "schedule_policy": "fcfs",
		})
	}
	return e
}

func (e *hotEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch r.URL.Path {
	case "/server_info":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"version": "0.5.23", "model_path": "m", "mem_fraction_static": 0.8, "max_running_requests": 32, "internal_states": e.state,
		})
	case "/set_internal_state":
		if e.status != 0 {
			w.WriteHeader(e.status)
			return
		}
		e.set(r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// set takes a call as a whole or not at all.
func (e *hotEngine) set(r *http.Request) {
	var body struct {
		ServerArgs map[string]any `json:"server_args"`
	}
	if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&body) != nil {
		return
	}
	for name := range body.ServerArgs {
		e.asked = append(e.asked, name)
		if !slices.Contains(e.takes, name) {
			return
		}
	}
	for i, state := range e.state {
		for name, value := range body.ServerArgs {
			if i == 0 || !e.split {
				state[name] = value
			}
		}
	}
}

func TestApply(t *testing.T) {
	allowed := "speculative_accept_threshold_single"
	refusing, old, split := newHotEngine(allowed), newHotEngine(allowed), newHotEngine(allowed)
	refusing.status, old.status, split.split = http.StatusForbidden, http.StatusNotFound, true
	for _, c := range []struct {
		name        string
		engine      *hotEngine
		knob, value string
		applied     bool
		readBack    string
		reason      string
	}{
		{name: "taken", engine: newHotEngine(allowed), knob: allowed, value: "0.9", applied: true, readBack: "0.9"},
		{name: "already so", engine: newHotEngine(), knob: "schedule_conservativeness", value: "1.0", applied: true, readBack: "1"},
		{name: "not taken", engine: newHotEngine(allowed), knob: "max_running_requests", value: "64", readBack: "32", reason: `keeps "32": it takes a restart`},
		{
			name: "taken by a later release", engine: newHotEngine(allowed, "max_running_requests"), knob: "max_running_requests", value: "16",
			applied: true, readBack: "16",
		},
		{name: "text", engine: newHotEngine("schedule_policy"), knob: "schedule_policy", value: "lof", applied: true, readBack: "lof"},
		{name: "taken by one scheduler", engine: split, knob: allowed, value: "0.9", reason: "did not take"},
		{name: "behind a key", engine: refusing, knob: allowed, value: "0.9", reason: "asks for a key"},
		{name: "before the endpoint", engine: old, knob: allowed, value: "0.9", reason: "changes nothing while running"},
		{name: "never hot", engine: newHotEngine("tp_size"), knob: "tp_size", value: "2", reason: "only when it starts"},
		{name: "out of range", engine: newHotEngine(allowed), knob: allowed, value: "1.5", reason: "at most 1"},
		{name: "to an unknown default", engine: newHotEngine("max_running_requests"), knob: "max_running_requests", value: "", reason: "by a restart"},
		{name: "unknown", engine: newHotEngine(), knob: "quux", value: "1", reason: `no knob "quux"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := &engine.Target{BaseUrl: serve(t, c.engine), Argv: usual, Version: "0.5.23"}
			results, err := enginetest.Wire(t, adapter{}).Apply(t.Context(), target, engine.Settings{c.knob: c.value})
			if err != nil || len(results) != 1 {
				t.Fatalf("%v, %v", results, err)
			}
			r := results[0]
			if r.GetKnob() != c.knob || r.GetApplied() != c.applied || r.GetValue() != c.readBack {
				t.Errorf("got %v", r)
			}
			if (c.reason == "") != (r.GetReason() == "") || !strings.Contains(r.GetReason(), c.reason) {
				t.Errorf("reason %q, want %q", r.GetReason(), c.reason)
			}
		})
	}
}

// TestApplyOneByOne: a setting that is refused does not take the others with it.
func TestApplyOneByOne(t *testing.T) {
	e := newHotEngine("speculative_accept_threshold_single")
	target := &engine.Target{BaseUrl: serve(t, e), Argv: usual, Version: "0.5.23"}
	results, err := enginetest.Wire(t, adapter{}).Apply(t.Context(), target, engine.Settings{
		"max_running_requests": "64", "speculative_accept_threshold_single": "0.5", "tp_size": "4",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range results {
		got[r.GetKnob()] = r.GetApplied()
	}
	if got["max_running_requests"] || got["tp_size"] || !got["speculative_accept_threshold_single"] {
		t.Errorf("applied: %v", got)
	}
	if slices.Contains(e.asked, "tp_size") {
		t.Error("a setting that is never hot was asked for")
	}
}
