package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/optiinfra/performance-agent/pkg/version"
)

// exporter shows the agent itself to Prometheus, and latencies as this agent knows them. The engine's
// other numbers are not repeated: the engine exports them.
type exporter struct {
	agent   *agent
	process prometheus.Collector
	wire    wireExporter
	gpus    gpuExporter
	// latencies by metric.
	latencies map[string]*prometheus.Desc

	build, connected, reconnects, unsent, dropped              *prometheus.Desc
	serving, phase, epoch, age, scrapeErrors, resets, unusable *prometheus.Desc
}

func newExporter(a *agent) *exporter {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("perf_agent_"+name, help, labels, nil)
	}
	return &exporter{
		agent:        a,
		wire:         newWireExporter(),
		gpus:         newGPUExporter(),
		latencies:    latencyDescs(),
		process:      collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build:        desc("build_info", "Version of this agent.", "version"),
		connected:    desc("connected", "1 while a stream to the control plane is open."),
		reconnects:   desc("reconnects_total", "Streams opened after the first."),
		unsent:       desc("windows_unsent", "Windows waiting for the control plane."),
		dropped:      desc("windows_dropped_total", "Windows lost because the buffer was full."),
		serving:      desc("serving", "1 while the engine is in rotation.", "engine", "group"),
		phase:        desc("phase", "1 for the phase that the engine's state machine is in.", "engine", "group", "phase"),
		epoch:        desc("running_epoch", "Epoch of the configuration that the engine runs with; 0 is the operator's own.", "engine", "group"),
		age:          desc("engine_metrics_answered_timestamp_seconds", "When the engine's metrics page answered last; 0 is never.", "engine", "group"),
		scrapeErrors: desc("scrape_errors_total", "Scrapes of the engine that brought no page.", "engine", "group"),
		resets:       desc("engine_resets_total", "Restarts of the engine seen in its counters.", "engine", "group"),
		unusable:     desc("unusable_samples_total", "Samples on the engine's page that could not be used.", "engine", "group"),
	}
}

// Describe leaves it to Collect what there is.
func (e *exporter) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(e, ch) }

// Collect reads the agent's state.
func (e *exporter) Collect(ch chan<- prometheus.Metric) {
	e.process.Collect(ch)
	s := e.agent.reporter.Status()
	gauge(ch, e.build, 1, version.String())
	gauge(ch, e.connected, bit(s.Connected))
	counter(ch, e.reconnects, float64(s.Reconnects))
	gauge(ch, e.unsent, float64(s.Unsent))
	counter(ch, e.dropped, float64(s.Dropped))
	e.wire.collect(ch, e.agent.wire)
	e.gpus.collect(ch, e.agent.gpus)
	for _, in := range e.agent.instances {
		e.collectEngine(ch, in)
	}
}

func (e *exporter) collectEngine(ch chan<- prometheus.Metric, in *instance) {
	name, group := in.cfg.Name, in.cfg.Group
	state, source := in.machine.State(), in.source.Status()
	gauge(ch, e.serving, bit(state.GetServing()), name, group)
	gauge(ch, e.phase, 1, name, group, phaseName(state.GetPhase()))
	gauge(ch, e.epoch, float64(state.GetRunningEpoch()), name, group)
	var answered float64
	if !source.Answered.IsZero() {
		answered = float64(source.Answered.UnixMilli()) / 1000
	}
	gauge(ch, e.age, answered, name, group)
	counter(ch, e.scrapeErrors, float64(source.Errors), name, group)
	counter(ch, e.resets, float64(source.Resets), name, group)
	counter(ch, e.unusable, float64(source.Malformed), name, group)
	in.latencies.collect(ch, e.latencies, in.id, group, in.adapter.described().GetModel())
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
