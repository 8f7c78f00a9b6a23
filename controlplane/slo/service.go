package slo

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Config of a Service. Zero fields take the defaults.
type Config struct {
	// Every is the pace of counting and judging (2 s).
	Every time.Duration
	// Settle is how long windows may take to arrive (3 s).
	Settle time.Duration
	// Arrive is how long a new leader waits until it has been told of its past (10 s).
	Arrive time.Duration
	// Commit is how often counts go into the log (5 min).
	Commit time.Duration
	// Now is the clock (time.Now).
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	for d, v := range map[*time.Duration]time.Duration{
		&c.Every: 2 * time.Second, &c.Settle: 3 * time.Second, &c.Arrive: 10 * time.Second, &c.Commit: 5 * time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Service counts all objectives while this node leads, and tells how they stand. Its methods may be
// called from any goroutine; on a node that does not lead they tell what the log does.
type Service struct {
	cfg    Config
	state  *fsm.Machine
	ports  Ports
	logger *slog.Logger
	causes sync.WaitGroup // searches under way

	mu        sync.Mutex // guards what follows
	trackers  map[string]*tracker
	spendings map[string]*spending // by rollout
}

// New returns a Service of the objectives in a state machine.
func New(cfg Config, state *fsm.Machine, p Ports, logger *slog.Logger) *Service {
	return &Service{
		cfg: cfg.withDefaults(), state: state, ports: p, logger: logger.With("component", "slo"),
		trackers: map[string]*tracker{}, spendings: map[string]*spending{},
	}
}

// Run counts until ctx ends. It is called while this node leads, with the term of its leadership, and
// returns nil.
func (s *Service) Run(ctx context.Context, _ uint64) error {
	defer s.forget()
	defer s.causes.Wait()
	arrived := time.NewTimer(s.cfg.Arrive)
	defer arrived.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-arrived.C:
	}
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		s.turn(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// forget what was counted: the next leader counts on.
func (s *Service) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.trackers)
	clear(s.spendings)
}

// turn counts what is new, judges it and puts into the log what belongs there.
func (s *Service) turn(ctx context.Context) {
	now := s.cfg.Now()
	s.mu.Lock()
	s.follow(now)
	s.count(ctx, now)
	s.countRollouts(now)
	changes := s.judge(now)
	entry := s.due(now)
	s.mu.Unlock()
	for _, c := range changes {
		s.report(ctx, c)
	}
	if entry != nil {
		s.commit(ctx, entry)
	}
}

// follow the objectives as they are now. The caller holds mu.
func (s *Service) follow(now time.Time) {
	seen := map[string]bool{}
	for _, o := range s.state.Objectives() {
		seen[o.GetName()] = true
		t := s.trackers[o.GetName()]
		if t == nil || t.measure != fsm.Measure(o) {
			s.trackers[o.GetName()] = newTracker(o, s.state.Ledger(o), now)
			continue
		}
		t.objective = o
	}
	for name := range s.trackers {
		if !seen[name] {
			delete(s.trackers, name)
		}
	}
}

// due returns the entry of a stretch that is over, nil while none is. The caller holds mu.
func (s *Service) due(now time.Time) *commandv1.RecordBudgets {
	to := now.Add(-s.cfg.Settle).Truncate(s.cfg.Commit)
	entry := &commandv1.RecordBudgets{ToMs: to.UnixMilli()}
	for _, t := range s.sorted() {
		if p := t.point(to); p != nil {
			entry.Points = append(entry.Points, p)
		}
	}
	if len(entry.GetPoints()) == 0 {
		return nil
	}
	entry.Rollouts = s.spent()
	return entry
}

// sorted trackers by name. The caller holds mu.
func (s *Service) sorted() []*tracker {
	found := make([]*tracker, 0, len(s.trackers))
	for _, t := range s.trackers {
		found = append(found, t)
	}
	slices.SortFunc(found, func(a, b *tracker) int {
		return compare(a.objective.GetName(), b.objective.GetName())
	})
	return found
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// commit an entry. What is not committed is counted into the next one.
func (s *Service) commit(ctx context.Context, entry *commandv1.RecordBudgets) {
	res, err := s.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_RECORD_BUDGETS, entry, "", "leader")
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		if ctx.Err() == nil {
			s.logger.Warn("error budgets were not recorded", "error", err)
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.trackers {
		t.ledger = s.state.Ledger(t.objective)
	}
	s.dropEnded()
}
