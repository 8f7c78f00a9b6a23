package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

func statusCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "the control plane and its groups at a glance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type status struct {
				Cluster api.ClusterHealth `json:"cluster"`
				Groups  []api.Group       `json:"groups"`
				Active  []api.Rollout     `json:"rollouts"`
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				var s status
				var groups api.List[api.Group]
				var rollouts api.List[api.Rollout]
				err := r.read(ctx, map[string]any{"/health/cluster": &s.Cluster, "/groups": &groups, "/rollout/status": &rollouts})
				s.Groups, s.Active = groups.Items, rollouts.Items
				return &s, err
			}, func(w io.Writer, v any) {
				s := v.(*status)
				fmt.Fprintf(w, "node %s is %s of term %d; leader %s; %d members\n\n", s.Cluster.NodeID, s.Cluster.State, s.Cluster.Term, s.Cluster.LeaderID, len(s.Cluster.Members))
				groupsTable(w, &api.List[api.Group]{Items: s.Groups})
				if len(s.Active) > 0 {
					fmt.Fprintln(w)
					rolloutsTable(w, &api.List[api.Rollout]{Items: s.Active})
				}
			})
		},
	}
}

func topCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "top", Short: "load and latency of each group over the last minute", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type row struct {
				Group      string         `json:"group"`
				Throughput api.Throughput `json:"throughput"`
				Latency    api.Latency    `json:"latency"`
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				var groups api.List[api.Group]
				if err := r.client().Get(ctx, "/groups", &groups); err != nil {
					return nil, err
				}
				rows := []row{}
				for _, g := range groups.Items {
					x := row{Group: g.Name}
					q := map[string]string{"group": g.Name}
					err := r.read(ctx, map[string]any{client.Query("/metrics/throughput", q): &x.Throughput, client.Query("/metrics/latency", q): &x.Latency})
					if err != nil {
						return nil, err
					}
					rows = append(rows, x)
				}
				return rows, nil
			}, func(w io.Writer, v any) {
				fmt.Fprintln(w, "GROUP\tREQ/S\tTOK/S\tRUNNING\tWAITING\tTTFT P50\tTTFT P95\tE2E P95")
				for _, x := range v.([]row) {
					t := x.Throughput
					fmt.Fprintf(w, "%s\t%.2f\t%.0f\t%.1f\t%.1f\t%s\t%s\t%s\n", x.Group, t.RequestsPerSecond, t.GenerationTokensPerSecond, t.Running, t.Waiting,
						quantile(x.Latency, "ttft_seconds", false), quantile(x.Latency, "ttft_seconds", true), quantile(x.Latency, "e2e_seconds", true))
				}
			})
		},
	}
}

func quantile(l api.Latency, metric string, p95 bool) string {
	for _, d := range l.Distributions {
		v := d.P50
		if p95 {
			v = d.P95
		}
		if d.Metric == metric && v != nil {
			return fmt.Sprintf("%.3f s", *v)
		}
	}
	return "-"
}

func optimizeCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{
		Use: "optimize FAMILY GROUP", Short: "propose settings: FAMILY is kv-cache, quantize, batch or parallelism", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var rec api.Recommendation
			if err := r.client().Post(cmd.Context(), "/optimize/"+args[0], uuid.NewString(), map[string]string{"group": args[1]}, &rec); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), &rec, func(w io.Writer, _ any) {
				fmt.Fprintf(w, "%s\n\nfinding: %s\n", rec.Title, rec.Finding.Summary)
				for _, e := range append(rec.Finding.Evidence, rec.Evidence...) {
					fmt.Fprintf(w, "  · %s\n", e)
				}
				if rec.CommandLine != "" {
					fmt.Fprintf(w, "\nby hand: %s\napprove: perfctl approve %s\n", rec.CommandLine, rec.ID)
				}
			})
		},
	}
	cmd.AddCommand(simulateCommand(r))
	return cmd
}

func approveCommand(r *remote) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "approve ID", Short: "approve a recommendation or a waiting workflow", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/optimize/recommendations/" + args[0] + "/approve"
			if strings.HasPrefix(args[0], "w-") {
				path = "/workflows/" + args[0] + "/approve"
			}
			return r.post(cmd, path, map[string]string{"reason": reason})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

// post sends a change and prints the answer.
func (r *remote) post(cmd *cobra.Command, path string, in any) error {
	var out any
	if err := r.client().Post(cmd.Context(), path, uuid.NewString(), in, &out); err != nil {
		return err
	}
	return r.print(cmd.OutOrStdout(), out, func(w io.Writer, v any) {
		raw, err := yaml.Marshal(v)
		if err != nil {
			raw = []byte(err.Error())
		}
		_, _ = w.Write(raw) // a closed pipe ends the command anyway
	})
}

