package slo

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// spending counts what a rollout's changed replicas did to users, against their controls.
type spending struct {
	next  int64 // slot to count next
	arms  map[string]*arms
	ended bool
}

// arms of one objective.
type arms struct {
	canary, control Counts
	seen            [2]map[string]bool // of canary and control: see look
}

// beforeSpan stands in for controls where a rollout has none.
const beforeSpan = time.Hour

// countRollouts counts what open rollouts cost. The caller holds mu.
func (s *Service) countRollouts(now time.Time) {
	open := map[string]bool{}
	for _, r := range s.state.OpenRollouts() {
		open[r.GetId()] = true
		if len(fsm.OfferedTo(r)) > 0 && !fsm.TakingBack(r.GetState()) {
			s.countRollout(r, now)
		}
	}
	for id, sp := range s.spendings {
		sp.ended = !open[id]
	}
}

func (s *Service) countRollout(r *commandv1.Rollout, now time.Time) {
	sp := s.spendings[r.GetId()]
	if sp == nil {
		sp = s.resume(r, now)
		s.spendings[r.GetId()] = sp
	}
	ids := s.members(scope{group: r.GetGroup()})
	for until := slotOf(now.Add(-s.cfg.Settle)); sp.next < until; sp.next++ {
		begin := slotBegin(sp.next)
		windows := s.ports.Windows.Windows(ids, begin.Add(-lead), begin.Add(slotLength))
		canary, control := split(windows, r.GetEpoch())
		for _, t := range s.trackers {
			if o := t.objective; s.priced(o, r.GetGroup()) {
				a := sp.of(o.GetName())
				a.canary = a.canary.Plus(s.sum(o, canary, begin, a.seen[0]))
				a.control = a.control.Plus(s.sum(o, control, begin, a.seen[1]))
			}
		}
	}
}

// resume counting where the log ends, or from the first wave on.
func (s *Service) resume(r *commandv1.Rollout, now time.Time) *spending {
	from := r.GetWaves()[0].GetPlannedMs()
	sp := &spending{arms: map[string]*arms{}}
	for _, b := range r.GetSpent() {
		a := sp.of(b.GetObjective())
		a.canary = Counts{Good: b.GetTotal() - b.GetBad(), Bad: b.GetBad()}
		a.control = Counts{Good: b.GetControlTotal() - b.GetControlBad(), Bad: b.GetControlBad()}
		if t := s.trackers[b.GetObjective()]; t != nil {
			from = max(from, t.ledger.GetThroughMs())
		}
	}
	sp.next = max(slotOf(time.UnixMilli(from)), slotOf(now.Add(-windowsReach))+1)
	return sp
}

func (sp *spending) of(objective string) *arms {
	a := sp.arms[objective]
	if a == nil {
		a = &arms{seen: [2]map[string]bool{{}, {}}}
		sp.arms[objective] = a
	}
	return a
}

// priced reports whether a rollout in the group can be charged with an objective's bad events: those of
// slices and of queries cannot be told apart by replica.
func (s *Service) priced(o *commandv1.Objective, group string) bool {
	return o.GetSliceMs() == 0 && o.GetIndicator() != commandv1.Indicator_INDICATOR_QUERY && s.covers(o, group)
}

// split windows of replicas in rotation into those on the epoch and the others.
func split(windows []*fleet.Window, epoch uint64) (canary, control []*fleet.Window) {
	for _, w := range windows {
		switch {
		case !w.Serving:
		case w.Epoch == epoch:
			canary = append(canary, w)
		default:
			control = append(control, w)
		}
	}
	return canary, control
}

func (s *Service) sum(o *commandv1.Objective, windows []*fleet.Window, from time.Time, seen map[string]bool) Counts {
	sight, _, err := look(o, windows, from, seen)
	if err != nil {
		s.logger.Warn("a slot could not be counted", "objective", o.GetName(), "error", err)
		return Counts{}
	}
	return Counts{Good: sight.good, Bad: sight.bad}
}

