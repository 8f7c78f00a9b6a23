package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

const maintenance = "TGI is in maintenance mode since December 2025 and " + newestKnown + " is its last release: " +
	"its authors point to vLLM, SGLang or llama.cpp for new deployments"

const untold = "TGI exports neither the time to first token nor what the prefix cache spares: the first is known where the wire shows it, the second not at all"

// warnings tells a person what this adapter cannot see or vouch for, and what it costs.
func warnings(t *engine.Target, table *engine.Table, s *sight) []string {
	w := versionWarnings(s, table)
	if s.source != "" {
		w = append(w, maintenance, untold)
	}
	gone := table.GoneFlags(t.GetArgv())
	for _, flag := range slices.Sorted(maps.Keys(gone)) {
		w = append(w, fmt.Sprintf("%s %s: the engine will refuse to start with it", flag, gone[flag]))
	}
	if hasFlag(t.GetArgv(), "--api-key") {
		w = append(w, "the engine asks for an API key that perf-agent does not have: no probe token is served, so that every change is taken back")
	}
	return append(w, idleWarnings(table, table.Parse(t.GetArgv(), t.GetEnv()))...)
}

func versionWarnings(s *sight, table *engine.Table) []string {
	oldest, _ := engine.ParseVersion(oldestKnown)
	switch {
	case s.versionText == "":
		return []string{"the version is not known until the engine serves; the knobs of release " + newestKnown + " are assumed until then"}
	case !s.version.Known():
		return []string{fmt.Sprintf("version %q is not a release number; the knobs of release %s are assumed", s.versionText, newestKnown)}
	case s.version.Compare(oldest) < 0:
		return []string{"versions before " + oldestKnown + " have other flags than this adapter knows; settings should not be changed"}
	case !s.version.Within("", firstUnknown):
		return []string{fmt.Sprintf("version %s is newer than %s, the newest release this adapter was written for; metrics are matched by what is on the page", s.versionText, newestKnown)}
	case table.Knob("graceful_termination_timeout") == nil:
		return []string{"releases before 3.2 cut requests that outlast a short fixed limit when they are stopped; only the drain beforehand protects them"}
	}
	return nil
}

// idleWarnings names settings that the command line gives and that do nothing.
func idleWarnings(table *engine.Table, given engine.Settings) []string {
	var w []string
	for _, k := range table.Ignore(switchedOff(table.Version, given)).Knobs {
		if value, ok := given[k.GetName()]; ok && k.GetIgnoredBecause() != "" && value != k.GetDefaultValue() {
			w = append(w, fmt.Sprintf("%s %s does nothing: %s", k.GetName(), value, k.GetIgnoredBecause()))
		}
	}
	return w
}

// lengthWarnings tells when settings take chunked prefill away: a prompt must then fit into one
// prefill, and where nobody has set the longest prompt, TGI cuts its limit down to that in silence.
func lengthWarnings(table *engine.Table, t *engine.Target, effective engine.Settings) []string {
	before := table.Parse(t.GetArgv(), t.GetEnv())
	limited := effective[inputTokens] != "" || effective[inputLength] != ""
	if limited || !chunked(table.Version, before) || chunked(table.Version, effective) {
		return nil
	}
	return []string{"without chunked prefill TGI refuses prompts above max_batch_prefill_tokens: set it above the longest prompt"}
}
