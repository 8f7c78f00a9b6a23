package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
	"github.com/optiinfra/performance-agent/pkg/load"
)

func testCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{Use: "test", Short: "load tests and comparisons of settings, on engines that serve no users"}
	cmd.AddCommand(testRun(r, false), testRun(r, true), testList(r), testShow(r), testCompare(r), testExport(r), testCancel(r))
	return cmd
}

// askFlags describe a test.
type askFlags struct {
	ask     load.Ask
	wait    bool
	prompts string
	trace   string
}

func (a *askFlags) common(f *pflag.FlagSet) {
	t := &a.ask.Traffic
	f.StringVar(&a.ask.Engine, "engine", "", "id or name of the engine; may be left out where the group has one")
	f.BoolVar(&a.ask.Twin, "twin", false, "run a model of the engine in virtual time instead: no engine is touched")
	f.StringToStringVar(&a.ask.Settings, "set", nil, "knob=value of the candidate, repeatable; the complete set on top of the operator's command line")
	f.StringVar(&a.ask.Consent, "consent", "", "your name, to accept load on an engine that serves users")
	f.StringVar(&t.Arrivals, "arrivals", "", "constant, poisson (default), gamma, bursty, closed or live")
	f.Float64Var(&t.Rate, "rate", 0, "requests per second; of live arrivals: a factor")
	f.Float64Var(&t.CV, "cv", 0, "variation of gamma and bursty arrivals")
	f.IntVar(&t.Concurrency, "concurrency", 0, "clients of a closed loop")
	f.StringVar(&t.Shape, "shape", "", "lengths as in a public trace: azure-conv, azure-code or arxiv-summary")
	f.Float64Var(&t.PromptTokens, "prompt-tokens", 0, "mean length of prompts")
	f.Float64Var(&t.OutputTokens, "output-tokens", 0, "mean length of answers")
	f.StringVar(&a.trace, "trace", "", "file with requests to send: JSON lines with at_seconds, prompt_tokens and output_tokens")
	f.Float64Var(&t.Duration, "duration", 60, "seconds that are measured")
	f.Float64Var(&t.WarmUp, "warm-up", 5, "seconds before them that are left out")
	f.Uint64Var(&t.Seed, "seed", 1, "equal seeds send equal traffic")
	f.Float64Var(&t.TTFT, "objective-ttft", 0, "seconds within which a good request has its first token")
	f.Float64Var(&t.TPOT, "objective-tpot", 0, "… and each further one on average")
	f.Float64Var(&t.E2E, "objective-e2e", 0, "… and is complete")
	f.BoolVar(&a.wait, "wait", false, "follow it until it ends")
}

func testRun(r *remote, validate bool) *cobra.Command {
	var a askFlags
	cmd := &cobra.Command{Use: "run GROUP", Short: "measure an engine, or its twin, under load", Args: cobra.ExactArgs(1)}
	path := "/test/run"
	if validate {
		path = "/test/validate"
		cmd.Use, cmd.Short = "validate GROUP --set KNOB=VALUE", "compare settings with what an engine runs"
		f := cmd.Flags()
		f.StringVar(&a.ask.Comparison.Primary, "primary", "", "what must improve: goodput, throughput, ttft, tpot or e2e")
		f.Float64Var(&a.ask.Comparison.MinEffect, "min-effect", 0, "improvement worth having (0.05: 5 %)")
		f.Float64Var(&a.ask.Comparison.Margin, "margin", 0, "how much worse the other figures may be; default 0.10")
		f.BoolVar(&a.ask.Quality.Always, "quality", false, "judge answers also of settings that should not change them")
		f.StringVar(&a.prompts, "prompts", "", "file with golden prompts of your own: JSON lines with prompt, expect and max_tokens")
	} else {
		f := cmd.Flags()
		f.IntVar(&a.ask.Repetitions, "repetitions", 0, "runs of each load")
		f.BoolVar(&a.ask.Restarts, "restarts", false, "restart the engine between repetitions")
		f.IntSliceVar(&a.ask.Concurrencies, "concurrencies", nil, "closed-loop sweep, such as 1,2,4,8")
		f.BoolVar(&a.ask.FindKnee, "find-knee", false, "find the highest rate that keeps the objectives")
	}
	a.common(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.ask.Group = args[0]
		if err := a.files(); err != nil {
			return err
		}
		if len(a.ask.Concurrencies) > 0 && a.ask.Traffic.Arrivals == "" {
			a.ask.Traffic.Arrivals, a.ask.Traffic.Concurrency = "closed", a.ask.Concurrencies[0]
		}
		var d load.Document
		if err := r.client().Post(cmd.Context(), path, uuid.NewString(), a.ask, &d); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "test %s\n", d.ID)
		if !a.wait {
			return nil
		}
		return followTest(cmd.Context(), r, d.ID, cmd.OutOrStdout())
	}
	return cmd
}

