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
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/agent/report"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/otlp"
	"github.com/optiinfra/performance-agent/pkg/version"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// windowsPerInstance bounds the report buffer: ten minutes.
const windowsPerInstance = 600

// agent is a running sidecar or node agent: the instances, what merges them, and what reports them.
type agent struct {
	id        string
	log       *slog.Logger
	instances []*instance
	byID      map[string]*instance
	wire      *wire
	gpus      *gpus
	collector *collect.Collector
	reporter  *report.Reporter
}

// newAgent constructs everything in order of dependence. Nothing runs yet, but journals are open.
func newAgent(cfg Config, dir *dataDir, all adapters, log *slog.Logger) (_ *agent, err error) {
	id, err := dir.agentID(cfg.AgentID)
	if err != nil {
		return nil, err
	}
	clock, err := probation.SystemClock()
	if err != nil {
		return nil, err
	}
	a := &agent{
		id: id, log: log, byID: map[string]*instance{},
		wire: openWire(cfg, log.With("component", "wire")), gpus: newGPUs(cfg, log.With("component", "gpu")),
	}
	defer func() {
		if err != nil {
			a.wire.close()
		}
	}()
	a.reporter = report.New(reportConfig(cfg), identity(id, clock().BootID), a, dir, log.With("component", "report"))
	var seen []collect.Instance
	for _, e := range cfg.Engines {
		in := newInstance(e, id, cfg, all, a.reporter, log)
		in.wire, in.gpu = a.wire.source(e), a.gpus.source(e, len(cfg.Engines))
		if err := in.open(filepath.Join(dir.path, "engines", e.Name), clock); err != nil {
			return nil, fmt.Errorf("engine %s: %w", e.Name, err)
		}
		a.instances = append(a.instances, in)
		a.byID[in.id] = in
		seen = append(seen, in.collected())
		a.reporter.State(in.machine.State())
	}
	a.collector = collect.New(seen, a.window)
	return a, nil
}

func reportConfig(cfg Config) report.Config {
	r := report.DefaultConfig()
	r.Addresses, r.TLS = cfg.ControlPlane, report.TLS(cfg.TLS)
	r.BufferWindows = windowsPerInstance * len(cfg.Engines)
	return r
}

func identity(id, bootID string) *agentv1.Identity {
	host, _ := os.Hostname() // only for people to read
	return &agentv1.Identity{AgentId: id, Session: uuid.NewString(), Hostname: host, Version: version.String(), BootId: bootID}
}

// run looks after the engines until ctx ends. They are left running.
func (a *agent) run(ctx context.Context, listener net.Listener) error {
	defer func() {
		for _, in := range a.instances {
			in.close()
		}
		a.wire.close()
		a.gpus.close()
	}()
	metrics := a.registry()
	export, err := otlp.Start(ctx, metrics, "perf-agent", version.String(), a.log)
	if err != nil {
		// These variables are often set for all containers of a pod: not ours alone to die of.
		a.log.Error("metrics are not exported", "error", err)
	}
	defer a.closeExport(context.WithoutCancel(ctx), export)
	g, ctx := errgroup.WithContext(ctx)
	server := &http.Server{Handler: a.routes(metrics), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	g.Go(func() error { return serveUntil(ctx, server, listener) })
	for _, in := range a.instances {
		g.Go(func() error { return in.machine.Run(ctx) })
		g.Go(func() error { return in.source.Run(ctx) })
		g.Go(func() error { return in.watch(ctx) })
		if in.gpu != nil {
			g.Go(func() error { return in.gpu.Run(ctx) })
		}
	}
	a.gpus.run(ctx, g.Go)
	g.Go(func() error { return a.wire.run(ctx) })
	g.Go(func() error { return a.collector.Run(ctx) })
	g.Go(func() error { return a.reporter.Run(ctx) })
	err = g.Wait()
	a.log.Info("perf-agent ends; engines are left as they are")
	return err
}

// closeExport sends the last metrics, unless nobody takes them.
func (a *agent) closeExport(ctx context.Context, e *otlp.Exporter) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		a.log.Warn("the last metrics were not exported", "error", err)
	}
}

// serveUntil serves HTTP until ctx ends.
func serveUntil(ctx context.Context, s *http.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve readiness: %w", err)
	}
	return nil
}

// window passes a finished window to the guards and to the control plane.
func (a *agent) window(w *fleet.Window) {
	in := a.byID[w.Instance]
	in.traffic.add(w)
	in.latencies.add(w)
	pb, err := w.Proto()
	if err != nil {
		a.log.Error("a window cannot be encoded and is dropped", "instance", w.Instance, "error", err)
		return
	}
	a.reporter.Window(pb)
}

// instanceNames lists what this agent looks after.
func (a *agent) instanceNames() string {
	names := make([]string, len(a.instances))
	for i, in := range a.instances {
		names[i] = in.id
	}
	return strings.Join(names, ", ")
}
