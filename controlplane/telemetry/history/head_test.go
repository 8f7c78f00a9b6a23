package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"go.uber.org/goleak"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func named(name string, pairs ...string) labels.Labels {
	return labels.FromStrings(append([]string{model.MetricNameLabel, name}, pairs...)...)
}

func equal(name, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchEqual, name, v) }

type point struct {
	T int64
	V float64
}

// points of the one series that matches, histograms by their count; staleness markers as -1.
func points(t *testing.T, h *Head, from, to time.Time, matchers ...*labels.Matcher) []point {
	t.Helper()
	q, err := h.Querier(from.UnixMilli(), to.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(t.Context(), true, nil, matchers...)
	if !set.Next() {
		return nil
	}
	var found []point
	it := set.At().Iterator(nil)
	for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
		p := point{T: it.AtT()}
		if p.T < from.UnixMilli() || p.T > to.UnixMilli() {
			continue // the rest of a piece
		}
		if k == chunkenc.ValFloat {
			_, p.V = it.At()
			if value.IsStaleNaN(p.V) {
				p.V = -1
			}
		} else {
			_, s := it.AtFloatHistogram(nil)
			if p.V = s.Count; value.IsStaleNaN(s.Sum) {
				p.V = -1
			}
		}
		found = append(found, p)
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	if set.Next() {
		t.Fatal("more than one series matches")
	}
	return found
}

// state is a native histogram with n values in each of the buckets from first on.
func state(first int32, n ...float64) *histogram.FloatHistogram {
	h := &histogram.FloatHistogram{Schema: schema, ZeroThreshold: zeroThreshold, PositiveSpans: []histogram.Span{{Offset: first, Length: uint32(len(n))}}, PositiveBuckets: n}
	for _, c := range n {
		h.Count += c
		h.Sum += c
	}
	return h
}

// TestWhatWasAppendedIsRead runs a head beside a plain list, with gaps and new buckets.
func TestWhatWasAppendedIsRead(t *testing.T) {
	h := New(Config{Raw: 100 * time.Hour})
	rng := rand.New(rand.NewPCG(1, 2))
	var gauge, counts []point
	total := state(0, 0)
	at := noon
	for range 3000 {
		at = at.Add(time.Duration(1+rng.IntN(20_000)) * time.Millisecond)
		v := rng.NormFloat64()
		if err := h.Append(named("g", "engine", "a"), series.Gauge, at, v); err != nil {
			t.Fatal(err)
		}
		gauge = append(gauge, point{at.UnixMilli(), v})
		total, _, _, _ = total.Add(state(int32(rng.IntN(40)), 1, float64(rng.IntN(3))))
		if err := h.AppendHistogram(named("h", "engine", "a"), at, total); err != nil {
			t.Fatal(err)
		}
		counts = append(counts, point{at.UnixMilli(), total.Count})
	}
	for _, span := range [][2]time.Time{{noon, at}, {noon.Add(time.Hour), noon.Add(2 * time.Hour)}, {at, at}, {at.Add(time.Second), at.Add(time.Hour)}} {
		for name, all := range map[string][]point{"g": gauge, "h": counts} {
			want := slices.DeleteFunc(slices.Clone(all), func(p point) bool {
				return p.T < span[0].UnixMilli() || p.T > span[1].UnixMilli()
			})
			if diff := cmp.Diff(want, points(t, h, span[0], span[1], equal(model.MetricNameLabel, name)), equateEmpty); diff != "" {
				t.Errorf("%s in %v (-appended +read):\n%s", name, span, diff)
			}
		}
	}
}

var equateEmpty = cmp.Transformer("empty", func(p []point) []point {
	if len(p) == 0 {
		return nil
	}
	return p
})

func TestRefusals(t *testing.T) {
	h := New(Config{Series: 1})
	l := named("x", "engine", "a")
	if err := h.Append(l, series.Gauge, noon, 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"same time", h.Append(l, series.Gauge, noon, 2), ErrOutOfOrder},
		{"earlier", h.Append(l, series.Gauge, noon.Add(-time.Second), 2), ErrOutOfOrder},
		{"other kind", h.Append(l, series.Counter, noon.Add(time.Second), 2), ErrKind},
		{"another series", h.Append(named("y"), series.Gauge, noon, 2), ErrFull},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
	if s := h.Stats(); s.Appended != 1 || s.Refused != 4 || s.Series != 1 {
		t.Errorf("stats %+v", s)
	}
}

// TestEnd: an engine that is gone is gone for queries, until it comes back.
func TestEnd(t *testing.T) {
	h := New(Config{})
	for _, e := range []string{"a", "b"} {
		_ = h.Append(named("g", "engine", e), series.Gauge, noon, 1)
		_ = h.AppendHistogram(named("h", "engine", e), noon, state(0, 1))
	}
	end := noon.Add(10 * time.Second)
	h.End(end, equal("engine", "a"))
	h.End(end.Add(time.Second), equal("engine", "a")) // once is enough
	if at, v, ok := h.Last(named("g", "engine", "a")); !ok || v != 1 || !at.Equal(noon) {
		t.Errorf("last value of an ended series: %v at %v", v, at)
	}
	if _, s := h.LastHistogram(named("h", "engine", "a")); s == nil || s.Count != 1 {
		t.Errorf("last state of an ended histogram: %v", s)
	}
	_ = h.Append(named("g", "engine", "a"), series.Gauge, noon.Add(time.Minute), 2)
	want := []point{{noon.UnixMilli(), 1}, {end.UnixMilli(), -1}, {noon.Add(time.Minute).UnixMilli(), 2}}
	if diff := cmp.Diff(want, points(t, h, noon, noon.Add(time.Hour), equal(model.MetricNameLabel, "g"), equal("engine", "a"))); diff != "" {
		t.Error(diff)
	}
	want = []point{{noon.UnixMilli(), 1}, {end.UnixMilli(), -1}}
	if diff := cmp.Diff(want, points(t, h, noon, noon.Add(time.Hour), equal(model.MetricNameLabel, "h"), equal("engine", "a"))); diff != "" {
		t.Error(diff)
	}
}

// TestDownsampling: what is older than Raw is there every five minutes: totals exactly, gauges as means.
func TestDownsampling(t *testing.T) {
	h := New(Config{Raw: time.Hour, Long: 10 * time.Hour})
	total := state(0, 0)
	const step = 10 * time.Second
	n := int(12 * time.Hour / step)
	for i := range n {
		at := noon.Add(time.Duration(i) * step)
		total, _, _, _ = total.Add(state(3, 1))
		_ = h.Append(named("c"), series.Counter, at, float64(i))
		_ = h.Append(named("g"), series.Gauge, at, float64(i%30)) // 30 samples in five minutes: mean 14.5
		_ = h.AppendHistogram(named("h"), at, total)
	}
	end := noon.Add(12 * time.Hour)
	h.Truncate(end)
	for _, name := range []string{"c", "g", "h"} {
		got := points(t, h, noon, end, equal(model.MetricNameLabel, name))
		var raw, down int
		for i, p := range got {
			if i > 0 && p.T-got[i-1].T == step.Milliseconds() {
				raw++
				continue
			}
			down++
			index := float64(p.T-noon.UnixMilli()) / float64(step.Milliseconds())
			want := map[string]float64{"c": index, "g": 14.5, "h": index + 1}[name]
			if p.V != want && i < len(got)-raw-1 && raw == 0 && !firstRaw(got, i, step) {
				t.Errorf("%s at %v: %v, want %v", name, time.UnixMilli(p.T).UTC(), p.V, want)
			}
		}
		// The ages hold to the length of a piece: 20 min of raw samples, 10 h of downsampled ones.
		if raw < 350 || raw > 500 || down < 100 || down > 140 {
			t.Errorf("%s: %d raw and %d downsampled samples", name, raw, down)
		}
	}
	if s := h.Stats(); end.Sub(s.OldestRaw) < time.Hour || end.Sub(s.Oldest) < 10*time.Hour {
		t.Errorf("stats %+v", s)
	}
	h.Truncate(end.Add(100 * time.Hour))
	if s := h.Stats(); s.Series != 0 || s.Bytes != 0 {
		t.Errorf("all is too old, yet %+v is left", s)
	}
}

// firstRaw reports whether point i is the first raw one.
func firstRaw(p []point, i int, step time.Duration) bool {
	return i+1 < len(p) && p[i+1].T-p[i].T == step.Milliseconds()
}

// TestBytesAreBounded: a flood costs age, not memory; the newest samples stay.
func TestBytesAreBounded(t *testing.T) {
	const limit = 1 << 20
	h := New(Config{Bytes: limit})
	rng := rand.New(rand.NewPCG(1, 2))
	at := noon
	for range 1000 {
		at = at.Add(10 * time.Second)
		for e := range 100 {
			if err := h.Append(named("g", "engine", fmt.Sprint(e)), series.Gauge, at, rng.Float64()); err != nil {
				t.Fatal(err)
			}
		}
		if at.Unix()%60 == 0 {
			h.Truncate(at)
			if s := h.Stats(); s.Bytes > limit {
				t.Fatalf("%d bytes after truncation, limit %d", s.Bytes, limit)
			}
		}
	}
	if p := points(t, h, at, at, equal("engine", "7")); len(p) != 1 {
		t.Errorf("newest sample: %v", p)
	}
	if s := h.Stats(); at.Sub(s.OldestRaw) < 20*time.Minute || s.Series != 100 {
		t.Errorf("too much went: %+v", s)
	}
}

func TestSnapshot(t *testing.T) {
	h := New(Config{Raw: time.Hour})
	total := state(0, 0)
	at := noon
	for i := range 2000 {
		at = at.Add(10 * time.Second)
		total, _, _, _ = total.Add(state(int32(i%50), 1, 2))
		_ = h.Append(named("c", "engine", "a"), series.Counter, at, float64(i))
		_ = h.Append(named("g", "engine", "a"), series.Gauge, at, math.Sin(float64(i)))
		_ = h.AppendHistogram(named("h", "engine", "a"), at, total)
	}
	h.End(at.Add(time.Second), equal(model.MetricNameLabel, "g"))
	h.Truncate(at)
	file := filepath.Join(t.TempDir(), "history.snap")
	if err := h.Save(file); err != nil {
		t.Fatal(err)
	}
	again := New(Config{Raw: time.Hour})
	if err := again.Load(file); err != nil {
		t.Fatal(err)
	}
	// Both go on: the open five minutes and the open pieces are part of a snapshot.
	for i := range 200 {
		at = at.Add(10 * time.Second)
		total, _, _, _ = total.Add(state(int32(i%50), 1, 2))
		for _, x := range []*Head{h, again} {
			_ = x.Append(named("c", "engine", "a"), series.Counter, at, float64(3000+i))
			_ = x.Append(named("g", "engine", "a"), series.Gauge, at, float64(i))
			_ = x.AppendHistogram(named("h", "engine", "a"), at, total)
		}
	}
	h.Truncate(at)
	again.Truncate(at)
	for _, name := range []string{"c", "g", "h"} {
		want, got := points(t, h, noon, at, equal(model.MetricNameLabel, name)), points(t, again, noon, at, equal(model.MetricNameLabel, name))
		if diff := cmp.Diff(want, got); diff != "" || len(got) < 400 {
			t.Errorf("%s, %d points (-never stopped +restored):\n%s", name, len(got), diff)
		}
	}
	a, b := h.Stats(), again.Stats()
	if a.Series != b.Series || b.Bytes > a.Bytes*12/10 || !a.Oldest.Equal(b.Oldest) {
		t.Errorf("never stopped %+v, restored %+v", a, b)
	}
}

// TestBrokenSnapshot: any byte that is wrong is noticed, and nothing is half restored.
func TestBrokenSnapshot(t *testing.T) {
	h := New(Config{})
	for i := range 100 {
		_ = h.Append(named("c", "engine", "a"), series.Counter, noon.Add(time.Duration(i)*time.Second), float64(i))
		_ = h.AppendHistogram(named("h"), noon.Add(time.Duration(i)*time.Second), state(0, float64(i)))
	}
	file := filepath.Join(t.TempDir(), "history.snap")
	if err := h.Save(file); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, content []byte) {
		again := New(Config{})
		if err := again.read(bytes.NewReader(content)); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", what, err)
		}
		if s := again.Stats(); s.Series != 0 {
			t.Errorf("%s: %d series restored", what, s.Series)
		}
	}
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] ^= 0x10
		try(fmt.Sprintf("byte %d flipped", i), flipped)
	}
	for _, n := range []int{0, 5, len(whole) / 2, len(whole) - 1} {
		try(fmt.Sprintf("cut to %d bytes", n), whole[:n])
	}
	if err := New(Config{}).Load(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no snapshot: %v", err)
	}
}

