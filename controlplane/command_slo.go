package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

func sloCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{Use: "slo", Short: "objectives, error budgets, alerts and violations"}
	cmd.AddCommand(sloStatus(r), sloSet(r), sloDelete(r), sloBudget(r), sloAlerts(r), sloViolations(r), sloImport(r), sloExport(r), sloPolicy(r))
	return cmd
}

// listed is a command that shows a list of what is at a path.
func listed[T any](r *remote, use, short, path string, table func(io.Writer, []T)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				list := &api.List[T]{}
				return list, r.client().Get(ctx, path, list)
			}, func(w io.Writer, v any) { table(w, v.(*api.List[T]).Items) })
		},
	}
}

func sloStatus(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "status [NAME]", Short: "how objectives stand", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
					o := &api.Objective{}
					return o, r.client().Get(ctx, "/slo/"+args[0], o)
				}, func(w io.Writer, v any) { objectiveTable(w, v.(*api.Objective)) })
			}
			all := listed(r, "", "", "/slo/status", objectivesTable)
			all.SetOut(cmd.OutOrStdout())
			all.SetContext(cmd.Context())
			return all.RunE(all, nil)
		},
	}
}

func objectivesTable(w io.Writer, all []api.Objective) {
	fmt.Fprintln(w, "OBJECTIVE\tSTATE\tBUDGET LEFT\tBAD\tEVENTS\tPROMISE")
	for _, o := range all {
		b := o.Standing.Budget
		fmt.Fprintf(w, "%s\t%s\t%.4g %%\t%.0f\t%.0f\t%s\n", o.Name, o.Standing.State, 100*b.Left, b.Bad, b.Good+b.Bad, o.Promise)
	}
}

func objectiveTable(w io.Writer, o *api.Objective) {
	objectivesTable(w, []api.Objective{*o})
	fmt.Fprintln(w, "\nALERT\tSEVERITY\tWINDOWS\tTHRESHOLD\tBURN LONG\tBURN SHORT\tEVENTS\tFIRES")
	number := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.3g", *v)
	}
	for _, a := range o.Standing.Alerts {
		span := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		fires := "no"
		if a.Firing != nil {
			fires = "since " + clock(*a.Firing)
		}
		fmt.Fprintf(w, "%s\t%s\t%v, %v\t%.3g\t%s\t%s\t%.0f\t%s\n", a.Name, a.Severity, span(a.LongSeconds), span(a.ShortSeconds), a.Threshold, number(a.LongBurn), number(a.ShortBurn), a.Events, fires)
	}
}

func sloSet(r *remote) *cobra.Command {
	var o api.ObjectiveSpec
	var period time.Duration
	cmd := &cobra.Command{
		Use: "set NAME", Short: "create or replace an objective", Args: cobra.ExactArgs(1),
		Example: "  perfctl slo set chat-ttft --group chat --indicator ttft --bound 0.5 --target 0.95",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.PeriodSeconds = args[0], period.Seconds()
			var out api.Objective
			if err := r.client().Post(cmd.Context(), "/slo/configure", uuid.NewString(), o, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), &out, func(w io.Writer, _ any) { fmt.Fprintf(w, "%s: %s\n", out.Name, out.Promise) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Group, "group", "", "engines of a group, or")
	f.StringVar(&o.Model, "model", "", "engines that serve a model")
	f.StringVar(&o.Service, "service", "", "whose error budget it guards; the group or model when absent")
	f.StringVar(&o.Indicator, "indicator", "ttft", "availability, ttft, tpot, itl, e2e, goodput or queue_time")
	f.Float64Var(&o.BoundSeconds, "bound", 0, "seconds; of the first token for goodput")
	f.Float64Var(&o.TPOTBoundSeconds, "tpot-bound", 0, "seconds per output token, for goodput")
	f.Float64Var(&o.Target, "target", 0.95, "share of events that must be good")
	f.DurationVar(&period, "period", 30*24*time.Hour, "over which the budget is reckoned: one hour to 30 days")
	f.BoolVar(&o.Advisory, "advisory", false, "it alerts, and gates no rollout")
	return cmd
}

func sloDelete(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "remove an objective with its error budget", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.client().Delete(cmd.Context(), "/slo/"+args[0], nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "objective %s is removed\n", args[0])
			return nil
		},
	}
}

