package main

import (
	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/pkg/enginesim"
)

// newSimEngineCommand hands everything after its name to the simulated engine, whose flags are the
// real engine's own.
func newSimEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "sim-engine --dialect vllm|sglang|tgi [flags of that engine]",
		Short:              "Simulate an engine behind real HTTP (for trials without a GPU)",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := enginesim.Main(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr()); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}
