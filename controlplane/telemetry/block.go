package telemetry

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// blockSeconds is how many seconds of one instance are compressed together.
const blockSeconds = 32

func blockOf(sec int64) int64 { return sec / blockSeconds }

// block holds the windows of blockSeconds seconds: each by itself while they are new, compressed
// together when they are not. A window that comes late opens it again.
type block struct {
	number int64 // of its first second ÷ blockSeconds
	n      int   // windows held
	held   uint32
	open   *[blockSeconds]packed
	sealed []byte // of the windows held, in order, each with its length before it
}

func slotOf(sec int64) int { return int(sec % blockSeconds) }

func (b *block) holds(sec int64) bool { return b.held&(1<<slotOf(sec)) != 0 }

func (b *block) put(sec int64, w packed) error {
	if err := b.unseal(); err != nil {
		return err
	}
	b.open[slotOf(sec)] = w
	b.held |= 1 << slotOf(sec)
	b.n++
	return nil
}

// each calls f with the windows in order.
func (b *block) each(f func(sec int64, w packed) error) error {
	windows := b.open
	if windows == nil {
		var err error
		if windows, err = b.inflate(); err != nil {
			return err
		}
	}
	for i, w := range windows {
		if w == "" {
			continue
		}
		if err := f(b.number*blockSeconds+int64(i), w); err != nil {
			return err
		}
	}
	return nil
}

func (b *block) unseal() (err error) {
	if b.open == nil {
		b.open, err = b.inflate()
		b.sealed = nil
	}
	return err
}

func (b *block) seal() error {
	if b.open == nil {
		return nil
	}
	z, err := zstandard()
	if err != nil {
		return err
	}
	var plain []byte
	for _, w := range b.open {
		if w != "" {
			plain = binary.AppendUvarint(plain, uint64(len(w)))
			plain = append(plain, w...)
		}
	}
	b.sealed = append([]byte(nil), z.encoder.EncodeAll(plain, nil)...) // no spare capacity
	b.open = nil
	return nil
}

func (b *block) inflate() (*[blockSeconds]packed, error) {
	windows := &[blockSeconds]packed{}
	if b.n == 0 {
		return windows, nil
	}
	z, err := zstandard()
	if err != nil {
		return nil, err
	}
	plain, err := z.decoder.DecodeAll(b.sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacked, err)
	}
	for i := range windows {
		if b.held&(1<<i) == 0 {
			continue
		}
		length, n := binary.Uvarint(plain)
		if n <= 0 || length > uint64(len(plain)-n) {
			return nil, errPacked
		}
		windows[i] = packed(plain[n : n+int(length)])
		plain = plain[n+int(length):]
	}
	return windows, nil
}

// bytes that the block takes, its share of the allocator's rounding included.
func (b *block) bytes() int {
	const fixed, header = 64, 16
	size := fixed + len(b.sealed) + len(b.sealed)/8
	if b.open != nil {
		size += header * blockSeconds
		for _, w := range b.open {
			size += len(w) + len(w)/8
		}
	}
	return size
}

// zstandard are the coder and decoder that all blocks share: their one-shot methods may be called from
// any goroutine.
var zstandard = sync.OnceValues(func() (z struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}, err error,
) {
	if z.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(64<<10)); err != nil {
		return z, err
	}
	z.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(64<<20))
	return z, err
})
