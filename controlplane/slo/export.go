package slo

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Exporter shows objectives to a Prometheus that scrapes the leader, so that its Alertmanager can call
// people.
type Exporter struct {
	service *Service
	leads   func() bool

	left, burn, firing, unknown *prometheus.Desc
}

// NewExporter returns one; leads tells whether this node does, as no other knows.
func NewExporter(s *Service, leads func() bool) *Exporter {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("perf_slo_"+name, help, append([]string{"objective", "service"}, labels...), nil)
	}
	return &Exporter{
		service: s, leads: leads,
		left:    desc("error_budget_left_ratio", "Share of the period's error budget that is left; below 0: overspent."),
		burn:    desc("burn_rate", "Rate at which the error budget burned over an alert's long window; 1 lasts the period.", "alert"),
		firing:  desc("alert_firing", "1 while the alert fires.", "alert", "severity"),
		unknown: desc("unknown", "1 while nothing is known of the objective."),
	}
}

// Describe implements prometheus.Collector.
func (e *Exporter) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(e, ch) }

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(ch chan<- prometheus.Metric) {
	if !e.leads() {
		return
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, st := range e.service.Status() {
		name, service := st.Objective.GetName(), st.Objective.GetService()
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{name, service}, labels...)...)
		}
		gauge(e.left, st.Budget.Left())
		gauge(e.unknown, flag(st.State == Unknown))
		for _, a := range st.Alerts {
			gauge(e.burn, a.LongBurn, a.Name)
			gauge(e.firing, flag(!a.Firing.IsZero()), a.Name, a.Severity)
		}
		gauge(e.firing, flag(e.service.absent(st.Objective)), Absence, "page")
	}
}
