package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/agent/loadtest"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	targets          []string
	policy, model    string
	traffic          trafficOptions
	objectives       loadtest.Objectives
	out, summary     string
	from, to         time.Duration
	timeout, drained time.Duration
}

func newBenchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench --target URL[,READY-URL][,API]",
		Short: "Send open-loop traffic to engines and measure it as their users would",
		Long: `Send open-loop traffic to engines and measure it as their users would.

Requests go out when they are due, however slowly the others are answered, and latencies count from
that moment. Several targets stand for replicas behind one service: with a ready URL, a target gets
requests only while that answers 200.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return o.run(ctx, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.targets, "target", nil, "engine to send to: URL, where it says that it is ready, and its API (openai-completions, openai-chat, sglang-generate, tgi-generate_stream); repeatable")
	f.StringVar(&o.policy, "policy", string(loadtest.RoundRobin), "round_robin, random or least_inflight")
	f.StringVar(&o.model, "model", "", "model name to send")
	f.StringVar(&o.traffic.workload, "workload", poisson, "azure-conv, azure-code, arxiv or poisson")
	f.StringVar(&o.traffic.trace, "trace", "", "replay this file instead: Azure's CSV or Mooncake's JSON lines")
	f.Float64Var(&o.traffic.scale, "rate-scale", 1, "factor on the workload's own rate")
	f.Float64Var(&o.traffic.rate, "rate", 1, "requests per second of poisson")
	f.IntVar(&o.traffic.promptTokens, "prompt-tokens", 512, "prompt length of poisson")
	f.IntVar(&o.traffic.outputTokens, "output-tokens", 128, "answer length of poisson")
	f.IntVar(&o.traffic.maxPromptTokens, "max-prompt-tokens", 0, "cut longer prompts; 0: no limit")
	f.IntVar(&o.traffic.maxOutputTokens, "max-output-tokens", 0, "cut longer answers; 0: no limit")
	f.DurationVar(&o.traffic.duration, "duration", time.Minute, "how long to send; 0: the whole workload")
	f.Uint64Var(&o.traffic.seed, "seed", 1, "equal seeds send equal traffic")
	f.DurationVar(&o.objectives.TTFT, "objective-ttft", 0, "a request is good when its first token comes within this time")
	f.DurationVar(&o.objectives.TPOT, "objective-tpot", 0, "… and each further one takes at most this on average")
	f.DurationVar(&o.objectives.E2E, "objective-e2e", 0, "… and it is complete within this time")
	f.StringVar(&o.out, "out", "", "write one JSON line per request to this file")
	f.StringVar(&o.summary, "summary", "", "write the summary as JSON to this file")
	f.DurationVar(&o.from, "from", 0, "leave requests due before this time out of the summary")
	f.DurationVar(&o.to, "to", 0, "leave requests due after this time out of the summary; 0: none")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "longest time for one request")
	f.DurationVar(&o.drained, "drain-wait", 30*time.Second, "longest wait for open requests at the end")
	return cmd
}

// run sends the traffic and prints the summary. An early end by signal is summarised too.
func (o *benchOptions) run(ctx context.Context, stdout io.Writer) (err error) {
	cfg := loadtest.Config{
		Policy: loadtest.Policy(o.policy), Duration: o.traffic.duration, Model: o.model, Seed: o.traffic.seed,
		Timeout: o.timeout, DrainWait: o.drained, Logger: newLogger("warn"),
	}
	var faults []error
	for _, t := range o.targets {
		target, err := parseTarget(t)
		cfg.Targets, faults = append(cfg.Targets, target), append(faults, err)
	}
	if cfg.Source, err = o.traffic.source(); err != nil {
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	var records []loadtest.Record
	cfg.OnRecord = func(r loadtest.Record) { records = append(records, r) }
	if o.out != "" {
		log, closeLog, err := openRequestLog(o.out)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeLog()) }()
		cfg.OnRecord = func(r loadtest.Record) {
			records = append(records, r)
			log.Add(r)
		}
	}
	runner, err := loadtest.New(cfg)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := runner.Run(ctx); err != nil {
		return err
	}
	return o.report(stdout, records, start)
}

// report writes the summary of the span that was asked for.
func (o *benchOptions) report(stdout io.Writer, records []loadtest.Record, start time.Time) error {
	from, to := start.Add(o.from), time.Time{}
	if o.to > 0 {
		to = start.Add(o.to)
	}
	s := loadtest.Summarize(records, from, to, o.objectives)
	if o.summary != "" {
		raw, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return fmt.Errorf("encode summary: %w", err)
		}
		if err := os.WriteFile(o.summary, append(raw, '\n'), 0o644); err != nil {
			return fmt.Errorf("write summary: %w", err)
		}
	}
	return printSummary(stdout, s)
}

// parseTarget reads URL[,READY-URL][,API] in which an API is told by having no "://".
func parseTarget(text string) (loadtest.Target, error) {
	parts := strings.Split(text, ",")
	t := loadtest.Target{URL: parts[0], API: loadtest.OpenAICompletions}
	for _, p := range parts[1:] {
		if strings.Contains(p, "://") {
			t.ReadyURL = p
		} else {
			t.API = loadtest.API(p)
		}
	}
	if len(parts) > 3 {
		return t, fmt.Errorf("--target %q has more than URL, READY-URL and API", text)
	}
	return t, t.Validate()
}

// openRequestLog makes the file that gets one line per request, at once, so that others can follow.
func openRequestLog(file string) (*loadtest.Log, func() error, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, nil, fmt.Errorf("write requests: %w", err)
	}
	log := loadtest.NewLog(f)
	return log, func() error { return errors.Join(log.Err(), f.Close()) }, nil
}

func printSummary(w io.Writer, s loadtest.Summary) error {
	fmt.Fprintf(w, "%d requests in %.1f s: %d succeeded, %d failed", s.Requests, s.Seconds, s.Succeeded, s.Failed)
	for why, n := range s.FailedBy {
		fmt.Fprintf(w, " (%s %d)", why, n)
	}
	fmt.Fprintf(w, "\n%.2f requests/s, %.0f output tokens/s; good %d of %d (%.1f %%)\n",
		s.RequestsPerSec, s.OutputTokensPerSec, s.Good, s.Requests, 100*s.GoodFraction)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "seconds\tmean\tp50\tp95\tp99\t")
	for _, row := range []struct {
		name string
		l    loadtest.Latency
	}{{"TTFT", s.TTFT}, {"TPOT", s.TPOT}, {"ITL", s.ITL}, {"E2E", s.E2E}} {
		fmt.Fprintf(t, "%s\t%.4f\t%.4f\t%.4f\t%.4f\t\n", row.name, row.l.Mean, row.l.P50, row.l.P95, row.l.P99)
	}
	return t.Flush()
}
