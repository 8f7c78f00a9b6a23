package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// Reasons for which a sample is not kept.
var (
	// ErrOutOfOrder: the series already has a sample of that time or a later one.
	ErrOutOfOrder = errors.New("sample is not newer than the last one of its series")
	// ErrFull: the head holds as many series as it may.
	ErrFull = errors.New("too many series; raise the limit or remove engines that are gone")
	// ErrKind: the series was begun as another kind.
	ErrKind = errors.New("series is of another kind")
)

// Config bounds a Head. Zero fields take the defaults.
type Config struct {
	// Raw is how long every sample is kept; default 24 h.
	Raw time.Duration
	// Downsample is the stretch of which one sample is kept for Long; default 5 min.
	Downsample time.Duration
	// Long is how long downsampled samples are kept; default 30 days.
	Long time.Duration
	// Bytes bound the memory of samples and series, by estimate; default 256 MiB. Over it, the oldest
	// raw samples go first, until a 64th of Raw is left; then the oldest downsampled ones.
	Bytes int
	// Series kept at most; default 500,000.
	Series int
}

func (c Config) withDefaults() Config {
	if c.Raw == 0 {
		c.Raw = 24 * time.Hour
	}
	if c.Downsample == 0 {
		c.Downsample = 5 * time.Minute
	}
	if c.Long == 0 {
		c.Long = 30 * 24 * time.Hour
	}
	if c.Bytes == 0 {
		c.Bytes = 256 << 20
	}
	if c.Series == 0 {
		c.Series = 500_000
	}
	return c
}

// Stats counts what a head holds and what it turned away since its start.
type Stats struct {
	Series int `json:"series"`
	// Bytes of samples and series, by estimate.
	Bytes int `json:"bytes"`
	// Appended samples; Refused ones were out of order, of a wrong kind or over the series limit.
	Appended uint64 `json:"appended"`
	Refused  uint64 `json:"refused"`
	// OldestRaw and Oldest samples; zero when there are none.
	OldestRaw time.Time `json:"oldest_raw,omitzero"`
	Oldest    time.Time `json:"oldest,omitzero"`
}

// Head holds series in memory. All methods may be called from any goroutine.
type Head struct {
	cfg Config

	mu    sync.RWMutex // guards what follows
	names map[string]*family
	stats Stats
}

// family is all series of a metric name.
type family struct {
	byLabels map[string]*memSeries
}

// New returns an empty head.
func New(cfg Config) *Head {
	return &Head{cfg: cfg.withDefaults(), names: map[string]*family{}}
}

// Append takes a value of a counter or gauge. t is rounded down to milliseconds.
func (h *Head) Append(l labels.Labels, kind series.Kind, t time.Time, v float64) error {
	return h.append(l, kind, sample{t: t.UnixMilli(), v: v})
}

// AppendHistogram takes the state of a native histogram, which it copies.
func (h *Head) AppendHistogram(l labels.Labels, t time.Time, state *histogram.FloatHistogram) error {
	return h.append(l, series.Histogram, sample{t: t.UnixMilli(), h: state.Copy()})
}

// End marks the series that match as over at t: queries see them no more until the next sample.
func (h *Head) End(t time.Time, matchers ...*labels.Matcher) {
	for _, s := range h.matching(matchers) {
		if last, live := s.newest(); !live || t.UnixMilli() <= last.t {
			continue
		}
		p := sample{t: t.UnixMilli(), v: stale}
		if s.kind == series.Histogram {
			p = sample{t: t.UnixMilli(), h: &histogram.FloatHistogram{Sum: stale}}
		}
		h.count(s.append(p, h.cfg.Downsample.Milliseconds()))
	}
}

// stale ends a series: PromQL looks no further back than to it.
var stale = math.Float64frombits(value.StaleNaN)

func (h *Head) append(l labels.Labels, kind series.Kind, p sample) error {
	s, err := h.series(l, kind)
	if err == nil {
		return h.count(s.append(p, h.cfg.Downsample.Milliseconds()))
	}
	return h.count(0, err)
}

func (h *Head) count(grown int, err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.stats.Refused++
		return err
	}
	h.stats.Appended++
	h.stats.Bytes += grown
	return nil
}

// series with these labels, begun when there is none.
func (h *Head) series(l labels.Labels, kind series.Kind) (*memSeries, error) {
	name, key := l.Get(model.MetricNameLabel), string(l.Bytes(nil))
	h.mu.RLock()
	s := h.names[name].get(key)
	h.mu.RUnlock()
	if s == nil {
		var err error
		if s, err = h.begin(name, key, l, kind); err != nil {
			return nil, err
		}
	}
	if s.kind != kind {
		return nil, fmt.Errorf("%w: %s", ErrKind, l)
	}
	return s, nil
}

func (f *family) get(key string) *memSeries {
	if f == nil {
		return nil
	}
	return f.byLabels[key]
}

