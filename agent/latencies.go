package main

import (
	"math"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// latencies of one engine since this agent's start, for its page for Prometheus: by metric and source,
// in the buckets that OpenTelemetry advises.
type latencies struct {
	mu   sync.Mutex // guards what follows
	seen map[latencyKey]*distribution
}

type latencyKey struct{ metric, source string }

type distribution struct {
	above      []float64 // values above each bound
	count, sum float64
}

// add a window.
func (l *latencies) add(w *fleet.Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for metric, k := range w.Sketches {
		info, known := series.Find(metric)
		if !known {
			continue
		}
		key := latencyKey{metric, w.Origin[metric]}
		if l.seen == nil {
			l.seen = map[latencyKey]*distribution{}
		}
		if l.seen[key] == nil {
			l.seen[key] = &distribution{above: make([]float64, len(info.Bounds))}
		}
		l.seen[key].add(k, info.Bounds)
	}
}

func (d *distribution) add(k *stats.Sketch, bounds []float64) {
	d.count += k.Count()
	d.sum += k.Sum()
	for i, bound := range bounds {
		d.above[i] += k.CountAbove(bound)
	}
}

// collect sends a histogram for each metric and source. descs are by metric.
func (l *latencies) collect(ch chan<- prometheus.Metric, descs map[string]*prometheus.Desc, engine, group, model string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, d := range l.seen {
		info, _ := series.Find(key.metric)
		buckets := make(map[float64]uint64, len(info.Bounds))
		for i, bound := range info.Bounds {
			buckets[bound] = uint64(math.Round(d.count - d.above[i]))
		}
		labels := []string{engine, group, key.source}
		if info.OTel != "" {
			labels = append(labels, model)
		}
		ch <- prometheus.MustNewConstHistogram(descs[key.metric], uint64(math.Round(d.count)), d.sum, buckets, labels...)
	}
}

func latencyDescs() map[string]*prometheus.Desc {
	descs := map[string]*prometheus.Desc{}
	for _, s := range series.All {
		if s.Kind == series.Histogram {
			descs[s.Metric] = prometheus.NewDesc(s.Name, s.Help, s.Labels(), nil)
		}
	}
	return descs
}
