package history

import (
	"context"
	"io"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// Write a snapshot for another node.
func (h *Head) Write(w io.Writer) error { return h.write(w) }

// Read another node's snapshot into a head of its own.
func Read(r io.Reader, cfg Config) (*Head, error) {
	h := New(cfg)
	return h, h.read(r)
}

// Adopt hands what another node remembers to the goroutine of Run, which takes what this node lacks: a
// leader learns so what the engines did before it led. It returns when that is done, or ctx ends.
func (r *Recorder) Adopt(ctx context.Context, other *Head) (adopted int, err error) {
	done := make(chan int, 1)
	select {
	case r.adopt <- adoption{other, done}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case n := <-done:
		return n, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

type adoption struct {
	other *Head
	done  chan<- int
}

// adopt series that this head lacks, and what is older than the oldest sample of those that it has. It
// returns how many series gained something. The recorder's goroutine alone may call it: totals of
// series that gain an earlier part grow by the last total of that part, so that they never fall.
func (h *Head) adopt(other *Head) (adopted int) {
	for _, theirs := range other.matching(nil) {
		name, key := theirs.labels.Get(model.MetricNameLabel), string(theirs.labels.Bytes(nil))
		h.mu.Lock()
		ours := h.names[name].get(key)
		if ours == nil && h.stats.Series < h.cfg.Series {
			h.add(name, key, theirs)
			adopted++
		}
		h.mu.Unlock()
		if ours == nil || ours.kind != theirs.kind {
			continue
		}
		if grown, ok := ours.prepend(theirs, h.cfg.Downsample.Milliseconds()); ok {
			adopted++
			h.mu.Lock()
			h.stats.Bytes += grown
			h.mu.Unlock()
		}
	}
	return adopted
}

// prepend what an older series holds; false when it is not older, or cannot be read.
func (s *memSeries) prepend(older *memSeries, downMS int64) (grown int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest, down := s.raw.oldest(), s.down.oldest()
	if oldest == 0 || down != 0 && down < oldest || older.end == 0 || older.end >= oldest {
		return 0, false // raw samples are needed of all that this series has
	}
	before := s.bytes()
	joined := &memSeries{labels: s.labels, kind: s.kind, raw: older.raw, down: older.down, block: older.block, last: older.last, end: older.end}
	// A piece that another node began takes no more here.
	joined.raw.appender, joined.down.appender = nil, nil
	for _, p := range s.raw.pieces {
		it := p.chunk.Iterator(nil)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			next := sample{t: it.AtT()}
			if k == chunkenc.ValFloat {
				_, next.v = it.At()
			} else {
				_, next.h = it.AtFloatHistogram(nil)
			}
			if next, ok = after(older.last, next, s.kind); !ok {
				return 0, false
			}
			if _, err := joined.append(next, downMS); err != nil {
				return 0, false
			}
		}
		if it.Err() != nil {
			return 0, false
		}
	}
	s.raw, s.down, s.block, s.last, s.end = joined.raw, joined.down, joined.block, joined.last, joined.end
	return s.bytes() - before, true
}

// after returns a sample as it would be had its total gone on from an earlier one.
func after(earlier, p sample, kind series.Kind) (sample, bool) {
	if p.stale() || earlier.t == 0 {
		return p, true
	}
	switch kind {
	case series.Counter:
		p.v += earlier.v
	case series.Histogram:
		sum, _, _, err := p.h.Copy().Add(earlier.h)
		if err != nil {
			return p, false
		}
		p.h = sum
	}
	return p, true
}
