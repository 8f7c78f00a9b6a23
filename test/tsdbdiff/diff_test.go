// Package tsdbdiff runs the same samples and the same queries through the control plane's history and
// through Prometheus' own storage engine. It is a module of its own: the product does not link that
// engine.
package tsdbdiff

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const span = 3 * time.Hour

// both stores take the same samples.
type both struct {
	t    *testing.T
	head *history.Head
	db   *tsdb.DB
}

func open(t *testing.T) *both {
	opts := tsdb.DefaultOptions()
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &both{t: t, head: history.New(history.Config{}), db: db}
}

func (b *both) append(l labels.Labels, kind series.Kind, at time.Time, v float64, h *histogram.FloatHistogram) {
	b.t.Helper()
	a := b.db.Appender(b.t.Context())
	var err error
	if h != nil {
		_, err = a.AppendHistogram(0, l, at.UnixMilli(), nil, h.Copy())
	} else {
		_, err = a.Append(0, l, at.UnixMilli(), v)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if err := a.Commit(); err != nil {
		b.t.Fatal(err)
	}
	if h != nil {
		err = b.head.AppendHistogram(l, at, h)
	} else {
		err = b.head.Append(l, kind, at, v)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// end marks all series of an engine stale at the same time in both.
func (b *both) end(engine string, live []labels.Labels, at time.Time) {
	a := b.db.Appender(b.t.Context())
	for _, l := range live {
		if l.Get("engine") == engine {
			if _, err := a.Append(0, l, at.UnixMilli(), math.Float64frombits(value.StaleNaN)); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	if err := a.Commit(); err != nil {
		b.t.Fatal(err)
	}
	b.head.End(at, labels.MustNewMatcher(labels.MatchEqual, "engine", engine))
}

// fill writes three hours of three engines: gaps, counter resets, an engine that goes and comes back,
// histograms that find new buckets.
func (b *both) fill(rng *rand.Rand) {
	type state struct {
		total float64
		hist  *histogram.FloatHistogram
		gone  bool
	}
	engines := map[string]*state{"a": {hist: empty()}, "b": {hist: empty()}, "c": {hist: empty()}}
	names := []string{"a", "b", "c"}
	of := func(name, engine string) labels.Labels {
		return labels.FromStrings("__name__", name, "engine", engine, "group", map[string]string{"a": "g", "b": "g", "c": "h"}[engine])
	}
	for at := noon; at.Before(noon.Add(span)); at = at.Add(10 * time.Second) {
		for _, e := range names {
			s := engines[e]
			switch {
			case rng.IntN(300) == 0: // silence for a while
				if !s.gone {
					b.end(e, []labels.Labels{of("requests_total", e), of("running", e), of("ttft_seconds", e)}, at.Add(time.Second))
				}
				s.gone = true
				continue
			case s.gone && rng.IntN(30) > 0:
				continue
			case rng.IntN(200) == 0: // a restart without a snapshot
				s.total, s.hist = 0, empty()
			}
			s.gone = false
			when := at.Add(time.Duration(2000+rng.IntN(5000)) * time.Millisecond)
			s.total += float64(rng.IntN(50))
			b.append(of("requests_total", e), series.Counter, when, s.total, nil)
			b.append(of("running", e), series.Gauge, when, math.Round(rng.NormFloat64()*100)/8, nil)
			sum, _, _, err := s.hist.Add(some(rng))
			if err != nil {
				b.t.Fatal(err)
			}
			s.hist = sum
			b.append(of("ttft_seconds", e), series.Histogram, when, 0, s.hist)
		}
	}
}

func empty() *histogram.FloatHistogram {
	return &histogram.FloatHistogram{Schema: 4, ZeroThreshold: 1e-9}
}

// some values, in up to six neighbouring buckets.
func some(rng *rand.Rand) *histogram.FloatHistogram {
	h := empty()
	n := 1 + rng.IntN(6)
	h.PositiveSpans = []histogram.Span{{Offset: int32(rng.IntN(60) - 40), Length: uint32(n)}}
	for range n {
		c := float64(rng.IntN(20)) / 4
		h.PositiveBuckets = append(h.PositiveBuckets, c)
		h.Count += c
		h.Sum += c * .1
	}
	return h
}

var queries = []string{
	`requests_total`, `running`, `running{engine="b"}`, `{engine=~"a|c",__name__=~"r.*"}`, `running{engine!="a"}`, `absent(running{engine="z"})`,
	`rate(requests_total[1m])`, `increase(requests_total[7m])`, `irate(requests_total[2m])`, `resets(requests_total[30m])`, `changes(running[10m])`,
	`sum by (group) (rate(requests_total[5m]))`, `avg_over_time(running[15m])`, `max_over_time(running[15m]) - min_over_time(running[15m])`,
	`quantile_over_time(.9, running[20m])`, `stddev_over_time(running[20m])`, `deriv(running[20m])`, `predict_linear(running[20m], 600)`, `count_over_time(running[20m])`,
	`last_over_time(running[20m])`, `topk(1, running)`, `running offset 10m`, `running @ end()`, `max_over_time(sum(running)[10m:1m])`, `present_over_time(running[3m])`,
	`ttft_seconds`, `histogram_count(ttft_seconds)`, `histogram_sum(rate(ttft_seconds[5m]))`, `histogram_quantile(.95, rate(ttft_seconds[5m]))`,
	`histogram_quantile(.5, sum by (group) (rate(ttft_seconds[10m])))`, `histogram_avg(increase(ttft_seconds[10m]))`, `histogram_fraction(0, .2, rate(ttft_seconds[10m]))`,
	`resets(ttft_seconds[1h])`, `sum(increase(ttft_seconds[1h]))`, `last_over_time(ttft_seconds[10m])`, `timestamp(running)`, `requests_total / on(engine) running`,
}

func TestSameAnswers(t *testing.T) {
	for seed := range uint64(3) {
		b := open(t)
		b.fill(rand.New(rand.NewPCG(seed, 1)))
		engine := newEngine()
		answers := 0
		for _, q := range queries {
			for _, s := range []struct {
				from, to time.Duration
				step     time.Duration
			}{{0, span, time.Minute}, {time.Hour, time.Hour + 10*time.Minute, 7 * time.Second}, {-10 * time.Minute, span + 20*time.Minute, 5 * time.Minute}} {
				ours := ask(t, engine, b.head, q, noon.Add(s.from), noon.Add(s.to), s.step)
				theirs := ask(t, engine, b.db, q, noon.Add(s.from), noon.Add(s.to), s.step)
				if diff := cmp.Diff(theirs, ours); diff != "" {
					t.Errorf("seed %d, %s from %v to %v by %v (-tsdb +history):\n%.2000s", seed, q, s.from, s.to, s.step, diff)
				}
				answers += strings.Count(theirs, "@")
			}
		}
		if answers < 10_000 {
			t.Errorf("only %d points compared: the queries find nothing", answers)
		}
	}
}

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return 60_000 }, Parser: parser.NewParser(parser.Options{}),
	})
}

func ask(t *testing.T, engine *promql.Engine, store storage.Queryable, query string, from, to time.Time, step time.Duration) string {
	t.Helper()
	q, err := engine.NewRangeQuery(t.Context(), store, nil, query, from, to, step)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	r := q.Exec(t.Context())
	if r.Err != nil {
		return r.Err.Error()
	}
	return r.Value.String()
}

// TestSameLabels compares what a data source asks to fill its menus.
func TestSameLabels(t *testing.T) {
	b := open(t)
	b.fill(rand.New(rand.NewPCG(7, 1)))
	describe := func(s storage.Queryable, from, to time.Time, m ...*labels.Matcher) string {
		q, err := s.Querier(from.UnixMilli(), to.UnixMilli())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		names, _, err := q.LabelNames(t.Context(), nil, m...)
		if err != nil {
			t.Fatal(err)
		}
		values, _, err := q.LabelValues(t.Context(), "engine", nil, m...)
		if err != nil {
			t.Fatal(err)
		}
		var series []string
		set := q.Select(t.Context(), true, nil, m...)
		for set.Next() {
			series = append(series, set.At().Labels().String())
		}
		if set.Err() != nil {
			t.Fatal(set.Err())
		}
		slices.Sort(series)
		return fmt.Sprint(names, values, series)
	}
	for _, m := range [][]*labels.Matcher{
		{labels.MustNewMatcher(labels.MatchEqual, "__name__", "running")},
		{labels.MustNewMatcher(labels.MatchRegexp, "engine", "a|b")},
		{labels.MustNewMatcher(labels.MatchNotEqual, "group", "g")},
		{labels.MustNewMatcher(labels.MatchEqual, "engine", "")},
	} {
		ours, theirs := describe(b.head, noon, noon.Add(span), m...), describe(b.db, noon, noon.Add(span), m...)
		if ours != theirs {
			t.Errorf("%v:\ntsdb    %s\nhistory %s", m, theirs, ours)
		}
	}
}
