// Package telemetry keeps the last minutes of every instance's one-second windows in memory and
// answers questions about them: merged aggregates, series, freshness. Windows merge exactly, so a
// figure over any set of instances and seconds is the figure over their requests.
//
// Nothing here is replicated or written to disk. Which windows reach a node, and what is decided
// from them, is left to others.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// Reasons for which a window is not kept.
var (
	// ErrFuture: it begins too far ahead of this node's clock.
	ErrFuture = errors.New("window lies in the future; check the clock of the agent's machine")
	// ErrTooOld: it began before the ring.
	ErrTooOld = errors.New("window is older than what is kept")
	// ErrDuplicate: this second of this instance is already known.
	ErrDuplicate = errors.New("window is already known")
	// ErrFull: the store follows as many instances as it may.
	ErrFull = errors.New("too many instances; raise the limit or remove instances that are gone")
)

// Config bounds a Store. Zero fields take the defaults.
type Config struct {
	// Seconds kept per instance; default 600.
	Seconds int
	// BytesPerInstance and Bytes bound the memory of windows, by estimate; default 1 MiB and
	// 512 MiB. An instance over its share loses its oldest windows.
	BytesPerInstance, Bytes int
	// Instances followed at most; default 20,000.
	Instances int
	// Skew tolerated between an agent's clock and ours; default 5 s.
	Skew time.Duration
	// Gone is how long a silent instance is remembered; default Seconds.
	Gone time.Duration
	// PruneEvery is how often Run looks for what is gone; default 1 min.
	PruneEvery time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	if c.Seconds == 0 {
		c.Seconds = 600
	}
	if c.BytesPerInstance == 0 {
		c.BytesPerInstance = 1 << 20
	}
	if c.Bytes == 0 {
		c.Bytes = 512 << 20
	}
	if c.Instances == 0 {
		c.Instances = 20_000
	}
	if c.Skew == 0 {
		c.Skew = 5 * time.Second
	}
	if c.Gone == 0 {
		c.Gone = time.Duration(c.Seconds) * time.Second
	}
	if c.PruneEvery == 0 {
		c.PruneEvery = time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Stats counts what the store holds and what it turned away since its start.
type Stats struct {
	Instances int `json:"instances"`
	Windows   int `json:"windows"`
	// Bytes in windows, by estimate.
	Bytes int `json:"bytes"`
	// Added windows; Duplicate, TooOld, Future and Full ones were turned away; Evicted ones were
	// dropped early to stay within the byte bounds.
	Added     uint64 `json:"added"`
	Duplicate uint64 `json:"duplicate"`
	TooOld    uint64 `json:"too_old"`
	Future    uint64 `json:"future"`
	Full      uint64 `json:"full"`
	Evicted   uint64 `json:"evicted"`
}

// Store of recent windows. All methods may be called from any goroutine.
type Store struct {
	cfg   Config
	names *names

	mu    sync.RWMutex // guards what follows
	rings map[string]*ring
	stats Stats
}

// New returns an empty store.
func New(cfg Config) *Store {
	return &Store{cfg: cfg.withDefaults(), names: newNames(), rings: map[string]*ring{}}
}

// Add keeps a copy of a window, in any order of arrival. A window that is not kept is counted and
// answered with one of this package's errors.
func (s *Store) Add(w *fleet.Window) error {
	now := s.cfg.Now()
	if err := s.inReach(w.Start, now); err != nil {
		return err
	}
	raw := s.names.pack(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rings[w.Instance]
	if r == nil {
		if len(s.rings) >= s.cfg.Instances {
			s.stats.Full++
			return ErrFull
		}
		r = newRing(s.cfg.Seconds)
		s.rings[w.Instance] = r
	}
	before := r.bytes
	err := r.put(second(w.Start), raw, now)
	s.stats.Bytes += r.bytes - before
	switch {
	case errors.Is(err, ErrDuplicate):
		s.stats.Duplicate++
		return err
	case err != nil:
		return err
	}
	s.stats.Added++
	s.shrink(r)
	return nil
}

// inReach counts and refuses what begins too early or too late.
func (s *Store) inReach(start, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case start.After(now.Add(s.cfg.Skew)):
		s.stats.Future++
		return ErrFuture
	case !start.After(now.Add(-time.Duration(s.cfg.Seconds) * time.Second)):
		s.stats.TooOld++
		return ErrTooOld
	}
	return nil
}

// shrink evicts the oldest windows of a ring that is over its share. The caller holds mu.
func (s *Store) shrink(r *ring) {
	share := min(s.cfg.BytesPerInstance, s.cfg.Bytes/len(s.rings))
	before := r.bytes
	s.stats.Evicted += uint64(r.shrink(share))
	s.stats.Bytes += r.bytes - before
}

// Aggregate merges the windows of the instances that lie wholly within [from, to). An instance
// without windows is absent from Aggregate.Instances; nothing is made up for it.
func (s *Store) Aggregate(instances []string, from, to time.Time) (*fleet.Aggregate, error) {
	a := fleet.NewAggregate()
	w := fleet.NewWindow("", time.Time{})
	err := s.each(instances, from, to, func(instance string, raw packed) error {
		w.Instance = instance
		clear(w.Counters)
		clear(w.Gauges)
		err := s.names.unpackInto(w, raw, func(metric, origin string, values []byte, sum float64) error {
			return a.Sketch(metric, origin).MergePacked(values, sum)
		})
		if err != nil {
			return err
		}
		return a.Add(w)
	})
	if err != nil {
		return nil, fmt.Errorf("merge windows: %w", err)
	}
	return a, nil
}

// Windows of the instances that lie wholly within [from, to), by instance in the order given and
// by time within each.
func (s *Store) Windows(instances []string, from, to time.Time) []*fleet.Window {
	var found []*fleet.Window
	_ = s.each(instances, from, to, func(instance string, raw packed) error {
		if w, err := s.names.unpack(instance, raw); err == nil { // what this process packed it can read
			found = append(found, w)
		}
		return nil
	})
	return found
}

// each calls f with the windows at rest that lie wholly within [from, to), without holding mu.
func (s *Store) each(instances []string, from, to time.Time, f func(instance string, raw packed) error) error {
	first, last := second(from), second(to.Add(-time.Second)) // windows begin at whole seconds
	if from.Nanosecond() > 0 {
		first++
	}
	for _, id := range instances {
		found, err := s.found(id, first, last)
		if err != nil {
			return err
		}
		for _, raw := range found {
			if err := f(id, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) found(instance string, first, last int64) (found []packed, err error) {
	now := s.cfg.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.rings[instance]; r != nil {
		err = r.each(now, first, last, func(raw packed) error {
			found = append(found, raw)
			return nil
		})
	}
	return found, err
}

// Latest is the newest window of an instance; nil when there is none.
func (s *Store) Latest(instance string) *fleet.Window {
	s.mu.RLock()
	r := s.rings[instance]
	var raw packed
	if r != nil {
		raw = r.newest
	}
	s.mu.RUnlock()
	if raw == "" {
		return nil
	}
	w, err := s.names.unpack(instance, raw)
	if err != nil {
		return nil
	}
	return w
}

// Instances that have windows, sorted.
func (s *Store) Instances() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.rings))
}

// Freshness of an instance's measurements.
type Freshness struct {
	// Age of the newest window's end; 0 for one that has not ended by our clock.
	Age time.Duration
	// Received is how long ago a window last came in.
	Received time.Duration
	// StaleSources of the newest window, with why.
	StaleSources map[string]string
}

// Freshness of an instance; false when it has no windows.
func (s *Store) Freshness(instance string) (Freshness, bool) {
	w := s.Latest(instance)
	if w == nil {
		return Freshness{}, false
	}
	f := Freshness{Age: max(0, s.cfg.Now().Sub(w.Start.Add(time.Second))), Received: s.silence(instance)}
	for _, src := range w.Sources {
		if src.GetStale() {
			if f.StaleSources == nil {
				f.StaleSources = map[string]string{}
			}
			f.StaleSources[src.GetName()] = src.GetError()
		}
	}
	return f, true
}

// silence is how long ago a window of the instance came in.
func (s *Store) silence(instance string) time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.rings[instance]; r != nil {
		return s.cfg.Now().Sub(r.received)
	}
	return 0
}

// Run prunes now and then until ctx ends; it returns nil.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.PruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Prune()
		case <-ctx.Done():
			return nil
		}
	}
}

// Prune forgets instances that have been silent for longer than Config.Gone and windows that have
// left the ring's span. It returns how many instances were forgotten.
func (s *Store) Prune() int {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := 0
	for id, r := range s.rings {
		before := r.bytes
		if now.Sub(r.received) > s.cfg.Gone {
			delete(s.rings, id)
			s.stats.Bytes -= before
			gone++
			continue
		}
		r.expire(now)
		s.stats.Bytes += r.bytes - before
	}
	return gone
}

// Forget drops everything about an instance.
func (s *Store) Forget(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rings[instance]; r != nil {
		s.stats.Bytes -= r.bytes
		delete(s.rings, instance)
	}
}

// Stats of the store.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.stats
	st.Instances = len(s.rings)
	for _, r := range s.rings {
		st.Windows += r.n
	}
	return st
}
