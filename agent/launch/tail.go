package launch

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
)

// TailBytes is how much of the engine's output is kept.
const TailBytes = 64 << 10

// tail is a ring of the last TailBytes in memory and, byte for byte, in a file of fixed size: a
// header with the count of all bytes ever written, then the ring. Each write touches only what it
// adds, so the file neither grows nor needs to be rewritten. When the disk fails it goes on in
// memory.
type tail struct {
	mu   sync.Mutex // guards all below
	file *os.File   // nil: memory only
	ring [TailBytes]byte
	end  uint64 // bytes ever written
	err  error  // why file was given up
}

const tailHeader = 16

var tailMagic = [8]byte{'p', 'e', 'r', 'f', 't', 'a', 'i', 'l'}

// openTail reads what a former launcher kept. A broken file is begun anew.
func openTail(path string) (*tail, error) {
	t := &tail{}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return t, fmt.Errorf("open log tail: %w", err)
	}
	buf := make([]byte, tailHeader+TailBytes)
	n, _ := f.ReadAt(buf, 0) // short: not ours yet
	if n == len(buf) && [8]byte(buf[:8]) == tailMagic {
		t.end = binary.BigEndian.Uint64(buf[8:])
		copy(t.ring[:], buf[tailHeader:])
		t.file = f
		return t, nil
	}
	clear(buf)
	copy(buf, tailMagic[:])
	if _, err := f.WriteAt(buf, 0); err != nil { // takes its space now, so that a full disk is found here
		f.Close()
		return t, fmt.Errorf("create log tail: %w", err)
	}
	if err := f.Truncate(int64(len(buf))); err != nil {
		f.Close()
		return t, fmt.Errorf("create log tail: %w", err)
	}
	t.file = f
	return t, nil
}

// Write never fails: the engine must not wait for our disk.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := len(p)
	if cut := len(p) - TailBytes; cut > 0 {
		t.end += uint64(cut)
		p = p[cut:]
	}
	for len(p) > 0 {
		at := int(t.end % TailBytes)
		n := copy(t.ring[at:], p)
		t.persist(t.ring[at:at+n], int64(tailHeader+at))
		t.end += uint64(n)
		p = p[n:]
	}
	var end [8]byte
	binary.BigEndian.PutUint64(end[:], t.end)
	t.persist(end[:], 8)
	return total, nil
}

func (t *tail) persist(b []byte, at int64) {
	if t.file == nil {
		return
	}
	if _, err := t.file.WriteAt(b, at); err != nil {
		t.err = fmt.Errorf("write log tail: %w", err)
		t.file.Close()
		t.file = nil
	}
}

// offset of the next byte that will be written.
func (t *tail) offset() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.end
}

// since returns what is kept from that offset on.
func (t *tail) since(offset uint64) Log {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.end > TailBytes && offset < t.end-TailBytes {
		offset = t.end - TailBytes
	}
	if offset > t.end {
		offset = t.end
	}
	b := make([]byte, 0, t.end-offset)
	for at := offset; at < t.end; {
		from := at % TailBytes
		n := min(TailBytes-from, t.end-at)
		b = append(b, t.ring[from:from+n]...)
		at += n
	}
	return Log{Offset: offset, Next: t.end, Text: strings.ToValidUTF8(string(b), "\uFFFD")}
}

func (t *tail) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return t.err
	}
	err := t.file.Close()
	t.file = nil
	return err
}
