package history

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// ErrSnapshot is returned for a snapshot that is broken or of another version.
var ErrSnapshot = errors.New("history snapshot is broken")

// A snapshot is magic, then one record per series, then an empty record. A record is its length and
// its CRC-32C, both as 4 bytes, and its body; numbers in the body are varints, strings and chunks have
// their length before them.
const (
	snapshotMagic = "perf-history-1\n"
	maxRecord     = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save writes a snapshot to file, by way of a new file beside it: the old one stays whole until the
// new one is on disk.
func (h *Head) Save(file string) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(file), ".history-*")
	if err != nil {
		return fmt.Errorf("save history: %w", err)
	}
	defer os.Remove(temp.Name())
	w := bufio.NewWriterSize(temp, 1<<20)
	err = h.write(w)
	err = errors.Join(err, w.Flush(), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("save history: %w; free the disk, or it is lost at the next restart", err)
	}
	return nil
}

func (h *Head) write(w io.Writer) error {
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	for _, s := range h.matching(nil) {
		if err := writeRecord(w, s.encode()); err != nil {
			return err
		}
	}
	return writeRecord(w, nil)
}

func writeRecord(w io.Writer, body []byte) error {
	if len(body) > maxRecord {
		return fmt.Errorf("series takes %d bytes, more than a snapshot can hold", len(body))
	}
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(body)))
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(body, castagnoli))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// Load reads what Save wrote into an empty head. No file is an empty history. A broken one leaves the
// head empty and returns ErrSnapshot.
func (h *Head) Load(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load history: %w", err)
	}
	defer f.Close()
	if err := h.read(bufio.NewReaderSize(f, 1<<20)); err != nil {
		return fmt.Errorf("load history: %w", err)
	}
	return nil
}

func (h *Head) read(r io.Reader) error {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != snapshotMagic {
		return fmt.Errorf("%w: it does not begin as one of this version", ErrSnapshot)
	}
	var all []*memSeries
	for {
		body, err := readRecord(r)
		if err != nil {
			return err
		}
		if body == nil {
			break
		}
		s, err := decode(body)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range all {
		h.add(s.labels.Get(model.MetricNameLabel), string(s.labels.Bytes(nil)), s)
	}
	return nil
}

// readRecord returns nil for the empty record, which ends a snapshot.
func readRecord(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: it ends too early", ErrSnapshot)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxRecord {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrSnapshot, n)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n))) // grows as bytes come, whatever the length claims
	if err != nil || len(body) != int(n) {
		return nil, fmt.Errorf("%w: it ends too early", ErrSnapshot)
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("%w: checksum differs", ErrSnapshot)
	}
	if n == 0 {
		return nil, nil
	}
	return body, nil
}

func (s *memSeries) encode() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := []byte{byte(s.kind)}
	b = binary.AppendUvarint(b, uint64(s.labels.Len()))
	s.labels.Range(func(l labels.Label) {
		b = appendBytes(b, []byte(l.Name))
		b = appendBytes(b, []byte(l.Value))
	})
	b = s.raw.encode(b)
	b = s.down.encode(b)
	b = binary.AppendVarint(b, s.block.number)
	b = binary.AppendUvarint(b, uint64(s.block.n))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.block.sum))
	return b
}

func (t *track) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.pieces)))
	for _, p := range t.pieces {
		b = appendBytes(b, p.chunk.Bytes())
	}
	return b
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decode reads what encode wrote, and checks that every chunk can be read and is in order.
func decode(body []byte) (s *memSeries, err error) {
	// The library's iterators index what chunks say of themselves.
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("%w: %v", ErrSnapshot, p)
		}
	}()
	d := &decoder{b: body}
	s = &memSeries{kind: series.Kind(d.byte())}
	if s.kind < series.Counter || s.kind > series.Histogram {
		return nil, fmt.Errorf("%w: kind %d", ErrSnapshot, s.kind)
	}
	var pairs labels.ScratchBuilder
	for range d.count() {
		name := string(d.bytes())
		pairs.Add(name, string(d.bytes()))
	}
	pairs.Sort()
	s.labels = pairs.Labels()
	if name, twice := s.labels.HasDuplicateLabelNames(); twice {
		d.fail("two labels named " + name)
	}
	d.track(&s.raw, s.kind)
	s.last, s.end = d.last, d.end
	d.track(&s.down, s.kind)
	s.end = max(s.end, d.end)
	if s.last.t < d.last.t {
		s.last = d.last
	}
	s.block.number, s.block.n = d.varint(), int(d.uvarint())
	s.block.sum = math.Float64frombits(d.uint64())
	if s.block.n < 0 || s.block.n > 0 && s.last.t == 0 {
		d.fail("five minutes without samples")
	}
	if s.labels.Get(model.MetricNameLabel) == "" || len(d.b) > 0 {
		d.fail("a series without a name, or bytes left over")
	}
	return s, d.err
}

// decoder reads a record; after the first fault everything is zero.
type decoder struct {
	b    []byte
	last sample // of the track read last: its newest value
	end  int64  // and its newest time
	err  error
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrSnapshot, why)
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("a record ends too early")
		return make([]byte, min(max(n, 0), 8))
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a broken number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("a broken number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count of things that follow, each of a byte at least.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("more entries than bytes")
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	if n := d.count(); d.err == nil {
		return d.take(n)
	}
	return nil
}

func (d *decoder) track(t *track, kind series.Kind) {
	d.last, d.end = sample{}, 0
	for range d.count() {
		chunk, err := chunkenc.FromData(encoding(kind), append([]byte(nil), d.bytes()...))
		if d.err != nil || err != nil || len(chunk.Bytes()) < 3 {
			d.fail("a chunk that cannot be read")
			return
		}
		p, ok := d.walk(chunk, kind)
		if !ok {
			d.fail("a chunk that is not in order of time")
			return
		}
		t.keep(p)
	}
}

// walk through a chunk, for the times at its ends and its newest value.
func (d *decoder) walk(chunk chunkenc.Chunk, kind series.Kind) (piece, bool) {
	p := piece{chunk: chunk}
	if kind == series.Histogram && !sane(chunk.Bytes()) {
		return p, false
	}
	it := chunk.Iterator(nil)
	n := 0
	for ; it.Next() != chunkenc.ValNone; n++ {
		v := sample{t: it.AtT()}
		if v.t <= d.end {
			return p, false
		}
		if n == 0 {
			p.min = v.t
		}
		p.max, d.end = v.t, v.t
		if kind == series.Histogram {
			_, v.h = it.AtFloatHistogram(nil)
		} else {
			_, v.v = it.At()
		}
		if !v.stale() {
			d.last = v
		}
	}
	return p, it.Err() == nil && n > 0 && n == chunk.NumSamples()
}
