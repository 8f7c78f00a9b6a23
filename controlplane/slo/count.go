package slo

import (
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Counts are the events of a stretch of time.
type Counts struct {
	Good, Bad float64
	// Known is for how much of the stretch there was telemetry. Without it nothing is known: no event
	// is not the same as no failure.
	Known time.Duration
}

// Total of events.
func (c Counts) Total() float64 { return c.Good + c.Bad }

// Plus adds another stretch.
func (c Counts) Plus(o Counts) Counts {
	return Counts{Good: c.Good + o.Good, Bad: c.Bad + o.Bad, Known: c.Known + o.Known}
}

// metricOf an indicator that is a latency, empty for others.
func metricOf(i commandv1.Indicator) string {
	switch i {
	case commandv1.Indicator_INDICATOR_TTFT:
		return fleet.TTFT
	case commandv1.Indicator_INDICATOR_TPOT:
		return fleet.TPOT
	case commandv1.Indicator_INDICATOR_ITL:
		return fleet.ITL
	case commandv1.Indicator_INDICATOR_E2E:
		return fleet.E2E
	case commandv1.Indicator_INDICATOR_QUEUE_TIME:
		return fleet.Queue
	}
	return ""
}

// metricsOf an objective, as the history knows them.
func metricsOf(o *commandv1.Objective) []string {
	metrics := []string{fleet.RequestsFinished, fleet.RequestsFailed}
	if m := metricOf(o.GetIndicator()); m != "" {
		return append(metrics, m)
	}
	if o.GetIndicator() == commandv1.Indicator_INDICATOR_GOODPUT {
		return append(metrics, fleet.TTFT, fleet.TPOT)
	}
	return metrics
}

// sight is what an instance showed of an objective in a stretch.
type sight struct {
	good, bad float64
	// finished requests, and values of the indicator's own metric: requests that finish without leaving
	// such values mean that the metric is gone.
	finished, values float64
	fresh            bool // some window was there whose engine had answered
}

func (s sight) plus(o sight) sight {
	return sight{
		good: s.good + o.good, bad: s.bad + o.bad, finished: s.finished + o.finished, values: s.values + o.values,
		fresh: s.fresh || o.fresh,
	}
}

// tally of an objective in the merged windows of a stretch. over is how many requests that are still
// open had missed the bound when it began and when it ended: what has crossed it in between is bad
// already, and is not bad again when it ends.
func tally(o *commandv1.Objective, a *fleet.Aggregate, over [2]float64) sight {
	finished, failed := a.Counters[fleet.RequestsFinished], a.Counters[fleet.RequestsFailed]
	s := sight{finished: finished}
	switch {
	case o.GetIndicator() == commandv1.Indicator_INDICATOR_AVAILABILITY:
		s.good, s.bad, s.values = finished, failed, finished+failed
	case o.GetIndicator() == commandv1.Indicator_INDICATOR_GOODPUT:
		// The two distributions do not tell which requests missed both bounds: at least the larger number
		// of the two missed one.
		late, slow := above(a, fleet.TTFT, o.GetBoundSeconds()), above(a, fleet.TPOT, o.GetTpotBoundSeconds())
		s.values = a.Count(fleet.TTFT)
		total := max(s.values, a.Count(fleet.TPOT))
		missed := min(total, max(late+over[1]-over[0], slow, 0))
		s.good, s.bad = total-missed, missed+failed
	default:
		metric := metricOf(o.GetIndicator())
		late := above(a, metric, o.GetBoundSeconds())
		s.values = a.Count(metric)
		s.good, s.bad = s.values-late, max(0, late+over[1]-over[0])
	}
	return s
}

func above(a *fleet.Aggregate, metric string, bound float64) float64 {
	if k := a.Sketches[metric]; k != nil {
		return k.CountAbove(bound)
	}
	return 0
}

// look sums up what each instance showed in the stretch from on; earlier windows only tell how it began.
// byProbe remembers which instances' first tokens are seen on the wire.
func look(o *commandv1.Objective, windows []*fleet.Window, from time.Time, byProbe map[string]bool) (sum sight, n int, err error) {
	for _, ws := range byInstance(windows) {
		a := fleet.NewAggregate()
		var first, last, before *fleet.Window
		for _, w := range ws {
			if w.Start.Before(from) {
				before = w
				continue
			}
			if src, there := w.Origin[fleet.TTFT]; there {
				byProbe[w.Instance] = src == fleet.SourceProbe
			}
			if first == nil {
				first = w
			}
			last = w
			if err := a.Add(w); err != nil {
				return sum, n, err
			}
		}
		if last == nil {
			continue
		}
		if before == nil {
			before = first
		}
		seen := byProbe[last.Instance]
		s := tally(o, a, [2]float64{overdue(o, before, seen), overdue(o, last, seen)})
		s.fresh = freshIn(ws, from)
		sum = sum.plus(s)
		n += a.Windows
	}
	return sum, n, nil
}

// byInstance cuts windows, which come instance by instance, into those of each.
func byInstance(windows []*fleet.Window) (cut [][]*fleet.Window) {
	for begin := 0; begin < len(windows); {
		end := begin + 1
		for end < len(windows) && windows[end].Instance == windows[begin].Instance {
			end++
		}
		cut = append(cut, windows[begin:end])
		begin = end
	}
	return cut
}

// freshIn reports whether the engine answered in some window of the stretch.
func freshIn(windows []*fleet.Window, from time.Time) bool {
	for _, w := range windows {
		stale := false
		for _, src := range w.Sources {
			stale = stale || src.GetName() == fleet.SourceEngine && src.GetStale()
		}
		if !stale && !w.Start.Before(from) {
			return true
		}
	}
	return false
}

// overdue is how many requests, at least, are open at the end of a window and have missed the bound.
func overdue(o *commandv1.Objective, w *fleet.Window, byProbe bool) float64 {
	bound := o.GetBoundSeconds()
	atLeastOne := func(oldest string, n float64) float64 {
		if w.Gauges[oldest] > bound {
			return max(n, 1)
		}
		return n
	}
	switch o.GetIndicator() {
	case commandv1.Indicator_INDICATOR_TTFT, commandv1.Indicator_INDICATOR_GOODPUT:
		if byProbe { // else what is silent on the wire may be no stream at all
			return atLeastOne(fleet.OldestSilentSeconds, 0)
		}
	case commandv1.Indicator_INDICATOR_E2E:
		for _, age := range []struct {
			seconds float64
			gauge   string
		}{{1, fleet.RequestsOpenOver1s}, {10, fleet.RequestsOpenOver10s}, {60, fleet.RequestsOpenOver60s}} {
			if bound <= age.seconds {
				return atLeastOne(fleet.OldestRequestSeconds, w.Gauges[age.gauge])
			}
		}
		return atLeastOne(fleet.OldestRequestSeconds, 0)
	}
	return 0
}
