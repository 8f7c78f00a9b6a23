package history

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// Exporter shows the newest state of all live series to Prometheus, in the older form of histograms,
// with the buckets that OpenTelemetry advises: their counts come from finer buckets and are right for a
// bound within 2.2 % of the one written.
type Exporter struct {
	head *Head
	// shows tells whether this node shows engines: only one of a cluster should, or each would be
	// counted as often as there are nodes.
	shows func() bool
}

type desc struct {
	*prometheus.Desc
	of     series.Info
	labels []string
}

// NewExporter returns a collector for a registry.
func NewExporter(h *Head, shows func() bool) *Exporter { return &Exporter{head: h, shows: shows} }

// Describe implements prometheus.Collector: it names nothing, as adapters bring series along.
func (e *Exporter) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(ch chan<- prometheus.Metric) {
	if !e.shows() {
		return
	}
	descs := map[string]desc{}
	for _, s := range e.head.matching(nil) {
		name := s.labels.Get(model.MetricNameLabel)
		last, live := s.newest()
		info, ours := series.Named(name, s.kind)
		if !live || !ours {
			continue
		}
		d, known := descs[name]
		if !known {
			d = desc{prometheus.NewDesc(name, info.Help, info.Labels(), nil), info, info.Labels()}
			descs[name] = d
		}
		values := make([]string, len(d.labels))
		for i, label := range d.labels {
			values[i] = s.labels.Get(label)
		}
		ch <- d.metric(last, values)
	}
}

func (d desc) metric(last sample, values []string) prometheus.Metric {
	switch d.of.Kind {
	case series.Histogram:
		buckets := make(map[float64]uint64, len(d.of.Bounds))
		for _, bound := range d.of.Bounds {
			buckets[bound] = uint64(math.Round(atMost(last.h, bound)))
		}
		return prometheus.MustNewConstHistogram(d.Desc, uint64(math.Round(last.h.Count)), last.h.Sum, buckets, values...)
	case series.Counter:
		return prometheus.MustNewConstMetric(d.Desc, prometheus.CounterValue, last.v, values...)
	default:
		return prometheus.MustNewConstMetric(d.Desc, prometheus.GaugeValue, last.v, values...)
	}
}

// atMost counts the values up to bound; a bucket that bound divides counts by its share in logarithms.
func atMost(h *histogram.FloatHistogram, bound float64) float64 {
	n := h.ZeroCount
	for it := h.PositiveBucketIterator(); it.Next(); {
		b := it.At()
		switch {
		case b.Upper <= bound:
			n += b.Count
		case b.Lower < bound:
			n += b.Count * math.Log(bound/b.Lower) / math.Log(b.Upper/b.Lower)
		}
	}
	return n
}
