package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// Exit codes that a shell would give for a command that could not be run.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// commandError is an engine command that cannot be executed; it is an ErrCommand.
type commandError struct {
	text string
	code int
}

func (e *commandError) Error() string        { return ErrCommand.Error() + ": " + e.text }
func (e *commandError) Is(target error) bool { return target == ErrCommand }

// resolve finds the file to execute.
func resolve(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) {
		return path, nil
	}
	return "", explainCommand(name, err)
}

// explainCommand turns the reason why a command cannot be executed into words.
func explainCommand(name string, err error) error {
	e := &commandError{code: exitNotExecutable}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		e.code = exitNotFound
		e.text = fmt.Sprintf("%q is in no folder of PATH (%s): install the engine, or give the command's full path after `launch --`", name, os.Getenv("PATH"))
	case errors.Is(err, fs.ErrNotExist):
		e.code = exitNotFound
		e.text = fmt.Sprintf("%s does not exist, or the interpreter that its first line names does not: check the path", name)
	case errors.Is(err, fs.ErrPermission):
		e.text = fmt.Sprintf("%s is not executable: make it so with `chmod +x`, or check that its file system is not mounted noexec", name)
	case errors.Is(err, syscall.ENOEXEC):
		e.text = fmt.Sprintf("%s is no program for this machine (exec format error): check its architecture, or add a `#!` line to a script", name)
	default:
		e.text = fmt.Sprintf("%s: %v", name, err)
	}
	return e
}

// environment of the engine: ours, then the spec's, then the mark by which orphans are found.
func environment(spec Spec, mark string) []string {
	env := os.Environ()
	for _, k := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, k+"="+spec.Env[k])
	}
	env = append(env, mark)
	return lastWins(env)
}

// lastWins drops all but the last assignment of each name: what a program makes of two is its own
// affair.
func lastWins(env []string) []string {
	seen := map[string]bool{}
	var kept []string
	for _, a := range slices.Backward(env) {
		name, _, _ := strings.Cut(a, "=")
		if !seen[name] {
			seen[name] = true
			kept = append(kept, a)
		}
	}
	slices.Reverse(kept)
	return kept
}

// fork starts the command in a session of its own: out of reach of the terminal's Ctrl-C, and with
// a session id that its descendants keep even where they make process groups for themselves.
func fork(path string, spec Spec, env []string, stdin, stdout, stderr *os.File) (int, error) {
	pid, err := syscall.ForkExec(path, spec.Argv, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, explainCommand(path, err)
	}
	return pid, nil
}
