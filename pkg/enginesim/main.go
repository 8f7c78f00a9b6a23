// Package enginesim is a simulated vLLM, SGLang or TGI server: a process that takes the real engine's
// command line, answers its HTTP routes with streams timed by the discrete-event model, exports its
// metrics, and starts, refuses, drains and stops as it does. Whoever talks to it cannot tell the
// difference, except that it says "SIMULATED" in its log.
//
// It leaves the scheduler and physics to pkg/des and pkg/perfmodel. The coefficients behind its
// timings are drawn from a seed and shown nowhere, so that a tuner has to measure.
package enginesim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sglang"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/enginesim/tgi"
	"github.com/optiinfra/performance-agent/pkg/enginesim/vllm"
)

// dialects run one engine each and return its exit code; the end of ctx is SIGTERM.
var dialects = map[string]func(ctx context.Context, env *sim.Env, argv []string) int{
	"vllm":   vllm.Run,
	"sglang": sglang.Run,
	"tgi":    tgi.Run,
}

// Main runs "sim-engine" with the arguments after that word and returns the exit code, which is the
// engine's own for everything the engine would refuse, and 2 for a wrong option of the simulation.
// SIGTERM, SIGINT and the end of ctx all stop the engine as SIGTERM stops the real one.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, argv, err := sim.ParseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "sim-engine:", err)
		return 2
	}
	if opts.Child != "" {
		return sim.BeChild(ctx, opts.Child)
	}
	run := dialects[opts.Dialect]
	if run == nil {
		fmt.Fprintf(stderr, "sim-engine: --dialect %q is not known; want vllm, sglang or tgi\n", opts.Dialect)
		return 2
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return run(ctx, &sim.Env{
		Options: opts, Stdout: stdout, Stderr: stderr, Getenv: os.Getenv, Self: self(args), Args: args,
		Log: slog.New(slog.NewTextHandler(stderr, nil)).With("component", "sim-engine"),
	}, argv)
}

// self is the command line that reaches Main again: this program and what precedes args.
func self(args []string) []string {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	before := slices.Clone(os.Args[1:])
	if n := len(before) - len(args); n >= 0 && slices.Equal(before[n:], args) {
		before = before[:n]
	}
	return append([]string{exe}, before...)
}
