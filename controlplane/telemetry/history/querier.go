package history

import (
	"context"
	"slices"

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

// Select implements storage.Querier. What comes back does not change while it is read; it may begin
// before and end after the span, by less than a piece, which PromQL's engine does not mind.
func (q *querier) Select(_ context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	from, to := q.mint, q.maxt
	if hints != nil {
		from, to = max(from, hints.Start), min(to, hints.End)
	}
	found := &seriesSet{}
	for _, s := range q.head.matching(matchers) {
		chunks, err := s.between(from, to)
		if err != nil {
			return storage.ErrSeriesSet(err)
		}
		if len(chunks) > 0 {
			found.series = append(found.series, &storage.SeriesEntry{
				Lset: s.labels,
				SampleIteratorFn: func(it chunkenc.Iterator) chunkenc.Iterator {
					return storage.ChainSampleIteratorFromIterables(it, chunks)
				},
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