func (h *Head) begin(name, key string, l labels.Labels, kind series.Kind) (*memSeries, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.names[name].get(key); s != nil {
		return s, nil
	}
	if h.stats.Series >= h.cfg.Series {
		return nil, ErrFull
	}
	s := &memSeries{labels: l.Copy(), kind: kind}
	h.add(name, key, s)
	return s, nil
}

// add a series to the index. The caller holds mu.
func (h *Head) add(name, key string, s *memSeries) {
	f := h.names[name]
	if f == nil {
		f = &family{byLabels: map[string]*memSeries{}}
		h.names[name] = f
	}
	f.byLabels[key] = s
	h.stats.Series++
	h.stats.Bytes += seriesOverhead + s.bytes()
}

// Kinds of the series kept, by their names.
func (h *Head) Kinds() map[string]series.Kind {
	h.mu.RLock()
	defer h.mu.RUnlock()
	kinds := make(map[string]series.Kind, len(h.names))
	for name, f := range h.names {
		for _, s := range f.byLabels {
			kinds[name] = s.kind
			break
		}
	}
	return kinds
}

// Find the series that stands for a metric in windows: one of series.All, or one that an adapter brought
// along and of which there are samples.
func (h *Head) Find(metric string) (series.Info, bool) {
	if info, known := series.Find(metric); known {
		return info, true
	}
	kinds := h.Kinds()
	for _, kind := range []series.Kind{series.Counter, series.Gauge} {
		if info, can := series.Of(metric, kind); can && kinds[info.Name] == kind {
			return info, true
		}
	}
	return series.Info{}, false
}

// Last value of a counter or gauge, also of a series that has ended; false when there is none.
func (h *Head) Last(l labels.Labels) (t time.Time, v float64, ok bool) {
	p := h.last(l)
	return time.UnixMilli(p.t), p.v, p.t != 0
}

// LastHistogram is a copy of the newest state, also of a series that has ended; nil when there is none.
func (h *Head) LastHistogram(l labels.Labels) (t time.Time, state *histogram.FloatHistogram) {
	if p := h.last(l); p.h != nil {
		return time.UnixMilli(p.t), p.h.Copy()
	}
	return time.Time{}, nil
}

func (h *Head) last(l labels.Labels) sample {
	h.mu.RLock()
	s := h.names[l.Get(model.MetricNameLabel)].get(string(l.Bytes(nil)))
	h.mu.RUnlock()
	if s == nil {
		return sample{}
	}
	p, _ := s.newest()
	return p
}

// Stats of the head.
func (h *Head) Stats() Stats {
	h.mu.RLock()
	st := h.stats
	h.mu.RUnlock()
	for _, s := range h.matching(nil) {
		raw, down := s.oldest()
		st.OldestRaw, st.Oldest = older(st.OldestRaw, raw), older(older(st.Oldest, raw), down)
	}
	return st
}

func older(t time.Time, ms int64) time.Time {
	if at := time.UnixMilli(ms); ms != 0 && (t.IsZero() || at.Before(t)) {
		return at
	}
	return t
}

// Truncate drops what is too old at now, and the oldest of the rest while more memory is used than may
// be.
func (h *Head) Truncate(now time.Time) {
	h.expire(now.Add(-h.cfg.Raw).UnixMilli(), now.Add(-h.cfg.Long).UnixMilli())
	for raw, long := h.cfg.Raw, h.cfg.Long; h.Stats().Bytes > h.cfg.Bytes && long > h.cfg.Downsample; {
		if raw > h.cfg.Raw/64 {
			raw = raw * 7 / 8
		} else {
			long = long * 7 / 8
		}
		h.expire(now.Add(-raw).UnixMilli(), now.Add(-long).UnixMilli())
	}
}

func (h *Head) expire(rawMin, downMin int64) {
	var freed int
	var empty []*memSeries
	for _, s := range h.matching(nil) {
		freed += s.expire(rawMin, downMin)
		if s.empty() {
			empty = append(empty, s)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Bytes -= freed
	for _, s := range empty {
		h.remove(s)
	}
}

// remove an empty series from the index. The caller holds mu.
func (h *Head) remove(s *memSeries) {
	name := s.labels.Get(model.MetricNameLabel)
	f := h.names[name]
	delete(f.byLabels, string(s.labels.Bytes(nil)))
	if len(f.byLabels) == 0 {
		delete(h.names, name)
	}
	h.stats.Series--
	h.stats.Bytes -= seriesOverhead
}

// matching series, in no order. Those of one name are found at once, the rest by looking at all.
func (h *Head) matching(matchers []*labels.Matcher) []*memSeries {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var found []*memSeries
	look := func(f *family) {
		for _, s := range f.byLabels {
			if matches(s.labels, matchers) {
				found = append(found, s)
			}
		}
	}
	if i := slices.IndexFunc(matchers, byName); i >= 0 {
		if f := h.names[matchers[i].Value]; f != nil {
			look(f)
		}
		return found
	}
	for _, f := range h.names {
		look(f)
	}
	return found
}

func byName(m *labels.Matcher) bool {
	return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value != ""
}

func matches(l labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}
