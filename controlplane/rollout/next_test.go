package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	"github.com/optiinfra/performance-agent/pkg/stats"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

func newSketch() *stats.Sketch { return stats.NewSketch() }

// plenty of headroom.
func plenty(w *fsmtest.World) Headroom {
	h := Headroom{Load: 100, Measured: true, Capacity: map[string]float64{}}
	for _, a := range w.Agents {
		h.Capacity[a.ID] = 1000
	}
	return h
}

func observation(w *fsmtest.World) Observation {
	return Observation{
		Now: w.Now(), Term: w.Term, Incarnation: 1, Members: w.Machine.Instances(fsmtest.Group),
		LockHolder: w.Machine.Group(fsmtest.Group).GetLockHolder(), First: true, Headroom: plenty(w),
	}
}

func verdictOf(w *fsmtest.World, outcome commandv1.Outcome) *commandv1.Verdict {
	from := fsm.CurrentWave(w.Machine.Rollout("r-1")).GetObserveFromMs()
	return &commandv1.Verdict{Outcome: outcome, EvidenceHash: "e", Term: w.Term, EvidenceFromMs: from, EvidenceToMs: w.NowMs, Summary: "test"}
}

// turn lets Next act once, and the agents follow. It returns the step's name.
func turn(t *testing.T, w *fsmtest.World, bend func(o *Observation)) string {
	t.Helper()
	o := observation(w)
	if bend != nil {
		bend(&o)
	}
	steps := Next(w.Machine.Rollout("r-1"), o)
	name := "-"
	for _, s := range steps {
		name = fmt.Sprintf("%T", s.GetStep())[len("*commandv1.StepRollout_"):]
		if r := w.Step("r-1", s); r.Err() != nil {
			t.Fatalf("%s in %s: %v", name, w.Machine.Rollout("r-1").GetState(), r.Err())
		}
	}
	return name
}

// passing gives a pass once a wave has been observed long enough.
func passing(w *fsmtest.World) func(o *Observation) {
	return func(o *Observation) {
		wave := fsm.CurrentWave(w.Machine.Rollout("r-1"))
		if wave != nil && wave.GetObserveFromMs() > 0 && w.NowMs-wave.GetObserveFromMs() >= 120_000 {
			o.Verdict = verdictOf(w, commandv1.Outcome_OUTCOME_PASS)
		}
	}
}

// run turns until the rollout has ended, and returns the steps taken.
func run(t *testing.T, w *fsmtest.World, bend func(o *Observation)) []string {
	t.Helper()
	var taken []string
	for range 2000 {
		if fsm.Ended(w.Machine.Rollout("r-1").GetState()) {
			return taken
		}
		if name := turn(t, w, bend); name != "-" {
			taken = append(taken, name)
		}
		w.Deliver()
		w.Work()
		w.Advance(time.Second)
	}
	t.Fatalf("never ended: %s", w.Machine.Rollout("r-1").GetState())
	return nil
}

func TestNextToPromotion(t *testing.T) {
	w := fsmtest.New(8)
	w.Create("r-1", "16")
	got := run(t, w, passing(w))
	want := []string{
		"Validate", "Enqueue", "Start",
		"PlanWave", "NextBatch", "NextBatch", "WarmDone", "Verdict",
		"PlanWave", "WarmDone", "Verdict", // 25 % adds no replica to 2 of 8
		"PlanWave", "NextBatch", "NextBatch", "WarmDone", "Verdict",
		"PlanWave", "NextBatch", "NextBatch", "NextBatch", "NextBatch", "WarmDone", "Verdict",
		"BakeDone",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if s := w.Machine.Rollout("r-1").GetState(); s != commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
		t.Errorf("state %s", s)
	}
}

// TestNextAfterLeaderChange hands the record to a new leader at every step: it goes on as if
// nothing had happened.
func TestNextAfterLeaderChange(t *testing.T) {
	w := fsmtest.New(8)
	w.Create("r-1", "16")
	run(t, w, func(o *Observation) {
		w.Term++
		o.Term = w.Term
		passing(w)(o)
	})
	for _, a := range w.Agents {
		epoch := w.Machine.Rollout("r-1").GetEpoch()
		if a.Offers[epoch] != 1 || len(a.Offers) != 1 {
			t.Errorf("%s: offers %v", a.ID, a.Offers)
		}
	}
}

