package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/agent/launch"
)

// What Config.GPU may say.
const (
	gpuAuto = "auto"
	gpuOff  = "off"
)

// hostProc is where containers usually have the host's proc file system, if at all.
const hostProc = "/host/proc"

// gpuLocal says that the reader runs beside this agent.
const gpuLocal = "this agent"

// gpus watches the GPUs of all engines of this agent: through an engine's launcher where it has one,
// since that container owns them, and by a reader of our own for the others.
type gpus struct {
	watchers []*gpu.Watcher
	byFrom   map[string]*gpu.Watcher
	clients  []*launch.Client
}

// newGPUs makes a watcher for each place where a reader may run; none where it is off.
func newGPUs(cfg Config, log *slog.Logger) *gpus {
	g := &gpus{byFrom: map[string]*gpu.Watcher{}}
	if cfg.GPU == gpuOff {
		return g
	}
	for _, e := range cfg.Engines {
		from := gpuFrom(e)
		if g.byFrom[from] != nil {
			continue
		}
		open := gpu.Child(cfg.GPUReader)
		if e.Launcher != "" {
			client := launch.Dial(e.Launcher)
			g.clients = append(g.clients, client)
			open = throughLauncher(client)
		}
		w := gpu.NewWatcher(open, from, gpu.DefaultConfig(), log)
		g.watchers, g.byFrom[from] = append(g.watchers, w), w
	}
	return g
}

// gpuFrom says where an engine's GPUs are read.
func gpuFrom(e Engine) string {
	if e.Launcher == "" {
		return gpuLocal
	}
	return "launcher " + e.Launcher
}

// throughLauncher opens the reader in the launcher's container.
func throughLauncher(client *launch.Client) gpu.Open {
	return func(ctx context.Context) (io.ReadCloser, error) {
		s, err := client.GPU(ctx)
		if errors.Is(err, launch.ErrNoGPUReader) {
			return nil, fmt.Errorf("%w: %w", gpu.ErrNoReader, err)
		}
		return s, err
	}
}

// source of one engine; nil where GPUs are not watched.
func (g *gpus) source(e Engine, engines int) *collect.GPU {
	w := g.byFrom[gpuFrom(e)]
	if w == nil {
		return nil
	}
	return collect.NewGPU(w, collect.GPUOf{
		Port: enginePort(e), Alone: engines == 1 || e.Launcher != "", Launched: e.Launcher != "", HostProc: hostProc,
	})
}

