package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// remote holds what every client command needs.
type remote struct {
	addr   string
	output string
	watch  bool
}

// flags adds the options that all client commands share.
func (r *remote) flags(cmd *cobra.Command) {
	addr := os.Getenv("PERF_ADDR")
	if addr == "" {
		addr = client.DefaultAddr
	}
	cmd.PersistentFlags().StringVar(&r.addr, "addr", addr, "control plane's address (PERF_ADDR)")
	cmd.PersistentFlags().StringVarP(&r.output, "output", "o", "table", "table, json or yaml")
	cmd.PersistentFlags().BoolVarP(&r.watch, "watch", "w", false, "print again every two seconds")
}

func (r *remote) client() *client.Client { return client.New(r.addr) }

// read fills several answers, until one cannot be had.
func (r *remote) read(ctx context.Context, answers map[string]any) error {
	for path, into := range answers {
		if err := r.client().Get(ctx, path, into); err != nil {
			return err
		}
	}
	return nil
}

// show reads once, or again and again with --watch, and prints as asked.
func (r *remote) show(ctx context.Context, out io.Writer, read func(context.Context) (any, error), table func(io.Writer, any)) error {
	for {
		v, err := read(ctx)
		if err != nil {
			return err
		}
		if err := r.print(out, v, table); err != nil {
			return err
		}
		if !r.watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
			fmt.Fprintln(out)
		}
	}
}

func (r *remote) print(out io.Writer, v any, table func(io.Writer, any)) error {
	switch r.output {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		raw, err := yaml.MarshalWithOptions(v, yaml.UseJSONMarshaler())
		if err != nil {
			return err
		}
		_, err = out.Write(raw)
		return err
	case "table":
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		table(w, v)
		return w.Flush()
	}
	return fmt.Errorf("output %q is not known: use table, json or yaml", r.output)
}

// kinds that get and describe know: where to read them and how a table shows them.
var kinds = map[string]struct {
	path  string
	read  func() any
	table func(io.Writer, any)
}{
	"agents":          {"/agents", func() any { return &api.List[api.Agent]{} }, agentsTable},
	"engines":         {"/agents", func() any { return &api.List[api.Agent]{} }, enginesTable},
	"groups":          {"/groups", func() any { return &api.List[api.Group]{} }, groupsTable},
	"recommendations": {"/optimize/recommendations", func() any { return &api.List[api.Recommendation]{} }, recommendationsTable},
	"rollouts":        {"/rollout/history", func() any { return &api.List[api.Rollout]{} }, rolloutsTable},
	"workflows":       {"/workflows", func() any { return &api.List[api.Workflow]{} }, workflowsTable},
}

const kindNames = "agents, engines, groups, recommendations, rollouts, workflows"

func getCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "get KIND", Short: "list " + kindNames, Args: cobra.ExactArgs(1),
		ValidArgs: strings.Split(kindNames, ", "),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, ok := kinds[args[0]]
			if !ok {
				return fmt.Errorf("there is no kind %q: use one of %s", args[0], kindNames)
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				list := kind.read()
				if err := r.client().Get(ctx, kind.path, list); err != nil {
					return nil, err
				}
				if args[0] != "rollouts" {
					return list, nil
				}
				active := kind.read()
				if err := r.client().Get(ctx, "/rollout/status", active); err != nil {
					return nil, err
				}
				all := active.(*api.List[api.Rollout])
				all.Items = append(all.Items, list.(*api.List[api.Rollout]).Items...)
				return all, nil
			}, kind.table)
		},
	}
}

var describePaths = map[string]string{
	"agent": "/agents/", "group": "/groups/", "recommendation": "/optimize/recommendations/",
	"rollout": "/rollout/", "workflow": "/workflows/",
}

func describeCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND ID", Short: "show one agent, group, recommendation, rollout or workflow in full", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, ok := describePaths[strings.TrimSuffix(args[0], "s")]
			if !ok {
				return fmt.Errorf("there is no kind %q: use agent, group, recommendation, rollout or workflow", args[0])
			}
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				var v any
				err := r.client().Get(ctx, path+args[1], &v)
				return v, err
			}, func(w io.Writer, v any) {
				raw, err := yaml.Marshal(v)
				if err != nil {
					raw = []byte(err.Error())
				}
				_, _ = w.Write(raw) // a closed pipe ends the command anyway
			})
		},
	}
}

func agentsTable(w io.Writer, v any) {
	fmt.Fprintln(w, "AGENT\tREACHABLE\tENGINES")
	for _, a := range v.(*api.List[api.Agent]).Items {
		fmt.Fprintf(w, "%s\t%t\t%d\n", a.ID, a.Reachable, len(a.Engines))
	}
}

func enginesTable(w io.Writer, v any) {
	fmt.Fprintln(w, "ENGINE\tGROUP\tKIND\tVERSION\tPHASE\tIN ROTATION\tEPOCH\tHEALTH")
	for _, a := range v.(*api.List[api.Agent]).Items {
		for _, e := range a.Engines {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%t\t%d\t%s\n", e.Name, e.Group, e.Engine, e.Version, e.Phase, e.Serving, e.RunningEpoch, healthWords(e))
		}
	}
}

// healthWords of an engine; while it is not serving, with the last step that its log shows.
func healthWords(e api.Engine) string {
	if n := len(e.StartSteps); n > 0 {
		return strings.TrimPrefix(e.Health+"; its log: "+e.StartSteps[n-1], "; ")
	}
	return e.Health
}

func groupsTable(w io.Writer, v any) {
	fmt.Fprintln(w, "GROUP\tENGINE\tMODE\tREPLICAS\tSERVING\tEPOCH\tHELD BY")
	for _, g := range v.(*api.List[api.Group]).Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", g.Name, g.Engine, g.Mode, g.Replicas, g.Serving, g.PromotedEpoch, g.LockHolder)
	}
}

func recommendationsTable(w io.Writer, v any) {
	fmt.Fprintln(w, "RECOMMENDATION\tGROUP\tSTATUS\tRISK\tTITLE")
	for _, r := range v.(*api.List[api.Recommendation]).Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, r.Group, r.Status, r.Risk, r.Title)
	}
}

func rolloutsTable(w io.Writer, v any) {
	fmt.Fprintln(w, "ROLLOUT\tGROUP\tSTATE\tWAVES\tEPOCH\tREASON")
	for _, r := range v.(*api.List[api.Rollout]).Items {
		reason := r.Reason
		if r.EndReason != "" {
			reason = r.EndReason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.ID, r.Group, r.State, len(r.Waves), r.Epoch, reason)
	}
}

func workflowsTable(w io.Writer, v any) {
	fmt.Fprintln(w, "WORKFLOW\tGROUP\tMODE\tSTATE\tLAST")
	for _, f := range v.(*api.List[api.Workflow]).Items {
		last := f.EndReason
		if last == "" && len(f.Notes) > 0 {
			last = f.Notes[len(f.Notes)-1].Text
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.ID, f.Group, f.Mode, f.State, last)
	}
}