func sloBudget(r *remote) *cobra.Command {
	return listed(r, "budget", "error budgets, and what they allow of rollouts", "/slo/budget", func(w io.Writer, all []api.BudgetOf) {
		fmt.Fprintln(w, "OBJECTIVE\tSERVICE\tSTATE\tSPENT\tLEFT\tBAD\tALLOWED\tGATES")
		for _, b := range all {
			allowed, gates := "-", "yes"
			if b.Budget.Allowed != nil {
				allowed = fmt.Sprintf("%.0f", *b.Budget.Allowed)
			}
			if b.Advisory || b.Policy.Mode == "off" {
				gates = "no"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%.4g %%\t%.4g %%\t%.0f\t%s\t%s\n", b.Objective, b.Service, b.State, 100*b.Budget.Spent, 100*b.Budget.Left, b.Budget.Bad, allowed, gates)
		}
	})
}

func sloAlerts(r *remote) *cobra.Command {
	return listed(r, "alerts", "alerts that fire now", "/slo/alerts", func(w io.Writer, all []api.FiringAlert) {
		fmt.Fprintln(w, "OBJECTIVE\tALERT\tSEVERITY\tSINCE\tWHAT")
		for _, a := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.Objective, a.Alert, a.Severity, clock(a.Since), a.Summary)
		}
	})
}

func sloViolations(r *remote) *cobra.Command {
	return listed(r, "violations", "violations, newest first", "/slo/violations", func(w io.Writer, all []api.Violation) {
		fmt.Fprintln(w, "VIOLATION\tKIND\tBEGAN\tENDED\tBAD\tEVENTS\tROLLOUT\tCAUSE")
		for _, v := range all {
			ended := "lasts"
			if v.End != nil {
				ended = clock(*v.End)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%.0f\t%s\t%s\n", v.ID, v.Kind, clock(v.Start), ended, v.Bad, v.Total, orDash(v.RolloutID), orDash(v.Cause))
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func sloImport(r *remote) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "objectives from OpenSLO v1 documents; - is standard input", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			read := func() ([]byte, error) { return os.ReadFile(args[0]) }
			if args[0] == "-" {
				read = func() ([]byte, error) { return io.ReadAll(cmd.InOrStdin()) }
			}
			raw, err := read()
			if err != nil {
				return err
			}
			path := "/slo/import"
			if dry {
				path = client.Query(path, map[string]string{"dry_run": "true"})
			}
			var out api.Imported
			if err := r.client().Send(cmd.Context(), path, uuid.NewString(), "application/yaml", raw, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), &out, func(w io.Writer, _ any) {
				for _, name := range out.Objectives {
					fmt.Fprintln(w, name)
				}
				for _, text := range out.Remarks {
					fmt.Fprintln(w, "note:", text)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "read and check alone")
	return cmd
}

func sloExport(r *remote) *cobra.Command {
	var service, group string
	cmd := &cobra.Command{
		Use: "export", Short: "objectives as OpenSLO v1 documents", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := r.client().Raw(cmd.Context(), client.Query("/slo/export", map[string]string{"service": service, "group": group}))
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		},
	}
	cmd.Flags().StringVar(&service, "service", "", "those of a service")
	cmd.Flags().StringVar(&group, "group", "", "those of a group")
	return cmd
}

func sloPolicy(r *remote) *cobra.Command {
	var p api.BudgetPolicy
	cmd := &cobra.Command{
		Use: "policy SERVICE", Short: "what rollouts may do with a service's error budget; flags change it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var out api.BudgetPolicy
			path := "/slo/policy/" + args[0]
			var err error
			if p == (api.BudgetPolicy{}) {
				err = r.client().Get(cmd.Context(), path, &out)
			} else {
				err = r.client().Put(cmd.Context(), path, uuid.NewString(), p, &out)
			}
			if err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), &out, func(w io.Writer, _ any) {
				fmt.Fprintf(w, "mode %s: careful at %.3g %% left, restricted at %.3g %%, frozen at 0; a rollout may cost %.3g %%\n", out.Mode, 100*out.CarefulBelow, 100*out.RestrictedBelow, 100*out.SpendCap)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Mode, "mode", "", "enforce or off")
	f.Float64Var(&p.CarefulBelow, "careful-below", 0, "share left, such as 0.5")
	f.Float64Var(&p.RestrictedBelow, "restricted-below", 0, "share left, such as 0.25")
	f.Float64Var(&p.SpendCap, "spend-cap", 0, "share of a period's budget that one rollout may cost, such as 0.02")
	return cmd
}