// files reads what is named by file.
func (a *askFlags) files() (err error) {
	if a.ask.Traffic.Trace, err = readLines[load.Row](a.trace); err != nil {
		return err
	}
	a.ask.Quality.Prompts, err = readLines[load.GoldPrompt](a.prompts)
	return err
}

// readLines reads a file with one JSON object a line; without a name there are none.
func readLines[T any](file string) (out []T, err error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var v T
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, n, err)
		}
		out = append(out, v)
	}
	return out, lines.Err()
}

// followTest prints what happens until the test ends.
func followTest(ctx context.Context, r *remote, id string, out io.Writer) error {
	seen, runs := 0, 0
	var d load.Document
	err := client.Wait(ctx, time.Second, func(ctx context.Context) (bool, error) {
		d = load.Document{}
		if err := r.client().Get(ctx, "/test/results/"+id, &d); err != nil {
			if errors.Is(err, client.ErrUnreachable) {
				fmt.Fprintln(os.Stderr, err)
				return false, nil // a node may be restarting; ^C ends the wait
			}
			return false, err
		}
		for _, n := range d.Notes[min(seen, len(d.Notes)):] {
			fmt.Fprintf(out, "%s  %s\n", n.At.Local().Format(time.TimeOnly), n.Text)
		}
		for _, f := range d.Runs[min(runs, len(d.Runs)):] {
			fmt.Fprintf(out, "%s  run %d, %s, %s: %s\n", f.At.Local().Format(time.TimeOnly), f.Number, f.Arm, f.Load, runWords(f))
		}
		seen, runs = len(d.Notes), len(d.Runs)
		return d.Ended != nil, nil
	})
	if err != nil {
		return err
	}
	if d.State != "done" {
		return fmt.Errorf("test %s %s: %s", id, d.State, d.EndReason)
	}
	return r.print(out, &d, testTable)
}

func runWords(f load.Finished) string {
	if f.Quality {
		return fmt.Sprintf("%.0f unanswered", f.Figures["failed"])
	}
	text := fmt.Sprintf("%.0f requests, %.0f failed, TTFT p95 %.3f s, E2E p95 %.3f s, %.1f tokens/s, %.0f %% good",
		f.Figures["requests"], f.Figures["failed"], f.Figures["ttft_p95"], f.Figures["e2e_p95"], f.Figures["tokens_per_second"], 100*f.Figures["good_share"])
	if f.Stopped != "" {
		text += "; ended early: " + f.Stopped
	}
	return text
}

func testList(r *remote) *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use: "list", Short: "tests, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				list := &api.List[load.Document]{}
				return list, r.client().Get(ctx, client.Query("/test/results", map[string]string{"group": group}), list)
			}, func(w io.Writer, v any) {
				fmt.Fprintln(w, "TEST\tKIND\tGROUP\tSTATE\tVERDICT\tRUNS\tSUMMARY")
				for _, d := range v.(*api.List[load.Document]).Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s%s\n", d.ID, d.Kind, d.Group, d.State, d.Verdict, len(d.Runs), d.Summary, d.EndReason)
				}
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "of this group alone")
	return cmd
}

func testShow(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "one test with its figures", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				d := &load.Document{}
				return d, r.client().Get(ctx, "/test/results/"+args[0]+"?reports=true", d)
			}, testTable)
		},
	}
}

