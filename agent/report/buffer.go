package report

import (
	"sync"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// buffer holds windows from their making until they are safely with the control plane. The stream
// carries no receipts for windows, so sent ones are kept for a while and sent again after a
// break; the control plane keeps one window per instance and second, so nothing counts twice.
type buffer struct {
	limit int           // windows
	keep  time.Duration // how long a sent window is kept

	mu      sync.Mutex // guards what follows
	queue   []held     // oldest first: sent ones, then unsent ones
	unsent  int        // index of the first unsent one
	dropped uint64     // unsent ones that had to make room
}

type held struct {
	window *agentv1.Window
	sentAt time.Time
}

// push adds the newest window. When the buffer is full the oldest goes.
func (b *buffer) push(w *agentv1.Window) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, held{window: w})
	for len(b.queue) > b.limit {
		if b.unsent == 0 {
			b.dropped++
		}
		b.cut(1)
	}
}

// take returns up to n unsent windows and marks them sent; it forgets those sent long ago.
func (b *buffer) take(n int, now time.Time) (windows []*agentv1.Window, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := 0
	for old < b.unsent && now.Sub(b.queue[old].sentAt) > b.keep {
		old++
	}
	b.cut(old)
	for b.unsent < len(b.queue) && len(windows) < n {
		h := &b.queue[b.unsent]
		h.sentAt = now
		windows = append(windows, h.window)
		b.unsent++
	}
	return windows, b.dropped
}

// rewind makes all held windows unsent again: the stream they went into broke.
func (b *buffer) rewind() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsent = 0
}

// state returns the number of unsent windows and of dropped ones.
func (b *buffer) state() (unsent int, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) - b.unsent, b.dropped
}

// cut forgets the n oldest. b.mu is held.
func (b *buffer) cut(n int) {
	clear(b.queue[:n]) // so that the windows can be freed before the array is
	b.queue = b.queue[n:]
	b.unsent = max(0, b.unsent-n)
}
