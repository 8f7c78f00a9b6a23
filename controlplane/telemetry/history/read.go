package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// ErrStep is returned for a step that is too short or makes too many points.
var ErrStep = errors.New("step must be ten seconds or more and give at most 10,000 points")

const (
	maxSteps = 10_000
	minStep  = 10 * time.Second
)

// Steps tells what engines did from from to to, one aggregate per step, of the named metrics alone; none
// named: of all. Counters and latencies are increases between samples, attributed to the step in which
// the later sample lies; quantiles are right to 3 %. Aggregate.Windows counts the engine-seconds that
// samples cover. A step without samples is an empty aggregate.
func (h *Head) Steps(engines, metrics []string, from, to time.Time, step time.Duration) ([]*fleet.Aggregate, error) {
	if step < minStep || !to.After(from) || to.Sub(from)/step >= maxSteps {
		return nil, ErrStep
	}
	r := &reader{from: from.UnixMilli(), step: step.Milliseconds(), before: 2 * h.cfg.Downsample.Milliseconds()}
	for at := from; at.Before(to); at = at.Add(step) {
		a := fleet.NewAggregate()
		a.From, a.To = at, at.Add(step)
		r.steps = append(r.steps, a)
	}
	r.covered = make([]map[string]int64, len(r.steps))
	for _, info := range h.wanted(metrics) {
		for _, s := range h.matching([]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, info.Name)}) {
			engine := s.labels.Get(series.LabelEngine)
			if !slices.Contains(engines, engine) || s.kind != info.Kind {
				continue
			}
			if err := r.read(s, info, engine); err != nil {
				return nil, fmt.Errorf("read %s: %w", s.labels, err)
			}
		}
	}
	for i, a := range r.steps {
		for engine, ms := range r.covered[i] {
			a.Instances[engine] = int(ms / 1000)
			a.Windows += int(ms / 1000)
		}
	}
	return r.steps, nil
}

// wanted series of the named metrics, none named: all that are kept.
func (h *Head) wanted(metrics []string) (found []series.Info) {
	if len(metrics) > 0 {
		for _, m := range metrics {
			if info, known := h.Find(m); known {
				found = append(found, info)
			}
		}
		return found
	}
	for name, kind := range h.Kinds() {
		if info, ours := series.Named(name, kind); ours {
			found = append(found, info)
		}
	}
	return found
}

// Aggregate tells what engines did from from to to, of all metrics.
func (h *Head) Aggregate(engines []string, from, to time.Time) (*fleet.Aggregate, error) {
	steps, err := h.Steps(engines, nil, from, to, max(to.Sub(from), minStep))
	if err != nil {
		return nil, err
	}
	return steps[0], nil
}

// reader fills steps with the samples of series.
type reader struct {
	from, step, before int64 // Unix milliseconds; milliseconds
	steps              []*fleet.Aggregate
	covered            []map[string]int64 // milliseconds by engine, of the series that covers most
}

func (r *reader) read(s *memSeries, info series.Info, engine string) error {
	chunks, err := s.between(r.from-r.before, r.from+r.step*int64(len(r.steps)))
	if err != nil {
		return err
	}
	covered := map[int]int64{}
	var last sample
	for _, c := range chunks {
		it := c.Iterator(nil)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			p := sample{t: it.AtT()}
			if k == chunkenc.ValFloat {
				_, p.v = it.At()
			} else {
				_, p.h = it.AtFloatHistogram(nil)
			}
			if p.stale() {
				continue
			}
			if i := r.index(p.t); i >= 0 && last.t != 0 {
				if err := r.take(r.steps[i], info, s.labels.Get(series.LabelSource), last, p); err != nil {
					return err
				}
				covered[i] += min(p.t-last.t, r.before/2)
			}
			last = p
		}
		if it.Err() != nil {
			return it.Err()
		}
	}
	for i, ms := range covered {
		if r.covered[i] == nil {
			r.covered[i] = map[string]int64{}
		}
		r.covered[i][engine] = max(r.covered[i][engine], ms)
	}
	return nil
}

// index of the step that a sample of time t ends in; −1: in none.
func (r *reader) index(t int64) int {
	if t <= r.from {
		return -1
	}
	if i := int((t - r.from - 1) / r.step); i < len(r.steps) {
		return i
	}
	return -1
}

// take what happened between two samples.
func (r *reader) take(a *fleet.Aggregate, info series.Info, source string, last, p sample) error {
	switch info.Kind {
	case series.Gauge:
		a.AddGauge(info.Metric, p.v, time.UnixMilli(p.t))
	case series.Counter:
		increase := p.v - last.v
		if increase < 0 { // a total that began anew
			increase = p.v
		}
		a.Counters[info.Metric] += increase
	case series.Histogram:
		increase := p.h
		if !p.h.DetectReset(last.h) {
			less, _, _, err := p.h.Copy().Sub(last.h)
			if err != nil {
				return err
			}
			increase = less
		}
		k, err := sketch(increase)
		if err != nil {
			return err
		}
		return a.Sketch(info.Metric, source).Merge(k)
	}
	return nil
}

// sketch of the values of a native histogram, each at the middle of its bucket.
func sketch(h *histogram.FloatHistogram) (*stats.Sketch, error) {
	k := stats.NewSketch()
	if err := k.AddN(0, max(h.ZeroCount, 0)); err != nil {
		return nil, err
	}
	for it := h.PositiveBucketIterator(); it.Next(); {
		b := it.At()
		if b.Count <= 0 {
			continue
		}
		if err := k.AddN(math.Sqrt(b.Lower*b.Upper), b.Count); err != nil {
			return nil, err
		}
	}
	k.SetSum(h.Sum)
	return k, nil
}
