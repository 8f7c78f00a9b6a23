package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/load"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	targets          []string
	policy, model    string
	traffic          trafficOptions
	objectives       load.Objectives
	out, summary     string
	save             string
	vocabulary       int
	headers          []string
	synthetic        bool
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
requests only while that answers 200, and a request that finds no connection goes to the next one.

The table and the file of --save have the form of vllm bench serve; there, latencies count from when
a request was sent.`,
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
	f.StringVar(&o.traffic.prompts, "prompts", "", "take prompts and answer lengths in turn from this file: JSON lines with prompt and output_tokens")
	f.IntVar(&o.vocabulary, "vocabulary", 0, "send generated prompts as token ids below this number, so that lengths are exact; 0: as words")
	f.IntVar(&o.traffic.sharedGroups, "shared-prefix-groups", 0, "begin each prompt with one of so many common prefixes")
	f.IntVar(&o.traffic.sharedTokens, "shared-prefix-tokens", 0, "length of those prefixes")
	f.StringArrayVar(&o.headers, "header", nil, "'Name: value' to send with each request; repeatable")
	f.BoolVar(&o.synthetic, "synthetic", false, "mark requests as no user's, so that a sidecar beside the engine leaves them out of users' latencies")
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
	f.StringVar(&o.save, "save", "", "write requests and summary to this file, in the form of vllm bench serve --save-result --save-detailed")
	f.DurationVar(&o.from, "from", 0, "leave requests due before this time out of the summary")
	f.DurationVar(&o.to, "to", 0, "leave requests due after this time out of the summary; 0: none")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "longest time for one request")
	f.DurationVar(&o.drained, "drain-wait", 30*time.Second, "longest wait for open requests at the end")
	return cmd
}

// run sends the traffic and prints the summary. An early end by signal is summarised too.
func (o *benchOptions) run(ctx context.Context, stdout io.Writer) (err error) {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	var records []load.Record
	cfg.OnRecord = func(r load.Record) { records = append(records, r) }
	if o.out != "" {
		log, closeLog, err := openRequestLog(o.out)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeLog()) }()
		cfg.OnRecord = func(r load.Record) {
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

// config reports all faults together.
func (o *benchOptions) config() (loadtest.Config, error) {
	cfg := loadtest.Config{
		Policy: loadtest.Policy(o.policy), Duration: o.traffic.duration, Model: o.model, Seed: o.traffic.seed, Vocabulary: o.vocabulary,
		Timeout: o.timeout, DrainWait: o.drained, Logger: newLogger("warn"), Header: http.Header{},
	}
	var faults []error
	for _, t := range o.targets {
		target, err := parseTarget(t)
		cfg.Targets, faults = append(cfg.Targets, target), append(faults, err)
	}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			faults = append(faults, errors.New("a --header is not 'Name: value'"))
		}
		cfg.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if o.synthetic {
		cfg.Header.Set(loadtest.Synthetic, "1")
	}
	source, err := o.traffic.source()
	cfg.Source = source
	return cfg, errors.Join(append(faults, err)...)
}

// report writes the summary of the span that was asked for.
func (o *benchOptions) report(stdout io.Writer, records []load.Record, start time.Time) error {
	from, to := start.Add(o.from), time.Time{}
	if o.to > 0 {
		to = start.Add(o.to)
	}
	s := load.Summarize(records, from, to, o.objectives)
	if o.summary != "" {
		raw, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return fmt.Errorf("encode summary: %w", err)
		}
		if err := os.WriteFile(o.summary, append(raw, '\n'), 0o644); err != nil {
			return fmt.Errorf("write summary: %w", err)
		}
	}
	if err := o.saveResult(load.NewResult(records, s, o.model)); err != nil {
		return err
	}
	return s.Table(stdout)
}

func (o *benchOptions) saveResult(r load.Result) error {
	if o.save == "" {
		return nil
	}
	f, err := os.Create(o.save)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return errors.Join(r.Write(f), f.Close())
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
func openRequestLog(file string) (*load.Log, func() error, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, nil, fmt.Errorf("write requests: %w", err)
	}
	log := load.NewLog(f)
	return log, func() error { return errors.Join(log.Err(), f.Close()) }, nil
}
