package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// warnings tells a person what this adapter cannot see or vouch for, and what it costs.
func warnings(t *engine.Target, table *engine.Table, s *sight) []string {
	w := versionWarnings(s, table)
	if s.stranger != "" {
		w = append(w, fmt.Sprintf("the server at %s is not vLLM: its models are owned by %q", t.GetBaseUrl(), s.stranger))
	}
	gone := table.GoneFlags(t.GetArgv())
	for _, flag := range slices.Sorted(maps.Keys(gone)) {
		w = append(w, fmt.Sprintf("%s %s: the engine will refuse to start with it", flag, gone[flag]))
	}
	if hasFlag(t.GetArgv(), "--config") {
		w = append(w, "settings in the file given by --config are not seen here; flags that perf-agent adds win over them")
	}
	return append(w, metricsWarnings(t, s)...)
}

func versionWarnings(s *sight, table *engine.Table) []string {
	oldest, _ := engine.ParseVersion(oldestKnown)
	switch {
	case s.versionText == "":
		return []string{"the version is not known until the engine serves; the knobs of release " + newestKnown + " are assumed until then"}
	case !s.version.Known():
		return []string{fmt.Sprintf("version %q is not a release number; the knobs of release %s are assumed", s.versionText, newestKnown)}
	case s.version.Compare(oldest) < 0:
		return []string{"versions before " + oldestKnown + " run the V0 engine, which this adapter does not know; metrics may be read, settings should not be changed"}
	case !s.version.Within("", firstUnknown):
		return []string{fmt.Sprintf("version %s is newer than %s, the newest release this adapter was written for; metrics are matched by what is on the page", s.versionText, newestKnown)}
	case table.Knob("shutdown_timeout") == nil:
		return []string{"releases before 0.18 abort running requests when they are stopped; only the drain beforehand protects them"}
	}
	return nil
}

func metricsWarnings(t *engine.Target, s *sight) []string {
	switch {
	case hasFlag(t.GetArgv(), "--disable-log-stats"), s.serving && !strings.Contains(s.page, "vllm:"):
		return []string{"the engine exports no metrics of its own (--disable-log-stats): queue, KV cache and token counts are not seen; remove that flag"}
	case s.rust:
		return []string{"the Rust front end shows a series only once it has something to say, and some not at all: what is missing is told after the first request"}
	case s.servers:
		return []string{"several API servers count each step of the engine once for every server with requests in it: steps and their sizes are not read, so token budgets are judged without them"}
	}
	return nil
}

// hasFlag finds a flag in any of vLLM's spellings.
func hasFlag(argv []string, flag string) bool {
	return slices.ContainsFunc(argv, func(token string) bool {
		name, _, _ := strings.Cut(token, "=")
		return strings.ReplaceAll(name, "_", "-") == flag
	})
}