// TestGuardInEveryState holds invariant I15 at the decision: whatever the state, a guard comes first.
func TestGuardInEveryState(t *testing.T) {
	for value := range commandv1.RolloutState_name {
		s := commandv1.RolloutState(value)
		if s == commandv1.RolloutState_ROLLOUT_STATE_UNSPECIFIED || fsm.Ended(s) || fsm.TakingBack(s) {
			continue
		}
		r := &commandv1.Rollout{Id: "r-1", State: s, Policy: fsm.DefaultPolicy(), DeadlineMs: 1, Waves: []*commandv1.Wave{{}}}
		steps := Next(r, Observation{Now: t0, Term: 3, Guard: &Guard{Reason: "test", Since: t0}})
		if len(steps) != 1 || steps[0].GetGuardFailed().GetTerm() != 3 {
			t.Errorf("%s: %v", s, steps)
		}
	}
}

func TestNextTakesBack(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(w *fsmtest.World, o *Observation)
	}{
		{"guard while draining", func(w *fsmtest.World, o *Observation) {
			if w.Machine.Rollout("r-1").GetState() == commandv1.RolloutState_ROLLOUT_STATE_APPLYING {
				o.Guard = &Guard{Reason: "test", Since: o.Now}
			}
		}},
		{"failed verdict", func(w *fsmtest.World, o *Observation) {
			if w.Machine.Rollout("r-1").GetState() == commandv1.RolloutState_ROLLOUT_STATE_OBSERVING {
				o.Verdict = verdictOf(w, commandv1.Outcome_OUTCOME_FAIL)
			}
		}},
		{"no verdict until the deadline", func(w *fsmtest.World, o *Observation) {
			if w.Machine.Rollout("r-1").GetState() == commandv1.RolloutState_ROLLOUT_STATE_OBSERVING {
				o.Verdict = verdictOf(w, commandv1.Outcome_OUTCOME_INCONCLUSIVE)
			}
		}},
		{"no headroom until the deadline", func(_ *fsmtest.World, o *Observation) { o.Headroom.Load = 1e9 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(4)
			w.Create("r-1", "16")
			run(t, w, func(o *Observation) { c.bend(w, o) })
			if s := w.Machine.Rollout("r-1").GetState(); s != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
				t.Errorf("state %s", s)
			}
			for _, a := range w.Agents {
				if a.State.GetRunningEpoch() != 0 || !a.State.GetServing() {
					t.Errorf("%s runs %d", a.ID, a.State.GetRunningEpoch())
				}
			}
		})
	}
}

func TestHeadroom(t *testing.T) {
	w := fsmtest.New(4)
	members := w.Machine.Instances("")
	policy := fsm.DefaultPolicy()
	h := plenty(w)
	for _, c := range []struct {
		name string
		load float64
		bend func()
		want bool
	}{
		{"three carry it with the reserve", 2700, func() {}, true},
		{"the reserve does not fit", 2800, func() {}, false},
		{"one is unreachable", 2700, func() { members[3].Reachable = false }, false},
		{"a capacity is not known", 10, func() { members[3].Reachable = true; delete(h.Capacity, members[2].GetId()) }, false},
		{"not asked", 1e9, func() { policy.Reserve = -1 }, true},
	} {
		c.bend()
		h.Load = c.load
		if ok, words := h.Allows(policy, members, []string{members[0].GetId()}, 1); ok != c.want {
			t.Errorf("%s: %v, %s", c.name, ok, words)
		}
	}
	if ok, _ := (Headroom{}).Allows(fsm.DefaultPolicy(), members, nil, 1); ok {
		t.Error("an unknown load was taken for none")
	}
}

func TestOrderSpreadsOverAgents(t *testing.T) {
	var members []*commandv1.Instance
	for k := range 8 {
		agent := fmt.Sprintf("node-%d", k/4)
		members = append(members, &commandv1.Instance{Id: fmt.Sprintf("%s/e%d", agent, k), AgentId: agent})
	}
	orders := map[string]bool{}
	for seed := range uint64(20) {
		got := Order(seed, members)
		if got[0].GetAgentId() == got[1].GetAgentId() {
			t.Errorf("seed %d: the first two share %s", seed, got[0].GetAgentId())
		}
		slices.Reverse(members)
		if d := cmp.Diff(idsOf(got), idsOf(Order(seed, members))); d != "" {
			t.Errorf("seed %d: depends on the order of input: %s", seed, d)
		}
		orders[fmt.Sprint(idsOf(got))] = true
	}
	if len(orders) < 10 {
		t.Errorf("%d orders from 20 seeds", len(orders))
	}
}
