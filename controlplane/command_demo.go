package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/demo"
)

func demoCommand() *cobra.Command {
	o := demo.Options{}
	cmd := &cobra.Command{
		Use: "demo", Short: "run the whole loop on this machine with simulated engines; ends by itself", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			o.ControlPlane, o.Out = self, cmd.OutOrStdout()
			if o.Agent == "" {
				o.Agent = filepath.Join(filepath.Dir(self), "perf-agent")
			}
			if _, err := os.Stat(o.Agent); err != nil {
				return fmt.Errorf("perf-agent is not beside this program: %w; run make build, or name it with --agent", err)
			}
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Agent, "agent", "", "perf-agent program (default: beside this one)")
	cmd.Flags().StringVar(&o.Report, "report", "", "file for the report (JSON)")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave everything running until interrupted")
	return cmd
}
