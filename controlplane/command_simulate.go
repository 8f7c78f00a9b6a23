package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/api"
)

func simulateCommand(r *remote) *cobra.Command {
	var q api.WhatIfQuestion
	var set []string
	cmd := &cobra.Command{
		Use: "simulate [GROUP]", Short: "what a configuration would do, in virtual time: latencies over loads, and what fits",
		Example: "  perfctl optimize simulate chat --set max_num_seqs=256 --rate 20 --ttft 0.5\n  perfctl optimize simulate --model llama-3.1-8b --hardware h100-sxm --prompt 1000 --output 200 --ttft 0.5",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Group = args[0]
			}
			q.Settings = map[string]string{}
			for _, s := range set {
				name, value, ok := strings.Cut(s, "=")
				if !ok {
					return fmt.Errorf("--set %q is not KNOB=VALUE", s)
				}
				q.Settings[name] = value
			}
			var w api.WhatIf
			if err := r.client().Post(cmd.Context(), "/optimize/simulate", uuid.NewString(), q, &w); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), &w, whatIfTable)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Engine, "engine", "", "vllm, sglang or tgi; with --model")
	f.StringVar(&q.Model, "model", "", "without a group")
	f.StringVar(&q.Hardware, "hardware", "", "without a group, such as h100-sxm")
	f.IntVar(&q.Replicas, "replicas", 0, "default: as many as the group has")
	f.StringArrayVar(&set, "set", nil, "KNOB=VALUE on top of what runs; repeatable")
	f.Float64Var(&q.RequestsPerSecond, "rate", 0, "requests per second to answer for")
	f.Float64Var(&q.PromptTokens, "prompt", 0, "tokens of a mean prompt; default: the group's")
	f.Float64Var(&q.OutputTokens, "output", 0, "tokens of a mean answer; default: the group's")
	f.Float64Var(&q.PrefixHitRate, "prefix-hits", 0, "share of prompt tokens found in the prefix cache")
	f.Float64Var(&q.TTFTSeconds, "ttft", 0, "objective on the 95th percentile, in seconds; none of the three: the group's")
	f.Float64Var(&q.TPOTSeconds, "tpot", 0, "objective on the 95th percentile, in seconds")
	f.Float64Var(&q.E2ESeconds, "e2e", 0, "objective on the 95th percentile, in seconds")
	return cmd
}

func whatIfTable(w io.Writer, v any) {
	x := v.(*api.WhatIf)
	for _, n := range x.Notes {
		fmt.Fprintln(w, "· "+n)
	}
	c := x.Capacity
	fmt.Fprintf(w, "\n%d × %d GPUs\tfit\t90 %% interval\n", x.Replicas, x.GPUs)
	fmt.Fprintf(w, "requests per second\t%.2f\t%.2f to %.2f\n", c.RequestsPerSecond.Value, c.RequestsPerSecond.Low, c.RequestsPerSecond.High)
	fmt.Fprintf(w, "open requests\t%.0f\t%.0f to %.0f\n", c.Users.Value, c.Users.Low, c.Users.High)
	if c.ReplicasNeeded > 0 {
		fmt.Fprintf(w, "replicas for the rate asked for\t%d\n", c.ReplicasNeeded)
	}
	fmt.Fprintln(w, c.Why)
	fmt.Fprintln(w, "\nREQ/S\tTTFT P50\tTTFT P95\tTPOT P50\tTPOT P95\tE2E P95\tTOK/S\tMEETS")
	for _, p := range x.Curve {
		fmt.Fprintf(w, "%.2f", p.RequestsPerSecond)
		for _, name := range []string{"ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "e2e_p95"} {
			fmt.Fprintf(w, "\t%.3g s", p.Predicted[name].Value)
		}
		fmt.Fprintf(w, "\t%.0f\t%s\n", p.Predicted["throughput_tokens"].Value, map[bool]string{true: "yes", false: "no"}[p.Meets])
	}
	fmt.Fprintln(w, "\nUSERS OF A REPLICA\tTOK/S/USER\tTOK/S/GPU\tON THE FRONT")
	for _, p := range x.Pareto {
		fmt.Fprintf(w, "%d\t%.1f\t%.0f\t%s\n", p.Users, p.TokensPerSecondPerUser, p.TokensPerSecondPerGPU, map[bool]string{true: "yes", false: ""}[p.Best])
	}
}
