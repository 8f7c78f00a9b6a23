package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// warnings tells a person what this adapter cannot see or vouch for, and what it costs.
func warnings(t *engine.Target, table *engine.Table, s *sight, effective engine.Settings) []string {
	w := versionWarnings(s)
	gone := table.GoneFlags(t.GetArgv())
	for _, flag := range slices.Sorted(maps.Keys(gone)) {
		w = append(w, fmt.Sprintf("%s %s: the engine will refuse to start with it", flag, gone[flag]))
	}
	if hasFlag(t.GetArgv(), "--config") && s.info == nil {
		w = append(w, "settings in the file given by --config are not seen until the engine serves; flags that perf-agent adds win over them")
	}
	if keyed(t.GetArgv()) || s.refused {
		w = append(w, "the engine asks for an API key: what it decided at start is not seen, hot changes are not possible, and its health stands for a served token")
	}
	if metricsOff(t, s) {
		w = append(w, "SGLang exports no metrics without --enable-metrics: queue, KV cache and token counts are not seen; perf-agent adds the flag when it starts the engine")
	}
	return append(w, settingsWarnings(effective)...)
}

func versionWarnings(s *sight) []string {
	oldest, _ := engine.ParseVersion(oldestKnown)
	switch {
	case s.versionText == "":
		return []string{"the version is not known until the engine serves; the knobs of release " + newestKnown + " are assumed until then"}
	case !s.version.Known():
		return []string{fmt.Sprintf("version %q is not a release number; the knobs of release %s are assumed", s.versionText, newestKnown)}
	case s.version.Compare(oldest) < 0:
		return []string{"versions before " + oldestKnown + " have other flags and metrics than this adapter knows; settings should not be changed"}
	case !s.version.Within("", firstUnknown):
		return []string{fmt.Sprintf("version %s is newer than %s, the newest release this adapter was written for; metrics are matched by what is on the page", s.versionText, newestKnown)}
	}
	return nil
}

// metricsOff: a server that answers is believed, else its command line. A config file may hold the flag.
func metricsOff(t *engine.Target, s *sight) bool {
	if s.answered {
		return !s.metrics
	}
	return runsSGLang(t.GetArgv()) && !hasFlag(t.GetArgv(), metricsFlag) && !hasFlag(t.GetArgv(), "--config")
}

// settingsWarnings are about settings that are legal and surprise.
func settingsWarnings(effective engine.Settings) []string {
	var w []string
	if effective[rustServer] == "true" {
		w = append(w, "the Rust front end (SGLANG_RUST_SERVER) has no metrics, no drain and no hot settings: it is watched from outside only and not tuned")
	}
	if effective["force_shutdown"] == "true" {
		w = append(w, "SGL_FORCE_SHUTDOWN makes SGLang drop all running requests when it is stopped; only the drain beforehand protects them")
	}
	if effective["speculative_algorithm"] != "" && effective["max_running_requests"] == "" {
		w = append(w, "with speculation SGLang runs 48 requests at once unless max_running_requests says otherwise")
	}
	return w
}
