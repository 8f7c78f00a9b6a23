package engine

import (
	"slices"

	dto "github.com/prometheus/client_model/go"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Reading is one signal's value on one metrics page: what its samples say together, and for
// counters and histograms what each label set says, since replicas behind one page restart one by one.
type Reading struct {
	// Signal is the alternative that was found on the page.
	Signal *Signal
	// Value of a gauge or counter, or of the part (sum, count, label) that the signal names.
	// A histogram without a part has its count here.
	Value float64
	// Histogram is set for a histogram signal without a part: all label sets added up.
	Histogram *Histogram
	// Samples of a counter or histogram, one for each label set.
	Samples []Sample
}

// Sample is what one label set says.
type Sample struct {
	// Key tells label sets apart. Within one process it is the same on every page.
	Key uint64
	// Replica names which of several replicas behind one page the sample is of; empty where the page
	// does not tell.
	Replica string
	Value   float64
	// Histogram is set where the reading's is.
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

func (p page) read(s *Signal) (Reading, bool) {
	r := Reading{Signal: s}
	var ok bool
	switch {
	case s.GetPart() == LabelPart, s.GetPart() == LabelItemsPart:
		ok = p.readLabel(&r)
	case s.GetKind() == HistogramSeries:
		ok = p.readHistogram(&r)
	default:
		ok = p.readValue(&r)
	}
	if !ok {
		return Reading{}, false
	}
	for _, more := range s.GetPlus() {
		if m, there := p.read(more); there {
			r.Value += m.Value
			r.Samples = append(r.Samples, m.Samples...)
		}
	}
	if s.GetDivideBy() == "" {
		return r, true
	}
	by := Reading{Signal: &Signal{Series: s.GetDivideBy(), Kind: Gauge, Ranks: s.GetRanks()}}
	if !p.readValue(&by) || by.Value == 0 {
		return Reading{}, false
	}
	r.Value /= by.Value
	return r, true
}

func (p page) readValue(r *Reading) bool {
	s := r.Signal
	var values []float64
	for _, m := range p.samples(s.GetSeries(), s) {
		v, ok := scalar(m)
		if !ok {
			continue
		}
		values = append(values, v)
		if r.Counter() {
			r.Samples = append(r.Samples, Sample{Key: keyOf(s, m), Replica: replicaOf(m), Value: v})
		}
	}
	r.Value = Together(s, values)
	return len(values) > 0
}

// Together is what values of several label sets mean for a signal.
func Together(s *Signal, values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	if s.GetCombine() == Max {
		return slices.Max(values)
	}
	var sum float64
	for _, v := range values {
		sum += v
	}
	if s.GetCombine() == Mean || share(s) {
		return sum / float64(len(values))
	}
	return sum
}

// share tells signals that are fractions of a whole: over several replicas behind one page their
// mean says something and their sum does not. A quotient of two sums needs no such care.
func share(s *Signal) bool {
	return s.GetCombine() == 0 && s.GetSignal() == "kv_usage" && s.GetDivideBy() == ""
}

func (p page) readHistogram(r *Reading) bool {
	s := r.Signal
	r.Samples = p.histograms(s)
	if len(r.Samples) == 0 {
		return false
	}
	if s.GetPart() == SumPart || s.GetPart() == CountPart {
		values := make([]float64, len(r.Samples))
		for i := range r.Samples {
			of := &r.Samples[i]
			of.Value = of.Histogram.Count
			if s.GetPart() == SumPart {
				of.Value = of.Histogram.Sum
			}
			values[i], of.Histogram = of.Value, nil
		}
		r.Value = Together(s, values)
		return true
	}
	for i := range r.Samples {
		r.Samples[i].Value = r.Samples[i].Histogram.Count
	}
	r.Histogram = addUp(r.Samples)
	r.Value = r.Histogram.Count
	return true
}

// addUp makes one histogram of several, whose bounds may differ: at each bound it counts what is
// known to lie below.
func addUp(samples []Sample) *Histogram {
	sum := &Histogram{}
	var bounds []float64
	for _, s := range samples {
		sum.Sum += s.Histogram.Sum
		sum.Count += s.Histogram.Count
		for _, b := range s.Histogram.Buckets {
			bounds = append(bounds, b.UpperBound)
		}
	}
	slices.Sort(bounds)
	for _, bound := range slices.Compact(bounds) {
		b := Bucket{UpperBound: bound}
		for _, s := range samples {
			b.Count += s.Histogram.upTo(bound)
		}
		sum.Buckets = append(sum.Buckets, b)
	}
	return sum
}

// upTo counts the observations that surely lie at or below x.
func (h *Histogram) upTo(x float64) float64 {
	var n float64
	for _, b := range h.Buckets {
		if b.UpperBound > x {
			break
		}
		n = b.Count
	}
	return n
}
