package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// adapter implements engine.Adapter. It has no state: each call reads the target anew.
type adapter struct{}

var _ engine.Adapter = adapter{}

// drainSeconds is what a managed engine gets to finish running requests after SIGTERM.
const drainSeconds = "60"

func (adapter) Validate(_ context.Context, t *engine.Target, s engine.Settings) ([]*engine.Problem, error) {
	return check(t, s), nil
}

// check judges settings against the table of the target's release.
func check(t *engine.Target, s engine.Settings) []*engine.Problem {
	table := tableFor(t)
	base := table.Parse(t.GetArgv(), t.GetEnv())
	given := engine.Overlay(base, s)
	problems := table.Ignore(switchedOff(given)).Check(s, base)
	if len(problems) > 0 {
		return problems
	}
	return requirements(table, given, s)
}

func (adapter) Command(_ context.Context, t *engine.Target, s engine.Settings) (*engine.CommandLine, error) {
	if problems := check(t, s); len(problems) > 0 {
		return nil, fmt.Errorf("settings refused: %s", problems[0].GetMessage())
	}
	if len(t.GetArgv()) == 0 || shellString(t.GetArgv()) {
		// The arguments may hold an API key: they are not repeated.
		return nil, fmt.Errorf("%w: give vllm's own arguments, not a shell string", engine.ErrNoCommand)
	}
	table := tableFor(t)
	s, warnings := ensureDrain(table, t, s)
	line := table.Build(t.GetArgv(), t.GetEnv(), s)
	line.Warnings = append(line.Warnings, warnings...)
	return line, nil
}

// ensureDrain lets a managed engine finish its running requests: without --shutdown-timeout vLLM
// aborts them all on SIGTERM.
func ensureDrain(table *engine.Table, t *engine.Target, s engine.Settings) (engine.Settings, []string) {
	if !table.Version.Known() || table.Knob("shutdown_timeout") == nil {
		return s, nil
	}
	given := engine.Overlay(table.Parse(t.GetArgv(), t.GetEnv()), s)
	switch given["shutdown_timeout"] {
	case "":
		s = maps.Clone(s)
		if s == nil {
			s = engine.Settings{}
		}
		s["shutdown_timeout"] = drainSeconds
		return s, []string{"added --shutdown-timeout " + drainSeconds + ": without it vLLM aborts all running requests when it is stopped"}
	case "0":
		return s, []string{"--shutdown-timeout 0 makes vLLM abort all running requests when it is stopped; requests that outlive the drain are lost"}
	}
	return s, nil
}

// Apply changes nothing: vLLM has no hot scheduler, memory or parallelism setting.
func (adapter) Apply(_ context.Context, t *engine.Target, s engine.Settings) ([]*engine.KnobResult, error) {
	table := tableFor(t)
	var results []*engine.KnobResult
	for _, name := range slices.Sorted(maps.Keys(s)) {
		reason := "vLLM reads " + name + " only when it starts: it takes a restart"
		if table.Knob(name) == nil {
			reason = fmt.Sprintf("this version of vLLM has no knob %q", name)
		}
		results = append(results, &engine.KnobResult{Knob: name, Reason: reason})
	}
	return results, nil
}

func tableFor(t *engine.Target) *engine.Table {
	v, _ := engine.ParseVersion(t.GetVersion())
	return catalog.At(v)
}

// shellString recognises sh -c "vllm serve …": flags appended to it would go to the shell.
func shellString(argv []string) bool {
	shells := []string{"sh", "bash", "dash", "ash", "zsh"}
	return len(argv) > 1 && slices.Contains(shells, filepath.Base(argv[0])) && strings.HasPrefix(argv[1], "-") && strings.Contains(argv[1], "c")
}
