package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/promapi"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/version"
)

// registry of what GET /metrics shows: this node, its process, and on the leader every engine.
func registry(node *cluster.Node, windows *telemetry.Store, past *history.Head) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(),
		history.NewExporter(past, node.IsLeader), newExporter(node, windows, past),
	)
	return r
}

// exporter shows one control-plane node.
type exporter struct {
	node    *cluster.Node
	windows *telemetry.Store
	past    *history.Head

	build, leads, term, applied, members            *prometheus.Desc
	engines, held, windowBytes, added, turnedAway   *prometheus.Desc
	series, historyBytes, oldest, appended, refused *prometheus.Desc
}

func newExporter(node *cluster.Node, windows *telemetry.Store, past *history.Head) *exporter {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("perf_controlplane_"+name, help, labels, nil)
	}
	return &exporter{
		node: node, windows: windows, past: past,
		build:        desc("build_info", "Version of this server.", "version"),
		leads:        desc("leader", "1 on the server that leads."),
		term:         desc("raft_term", "Election term."),
		applied:      desc("raft_applied_index", "Newest log entry applied here."),
		members:      desc("raft_members", "Servers of the cluster."),
		engines:      desc("telemetry_engines", "Engines with recent windows on this server."),
		held:         desc("telemetry_windows", "Recent windows on this server."),
		windowBytes:  desc("telemetry_bytes", "Memory of recent windows, by estimate."),
		added:        desc("telemetry_windows_added_total", "Windows taken."),
		turnedAway:   desc("telemetry_windows_turned_away_total", "Windows not kept.", "reason"),
		series:       desc("history_series", "Series in this server's history."),
		historyBytes: desc("history_bytes", "Memory of the history, by estimate."),
		oldest:       desc("history_oldest_timestamp_seconds", "Time of the oldest sample kept; absent when there is none."),
		appended:     desc("history_samples_appended_total", "Samples taken into the history."),
		refused:      desc("history_samples_refused_total", "Samples that the history did not take: out of order, or over the limit of series."),
	}
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(e, ch) }

// Collect implements prometheus.Collector.
func (e *exporter) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	raft := e.node.Status()
	gauge(e.build, 1, version.String())
	leads := 0.
	if e.node.IsLeader() {
		leads = 1
	}
	gauge(e.leads, leads)
	gauge(e.term, float64(raft.Term))
	gauge(e.applied, float64(raft.AppliedIndex))
	gauge(e.members, float64(len(raft.Peers)))

	w := e.windows.Stats()
	gauge(e.engines, float64(w.Instances))
	gauge(e.held, float64(w.Windows))
	gauge(e.windowBytes, float64(w.Bytes))
	counter(e.added, w.Added)
	for reason, n := range map[string]uint64{"duplicate": w.Duplicate, "too_old": w.TooOld, "future": w.Future, "full": w.Full, "evicted": w.Evicted} {
		counter(e.turnedAway, n, reason)
	}

	h := e.past.Stats()
	gauge(e.series, float64(h.Series))
	gauge(e.historyBytes, float64(h.Bytes))
	if !h.Oldest.IsZero() {
		gauge(e.oldest, float64(h.Oldest.UnixMilli())/1000)
	}
	counter(e.appended, h.Appended)
	counter(e.refused, h.Refused)
}

// metadata of the series in the history, for Grafana.
func metadata(past *history.Head) func() map[string]promapi.Metadata {
	return func() map[string]promapi.Metadata {
		m := map[string]promapi.Metadata{}
		for name, kind := range past.Kinds() {
			if s, ours := series.Named(name, kind); ours {
				m[name] = promapi.Metadata{Type: kind.String(), Help: s.Help, Unit: s.Unit}
			}
		}
		return m
	}
}

// identifier tells the history what an engine is.
func identifier(machine *fsm.Machine) func(string) (history.Identity, bool) {
	return func(id string) (history.Identity, bool) {
		in := machine.Instance(id)
		return history.Identity{Group: in.GetGroup(), Model: in.GetModel()}, in != nil
	}
}