// enginePort is where an engine listens; 0, which nobody does, where its URL does not tell.
func enginePort(e Engine) uint16 {
	u, err := url.Parse(e.URL)
	if err != nil {
		return 0
	}
	usual := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	port, err := strconv.ParseUint(orElse(u.Port(), usual), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// run keeps the readers going until ctx ends.
func (g *gpus) run(ctx context.Context, start func(func() error)) {
	for _, w := range g.watchers {
		start(func() error { return w.Run(ctx) })
	}
}

func (g *gpus) close() {
	for _, c := range g.clients {
		c.Close()
	}
}

// gpuStatus is what one reader sees.
type gpuStatus struct {
	// From is where the reader runs.
	From string `json:"from"`
	// Problem in words while it reads nothing; Absent: because there is nothing to read.
	Problem  string            `json:"problem,omitempty"`
	Absent   bool              `json:"absent,omitempty"`
	AgeMs    int64             `json:"age_ms,omitempty"`
	Restarts int               `json:"restarts"`
	Driver   string            `json:"driver,omitempty"`
	Devices  []gpuDeviceStatus `json:"devices,omitempty"`
}

// gpuDeviceStatus is one GPU.
type gpuDeviceStatus struct {
	Index       int                `json:"index"`
	UUID        string             `json:"uuid"`
	Name        string             `json:"name"`
	Lost        string             `json:"lost,omitempty"`
	HeldDownBy  []string           `json:"held_down_by,omitempty"`
	Values      map[string]float64 `json:"values"`
	Unavailable map[string]string  `json:"unavailable,omitempty"`
	Processes   []gpu.Process      `json:"processes,omitempty"`
	Instances   []gpu.Instance     `json:"instances,omitempty"`
}

func (g *gpus) status(now time.Time) (out []gpuStatus) {
	for _, w := range g.watchers {
		s := w.Status()
		one := gpuStatus{From: w.From(), Problem: s.Problem, Absent: s.Absent, Restarts: s.Restarts}
		if s.Record != nil {
			one.AgeMs, one.Driver = max(0, now.Sub(s.Taken)).Milliseconds(), s.Record.Driver
			for i := range s.Record.Devices {
				d := &s.Record.Devices[i]
				one.Devices = append(one.Devices, gpuDeviceStatus{
					d.Index, d.UUID, d.Name, d.Lost, d.Reasons, d.Values, d.Unavailable, d.Processes, d.Instances,
				})
			}
		}
		out = append(out, one)
	}
	return out
}

// examineGPUs says whether GPUs are seen, and from where.
func examineGPUs(ctx context.Context, cfg Config) (out []finding) {
	if cfg.GPU == gpuOff {
		return []finding{lacks(gpu.Cost, "GPUs are not read: gpu is off")}
	}
	seen := map[string]bool{}
	for _, e := range cfg.Engines {
		from := gpuFrom(e)
		if seen[from] {
			continue
		}
		seen[from] = true
		out = append(out, examineGPU(ctx, cfg, e)...)
	}
	return out
}

func examineGPU(ctx context.Context, cfg Config, e Engine) []finding {
	open := gpu.Child(cfg.GPUReader)
	if e.Launcher != "" {
		client := launch.Dial(e.Launcher)
		defer client.Close()
		open = throughLauncher(client)
	}
	r, err := gpu.Look(ctx, open)
	if err != nil {
		return []finding{lacks(gpu.Cost, "no GPU is seen from %s: %v", gpuFrom(e), err)}
	}
	var names []string
	for i := range r.Devices {
		d := &r.Devices[i]
		names = append(names, fmt.Sprintf("%d %s (%d metrics, %d unavailable)", d.Index, d.Name, len(d.Values), len(d.Unavailable)))
	}
	h := nameHardware(e.Hardware, collect.Accelerators(r), hardwareTables())
	out := []finding{
		works("%d GPUs are seen from %s, driver %s: %s", len(r.Devices), gpuFrom(e), r.Driver, strings.Join(names, ", ")),
		works("engine %s: hardware is %q; NVML says %s", e.Name, h.Name, h.Seen),
	}
	for _, w := range h.Warnings {
		out = append(out, lacks("", "engine %s: %s", e.Name, w))
	}
	return out
}

// gpuExporter shows GPUs to Prometheus.
type gpuExporter struct {
	observing, restarts *prometheus.Desc
	metrics             map[string]*prometheus.Desc
}

func newGPUExporter() gpuExporter {
	e := gpuExporter{
		observing: prometheus.NewDesc("perf_agent_gpu_observing", "1 while a reader samples GPUs.", []string{"from"}, nil),
		restarts:  prometheus.NewDesc("perf_agent_gpu_reader_restarts_total", "Readers that ended after they had sampled.", []string{"from"}, nil),
		metrics:   map[string]*prometheus.Desc{},
	}
	for _, m := range gpu.Metrics() {
		help := strings.ToUpper(m.Help[:1]) + m.Help[1:] + "."
		e.metrics[m.Name] = prometheus.NewDesc("perf_agent_gpu_"+m.Name, help, []string{"from", "device", "uuid"}, nil)
	}
	return e
}

func (e gpuExporter) collect(ch chan<- prometheus.Metric, g *gpus) {
	for _, w := range g.watchers {
		s := w.Status()
		gauge(ch, e.observing, bit(s.Problem == "" && s.Record != nil), w.From())
		counter(ch, e.restarts, float64(s.Restarts), w.From())
		if s.Problem != "" || s.Record == nil || time.Since(s.Taken) > gpu.DefaultConfig().Silence {
			continue
		}
		for i := range s.Record.Devices {
			e.collectDevice(ch, w.From(), &s.Record.Devices[i])
		}
	}
}

func (e gpuExporter) collectDevice(ch chan<- prometheus.Metric, from string, d *gpu.Device) {
	for name, v := range d.Values {
		desc := e.metrics[name]
		switch {
		case desc == nil: // of a newer reader
		case strings.HasSuffix(name, "_total"):
			counter(ch, desc, v, from, strconv.Itoa(d.Index), d.UUID)
		default:
			gauge(ch, desc, v, from, strconv.Itoa(d.Index), d.UUID)
		}
	}
}
