// Perf-agent is the program beside the engines: sidecar or node agent (run), process 1 of the
// engine's container (launch), a simulated engine (sim-engine), a load generator (bench), and what a
// person needs to see why something does not work (doctor).
//
// This package is the wiring: it reads the configuration, builds the parts in order of dependence,
// runs them and waits. What the parts do is theirs: scrape and collect observe, probation acts,
// report talks to the control plane, adapter and launch own the plugin and the engine process.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/pkg/version"
)

// exitCode is an error that only says how the program is to end; what there was to say was said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func main() {
	err := newRoot().ExecuteContext(context.Background())
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "perf-agent:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "perf-agent",
		Short:         "Watches and tunes the serving engine beside it",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newRunCommand(), newLaunchCommand(), newSimEngineCommand(), newBenchCommand(),
		newDoctorCommand(), newPluginsCommand(), newVersionCommand(),
	)
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
	}
}

// newLogger writes text to standard error. The level was validated.
func newLogger(level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level))
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
}