// testTable shows a test: its verdict, its comparison, and of a run the last run's table.
func testTable(w io.Writer, v any) {
	d := v.(*load.Document)
	fmt.Fprintf(w, "test %s (%s of group %s) is %s", d.ID, d.Kind, d.Group, d.State)
	if d.Twin {
		fmt.Fprint(w, "; SIMULATED: a twin was run, no engine")
	}
	fmt.Fprintf(w, "\n%s%s%s\n", prefixed(d.Verdict), d.Summary, d.EndReason)
	if c := d.Comparison; c != nil {
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "METRIC\tBASELINE\tCANDIDATE\tRATIO\tLOW\tHIGH\tNOISE\tMANN-WHITNEY P\tOBJECTIVE")
		for _, m := range c.Metrics {
			fmt.Fprintf(t, "%s (%s)\t%.4g\t%.4g\t%.3f\t%.3f\t%.3f\t%.1f %%\t%.2g\t%s\n", m.Name, m.Unit, m.Baseline, m.Candidate, m.Ratio, m.Low, m.High, 100*m.Noise, m.MannWhitney, m.Attained)
		}
		_ = t.Flush() // w shows its own errors
	}
	if q := d.Quality; q != nil {
		fmt.Fprintf(w, "answers: %s\n", q.Words)
	}
	for _, f := range slices.Backward(d.Runs) {
		if f.Report != nil && d.Kind == "run" {
			fmt.Fprintf(w, "\nrun %d: %s\n", f.Number, f.Load)
			_ = f.Report.Summary.Table(w) // w shows its own errors
			return
		}
	}
}

func prefixed(verdict string) string {
	if verdict == "" {
		return ""
	}
	return verdict + ": "
}

// testCompare puts the figures of two tests side by side, by the means over their runs. It claims
// nothing: a validation does.
func testCompare(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "compare ID ID", Short: "figures of two tests side by side; whether they differ for certain is for validate to say", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.show(cmd.Context(), cmd.OutOrStdout(), func(ctx context.Context) (any, error) {
				two := make([]load.Document, len(args))
				for k, id := range args {
					if err := r.client().Get(ctx, "/test/results/"+id, &two[k]); err != nil {
						return nil, err
					}
				}
				return two, nil
			}, func(w io.Writer, v any) {
				two := v.([]load.Document)
				fmt.Fprintf(w, "FIGURE\t%s\t%s\tRATIO\n", two[0].ID, two[1].ID)
				for _, name := range figureNames {
					a, b := meanFigure(two[0], name), meanFigure(two[1], name)
					ratio := "-"
					if a > 0 {
						ratio = fmt.Sprintf("%.3f", b/a)
					}
					fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%s\n", name, a, b, ratio)
				}
			})
		},
	}
}

var figureNames = []string{"asked", "requests", "failed", "good_share", "goodput", "tokens_per_second", "ttft_p95", "tpot_p95", "e2e_p95"}

// meanFigure over the runs of a test that sent load; 0 without any.
func meanFigure(d load.Document, name string) float64 {
	var sum, n float64
	for _, f := range d.Runs {
		if !f.Quality {
			sum, n = sum+f.Figures[name], n+1
		}
	}
	return sum / max(n, 1)
}

func testExport(r *remote) *cobra.Command {
	var format, file string
	cmd := &cobra.Command{
		Use: "export ID", Short: "write a test as json, csv or html", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/test/results/" + args[0] + "/export?format=" + format
			if format == "json" {
				path = "/test/results/" + args[0] + "?reports=true"
			}
			raw, err := r.client().Raw(cmd.Context(), path)
			if err != nil {
				return err
			}
			if file == "" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			return os.WriteFile(file, raw, 0o644)
		},
	}
	cmd.Flags().StringVar(&format, "format", "html", "json, csv or html")
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write; nothing: to standard output")
	return cmd
}

func testCancel(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "rm ID", Short: "cancel a test that runs, or delete one that has ended", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done api.Removed
			if err := r.client().Delete(cmd.Context(), "/test/"+args[0], &done); err != nil {
				return err
			}
			what := "deleted"
			if done.Cancelled {
				what = "cancelled"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "test %s is %s\n", done.ID, what)
			return err
		},
	}
}
