package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// doctorLimit bounds the whole examination.
const doctorLimit = time.Minute

func newDoctorCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what works here, what does not, and what that costs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorLimit)
			defer cancel()
			if !tell(cmd.OutOrStdout(), examine(ctx, cfg)) {
				return exitCode(1)
			}
			return nil
		},
	}
	o.bind(cmd)
	return cmd
}
