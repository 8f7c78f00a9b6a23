package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// The fast tier looks every second at all that the wave has seen, with tests whose evidence may be looked
// at whenever one likes. The chance of a false alarm is fastLevel for a rollout, shared out over its
// tests and waves.
const (
	fastLevel      = 0.005
	fastTests      = 6
	fastWaves      = 4 // at least; more where the policy has more steps
	fastRateMargin = 2 // times the controls' rate of bad events
	leastMargin    = 1.25
)

// armSeconds are an arm's windows of a wave, merged by second.
type armSeconds map[int64]*fleet.Aggregate

func bySecond(ws []*fleet.Window, keep func(*fleet.Window) bool) (bySec armSeconds, all *fleet.Aggregate, err error) {
	bySec, all = armSeconds{}, fleet.NewAggregate()
	for _, w := range ws {
		if !keep(w) {
			continue
		}
		a := bySec[w.Start.Unix()]
		if a == nil {
			a = fleet.NewAggregate()
			bySec[w.Start.Unix()] = a
		}
		if err := a.Add(w); err != nil {
			return nil, nil, err
		}
		if err := all.Add(w); err != nil {
			return nil, nil, err
		}
	}
	return bySec, all, nil
}

// fast compares the changed replicas with their controls since the wave is observed.
func (c *Controller) fast(r *commandv1.Rollout, o Observation) *Guard {
	observed := r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_OBSERVING || r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_HOLDING
	controls := Controls(r, o.Members, o.Incarnation)
	if !observed || len(controls) == 0 {
		return nil
	}
	from := time.UnixMilli(fsm.CurrentWave(r).GetObserveFromMs())
	canary, allCanary, err := bySecond(c.telemetry.Windows(Canaries(r, o.Members, o.Incarnation), from, o.Now), func(w *fleet.Window) bool { return w.Serving && w.Epoch == r.GetEpoch() })
	if err != nil {
		return nil // a sketch of another mapping: the judge says so
	}
	control, allControl, err := bySecond(c.telemetry.Windows(controls, from, o.Now), func(w *fleet.Window) bool { return w.Serving && w.Epoch != r.GetEpoch() })
	if err != nil || allCanary.Windows == 0 || allControl.Windows == 0 {
		return nil
	}
	alpha := fastLevel / float64(fastTests*max(fastWaves, len(r.GetPolicy().GetSteps())))
	for _, words := range []string{
		c.moreEvents(r, canary, control, alpha),
		c.slowerQuantile(r, allCanary, allControl, alpha),
	} {
		if words != "" {
			return &Guard{Reason: words, Since: from, EvidenceHash: c.keep(r, Case{Policy: r.GetPolicy(), From: from, To: o.Now, Canary: allCanary, Control: allControl}, Judgement{Outcome: commandv1.Outcome_OUTCOME_FAIL, Hard: true, Summary: words})}
		}
	}
	return nil
}

// badEvent is something that a request should not be.
type badEvent struct {
	name  string
	count func(*fleet.Aggregate) stats.Counted
}

// badEvents that the policy's objectives define: failures, and latencies beyond them. Without an
// objective for the first token, what the slowest twentieth had before stands for it.
func badEvents(r *commandv1.Rollout) []badEvent {
	events := []badEvent{{"failed requests", func(a *fleet.Aggregate) stats.Counted {
		failed := a.Counters[fleet.RequestsFailed]
		return stats.Counted{Events: failed, Requests: failed + a.Counters[fleet.RequestsFinished]}
	}}}
	beyond := func(name, metric string, limit float64) {
		if limit > 0 {
			events = append(events, badEvent{fmt.Sprintf("%s beyond %s", name, seconds(limit)), func(a *fleet.Aggregate) stats.Counted {
				k := a.Sketches[metric]
				if k == nil {
					return stats.Counted{}
				}
				return stats.Counted{Events: math.Round(k.CountAbove(limit)), Requests: math.Round(k.Count())}
			}})
		}
	}
	objectives := r.GetPolicy().GetObjectives()
	limit := objectives.GetTtftSeconds()
	if limit <= 0 {
		limit = r.GetBaseline().GetValues()["ttft_p95"]
	}
	beyond("TTFT", fleet.TTFT, limit)
	// A slower pace within the objective harms nobody; without one, E2E tells.
	beyond("TPOT", fleet.TPOT, objectives.GetTpotSeconds())
	return events
}

// moreEvents says which bad events the changed replicas have more than twice as often as their controls,
// with evidence enough at level alpha; "" for none.
func (c *Controller) moreEvents(r *commandv1.Rollout, canary, control armSeconds, alpha float64) string {
	for _, bad := range badEvents(r) {
		test, err := stats.NewEventTest(fastRateMargin)
		if err != nil {
			return ""
		}
		var of, against stats.Counted
		for sec, a := range canary {
			b := control[sec]
			if b == nil {
				continue
			}
			x, y := bad.count(a), bad.count(b)
			if test.Add(x, y) != nil {
				continue // no counts: they are no evidence
			}
			of, against = add(of, x), add(against, y)
		}
		if e := test.Evidence(); e.Rejects(alpha) {
			return fmt.Sprintf("%s: %.0f of %.0f requests against %.0f of %.0f on controls; evidence of %.3g against no more than %d times as many, %.3g needed",
				bad.name, of.Events, of.Requests, against.Events, against.Requests, e.EValue(), fastRateMargin, 1/alpha)
		}
	}
	return ""
}

func add(a, b stats.Counted) stats.Counted {
	return stats.Counted{Events: a.Events + b.Events, Requests: a.Requests + b.Requests}
}

// slowerQuantile says which quantile of the time to the first token is beyond the margin, with evidence
// enough at level alpha; "" for none.
func (c *Controller) slowerQuantile(r *commandv1.Rollout, canary, control *fleet.Aggregate, alpha float64) string {
	x, y := canary.Sketches[fleet.TTFT], control.Sketches[fleet.TTFT]
	if x == nil || y == nil {
		return ""
	}
	for _, p := range []float64{.5, .95} {
		test, err := stats.NewQuantileTest(p, max(leastMargin, r.GetPolicy().GetMargin()))
		if err != nil || x.Quantile(p)-y.Quantile(p) <= negligible {
			continue
		}
		e, err := test.Evidence(x, y)
		if err != nil {
			c.logger.Warn("quantiles could not be compared", "rollout", r.GetId(), "error", err)
			continue
		}
		if e.Rejects(alpha) {
			return fmt.Sprintf("TTFT p%.0f %s → %s (%.0f requests against %.0f of controls): evidence of %.3g against no more than %.2f times, %.3g needed",
				100*p, seconds(y.Quantile(p)), seconds(x.Quantile(p)), x.Count(), y.Count(), e.EValue(), test.Margin(), 1/alpha)
		}
	}
	return ""
}
