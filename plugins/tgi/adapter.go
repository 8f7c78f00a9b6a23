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

func (adapter) Validate(_ context.Context, t *engine.Target, s engine.Settings) ([]*engine.Problem, error) {
	return check(t, s), nil
}

// check judges settings against the table of the target's release.
func check(t *engine.Target, s engine.Settings) []*engine.Problem {
	table := tableFor(t)
	base := table.Parse(t.GetArgv(), t.GetEnv())
	given := engine.Overlay(base, s)
	if problems := table.Ignore(switchedOff(table.Version, given)).Check(s, base); len(problems) > 0 {
		return problems
	}
	return requirements(table.Version, given, s)
}

func (adapter) Command(_ context.Context, t *engine.Target, s engine.Settings) (*engine.CommandLine, error) {
	if problems := check(t, s); len(problems) > 0 {
		return nil, fmt.Errorf("settings refused: %s", problems[0].GetMessage())
	}
	if len(t.GetArgv()) == 0 || shellString(t.GetArgv()) {
		// The words of a shell string are not repeated: they may hold --api-key.
		return nil, fmt.Errorf("%w: give text-generation-launcher's own arguments, not a shell string: %q", engine.ErrNoCommand, t.GetArgv()[:min(1, len(t.GetArgv()))])
	}
	table := tableFor(t)
	line := table.Build(t.GetArgv(), t.GetEnv(), s)
	line.Warnings = append(line.Warnings, idleWarnings(table, line.Effective)...)
	line.Warnings = append(line.Warnings, lengthWarnings(table, t, line.Effective)...)
	return line, nil
}

// Apply changes nothing: TGI has no hot setting at all.
func (adapter) Apply(_ context.Context, t *engine.Target, s engine.Settings) ([]*engine.KnobResult, error) {
	table := tableFor(t)
	var results []*engine.KnobResult
	for _, name := range slices.Sorted(maps.Keys(s)) {
		reason := "TGI reads " + name + " only when it starts: it takes a restart"
		if table.Knob(name) == nil {
			reason = fmt.Sprintf("this version of TGI has no knob %q", name)
		}
		results = append(results, &engine.KnobResult{Knob: name, Reason: reason})
	}
	return results, nil
}

func tableFor(t *engine.Target) *engine.Table {
	v, _ := engine.ParseVersion(t.GetVersion())
	return catalog.At(v)
}

// shellString recognises sh -c "text-generation-launcher …": flags appended to it would go to the shell.
func shellString(argv []string) bool {
	shells := []string{"sh", "bash", "dash", "ash", "zsh"}
	return len(argv) > 1 && slices.Contains(shells, filepath.Base(argv[0])) && strings.HasPrefix(argv[1], "-") && strings.Contains(argv[1], "c")
}

// launcher recognises TGI's own program anywhere in argv, so that a wrapper does not hide it.
func launcher(argv []string) bool {
	return slices.ContainsFunc(argv, func(token string) bool { return filepath.Base(token) == "text-generation-launcher" })
}

// modelOf reads the served model's name from argv.
func modelOf(argv []string) string {
	for i, token := range argv {
		flag, value, inline := strings.Cut(token, "=")
		if flag != "--model-id" {
			continue
		}
		if !inline && i+1 < len(argv) {
			value = argv[i+1]
		}
		return value
	}
	return ""
}

// hasFlag finds a flag, alone or with its value attached.
func hasFlag(argv []string, flag string) bool {
	return slices.ContainsFunc(argv, func(token string) bool {
		name, _, _ := strings.Cut(token, "=")
		return name == flag
	})
}
