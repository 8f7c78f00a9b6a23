package slo

import (
	"context"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const (
	// lead is how much earlier windows are asked for: they tell what was open when a slot began.
	lead = 2 * time.Second
	// windowsReach is how far back there are windows; what is older comes from the history.
	windowsReach = 9 * time.Minute
	// queryDelay is how long the history takes to have all of a slot.
	queryDelay = 25 * time.Second
)

// scope is whom an objective looks at.
type scope struct{ group, model string }

// members of a scope, by id.
func (s *Service) members(sc scope) (ids []string) {
	for _, i := range s.state.Instances(sc.group) {
		if sc.model == "" || i.GetModel() == sc.model {
			ids = append(ids, i.GetId())
		}
	}
	return ids
}

// count all slots that are over. The caller holds mu.
func (s *Service) count(ctx context.Context, now time.Time) {
	scopes := map[scope][]*tracker{}
	for _, t := range s.sorted() {
		o := t.objective
		if o.GetIndicator() == commandv1.Indicator_INDICATOR_QUERY {
			s.countQuery(ctx, t, slotOf(now.Add(-queryDelay)))
			continue
		}
		sc := scope{o.GetGroup(), o.GetModel()}
		scopes[sc] = append(scopes[sc], t)
	}
	for sc, trackers := range scopes {
		s.countScope(s.members(sc), trackers, now)
	}
}

// countScope counts slots of objectives that look at the same instances.
func (s *Service) countScope(ids []string, trackers []*tracker, now time.Time) {
	until := slotOf(now.Add(-s.cfg.Settle))
	oldest := slotOf(now.Add(-windowsReach)) + 1
	from := until
	for _, t := range trackers {
		s.countPast(ids, t, min(oldest, until))
		from = min(from, t.ring.next)
	}
	// Agents that were cut off send what they kept: before slots go into the log, incomplete ones are
	// counted once more.
	boundary := min(slotOf(now.Add(-s.cfg.Settle).Truncate(s.cfg.Commit)), until)
	for _, t := range trackers {
		if n := t.incomplete(10*len(ids), max(oldest, t.committed()), boundary); n < boundary {
			from = min(from, n)
		}
	}
	for n := from; n < until; n++ {
		s.countSlot(ids, trackers, n)
	}
}

// committed is the first slot that is not in the log yet.
func (t *tracker) committed() int64 {
	if t.ledger == nil {
		return t.ring.first
	}
	return slotOf(time.UnixMilli(t.ledger.GetThroughMs()))
}

// incomplete is the first slot from from on that fewer windows than there should be tell of.
func (t *tracker) incomplete(windows int, from, to int64) int64 {
	for n := max(from, t.ring.first); n < min(to, t.ring.next); n++ {
		if t.ring.at(n).windows < windows {
			return n
		}
	}
	return to
}

func (s *Service) countSlot(ids []string, trackers []*tracker, n int64) {
	begin := slotBegin(n)
	windows := s.ports.Windows.Windows(ids, begin.Add(-lead), begin.Add(slotLength))
	for _, t := range trackers {
		if n < max(t.committed(), t.ring.first) {
			continue // in the log already, or before its time
		}
		if err := t.takeWindows(n, windows); err != nil {
			s.logger.Warn("a slot could not be counted", "objective", t.objective.GetName(), "error", err)
			t.take(n, sight{}, 0)
		}
	}
}

// countPast counts slots that are too old for windows, after a time without a leader.
func (s *Service) countPast(ids []string, t *tracker, until int64) {
	if t.ring.next >= until {
		return
	}
	steps, err := s.ports.History.Steps(ids, metricsOf(t.objective), slotBegin(t.ring.next), slotBegin(until), slotLength)
	if err != nil {
		s.logger.Warn("the past could not be counted", "objective", t.objective.GetName(), "error", err)
	}
	for k, begin := int64(0), t.ring.next; begin+k < until; k++ {
		a := fleet.NewAggregate()
		if k < int64(len(steps)) {
			a = steps[k]
		}
		t.takeHistory(begin+k, a)
	}
}

// countQuery counts slots of an objective that PromQL tells.
func (s *Service) countQuery(ctx context.Context, t *tracker, until int64) {
	for n := t.ring.next; n < until && ctx.Err() == nil; n++ {
		seen, err := s.ask(ctx, t, slotBegin(n+1))
		if err != nil {
			s.logger.Warn("a query could not be answered", "objective", t.objective.GetName(), "error", err)
		}
		t.take(n, seen, 0)
	}
}

// ask the queries of an objective at the end of a slot.
func (s *Service) ask(ctx context.Context, t *tracker, at time.Time) (sight, error) {
	q := t.objective.GetQuery()
	if s.ports.Querier == nil {
		return sight{}, nil
	}
	if q.GetThreshold() != "" {
		values, err := s.ports.Querier.Values(ctx, q.GetThreshold(), at)
		return judged(values, q), err
	}
	increases := map[string]float64{}
	known := true
	for _, query := range []string{q.GetGood(), q.GetBad(), q.GetTotal()} {
		if query == "" {
			continue
		}
		values, err := s.ports.Querier.Values(ctx, query, at)
		if err != nil || len(values) == 0 {
			clear(t.last)
			return sight{}, err
		}
		now := 0.0
		for _, v := range values {
			now += v
		}
		before, had := t.last[query]
		t.last[query] = now
		increases[query] = now - before
		known = known && had && now >= before // totals that fall have begun anew
	}
	if !known {
		return sight{}, nil
	}
	total := increases[q.GetTotal()]
	bad := total - increases[q.GetGood()]
	if q.GetBad() != "" {
		bad = increases[q.GetBad()]
	}
	bad = min(max(bad, 0), total)
	return sight{good: total - bad, bad: bad, values: total, fresh: true}, nil
}

// judged values of a threshold, each an event.
func judged(values []float64, q *commandv1.Query) (s sight) {
	for _, v := range values {
		good := false
		switch q.GetOp() {
		case "lte":
			good = v <= q.GetValue()
		case "lt":
			good = v < q.GetValue()
		case "gte":
			good = v >= q.GetValue()
		case "gt":
			good = v > q.GetValue()
		}
		if good {
			s.good++
		} else {
			s.bad++ // a value that is no number is not good
		}
	}
	s.values, s.fresh = s.good+s.bad, len(values) > 0
	return s
}
