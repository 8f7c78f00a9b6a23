package slo

import (
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// valueSilence is how long requests may finish without leaving values of the indicator's metric before
// the metric counts as gone.
const valueSilence = 2 * time.Minute

// tracker counts one objective while this node leads.
type tracker struct {
	objective *commandv1.Objective
	measure   string
	ledger    *commandv1.BudgetLedger // nil until the first entry
	begun     time.Time               // of this node's counting
	ring      *ring
	byProbe   map[string]bool
	valueAt   time.Time            // when the indicator's metric last had a value
	knownAt   time.Time            // end of the newest slot with telemetry
	holds     map[string]time.Time // since when a rule's windows say so
	alerts    []Alert              // as of the newest slot
	last      map[string]float64   // totals of queries at the end of the newest slot
}

// newTracker goes on where the ledger ends, or begins with the objective.
func newTracker(o *commandv1.Objective, l *commandv1.BudgetLedger, now time.Time) *tracker {
	begin := now
	switch {
	case l != nil:
		begin = time.UnixMilli(l.GetThroughMs())
	case o.GetCreatedMs() > 0:
		begin = time.UnixMilli(o.GetCreatedMs())
	}
	begin = later(begin, now.Add(-time.Duration(slotsKept)*slotLength+time.Minute))
	t := &tracker{
		objective: o, measure: fsm.Measure(o), ledger: l, begun: now, ring: newRing(slotOf(earlier(begin, now))),
		byProbe: map[string]bool{}, holds: map[string]time.Time{}, last: map[string]float64{},
	}
	for k, known := range l.GetPointKnownMs() {
		if known > 0 {
			t.knownAt = time.UnixMilli(l.GetPointEndMs()[k])
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// at is up to when it has counted.
func (t *tracker) at() time.Time { return slotBegin(t.ring.next) }

// take what was seen in a slot.
func (t *tracker) take(n int64, s sight, windows int) {
	end := slotBegin(n + 1)
	if s.values > 0 {
		t.valueAt = later(t.valueAt, end)
	}
	gone := s.finished > 0 && s.values == 0 && end.Sub(t.valueAt) > valueSilence
	c := cell{good: s.good, bad: s.bad, known: s.fresh && !gone, windows: windows}
	if c.known {
		t.knownAt = later(t.knownAt, end)
	}
	t.ring.put(n, c)
}

// takeWindows counts a slot from windows, which may begin a little before it.
func (t *tracker) takeWindows(n int64, windows []*fleet.Window) error {
	s, seen, err := look(t.objective, windows, slotBegin(n), t.byProbe)
	if err != nil {
		return err
	}
	t.take(n, s, seen)
	return nil
}

// takeHistory counts a slot from samples. They do not tell what was open.
func (t *tracker) takeHistory(n int64, a *fleet.Aggregate) {
	s := tally(t.objective, a, [2]float64{})
	s.fresh = a.Windows > 0
	t.take(n, s, a.Windows)
}

// between sums the events from from to to: what this node counted itself, and before that what the
// ledger tells, whose points belong to where they end.
func (t *tracker) between(from, to time.Time) Counts {
	first := slotBegin(t.ring.first)
	total := t.ring.sum(slotOf(from), slotOf(to), slicingOf(t.objective))
	l := t.ledger
	within := func(end int64) bool {
		return end > from.UnixMilli() && end <= to.UnixMilli() && end <= first.UnixMilli()
	}
	for k, end := range l.GetPointEndMs() {
		if within(end) {
			total = total.Plus(point(l.PointGood[k], l.PointBad[k], l.PointKnownMs[k]))
		}
	}
	for k, begin := range l.GetHourMs() {
		if within(begin + time.Hour.Milliseconds()) {
			total = total.Plus(point(l.HourGood[k], l.HourBad[k], l.HourKnownMs[k]))
		}
	}
	return total
}

func point(good, bad float64, knownMs int64) Counts {
	return Counts{Good: good, Bad: bad, Known: time.Duration(knownMs) * time.Millisecond}
}

// over is what the last stretch of that length held.
func (t *tracker) over(length time.Duration) Counts { return t.between(t.at().Add(-length), t.at()) }

// budget of the period that ends with what was counted last.
func (t *tracker) budget() Budget { return BudgetOf(t.objective, t.over(periodOf(t.objective))) }

// unknownFor is how long nothing had been known when the newest slot ended, as far as this node can tell.
func (t *tracker) unknownFor() time.Duration {
	return max(0, t.at().Sub(later(t.knownAt, t.begun)))
}

// point up to a time, for the log; nil when there is nothing new.
func (t *tracker) point(to time.Time) *commandv1.BudgetPoint {
	from := slotBegin(t.ring.first)
	if t.ledger != nil {
		from = time.UnixMilli(t.ledger.GetThroughMs())
	}
	if !from.Before(to) || t.at().Before(to) {
		return nil
	}
	c := t.ring.sum(slotOf(from), slotOf(to), slicingOf(t.objective))
	return &commandv1.BudgetPoint{
		Objective: t.objective.GetName(), Measure: t.measure, Good: c.Good, Bad: c.Bad, KnownMs: c.Known.Milliseconds(), FromMs: from.UnixMilli(),
	}
}

// badSince is where the run of bad slots that ends now began, no earlier than limit. Slots in which
// nothing happened neither begin nor end a run.
func (t *tracker) badSince(limit time.Time) time.Time {
	begin := t.ring.next
	for n := t.ring.next - 1; n >= max(t.ring.first, slotOf(limit)); n-- {
		c := t.ring.at(n)
		switch total := c.good + c.bad; {
		case total == 0:
		case c.bad > (1-t.objective.GetTarget())*total:
			begin = n
		default:
			return slotBegin(begin)
		}
	}
	return slotBegin(begin)
}
