package history

import "math/bits"

// mostBuckets is more than a native histogram of any latency has: 16 for each power of two.
const mostBuckets = 4096

// sane reports whether a histogram chunk claims no more buckets than a histogram can have, and none below
// zero: the library's iterator makes room for as many as a chunk claims. The layout follows three bytes
// of header: the zero bucket's width, the schema, and the spans of buckets, each a length and an offset.
func sane(chunk []byte) bool {
	const header = 3
	if len(chunk) <= header {
		return false
	}
	r := &bitReader{b: chunk[header:]}
	if r.read(8) == 255 {
		r.read(64)
	}
	r.number() // the schema
	var buckets uint64
	for n := r.number(); n > 0 && !r.over && buckets <= mostBuckets; n-- {
		buckets += r.number()
		r.number()
	}
	return r.number() == 0 && !r.over && buckets <= mostBuckets
}

// bitReader reads what chunkenc writes: bits from the highest of each byte on.
type bitReader struct {
	b    []byte
	at   int
	over bool // more was asked for than there is
}

func (r *bitReader) read(n int) (v uint64) {
	for range n {
		if r.at >= 8*len(r.b) {
			r.over = true
			return 0
		}
		v = v<<1 | uint64(r.b[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

// widths of numbers, by how many ones come before the first zero.
var widths = [...]int{0, 3, 6, 9, 12, 18, 25, 56, 64}

// number is the library's "varbit", with its sign left as a bit.
func (r *bitReader) number() uint64 {
	ones := 0
	for ones < 8 && r.read(1) == 1 {
		ones++
	}
	v := r.read(widths[ones])
	if bits.Len64(v) > 32 {
		r.over = true // neither a schema nor a span
	}
	return v
}
