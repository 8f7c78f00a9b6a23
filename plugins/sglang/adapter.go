package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// adapter implements engine.Adapter. It has no state: each call reads the target anew.
type adapter struct{}

var _ engine.Adapter = adapter{}

// metricsFlag makes SGLang serve its metrics page, which is off by default.
const metricsFlag = "--enable-metrics"

// rustServer is the knob of the experimental front end.
const rustServer = "rust_server"

func (adapter) Validate(_ context.Context, t *engine.Target, s engine.Settings) ([]*engine.Problem, error) {
	return check(t, s), nil
}

// check judges settings against the table of the target's release.
func check(t *engine.Target, s engine.Settings) []*engine.Problem {
	table := tableFor(t)
	base := table.Parse(t.GetArgv(), t.GetEnv())
	given := engine.Overlay(base, s)
	if problems := fitted(table, given).Check(s, base); len(problems) > 0 {
		return hintRadix(problems)
	}
	return requirements(table, given, s)
}

// hintRadix helps whoever uses the engine's own name for the prefix cache.
func hintRadix(problems []*engine.Problem) []*engine.Problem {
	for _, p := range problems {
		if p.GetKnob() == "disable_radix_cache" || p.GetKnob() == "--disable-radix-cache" {
			p.Message = fmt.Sprintf("there is no knob %q; use %s, which says the opposite: false switches the prefix cache off", p.GetKnob(), radixName)
		}
	}
	return problems
}

func (adapter) Command(_ context.Context, t *engine.Target, s engine.Settings) (*engine.CommandLine, error) {
	if problems := check(t, s); len(problems) > 0 {
		return nil, fmt.Errorf("settings refused: %s", problems[0].GetMessage())
	}
	if len(t.GetArgv()) == 0 || shellString(t.GetArgv()) {
		// The arguments may hold an API key: they are not repeated.
		return nil, fmt.Errorf("%w: give sglang's own arguments, not a shell string", engine.ErrNoCommand)
	}
	line := tableFor(t).Build(t.GetArgv(), t.GetEnv(), s)
	if !hasFlag(line.Argv, metricsFlag) {
		line.Argv = append(line.Argv, metricsFlag)
		line.Warnings = append(line.Warnings, "added "+metricsFlag+": without it SGLang shows no queue, KV cache or token counts")
	}
	line.Warnings = append(line.Warnings, settingsWarnings(line.Effective)...)
	return line, nil
}

func tableFor(t *engine.Target) *engine.Table {
	v, _ := engine.ParseVersion(t.GetVersion())
	return catalog.At(v)
}

// shellString recognises sh -c "python -m sglang.launch_server …": flags appended to it would go
// to the shell.
func shellString(argv []string) bool {
	shells := []string{"sh", "bash", "dash", "ash", "zsh"}
	return len(argv) > 1 && slices.Contains(shells, filepath.Base(argv[0])) && strings.HasPrefix(argv[1], "-") && strings.Contains(argv[1], "c")
}

// hasFlag finds a flag, alone or with its value attached.
func hasFlag(argv []string, flag string) bool {
	return slices.ContainsFunc(argv, func(token string) bool {
		name, _, _ := strings.Cut(token, "=")
		return name == flag
	})
}

// runsSGLang recognises "python -m sglang.launch_server" and "sglang serve" anywhere in argv, so
// that a wrapper (numactl, a python interpreter) does not hide them.
func runsSGLang(argv []string) bool {
	for i, token := range argv {
		if token == "sglang.launch_server" || filepath.Base(token) == "sglang" && slices.Contains(argv[i+1:], "serve") {
			return true
		}
	}
	return false
}

// modelOf reads the served model's name from argv.
func modelOf(argv []string) string {
	name := ""
	for i, token := range argv {
		flag, value, inline := strings.Cut(token, "=")
		if !inline && i+1 < len(argv) {
			value = argv[i+1]
		}
		switch {
		case flag == "--served-model-name" && value != "":
			return value
		case flag == "--model-path", flag == "--model":
			name = value
		}
	}
	return name
}

// keyed tells that the engine asks for a key, which perf-agent never holds.
func keyed(argv []string) bool { return hasFlag(argv, "--api-key") }
