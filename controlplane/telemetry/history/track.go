package history

import (
	"slices"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// pieceSamples is how many samples a piece holds at most; it is also cut when its bytes reach the
// library's target.
const pieceSamples = 120

// Estimated bytes of a series and of a piece beside its samples: structures, labels, index entries.
const (
	seriesOverhead = 768
	pieceOverhead  = 96
)

// piece is a chunk and the times of its first and last sample, in Unix milliseconds.
type piece struct {
	min, max int64
	chunk    chunkenc.Chunk
}

func (p piece) bytes() int { return pieceOverhead + len(p.chunk.Bytes()) }

// track is a line of pieces at one resolution. Samples are appended to the last.
type track struct {
	pieces   []piece
	appender chunkenc.Appender // of the last piece; nil: that one comes from a snapshot and takes no more
	sealed   int               // bytes of all pieces but the last
}

func (t *track) bytes() int {
	if len(t.pieces) == 0 {
		return 0
	}
	return t.sealed + t.pieces[len(t.pieces)-1].bytes()
}

// oldest time kept; 0 when there is none.
func (t *track) oldest() int64 {
	if len(t.pieces) == 0 {
		return 0
	}
	return t.pieces[0].min
}

func (t *track) append(kind series.Kind, p sample) error {
	if t.appender == nil || t.full() {
		chunk, err := chunkenc.NewEmptyChunk(encoding(kind))
		if err != nil {
			return err
		}
		if err := t.push(piece{min: p.t, max: p.t, chunk: chunk}); err != nil {
			return err
		}
	}
	if kind == series.Histogram {
		return t.appendHistogram(p)
	}
	t.appender.Append(0, p.t, p.v)
	t.pieces[len(t.pieces)-1].max = p.t
	return nil
}

// push adds a piece, to which further samples go.
func (t *track) push(p piece) error {
	appender, err := p.chunk.Appender()
	if err != nil {
		return err
	}
	t.keep(p)
	t.appender = appender
	return nil
}

// keep adds a piece that takes no more samples.
func (t *track) keep(p piece) {
	if n := len(t.pieces); n > 0 {
		t.pieces[n-1].chunk.Compact()
		t.sealed += t.pieces[n-1].bytes()
	}
	t.pieces, t.appender = append(t.pieces, p), nil
}

// appendHistogram may recode the last piece for new buckets, or begin another.
func (t *track) appendHistogram(p sample) error {
	last := &t.pieces[len(t.pieces)-1]
	var previous chunkenc.Appender
	if last.chunk.NumSamples() == 0 {
		previous = t.previous()
	}
	// The library keeps and may widen what it is given.
	chunk, recoded, appender, err := t.appender.AppendFloatHistogram(previous, 0, p.t, p.h.Copy(), false)
	if err != nil {
		return err
	}
	if chunk != nil && !recoded {
		return t.push(piece{min: p.t, max: p.t, chunk: chunk})
	}
	if recoded {
		last.chunk = chunk
	}
	last.max, t.appender = p.t, appender
	return nil
}

// previous piece's appender tells whether a counter was reset between it and the last one.
func (t *track) previous() chunkenc.Appender {
	if len(t.pieces) < 2 {
		return nil
	}
	a, err := t.pieces[len(t.pieces)-2].chunk.Appender()
	if err != nil {
		return nil // then the chunk says "unknown", which is true
	}
	return a
}

func (t *track) full() bool {
	last := t.pieces[len(t.pieces)-1].chunk
	n, size := last.NumSamples(), len(last.Bytes())
	if last.Encoding() == chunkenc.EncFloatHistogram {
		return n >= pieceSamples || n >= chunkenc.MinSamplesPerHistogramChunk && size >= chunkenc.TargetBytesPerHistogramChunk
	}
	return n >= pieceSamples || size > chunkenc.MaxBytesPerXORChunkBeforeAppend
}

// expire drops pieces whose last sample is older than oldest.
func (t *track) expire(oldest int64) {
	n := 0
	for n < len(t.pieces) && t.pieces[n].max < oldest {
		n++
	}
	if n == len(t.pieces) {
		*t = track{}
		return
	}
	for _, p := range t.pieces[:n] {
		t.sealed -= p.bytes()
	}
	if n > 0 {
		t.pieces = slices.Clone(t.pieces[n:])
	}
}

// between appends chunks of the pieces that touch [from, to], without samples at edge or later. The last
// piece is copied, since it still changes.
func (t *track) between(found []chunkenc.Iterable, from, to, edge int64) ([]chunkenc.Iterable, error) {
	for i, p := range t.pieces {
		if p.max < from || p.min > to || p.min >= edge {
			continue
		}
		last := i == len(t.pieces)-1
		if p.max < edge && !last {
			found = append(found, p.chunk)
			continue
		}
		copied, err := p.until(edge)
		if err != nil {
			return nil, err
		}
		for _, p := range copied.pieces {
			found = append(found, p.chunk)
		}
	}
	return found, nil
}

// until copies the samples before edge.
func (p piece) until(edge int64) (copied track, err error) {
	it := p.chunk.Iterator(nil)
	for k := it.Next(); k != chunkenc.ValNone && it.AtT() < edge; k = it.Next() {
		s, kind := sample{}, series.Gauge
		if k == chunkenc.ValFloat {
			s.t, s.v = it.At()
		} else {
			kind = series.Histogram
			s.t, s.h = it.AtFloatHistogram(nil)
		}
		if err := copied.append(kind, s); err != nil {
			return copied, err
		}
	}
	return copied, it.Err()
}

func (t *track) touches(from, to int64) bool {
	n := len(t.pieces)
	return n > 0 && t.pieces[0].min <= to && t.pieces[n-1].max >= from
}