func workflowCommand(r *remote) *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use: "workflow GROUP", Short: "start the pipeline for a group: collect, diagnose, propose, roll out", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]string{"group": args[0]}
			if mode != "" {
				in["mode"] = mode
			}
			return r.post(cmd, "/workflows", in)
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "advise, approve or auto; default: the group's")
	return cmd
}

func rolloutCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "start, watch and steer rollouts"}
	cmd.AddCommand(rolloutStart(r), rolloutStatus(r))
	for name, step := range map[string]struct{ path, short string }{
		"pause":   {"/rollout/pause", "pause; guards keep running"},
		"resume":  {"/rollout/resume", "go on after a pause"},
		"promote": {"/rollout/promote", "pass the present wave without waiting for more evidence"},
		"abort":   {"/rollout/rollback", "take the change back"},
	} {
		var reason string
		c := &cobra.Command{
			Use: name + " ID", Short: step.short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return r.post(cmd, step.path, map[string]string{"id": args[0], "reason": reason})
			},
		}
		c.Flags().StringVar(&reason, "reason", "", "why, for the record")
		cmd.AddCommand(c)
	}
	return cmd
}

func rolloutStart(r *remote) *cobra.Command {
	var settings map[string]string
	var reason string
	var wait, override, fix, approved bool
	cmd := &cobra.Command{
		Use: "start GROUP", Short: "roll settings out in waves", Args: cobra.ExactArgs(1),
		Example: "  perfctl rollout start chat --set max_num_seqs=256 --wait",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(settings) == 0 {
				return errors.New("nothing to change: give at least one --set knob=value")
			}
			var out api.Rollout
			in := map[string]any{"group": args[0], "settings": settings, "reason": reason, "override_quarantine": override, "fix": fix, "approved": approved}
			if err := r.client().Post(cmd.Context(), "/rollout/start", uuid.NewString(), in, &out); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "rollout %s is %s\n", out.ID, out.State)
			if !wait {
				return nil
			}
			return followRollout(cmd.Context(), r.client(), out.ID, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringToStringVar(&settings, "set", nil, "knob=value, repeatable; the complete set on top of the operator's command line")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&wait, "wait", false, "follow it until it ends; exit 1 unless it succeeds")
	cmd.Flags().BoolVar(&fix, "fix", false, "it repairs what burns the error budget: a freeze does not hold it")
	cmd.Flags().BoolVar(&approved, "approved", false, "what it may cost of the error budget is accepted")
	cmd.Flags().BoolVar(&override, "override-quarantine", false, "offer a configuration that failed here before")
	return cmd
}

func rolloutStatus(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "status [ID]", Short: "rollouts under way, or one in full", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				d := describeCommand(r)
				d.SetOut(cmd.OutOrStdout())
				return d.RunE(cmd, []string{"rollout", args[0]})
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				list := &api.List[api.Rollout]{}
				return list, r.client().Get(ctx, "/rollout/status", list)
			}, rolloutsTable)
		},
	}
}

// followRollout prints a rollout's notes as they come and returns an error unless it succeeds.
func followRollout(ctx context.Context, c *client.Client, id string, out io.Writer) error {
	seen := 0
	var last api.Rollout
	err := client.Wait(ctx, time.Second, func(ctx context.Context) (bool, error) {
		var now api.Rollout
		if err := c.Get(ctx, "/rollout/"+id, &now); err != nil {
			if errors.Is(err, client.ErrUnreachable) {
				fmt.Fprintln(os.Stderr, err)
				return false, nil // a node may be restarting; ^C ends the wait
			}
			return false, err
		}
		for _, n := range now.Notes[min(seen, len(now.Notes)):] {
			fmt.Fprintf(out, "%s  %s\n", n.At.Local().Format(time.TimeOnly), n.Text)
		}
		seen, last = len(now.Notes), now
		return now.Ended != nil, nil
	})
	if err != nil {
		return err
	}
	if last.State != "succeeded" {
		return fmt.Errorf("rollout %s ended %s: %s", id, last.State, last.EndReason)
	}
	fmt.Fprintf(out, "rollout %s succeeded\n", id)
	return nil
}

func eventsCommand(r *remote) *cobra.Command {
	var since uint64
	cmd := &cobra.Command{
		Use: "events", Short: "follow the fleet's history", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := r.client().Events(cmd.Context(), since, func(e api.Event) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %-10s %s\n", e.At.Local().Format(time.TimeOnly), e.Group, e.Text)
				return err
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().Uint64Var(&since, "since", 0, "log index after which to begin")
	return cmd
}
