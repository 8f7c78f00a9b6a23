package history

import (
	"context"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"
)

var _ storage.Queryable = (*Head)(nil)

// Querier implements storage.Queryable: samples from mint to maxt, both included, in Unix milliseconds.
func (h *Head) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{head: h, mint: mint, maxt: maxt}, nil
}

type querier struct {
	head       *Head
	mint, maxt int64
}

// Close implements storage.LabelQuerier.
func (q *querier) Close() error { return nil }

// Select implements storage.Querier. What comes back does not change while it is read.
func (q *querier) Select(_ context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	from, to := q.mint, q.maxt
	if hints != nil {
		from, to = max(from, hints.Start), min(to, hints.End)
	}
	found := &seriesSet{}
	for _, s := range q.head.matching(matchers) {
		if stretches := s.between(from, to); len(stretches) > 0 {
			found.series = append(found.series, &storage.SeriesEntry{
				Lset:             s.labels,
				SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return &iterator{rest: stretches} },
			})
		}
	}
	slices.SortFunc(found.series, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return found
}

// LabelValues implements storage.LabelQuerier.
func (q *querier) LabelValues(_ context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values := q.distinct(matchers, func(l labels.Labels, add func(string)) {
		if v := l.Get(name); v != "" {
			add(v)
		}
	})
	limited, _ := hints.ApplyLimit(values)
	return limited, nil, nil
}

// LabelNames implements storage.LabelQuerier.
func (q *querier) LabelNames(_ context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names := q.distinct(matchers, func(l labels.Labels, add func(string)) {
		l.Range(func(l labels.Label) { add(l.Name) })
	})
	limited, _ := hints.ApplyLimit(names)
	return limited, nil, nil
}

// distinct strings that pick adds for series with samples in the querier's span, sorted.
func (q *querier) distinct(matchers []*labels.Matcher, pick func(l labels.Labels, add func(string))) []string {
	seen := map[string]bool{}
	for _, s := range q.head.matching(matchers) {
		if s.touches(q.mint, q.maxt) {
			pick(s.labels, func(v string) { seen[v] = true })
		}
	}
	found := make([]string, 0, len(seen))
	for v := range seen {
		found = append(found, v)
	}
	slices.Sort(found)
	return found
}

// seriesSet is a storage.SeriesSet over a slice.
type seriesSet struct {
	series []storage.Series
	at     storage.Series
}

// Next implements storage.SeriesSet.
func (s *seriesSet) Next() bool {
	if len(s.series) == 0 {
		return false
	}
	s.at, s.series = s.series[0], s.series[1:]
	return true
}

// At implements storage.SeriesSet.
func (s *seriesSet) At() storage.Series { return s.at }

// Err implements storage.SeriesSet.
func (*seriesSet) Err() error { return nil }

// Warnings implements storage.SeriesSet.
func (*seriesSet) Warnings() annotations.Annotations { return nil }

// iterator reads stretches one after the other.
type iterator struct {
	rest  []stretch
	in    stretch
	chunk chunkenc.Iterator // of in; nil before the first and after the last
	kind  chunkenc.ValueType
	err   error
}

// Next implements chunkenc.Iterator.
func (i *iterator) Next() chunkenc.ValueType {
	for i.err == nil {
		if i.chunk == nil && !i.open() {
			break
		}
		if i.kind = i.chunk.Next(); i.kind == chunkenc.ValNone {
			i.err, i.chunk = i.chunk.Err(), nil
			continue
		}
		switch t := i.chunk.AtT(); {
		case t < i.in.from:
		case t > i.in.to:
			i.chunk = nil
		default:
			return i.kind
		}
	}
	i.kind = chunkenc.ValNone
	return i.kind
}

func (i *iterator) open() bool {
	if len(i.rest) == 0 {
		return false
	}
	i.in, i.rest = i.rest[0], i.rest[1:]
	i.chunk = i.in.chunk.Iterator(nil)
	return true
}

// Seek implements chunkenc.Iterator.
func (i *iterator) Seek(t int64) chunkenc.ValueType {
	if i.kind != chunkenc.ValNone && i.AtT() >= t {
		return i.kind
	}
	for i.Next() != chunkenc.ValNone {
		if i.AtT() >= t {
			break
		}
	}
	return i.kind
}

// At implements chunkenc.Iterator.
func (i *iterator) At() (int64, float64) { return i.chunk.At() }

// AtHistogram implements chunkenc.Iterator; there are none with whole counts.
func (i *iterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	return i.chunk.AtHistogram(h)
}

// AtFloatHistogram implements chunkenc.Iterator.
func (i *iterator) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return i.chunk.AtFloatHistogram(h)
}

// AtT implements chunkenc.Iterator.
func (i *iterator) AtT() int64 { return i.chunk.AtT() }

// AtST implements chunkenc.Iterator; start times are not kept.
func (*iterator) AtST() int64 { return 0 }

// Err implements chunkenc.Iterator.
func (i *iterator) Err() error { return i.err }