// TestSaveWithoutRoom: the old snapshot stays whole.
func TestSaveWithoutRoom(t *testing.T) {
	h := New(Config{})
	if err := h.Save(filepath.Join(t.TempDir(), "no", "folder", "history.snap")); err == nil {
		t.Error("saved into a folder that is not there")
	}
}

func FuzzDecode(f *testing.F) {
	h := New(Config{})
	for i := range 40 {
		at := noon.Add(time.Duration(i) * time.Minute)
		_ = h.Append(named("c", "engine", "a"), series.Counter, at, float64(i))
		_ = h.AppendHistogram(named("h"), at, state(int32(i%3), float64(i)))
	}
	for _, s := range h.matching(nil) {
		f.Add(s.encode())
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := decode(body)
		if err != nil {
			return
		}
		// What decodes can be read and continued.
		_, _ = s.between(math.MinInt64, math.MaxInt64)
		p := sample{t: s.end + 1}
		if s.kind == series.Histogram {
			p.h = state(0, 1)
		}
		_, _ = s.append(p, 300_000)
	})
}

func TestLabels(t *testing.T) {
	h := New(Config{})
	_ = h.Append(named("a", "engine", "e1", "group", "g"), series.Gauge, noon, 1)
	_ = h.Append(named("b", "engine", "e2"), series.Gauge, noon.Add(time.Hour), 1)
	ask := func(from, to time.Time, matchers ...*labels.Matcher) (names, engines []string) {
		q, _ := h.Querier(from.UnixMilli(), to.UnixMilli())
		names, _, err := q.LabelNames(context.Background(), nil, matchers...)
		if err != nil {
			t.Fatal(err)
		}
		engines, _, err = q.LabelValues(context.Background(), "engine", nil, matchers...)
		if err != nil {
			t.Fatal(err)
		}
		return names, engines
	}
	for _, c := range []struct {
		name           string
		from, to       time.Time
		matchers       []*labels.Matcher
		names, engines []string
	}{
		{"all", noon, noon.Add(time.Hour), nil, []string{"__name__", "engine", "group"}, []string{"e1", "e2"}},
		{"one span", noon.Add(time.Minute), noon.Add(time.Hour), nil, []string{"__name__", "engine"}, []string{"e2"}},
		{"one name", noon, noon.Add(time.Hour), []*labels.Matcher{equal(model.MetricNameLabel, "a")}, []string{"__name__", "engine", "group"}, []string{"e1"}},
		{"no such", noon, noon.Add(time.Hour), []*labels.Matcher{equal("engine", "e3")}, []string{}, []string{}},
	} {
		names, engines := ask(c.from, c.to, c.matchers...)
		if diff := cmp.Diff([][]string{c.names, c.engines}, [][]string{names, engines}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
