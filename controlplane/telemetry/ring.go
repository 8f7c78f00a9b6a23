package telemetry

import (
	"slices"
	"time"
)

// ring holds the last windows of an instance, one per second at most, in blocks in order of time.
type ring struct {
	seconds  int64
	blocks   []*block
	n        int // windows held
	bytes    int
	head     int64  // second of the newest window
	newest   packed // empty when the newest window was dropped
	received time.Time
}

func newRing(seconds int) *ring { return &ring{seconds: int64(seconds)} }

func second(t time.Time) int64 { return t.Unix() }

// put keeps the window of a second. now is the store's clock.
func (r *ring) put(sec int64, w packed, now time.Time) error {
	r.expire(now)
	b := r.block(sec)
	if b.holds(sec) {
		return ErrDuplicate
	}
	before := b.bytes()
	if err := b.put(sec, w); err != nil {
		return err
	}
	r.bytes += b.bytes() - before
	r.n++
	if sec >= r.head || r.newest == "" {
		r.head, r.newest = sec, w
	}
	r.received = now
	return r.seal()
}

// block of a second, made when there is none.
func (r *ring) block(sec int64) *block {
	number := blockOf(sec)
	i, found := slices.BinarySearchFunc(r.blocks, number, func(b *block, n int64) int { return int(b.number - n) })
	if !found {
		b := &block{number: number}
		r.blocks = slices.Insert(r.blocks, i, b)
		r.bytes += b.bytes()
	}
	return r.blocks[i]
}

// seal compresses all blocks but the newest two: those are written and read most.
func (r *ring) seal() error {
	for i := range len(r.blocks) - 2 {
		b := r.blocks[i]
		before := b.bytes()
		if err := b.seal(); err != nil {
			return err
		}
		r.bytes += b.bytes() - before
	}
	return nil
}

// each calls f with the windows that begin in [first, last] and within the ring's reach, by time.
func (r *ring) each(now time.Time, first, last int64, f func(packed) error) error {
	first = max(first, second(now)-r.seconds+1)
	for _, b := range r.blocks {
		if b.number < blockOf(first) || b.number > blockOf(last) {
			continue
		}
		err := b.each(func(sec int64, w packed) error {
			if sec < first || sec > last {
				return nil
			}
			return f(w)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expire drops blocks whose windows are all older than the ring is long.
func (r *ring) expire(now time.Time) {
	oldest := blockOf(second(now) - r.seconds + 1)
	for len(r.blocks) > 0 && r.blocks[0].number < oldest {
		r.dropOldest()
	}
}

// shrink drops the oldest blocks until the ring is within limit, keeping the newest in any case.
func (r *ring) shrink(limit int) (dropped int) {
	for len(r.blocks) > 1 && r.bytes > limit {
		dropped += r.dropOldest()
	}
	return dropped
}

func (r *ring) dropOldest() (dropped int) {
	b := r.blocks[0]
	r.blocks = slices.Delete(r.blocks, 0, 1)
	r.bytes -= b.bytes()
	r.n -= b.n
	if blockOf(r.head) == b.number {
		r.newest = ""
	}
	return b.n
}
