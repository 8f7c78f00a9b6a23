package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/experiment"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/optimizer"
	"github.com/optiinfra/performance-agent/controlplane/rollout"
	"github.com/optiinfra/performance-agent/controlplane/sidecar"
	"github.com/optiinfra/performance-agent/controlplane/slo"
	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/promapi"
	"github.com/optiinfra/performance-agent/controlplane/workflow"
	"github.com/optiinfra/performance-agent/pkg/otlp"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/version"
)

func serveCommand() *cobra.Command {
	var file, level string
	cmd := &cobra.Command{
		Use: "serve", Short: "run one control-plane node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := LoadConfig(file)
			if err != nil {
				return err
			}
			if level != "" {
				c.LogLevel = level
			}
			return serve(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "YAML configuration; defaults serve one node on loopback")
	cmd.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error")
	return cmd
}

// serve runs a node until ctx ends.
func serve(ctx context.Context, c Config) error {
	logger, err := newLogger(c.LogLevel)
	if err != nil {
		return err
	}
	tables, err := loadTables(c.Tables)
	if err != nil {
		return err
	}
	evidence, err := openEvidence(filepath.Join(c.DataDir, "evidence"))
	if err != nil {
		return err
	}
	// Ports first: a taken one is the commonest mistake, and nothing is half started then.
	rest, err := listen("REST", c.Listen)
	if err != nil {
		return err
	}
	defer rest.Close()
	agents, err := listen("agent", c.Agents)
	if err != nil {
		return err
	}
	defer agents.Close()

	machine := fsm.New()
	node := cluster.New(c.cluster(), machine, logger)
	if err := node.Open(ctx); err != nil {
		return err
	}
	windows := telemetry.New(telemetry.Config{})
	hub := sidecar.New(sidecar.Config{
		NodeID: node.Self().ID, AgentAddrs: agentAddrs(node),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	}, node, node, machine, windows, logger)
	past := history.New(c.History.head())
	recorder := history.NewRecorder(history.RecorderConfig{File: filepath.Join(c.DataDir, "history.snap")}, past, windows, identifier(machine), logger)
	pasts := historian{past, recorder, node.Peers, node.Self().ID, fmt.Sprintf("%q", time.Now().Format(time.RFC3339Nano)), logger.With("component", "history")}
	metrics := registry(node, windows, past)
	export, err := otlp.Start(ctx, metrics, "perf-controlplane", version.String(), logger)
	if err != nil {
		// These variables are often set for all programs of a machine: not ours alone to die of.
		logger.Error("metrics are not exported", "error", err)
	}
	advice := optimizer.New(optimizer.Config{Span: c.Workflow.Collect}, machine, windows, tables)
	objectives := slo.New(slo.Config{}, machine, slo.Ports{Log: node, Windows: windows, History: past, Analyst: advice, Querier: slo.NewQuerier(past, logger)}, logger)
	metrics.MustRegister(slo.NewExporter(objectives, node.IsLeader))
	rollouts := rollout.NewController(rollout.Config{}, machine, rollout.Ports{
		Log: node, Fleet: hub, Leadership: node, Telemetry: windows, Predictor: advice, Evidence: evidence, Budget: objectives,
	}, logger)
	tests := experiment.New(experiment.Config{}, machine, experiment.Ports{Log: node, Engines: engines{hub}, Twin: advice, Evidence: evidence}, logger)
	workflows := workflow.New(c.workflow(), machine, node, advice, objectives, logger)
	server := &http.Server{
		Handler: api.New(
			api.Config{Version: version.String(), NodeID: node.Self().ID, Started: time.Now()},
			api.Deps{
				Machine: machine, Log: node, Cluster: view{node}, Telemetry: windows, History: past, Advisor: advisor{advice}, Oracle: advisor{advice}, Promises: promises{objectives}, Collector: hub, Tests: experiments{tests},
				Metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}), PromQL: promapi.New(past, metadata(past), version.String(), logger), Snapshot: pasts, Logger: logger,
			},
		),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return hub.Run(ctx, agents) })
	g.Go(func() error { return serveHTTP(ctx, server, rest) })
	// What only the leader does; each ends, and is waited for, when leadership does.
	g.Go(func() error { return node.WhileLeader(ctx, rollouts.Run) })
	g.Go(func() error {
		return node.WhileLeader(ctx, func(ctx context.Context, _ uint64) error { return tests.Run(ctx) })
	})
	g.Go(func() error {
		return node.WhileLeader(ctx, func(ctx context.Context, _ uint64) error { return workflows.Run(ctx) })
	})
	g.Go(func() error { return node.WhileLeader(ctx, objectives.Run) })
	g.Go(func() error { return node.WhileLeader(ctx, policies{c.Groups, machine, node, logger}.write) })
	g.Go(func() error { return windows.Run(ctx) })
	g.Go(func() error { return recorder.Run(ctx) })
	g.Go(func() error { return node.WhileLeader(ctx, pasts.lead) })
	logger.Info("control plane is up", "node", node.Self().ID, "rest", "http://"+rest.Addr().String(), "agents", agents.Addr().String(), "data", c.DataDir)

	err = g.Wait()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := export.Close(grace); err != nil {
		logger.Warn("the last metrics were not exported", "error", err)
	}
	// Raft last: the loops above may still be handing in what they have.
	return errors.Join(ignoreCancel(err), node.Close())
}

func (c Config) workflow() workflow.Config {
	w := workflow.DefaultConfig()
	w.Timing = workflow.Timing{Collect: c.Workflow.Collect, Patience: c.Workflow.Patience, Verify: c.Workflow.Verify}
	w.Every = c.Workflow.Every
	return w
}

func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s port %s cannot be used: %w; stop what holds it, or choose another address in the configuration", what, addr, err)
	}
	return l, nil
}

func serveHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
	s.BaseContext = func(net.Listener) context.Context { return ctx }
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(grace) != nil {
			_ = s.Close() // event streams do not end by themselves
		}
	}()
	err := s.Serve(l)
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func agentAddrs(n *cluster.Node) []string {
	var addrs []string
	for _, p := range n.Peers() {
		if p.AgentAddr != "" {
			addrs = append(addrs, p.AgentAddr)
		}
	}
	return addrs
}

func loadTables(files []string) (*perfmodel.Tables, error) {
	var overrides [][]byte
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("table of GPUs and models: %w", err)
		}
		overrides = append(overrides, raw)
	}
	return perfmodel.Load(overrides...)
}

func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
