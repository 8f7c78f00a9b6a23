package engine

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Reading is one signal's value on one metrics page, summed over the label sets that match. A
// gauge that is a share (kv_usage) is averaged instead.
type Reading struct {
	// Signal is the alternative that was found on the page.
	Signal *Signal
	// Value of a gauge or counter, or of the part (sum, count, label) that the signal names.
	// A histogram without a part has its count here.
	Value float64
	// Histogram is set for a histogram signal without a part.
	Histogram *Histogram
}

// Histogram is cumulative, as engines expose it.
type Histogram struct {
	// Buckets in ascending order of UpperBound, which may end with +Inf.
	Buckets []Bucket
	Sum     float64
	Count   float64
}

// Bucket counts the observations up to a bound.
type Bucket struct {
	UpperBound float64
	Count      float64 // cumulative
}

// Counter reports whether the reading only grows while the engine runs, so that increases matter.
func (r Reading) Counter() bool {
	return r.Signal.GetKind() != enginev1.SeriesKind_SERIES_KIND_GAUGE
}

// Resolve reads signals from a parsed metrics page. Of several alternatives for one signal the
// first that is on the page wins; missing names the signals of which none is. Pages without TYPE
// lines and OpenMetrics pages parsed as text are understood: what counts are the series' names.
func Resolve(signals []*Signal, families map[string]*dto.MetricFamily) (found map[string]Reading, missing []string) {
	found = map[string]Reading{}
	for _, s := range signals {
		if _, done := found[s.GetSignal()]; done {
			continue
		}
		if r, ok := page(families).read(s); ok {
			found[s.GetSignal()] = r
		}
	}
	for _, s := range signals {
		if _, ok := found[s.GetSignal()]; !ok && !slices.Contains(missing, s.GetSignal()) {
			missing = append(missing, s.GetSignal())
		}
	}
	return found, missing
}

type page map[string]*dto.MetricFamily

func (p page) read(s *Signal) (Reading, bool) {
	r := Reading{Signal: s}
	var ok bool
	switch {
	case s.GetPart() == enginev1.SeriesPart_SERIES_PART_LABEL:
		r.Value, ok = p.label(s)
	case s.GetKind() == enginev1.SeriesKind_SERIES_KIND_HISTOGRAM:
		r, ok = p.readHistogram(s)
	default:
		r.Value, ok = p.value(s.GetSeries(), s.GetMatch(), share(s))
	}
	if !ok || s.GetDivideBy() == "" {
		return r, ok
	}
	by, ok := p.value(s.GetDivideBy(), nil, false)
	if !ok || by == 0 {
		return Reading{}, false
	}
	r.Value /= by
	return r, true
}

// share tells signals that are fractions of a whole: over several replicas behind one page their
// mean says something and their sum does not. A quotient of two sums needs no such care.
func share(s *Signal) bool { return s.GetSignal() == "kv_usage" && s.GetDivideBy() == "" }

// value adds up, or averages, the matching samples of a gauge or counter.
func (p page) value(series string, match map[string]string, mean bool) (float64, bool) {
	var sum, n float64
	for m := range p.samples(series, match) {
		if v := scalar(m); !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	if mean && n > 0 {
		sum /= n
	}
	return sum, n > 0
}

// samples yields the matching samples of a series. OpenMetrics names the family of a counter
// without its _total.
func (p page) samples(series string, match map[string]string) func(yield func(*dto.Metric) bool) {
	return func(yield func(*dto.Metric) bool) {
		f := p[series]
		if len(f.GetMetric()) == 0 {
			f = p[strings.TrimSuffix(series, "_total")]
		}
		for _, m := range f.GetMetric() {
			if matches(m, match) && !yield(m) {
				return
			}
		}
	}
}

func scalar(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Untyped != nil:
		return m.Untyped.GetValue()
	}
	return math.NaN()
}

func matches(m *dto.Metric, match map[string]string) bool {
	for name, allowed := range match {
		v, ok := labelOf(m, name)
		if !ok || !slices.Contains(strings.Split(allowed, "|"), v) {
			return false
		}
	}
	return true
}

func labelOf(m *dto.Metric, name string) (string, bool) {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue(), true
		}
	}
	return "", false
}

// label adds up the numbers that an info gauge carries as label values. "a*b" multiplies two
// labels of the same sample.
func (p page) label(s *Signal) (float64, bool) {
	var sum, n float64
	for m := range p.samples(s.GetSeries(), s.GetMatch()) {
		if v, ok := labelProduct(m, s.GetLabel()); ok {
			sum, n = sum+v, n+1
		}
	}
	return sum, n > 0
}

func labelProduct(m *dto.Metric, expression string) (float64, bool) {
	product := 1.0
	for name := range strings.SplitSeq(expression, "*") {
		text, ok := labelOf(m, name)
		if !ok {
			return 0, false
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, false
		}
		product *= v
	}
	return product, true
}

func (p page) readHistogram(s *Signal) (Reading, bool) {
	h, ok := p.histogram(s.GetSeries(), s.GetMatch())
	if !ok {
		return Reading{}, false
	}
	r := Reading{Signal: s, Value: h.Count}
	switch s.GetPart() {
	case enginev1.SeriesPart_SERIES_PART_SUM:
		r.Value = h.Sum
	case enginev1.SeriesPart_SERIES_PART_COUNT:
	default:
		r.Histogram = h
	}
	return r, true
}

// histogram adds up the matching label sets, from a typed family or from the bare _bucket, _sum
// and _count series of a page without TYPE lines.
func (p page) histogram(series string, match map[string]string) (*Histogram, bool) {
	h, buckets, seen := &Histogram{}, map[float64]float64{}, false
	for _, m := range p[series].GetMetric() {
		if m.Histogram == nil || !matches(m, match) {
			continue
		}
		seen = true
		h.Sum += m.Histogram.GetSampleSum()
		h.Count += float64(m.Histogram.GetSampleCount())
		for _, b := range m.Histogram.GetBucket() {
			buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	if !seen {
		seen = p.bareHistogram(series, match, h, buckets)
	}
	for bound, count := range buckets {
		h.Buckets = append(h.Buckets, Bucket{UpperBound: bound, Count: count})
	}
	sort.Slice(h.Buckets, func(i, j int) bool { return h.Buckets[i].UpperBound < h.Buckets[j].UpperBound })
	return h, seen
}

func (p page) bareHistogram(series string, match map[string]string, h *Histogram, buckets map[float64]float64) bool {
	var ok bool
	if h.Count, ok = p.value(series+"_count", match, false); !ok {
		return false
	}
	h.Sum, _ = p.value(series+"_sum", match, false)
	for m := range p.samples(series+"_bucket", match) {
		le, _ := labelOf(m, "le")
		if bound, err := strconv.ParseFloat(le, 64); err == nil && !math.IsNaN(bound) {
			buckets[bound] += scalar(m)
		}
	}
	return true
}
