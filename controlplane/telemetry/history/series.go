package history

import (
	"math"
	"sync"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// A series' kind decides what five minutes of it become: of a counter the last value, of a gauge the mean,
// of a native histogram the last state.
func encoding(k series.Kind) chunkenc.Encoding {
	if k == series.Histogram {
		return chunkenc.EncFloatHistogram
	}
	return chunkenc.EncXOR
}

// sample is one point; h is nil unless the series is of histograms.
type sample struct {
	t int64 // Unix milliseconds
	v float64
	h *histogram.FloatHistogram
}

func (s sample) stale() bool {
	if s.h != nil {
		return value.IsStaleNaN(s.h.Sum)
	}
	return value.IsStaleNaN(s.v)
}

// memSeries is one series. Its samples are in order of time.
type memSeries struct {
	labels labels.Labels
	kind   series.Kind

	mu    sync.Mutex // guards what follows
	raw   track
	down  track
	block block  // the five minutes that are not over
	last  sample // the newest that is not a staleness marker
	end   int64  // time of the newest of all
}

// block gathers the raw samples of one stretch of Config.Downsample.
type block struct {
	number int64
	sum    float64
	n      int
}

// append takes a sample that is newer than the last one, and returns how many bytes the series grew by.
func (s *memSeries) append(p sample, downMS int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.t <= s.end && s.end != 0 {
		return 0, ErrOutOfOrder
	}
	before := s.bytes()
	number := p.t / downMS
	if s.block.n > 0 && (number != s.block.number || p.stale()) {
		if err := s.down.append(s.kind, s.blockSample()); err != nil {
			return 0, err
		}
		s.block = block{}
	}
	if err := s.raw.append(s.kind, p); err != nil {
		return 0, err
	}
	s.end = p.t
	if p.stale() {
		if err := s.down.append(s.kind, p); err != nil {
			return 0, err
		}
	} else {
		s.last = p
		s.block.number = number
		s.block.sum += p.v
		s.block.n++
	}
	return s.bytes() - before, nil
}

// bytes of the samples. The caller holds mu.
func (s *memSeries) bytes() int { return s.raw.bytes() + s.down.bytes() }

// blockSample stands for the block.
func (s *memSeries) blockSample() sample {
	p := s.last
	if s.kind == series.Gauge {
		p.v = s.block.sum / float64(s.block.n)
	}
	return p
}

// expire drops whole chunks that end before rawMin and downMin, and returns the bytes given back.
func (s *memSeries) expire(rawMin, downMin int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.bytes()
	s.raw.expire(rawMin)
	s.down.expire(downMin)
	return before - s.bytes()
}

// empty reports whether nothing is kept any more; not so of a series that waits for its first sample.
func (s *memSeries) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end != 0 && len(s.raw.pieces) == 0 && len(s.down.pieces) == 0
}

// oldest times kept; 0 when there are none.
func (s *memSeries) oldest() (raw, down int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.oldest(), s.down.oldest()
}

// newest value; live is false once the series has ended.
func (s *memSeries) newest() (last sample, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.last.t != 0 && s.last.t == s.end
}

// between returns chunks that hold the samples of [from, to], in order of time and without overlap: raw
// ones, and five-minute ones for what is older than the oldest raw one.
func (s *memSeries) between(from, to int64) ([]chunkenc.Iterable, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edge := s.raw.oldest()
	if edge == 0 {
		edge = math.MaxInt64
	}
	found, err := s.down.between(nil, from, to, edge)
	if err != nil {
		return nil, err
	}
	return s.raw.between(found, from, to, math.MaxInt64)
}

// touches reports whether the series may have samples within [from, to].
func (s *memSeries) touches(from, to int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.touches(from, to) || s.down.touches(from, to)
}
