package collect

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Paces of looking at the host: processes that are stopped for a moment would be missed by a look
// a second, and a new worker is found soon enough by a look every few seconds.
const (
	hostTick  = 100 * time.Millisecond
	hostCount = time.Second
	hostTree  = 5 * time.Second
)

// Host is the source that reads what the operating system knows of an engine: the processor time
// of its processes, what kept them from running, and whether its clients take what they are sent.
// It finds the engine by the port it listens on, so it sees one in its own network and process
// namespace only; elsewhere it says so and its metrics are absent.
type Host struct {
	port uint16
	root string // of the proc file system

	engine processTree // used by Run's goroutine alone, like what follows
	before hostTotals
	known  bool // before is of this engine
	looked time.Time

	mu      sync.Mutex // guards what follows
	pending *fleet.Window
	seen    time.Time
	problem string
}

// NewHost returns a source for the engine that listens on a TCP port of this host.
func NewHost(port uint16) *Host {
	return &Host{port: port, root: "/proc", pending: fleet.NewWindow("", time.Time{}), problem: "the host was not looked at yet"}
}

// Run looks at the host until ctx ends.
func (h *Host) Run(ctx context.Context) error {
	tick := time.NewTicker(hostTick)
	defer tick.Stop()
	var counted time.Time
	for {
		now := time.Now()
		h.find(now)
		h.watchStopped()
		if now.Sub(counted) >= hostCount {
			h.count(now)
			counted = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

var errNoListener = errors.New("no process that can be seen from here listens on the engine's port: its processor time, stops and quota are not known")

// find brings the list of the engine's processes up to date.
func (h *Host) find(now time.Time) {
	if now.Sub(h.looked) < hostTree && (h.engine.root == 0 || h.engine.lives(h.root)) {
		return
	}
	h.looked = now
	tree, err := findEngine(h.root, h.port)
	if tree.root != h.engine.root {
		h.known = false
	}
	h.engine = tree
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = ""
	if err != nil {
		h.problem = err.Error()
	}
}

// watchStopped adds a tick to the stopped time when a process of the engine is stopped now.
func (h *Host) watchStopped() {
	if h.engine.root == 0 || !h.engine.stopped(h.root) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending.Counters[fleet.EngineStoppedSeconds] += hostTick.Seconds()
}

// count adds what the host's totals gained since the last count.
func (h *Host) count(now time.Time) {
	if h.engine.root == 0 {
		return
	}
	is, err := h.engine.totals(h.root)
	if err != nil {
		h.known = false // it ended meanwhile
		return
	}
	clients, backlogged, seesClients := connections(h.root, h.port)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = now
	if h.known {
		maps.Copy(h.pending.Counters, sum(h.pending.Counters, h.before.gained(is)))
		if since := is.at - h.before.at; seesClients {
			h.pending.Counters[fleet.ClientSeconds] += float64(clients) * since
			h.pending.Counters[fleet.ClientBacklogSeconds] += float64(backlogged) * since
		}
		h.pending.Counters[fleet.EngineStoppedSeconds] += 0 // known, even where nothing stopped
	}
	h.pending.Gauges[fleet.EngineAgeSeconds] = is.at - is.started
	h.pending.Gauges[fleet.HostCores] = is.cores
	h.before, h.known = is, true
}

func sum(a, b map[string]float64) map[string]float64 {
	out := maps.Clone(a)
	for k, v := range b {
		out[k] += v
	}
	return out
}

// Drain moves what was gathered since the last call into w. A host that cannot be seen is absent,
// not stale: the window is good without it.
func (h *Host) Drain(w *fleet.Window, now time.Time) *agentv1.Source {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := h.pending
	h.pending = fleet.NewWindow("", time.Time{})
	maps.Copy(w.Counters, got.Counters)
	maps.Copy(w.Gauges, got.Gauges)
	s := &agentv1.Source{Name: fleet.SourceHost, Error: h.problem}
	if !h.seen.IsZero() {
		s.AgeMs, s.AnsweredUnixMs = max(0, now.Sub(h.seen)).Milliseconds(), h.seen.UnixMilli()
	}
	return s
}
