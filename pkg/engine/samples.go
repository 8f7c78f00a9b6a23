package engine

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// page is a parsed metrics page: families by name.
type page map[string]*dto.MetricFamily

// replicaLabels name which of several replicas behind one page a sample is of: vLLM's and SGLang's
// data-parallel engines, API servers that each export for themselves, servers behind a router.
var replicaLabels = []string{"engine", "engine_index", "dp_rank", "server", "worker_id", "instance", "pid"}

// samples are those of a series that the signal wants. OpenMetrics names the family of a counter
// without its _total.
func (p page) samples(series string, s *Signal) []*dto.Metric {
	f := p[series]
	if len(f.GetMetric()) == 0 {
		f = p[strings.TrimSuffix(series, "_total")]
	}
	var wanted []*dto.Metric
	for _, m := range f.GetMetric() {
		if matches(m, s.GetMatch()) {
			wanted = append(wanted, m)
		}
	}
	return lowestRanks(s, wanted)
}

// lowestRanks drops samples of ranks that repeat what a lower one says.
func lowestRanks(s *Signal, all []*dto.Metric) []*dto.Metric {
	if len(s.GetRanks()) == 0 || len(all) < 2 {
		return all
	}
	first := map[uint64]int{} // in kept, by what tells samples apart beside their ranks
	var kept []*dto.Metric
	for _, m := range all {
		le, _ := labelOf(m, "le")
		key := keyOf(s, m) + hashPair("le", le)
		at, seen := first[key]
		switch {
		case !seen:
			first[key] = len(kept)
			kept = append(kept, m)
		case compareRanks(s.GetRanks(), m, kept[at]) < 0:
			kept[at] = m
		}
	}
	return kept
}

func compareRanks(ranks []string, a, b *dto.Metric) int {
	for _, name := range ranks {
		x, _ := labelOf(a, name)
		y, _ := labelOf(b, name)
		i, errX := strconv.Atoi(x)
		j, errY := strconv.Atoi(y)
		by := cmp.Compare(i, j)
		if errX != nil || errY != nil {
			by = strings.Compare(x, y)
		}
		if by != 0 {
			return by
		}
	}
	return 0
}

var seed = maphash.MakeSeed()

func hashPair(name, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.WriteString(name) // it never fails
	_ = h.WriteByte(0)
	_, _ = h.WriteString(value)
	return h.Sum64()
}

// keyOf tells the label sets of a signal's series apart, whatever order the labels come in. Bounds
// of buckets and ranks that repeat each other do not count.
func keyOf(s *Signal, m *dto.Metric) uint64 {
	key := maphash.String(seed, s.GetSeries())
	for _, l := range m.GetLabel() {
		if l.GetName() != "le" && !slices.Contains(s.GetRanks(), l.GetName()) {
			key += hashPair(l.GetName(), l.GetValue())
		}
	}
	return key
}

func replicaOf(m *dto.Metric) string {
	var b strings.Builder
	for _, name := range replicaLabels {
		if v, ok := labelOf(m, name); ok && v != "" {
			b.WriteString(name + "=" + v + " ")
		}
	}
	return strings.TrimSuffix(b.String(), " ")
}

func scalar(m *dto.Metric) (v float64, ok bool) {
	v = math.NaN()
	switch {
	case m.Gauge != nil:
		v = m.Gauge.GetValue()
	case m.Counter != nil:
		v = m.Counter.GetValue()
	case m.Untyped != nil:
		v = m.Untyped.GetValue()
	}
	return v, !math.IsNaN(v)
}

func matches(m *dto.Metric, match map[string]string) bool {
	for name, allowed := range match {
		v, _ := labelOf(m, name) // an absent label is an empty one
		if !slices.Contains(strings.Split(allowed, "|"), v) {
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

// readLabel reads what an info gauge carries in its labels: numbers, of which "a*b" multiplies two
// of the same sample, or the length of a list in the sample of the highest value.
func (p page) readLabel(r *Reading) bool {
	s := r.Signal
	all := p.samples(s.GetSeries(), s)
	if s.GetPart() == LabelItemsPart {
		return readItems(r, all)
	}
	var values []float64
	for _, m := range all {
		if v, ok := labelProduct(m, s.GetLabel()); ok {
			values = append(values, v)
		}
	}
	r.Value = Together(s, values)
	return len(values) > 0
}

func readItems(r *Reading, all []*dto.Metric) bool {
	best := math.Inf(-1)
	for _, m := range all {
		at, ok := scalar(m)
		list, there := labelOf(m, r.Signal.GetLabel())
		if !ok || !there || at <= best {
			continue
		}
		best, r.Value = at, 0
		for name := range strings.SplitSeq(list, ",") {
			if strings.TrimSpace(name) != "" {
				r.Value++
			}
		}
	}
	return !math.IsInf(best, -1)
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

// histograms of each label set, from a typed family or from the bare _bucket, _sum and _count
// series of a page without TYPE lines. A summary has a sum and a count.
func (p page) histograms(s *Signal) []Sample {
	var out []Sample
	for _, m := range p.samples(s.GetSeries(), s) {
		h := &Histogram{}
		switch {
		case m.Histogram != nil:
			h.Sum, h.Count = m.Histogram.GetSampleSum(), float64(m.Histogram.GetSampleCount())
			h.Buckets = make([]Bucket, 0, len(m.Histogram.GetBucket()))
			for _, b := range m.Histogram.GetBucket() {
				h.Buckets = append(h.Buckets, Bucket{UpperBound: b.GetUpperBound(), Count: float64(b.GetCumulativeCount())})
			}
			sortBuckets(h)
		case m.Summary != nil && s.GetPart() != 0:
			h.Sum, h.Count = m.Summary.GetSampleSum(), float64(m.Summary.GetSampleCount())
		default:
			continue
		}
		out = append(out, Sample{Key: keyOf(s, m), Replica: replicaOf(m), Histogram: h})
	}
	if len(out) == 0 {
		return p.bareHistograms(s)
	}
	return out
}

func (p page) bareHistograms(s *Signal) []Sample {
	var out []Sample
	at := map[uint64]*Histogram{}
	for _, m := range p.samples(s.GetSeries()+"_count", s) {
		if n, ok := scalar(m); ok {
			h := &Histogram{Count: n}
			at[keyOf(s, m)] = h
			out = append(out, Sample{Key: keyOf(s, m), Replica: replicaOf(m), Histogram: h})
		}
	}
	for _, m := range p.samples(s.GetSeries()+"_sum", s) {
		if v, ok := scalar(m); ok && at[keyOf(s, m)] != nil {
			at[keyOf(s, m)].Sum = v
		}
	}
	for _, m := range p.samples(s.GetSeries()+"_bucket", s) {
		le, _ := labelOf(m, "le")
		bound, err := strconv.ParseFloat(le, 64)
		if n, ok := scalar(m); ok && err == nil && !math.IsNaN(bound) && at[keyOf(s, m)] != nil {
			at[keyOf(s, m)].Buckets = append(at[keyOf(s, m)].Buckets, Bucket{UpperBound: bound, Count: n})
		}
	}
	for _, h := range at {
		sortBuckets(h)
	}
	return out
}

func sortBuckets(h *Histogram) {
	slices.SortFunc(h.Buckets, func(a, b Bucket) int { return cmp.Compare(a.UpperBound, b.UpperBound) })
}