// Excess of bad events over what the controls' rate makes expect: bad − n × rate, and its lower bound,
// which is 0 while it may be chance. confidence of the bound is 99.8 %, a half of the rest on each side.
func Excess(canary, control Counts) (excess, low float64) {
	if canary.Total() == 0 || control.Total() == 0 {
		return 0, 0
	}
	excess = canary.Bad - canary.Total()*control.Bad/control.Total()
	least, err := stats.RateAtLeast(int(canary.Bad), int(math.Ceil(canary.Total())), sure)
	if err != nil {
		return excess, 0
	}
	most, err := stats.RateAtMost(int(math.Ceil(control.Bad)), int(math.Ceil(control.Total())), sure)
	if err != nil {
		return excess, 0
	}
	return excess, max(0, canary.Total()*(least-most))
}

// spends of a rollout, by name of the objective. The caller holds mu.
func (s *Service) spends(r *commandv1.Rollout, sp *spending) (found []*commandv1.BudgetSpend) {
	for name, a := range sp.arms {
		t := s.trackers[name]
		if t == nil || a.canary.Total() == 0 {
			continue
		}
		control := a.control
		if control.Total() < leastEvents {
			begin := time.UnixMilli(r.GetWaves()[0].GetPlannedMs())
			control = t.between(begin.Add(-beforeSpan), begin)
		}
		b := &commandv1.BudgetSpend{
			Objective: name, Bad: a.canary.Bad, Total: a.canary.Total(), ControlBad: a.control.Bad, ControlTotal: a.control.Total(),
		}
		b.Excess, b.Low = Excess(a.canary, control)
		if allowed := t.budget().Allowed; allowed > 0 {
			b.Share, b.ShareLow = b.Excess/allowed, b.Low/allowed
		}
		found = append(found, b)
	}
	slices.SortFunc(found, func(a, b *commandv1.BudgetSpend) int { return compare(a.GetObjective(), b.GetObjective()) })
	return found
}

// spent is what all rollouts that are counted have cost, for the log. The caller holds mu.
func (s *Service) spent() (found []*commandv1.RolloutSpend) {
	for id, sp := range s.spendings {
		if r := s.state.Rollout(id); r != nil {
			if spends := s.spends(r, sp); len(spends) > 0 {
				found = append(found, &commandv1.RolloutSpend{RolloutId: id, Spends: spends})
			}
		}
	}
	slices.SortFunc(found, func(a, b *commandv1.RolloutSpend) int { return compare(a.GetRolloutId(), b.GetRolloutId()) })
	return found
}

// dropEnded forgets rollouts whose last count is in the log. The caller holds mu.
func (s *Service) dropEnded() {
	for id, sp := range s.spendings {
		if sp.ended {
			delete(s.spendings, id)
		}
	}
}

// Spent is what a rollout has cost so far, by objective: as counted here where this node leads, else as
// the log tells.
func (s *Service) Spent(r *commandv1.Rollout) []*commandv1.BudgetSpend {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.spendings[r.GetId()]; sp != nil {
		return s.spends(r, sp)
	}
	return r.GetSpent()
}

// Overspent says in words that a rollout has certainly cost more of an error budget than its cap; empty
// when it has not.
func (s *Service) Overspent(r *commandv1.Rollout) string {
	for _, b := range s.Spent(r) {
		o := s.state.Objective(b.GetObjective())
		p := s.state.BudgetPolicy(o.GetService())
		if o == nil || o.GetAdvisory() || p.GetMode() == commandv1.BudgetMode_BUDGET_MODE_OFF || b.GetShareLow() <= p.GetSpendCap() {
			continue
		}
		return fmt.Sprintf("it has cost at least %s of the error budget of objective %s, and may cost %s: %.0f of %.0f events were bad on the changed replicas, %.0f of %.0f on the others",
			percent(b.GetShareLow()), b.GetObjective(), percent(p.GetSpendCap()), b.GetBad(), b.GetTotal(), b.GetControlBad(), b.GetControlTotal())
	}
	return ""
}
