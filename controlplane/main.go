// Command perf-controlplane is the control plane of Performance Agent and, as perfctl, its client.
//
// serve runs one node: Raft, the agents' streams, telemetry, the workflow and rollout loops on the
// leader, and REST. The other commands talk to a running control plane, except demo, which runs
// the whole loop on this machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "perf-controlplane", Short: "autopilot for LLM serving fleets: control plane and client",
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
	}
	r := &remote{}
	r.flags(cmd)
	cmd.AddCommand(
		serveCommand(), demoCommand(),
		statusCommand(r), getCommand(r), describeCommand(r), topCommand(r), historyCommand(r), optimizeCommand(r), approveCommand(r),
		workflowCommand(r), testCommand(r), rolloutCommand(r), sloCommand(r), eventsCommand(r),
		&cobra.Command{
			Use: "version", Short: "print the version", Args: cobra.NoArgs,
			Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
		},
	)
	return cmd
}
