package slo

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

func TestCounting(t *testing.T) {
	latencies := func(metric string, bad, good float64) second {
		return func(id string, at time.Time) *fleet.Window {
			w := served(id, at, 10, 0.1)
			k := stats.NewSketch()
			_ = k.AddN(good, 9)
			_ = k.AddN(bad, 1)
			w.Sketches[metric], w.Origin[metric] = k, fleet.SourceEngine
			return w
		}
	}
	failing := func(id string, at time.Time) *fleet.Window {
		w := served(id, at, 9, 0.1)
		w.Counters[fleet.RequestsFailed], w.Counters[fleet.RequestsAborted] = 1, 5
		return w
	}
	both := func(id string, at time.Time) *fleet.Window {
		w := latencies(fleet.TTFT, 2, 0.1)(id, at)
		w.Sketches[fleet.TPOT] = latencies(fleet.TPOT, 0.5, 0.01)(id, at).Sketches[fleet.TPOT]
		return w
	}
	for _, c := range []struct {
		name      string
		indicator commandv1.Indicator
		bound     float64
		traffic   second
	}{
		{"availability: users who hang up are no failures", commandv1.Indicator_INDICATOR_AVAILABILITY, 0, failing},
		{"ttft", commandv1.Indicator_INDICATOR_TTFT, 0.5, latencies(fleet.TTFT, 1, 0.2)},
		{"tpot", commandv1.Indicator_INDICATOR_TPOT, 0.05, latencies(fleet.TPOT, 0.06, 0.02)},
		{"itl", commandv1.Indicator_INDICATOR_ITL, 0.05, latencies(fleet.ITL, 0.06, 0.02)},
		{"e2e", commandv1.Indicator_INDICATOR_E2E, 5, latencies(fleet.E2E, 6, 2)},
		{"queue time", commandv1.Indicator_INDICATOR_QUEUE_TIME, 0.1, latencies(fleet.Queue, 0.2, 0.01)},
		{"goodput: a request that misses both bounds is one", commandv1.Indicator_INDICATOR_GOODPUT, 0.5, both},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := fast("o")
			o.Indicator, o.BoundSeconds = c.indicator, c.bound
			if c.indicator == commandv1.Indicator_INDICATOR_GOODPUT {
				o.TpotBoundSeconds = 0.05
			}
			b := newBench(t, 2, o)
			b.during(time.Minute, c.traffic)
			got := b.status("o").Budget.Counts
			if got.Known < 40*time.Second || got.Total() < 800 || !near(got.Bad/got.Total(), 0.1, 1e-9) {
				t.Errorf("counted %+v, want a tenth of about a thousand bad", got)
			}
		})
	}
}

func TestModelScope(t *testing.T) {
	o := fast("o")
	o.Group, o.Model = "", "tiny" // what fsmtest's replicas serve
	other := fast("other")
	other.Group, other.Model = "", "huge"
	b := newBench(t, 2, o, other)
	b.during(time.Minute, steady(5, 0.1))
	if got := b.status("o").Budget; got.Total() == 0 {
		t.Error("nothing was counted of the model")
	}
	if got := b.status("other"); got.Budget.Total() != 0 || got.State != Unknown {
		t.Errorf("of a model that nobody serves: %+v", got)
	}
	if b.service.Gate(group) == nil {
		t.Error("the objective of the model does not gate the group that serves it")
	}
}

// TestOpenRequests: a hung engine finishes nothing, yet its requests count as soon as they are late, and
// once only when they end after all.
func TestOpenRequests(t *testing.T) {
	o := fast("o")
	o.Indicator, o.BoundSeconds = commandv1.Indicator_INDICATOR_E2E, 10
	b := newBench(t, 1, o)
	hung := func(id string, at time.Time) *fleet.Window {
		w := served(id, at, 0, 0)
		w.Gauges[fleet.RequestsOpenOver10s] = 30
		return w
	}
	b.during(30*time.Second, steady(0, 0))
	b.during(2*time.Minute, hung)
	if got := b.status("o").Budget; got.Bad != 30 || got.Good != 0 {
		t.Errorf("while they hang: %v bad, %v good, want 30 bad", got.Bad, got.Good)
	}
	ended := b.now
	b.during(time.Minute, func(id string, at time.Time) *fleet.Window {
		w := served(id, at, 0, 0)
		if at.Equal(ended) {
			w.Sketches[fleet.E2E], w.Origin[fleet.E2E] = stats.NewSketch(), fleet.SourceProbe
			_ = w.Sketches[fleet.E2E].AddN(140, 30)
			w.Counters[fleet.RequestsFinished] = 30
		}
		return w
	})
	if got := b.status("o").Budget; got.Bad != 30 {
		t.Errorf("when they have ended: %v bad, want 30", got.Bad)
	}
}

// TestSilentStream: with first tokens seen on the wire, one that has not come in time is bad already.
func TestSilentStream(t *testing.T) {
	for _, c := range []struct {
		source string
		bad    float64
	}{{fleet.SourceProbe, 2}, {fleet.SourceEngine, 0}} {
		b := newBench(t, 2, fast("o"))
		b.during(time.Minute, func(id string, at time.Time) *fleet.Window {
			w := served(id, at, 5, 0.1)
			w.Origin[fleet.TTFT] = c.source
			return w
		})
		b.during(time.Minute, func(id string, at time.Time) *fleet.Window {
			w := served(id, at, 0, 0)
			w.Gauges[fleet.OldestSilentSeconds] = 30
			return w
		})
		if got := b.status("o").Budget; got.Bad != c.bad {
			t.Errorf("first tokens by %s: %v bad, want %v", c.source, got.Bad, c.bad)
		}
	}
}

// TestLifeOfAViolation: from the first bad second to the alert in less than 30 s, with cause and rollout,
// and its end.
func TestLifeOfAViolation(t *testing.T) {
	b := newBench(t, 4, hourly("o"))
	b.findings = []*commandv1.Finding{{Class: "queue_bound", Summary: "requests wait for a slot"}}
	b.during(2*time.Minute, steady(2, 0.1))
	if got := b.status("o"); got.State != Met || len(b.violations()) != 0 {
		t.Fatalf("while all is well: %s, %v", got.State, b.violations())
	}
	b.rollout("r-1")
	bad := b.now
	b.during(26*time.Second, steady(8, 2))
	vs := b.violations()
	if len(vs) != 1 {
		t.Fatalf("%d violations after 26 s of it", len(vs))
	}
	v := vs[0]
	if got := time.UnixMilli(v.GetStartMs()).Sub(bad); got < -slotLength || got > slotLength {
		t.Errorf("it is said to have begun %v after the first bad second", got)
	}
	if v.GetCauseClass() != "queue_bound" || v.GetRolloutId() != "r-1" || v.GetEndMs() != 0 || v.GetGroup() != group {
		t.Errorf("recorded %v", v)
	}
	if got := b.status("o"); got.State != Burning || len(got.Open) != 1 {
		t.Errorf("meanwhile it is %s", got.State)
	}
	b.during(8*time.Minute, steady(50, 0.1))
	v = b.violations()[0]
	if v.GetEndMs() == 0 || v.GetAlerts()[0].GetUntilMs() == 0 || len(b.violations()) != 1 {
		t.Errorf("eight good minutes later: %v", b.violations())
	}
	if v.GetBad() == 0 || v.GetTotal() <= v.GetBad() || v.GetPeakBurn() <= 1 {
		t.Errorf("it tells %v of %v bad, at most %v", v.GetBad(), v.GetTotal(), v.GetPeakBurn())
	}
}

// rollout starts one of the group and offers its epoch to the first replica.
func (b *bench) rollout(id string) {
	b.Helper()
	b.world.NowMs = b.now.UnixMilli()
	b.world.Create(id, "16")
	for _, step := range []*commandv1.StepRollout{
		{Step: &commandv1.StepRollout_Validate{Validate: &commandv1.Validate{}}},
		{Step: &commandv1.StepRollout_Enqueue{Enqueue: &commandv1.Enqueue{}}},
		{Step: &commandv1.StepRollout_Start{Start: &commandv1.Start{}}},
		{Step: &commandv1.StepRollout_PlanWave{PlanWave: &commandv1.PlanWave{Selected: []string{b.world.Agents[0].ID}}}},
		{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{Instances: []string{b.world.Agents[0].ID}, HeadroomOk: true}}},
	} {
		if err := b.world.Step(id, step).Err(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestVanishedSeries: what is not measured is unknown, not well, and alerts after its time; a new leader
// keeps to that, and measurements end it.
func TestVanishedSeries(t *testing.T) {
	noTokens := func(id string, at time.Time) *fleet.Window {
		w := served(id, at, 5, 0.1)
		delete(w.Sketches, fleet.TTFT)
		return w
	}
	stale := func(id string, at time.Time) *fleet.Window {
		w := served(id, at, 0, 0)
		w.Sources[0].Stale = true
		return w
	}
	for name, gone := range map[string]second{"no windows": silent, "engine silent": stale, "metric gone": noTokens} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2, fast("o"))
			b.during(6*time.Minute, steady(5, 0.1))
			begin := b.now
			b.during(4*time.Minute, gone)
			if got := b.status("o"); got.State != Unknown || len(b.violations()) != 0 {
				t.Errorf("after four minutes: %s, %v", got.State, b.violations())
			}
			b.during(16*time.Minute, gone)
			if len(b.violations()) != 0 {
				t.Errorf("it alerts before 1 %% of the budget could have burned: %v", b.violations())
			}
			b.during(5*time.Minute, gone)
			vs := b.violations()
			if len(vs) != 1 || vs[0].GetKind() != commandv1.ViolationKind_VIOLATION_KIND_ABSENCE || vs[0].GetEndMs() != 0 {
				t.Fatalf("after 25 minutes: %v", vs)
			}
			if got := time.UnixMilli(vs[0].GetStartMs()).Sub(begin); got < -2*slotLength || got > valueSilence+2*slotLength {
				t.Errorf("unknown since %v after the last measurement", got)
			}
			if g := b.service.Gate(group); g.GetClass() != commandv1.BudgetClass_BUDGET_CLASS_UNKNOWN {
				t.Errorf("the gate says %v", g)
			}
			b.service = b.start()
			b.during(time.Minute, gone)
			if b.violations()[0].GetEndMs() != 0 {
				t.Error("a new leader took its own ignorance for an end")
			}
			b.during(time.Minute, steady(5, 0.1))
			if b.violations()[0].GetEndMs() == 0 || b.status("o").State != Met {
				t.Errorf("measured again: %v, %s", b.violations(), b.status("o").State)
			}
		})
	}
}

// TestNoTraffic: an idle service is known to be idle. Nothing burns, nothing is missing.
func TestNoTraffic(t *testing.T) {
	b := newBench(t, 2, fast("o"))
	b.during(30*time.Minute, steady(0, 0))
	if got := b.status("o"); got.State != Met || len(b.violations()) != 0 || got.Budget.Known < 29*time.Minute {
		t.Errorf("%s, %v, %+v", got.State, b.violations(), got.Budget)
	}
}

// TestRestartInMidWindow: a new leader goes on with the budget and with the alerts of the old one, after
// a clean change, after a minute without any, and after a snapshot.
func TestRestartInMidWindow(t *testing.T) {
	for name, change := range map[string]func(b *bench){
		"at once": func(*bench) {},
		"after a minute": func(b *bench) {
			b.now = b.now.Add(time.Minute)
		},
		"after half an hour": func(b *bench) { // windows are gone, the history has them
			b.now = b.now.Add(30 * time.Minute)
		},
		"from a snapshot": func(b *bench) {
			snap, err := b.world.Machine.Snapshot()
			if err != nil {
				b.Fatal(err)
			}
			var raw bytes.Buffer
			if _, err := snap.WriteTo(&raw); err != nil {
				b.Fatal(err)
			}
			m := fsm.New()
			if err := m.Restore(&raw); err != nil {
				b.Fatal(err)
			}
			b.world.Machine = m
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2, hourly("o"))
			b.during(6*time.Minute, steady(5, 0.1))
			b.during(8*time.Minute, steady(5, 2)) // the last entry is four minutes old
			before := b.status("o")
			if before.State != Exhausted || len(before.Open) != 1 {
				t.Fatalf("before: %s, %v", before.State, before.Open)
			}
			change(b)
			b.past = append(b.past, stretch{b.now, steady(0, 0)})
			b.service = b.start()
			if got := b.status("o"); got.Budget.Bad == 0 || got.Budget.Left() > 0 || b.service.Gate(group).GetClass() != commandv1.BudgetClass_BUDGET_CLASS_FROZEN {
				t.Errorf("before the new leader has counted: %+v, gate %v", got.Budget, b.service.Gate(group))
			}
			b.during(20*time.Second, steady(0, 0))
			after := b.status("o")
			if name != "after a minute" && name != "after half an hour" {
				if after.Budget.Good != before.Budget.Good || after.Budget.Bad < before.Budget.Bad || after.Budget.Bad > before.Budget.Bad+200 {
					t.Errorf("the budget was %+v and is %+v", before.Budget, after.Budget)
				}
			}
			if after.Budget.Bad < before.Budget.Bad {
				t.Errorf("bad events were %v and are %v", before.Budget.Bad, after.Budget.Bad)
			}
			if len(b.violations()) != 1 {
				t.Errorf("violations %v", b.violations())
			}
		})
	}
}

// TestEntries: one entry every five minutes holds the counts of all objectives, and two leaders in turn
// count each event once.
func TestEntries(t *testing.T) {
	b := newBench(t, 2, fast("a"), fast("b"))
	for range 6 {
		b.during(17*time.Minute/6, steady(5, 0.1))
		b.service = b.start()
	}
	b.during(10*time.Second, steady(0, 0))
	entries := 0
	for _, e := range b.world.Log {
		env := envelopeOf(t, e.Raw)
		if env.GetType() == commandv1.CommandType_COMMAND_TYPE_RECORD_BUDGETS {
			entries++
		}
	}
	if entries != 3 {
		t.Errorf("%d entries in 17 minutes, want 3", entries)
	}
	for _, name := range []string{"a", "b"} {
		// 17 minutes of five requests a second on two replicas
		if got := b.status(name).Budget; got.Good != 17*60*10 || got.Bad != 0 {
			t.Errorf("%s counted %v good and %v bad, want %d and 0", name, got.Good, got.Bad, 17*60*10)
		}
	}
	if diff := cmp.Diff(b.world.Machine.Ledger(fast("a")).GetPointGood(), b.world.Machine.Ledger(fast("b")).GetPointGood()); diff != "" {
		t.Errorf("the ledgers differ: %s", diff)
	}
}

// TestLateWindows: what an agent kept while it was cut off counts, if it comes before the entry.
func TestLateWindows(t *testing.T) {
	b := newBench(t, 2, fast("o"))
	cut := true
	traffic := func(id string, at time.Time) *fleet.Window {
		if cut && id == b.world.Agents[0].ID {
			return nil
		}
		return served(id, at, 5, 0.1)
	}
	b.during(4*time.Minute, traffic)
	cut = false
	b.during(70*time.Second, traffic)
	if l := b.world.Machine.Ledger(fast("o")); len(l.GetPointGood()) != 1 || l.GetPointGood()[0] != 300*10 {
		t.Errorf("the entry holds %v good, want %d", l.GetPointGood(), 300*10)
	}
}

func TestSlices(t *testing.T) {
	o := fast("o")
	o.SliceMs, o.SliceTarget = time.Minute.Milliseconds(), 0.9
	b := newBench(t, 2, o)
	b.during(5*time.Minute, steady(5, 0.1))
	b.during(time.Minute, steady(0, 0)) // no event at all
	b.during(4*time.Minute, steady(5, 2))
	b.during(10*time.Second, steady(0, 0))
	if got := b.status("o").Budget; got.Good != 5 || got.Bad != 4 {
		t.Errorf("%v good and %v bad slices, want 5 and 4", got.Good, got.Bad)
	}
}

// TestGateClasses is the table of slo.md §5, by the budget that is left.
func TestGateClasses(t *testing.T) {
	const (
		normal     = commandv1.BudgetClass_BUDGET_CLASS_NORMAL
		careful    = commandv1.BudgetClass_BUDGET_CLASS_CAREFUL
		restricted = commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED
		frozen     = commandv1.BudgetClass_BUDGET_CLASS_FROZEN
	)
	for _, c := range []struct {
		spent float64
		class commandv1.BudgetClass
		words string
	}{
		{0, normal, "100 %"},
		{0.49, normal, "51 %"},
		{0.5, careful, "50 %"},
		{0.74, careful, "26 %"},
		{0.75, restricted, "25 %"},
		{0.99, restricted, "1 %"},
		{1, frozen, "used up"},
		{3, frozen, "300 % of it is spent"},
	} {
		bad := c.spent * 500
		b := BudgetOf(fast("o"), Counts{Good: 10_000 - bad, Bad: bad, Known: 30 * 24 * time.Hour})
		g := gateOf(fast("o"), fsm.DefaultBudgetPolicy(group), b, false)
		if g.GetClass() != c.class || !strings.Contains(g.GetReason(), c.words) {
			t.Errorf("%v spent: %v", c.spent, g)
		}
	}
	if g := gateOf(fast("o"), fsm.DefaultBudgetPolicy(group), BudgetOf(fast("o"), Counts{}), true); g.GetClass() != commandv1.BudgetClass_BUDGET_CLASS_UNKNOWN {
		t.Errorf("unknown: %v", g)
	}
}

// TestWhoGates: the strictest objective decides; advisory ones, other groups' and those of a service whose
// policy is off do not.
func TestWhoGates(t *testing.T) {
	advisory, elsewhere, lenient := hourly("advisory"), hourly("elsewhere"), hourly("lenient")
	advisory.Advisory, elsewhere.Group, lenient.BoundSeconds = true, "batch", 5
	b := newBench(t, 2, advisory, elsewhere)
	b.during(4*time.Minute, steady(5, 2))
	if g := b.service.Gate(group); g != nil {
		t.Errorf("an advisory objective gates: %v", g)
	}
	b.put(lenient)
	b.during(4*time.Minute, steady(5, 2))
	if g := b.service.Gate(group); g.GetClass() != commandv1.BudgetClass_BUDGET_CLASS_NORMAL || g.GetObjective() != "lenient" {
		t.Errorf("with a lenient one: %v", g)
	}
	b.put(hourly("strict"))
	b.during(4*time.Minute, steady(5, 2))
	if g := b.service.Gate(group); g.GetClass() != commandv1.BudgetClass_BUDGET_CLASS_FROZEN || g.GetObjective() != "strict" {
		t.Errorf("with a strict one: %v", g)
	}
	off := &commandv1.BudgetPolicy{Service: group, Mode: commandv1.BudgetMode_BUDGET_MODE_OFF}
	if err := b.world.Do(commandv1.CommandType_COMMAND_TYPE_PUT_BUDGET_POLICY, &commandv1.PutBudgetPolicy{Policy: off}).Err(); err != nil {
		t.Fatal(err)
	}
	if g := b.service.Gate(group); g != nil {
		t.Errorf("with the policy off: %v", g)
	}
}

// TestSpendCap: a rollout that certainly costs more than its cap is told so; one whose controls do as
// badly is not; and a new leader knows what was spent.
func TestSpendCap(t *testing.T) {
	traffic := func(b *bench, canary, control float64) second {
		epoch := b.world.Machine.Rollout("r-1").GetEpoch()
		return func(id string, at time.Time) *fleet.Window {
			if id == b.world.Agents[0].ID {
				w := served(id, at, 5, canary)
				w.Epoch = epoch
				return w
			}
			return served(id, at, 5, control)
		}
	}
	for _, c := range []struct {
		name            string
		canary, control float64
		over            bool
	}{{"the canary alone is slow", 2, 0.1, true}, {"all are slow", 2, 2, false}, {"nobody is", 0.1, 0.1, false}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 4, hourly("o"))
			b.during(3*time.Minute, steady(5, 0.1))
			b.rollout("r-1")
			b.during(5*time.Minute, traffic(b, c.canary, c.control))
			r := b.world.Machine.Rollout("r-1")
			if text := b.service.Overspent(r); (text != "") != c.over {
				t.Errorf("overspent: %q", text)
			}
			if !c.over {
				return
			}
			spent := b.service.Spent(r)[0]
			if spent.GetShareLow() > spent.GetShare() || spent.GetShare() < 0.1 || math.IsNaN(spent.GetShare()) {
				t.Errorf("spent %v", spent)
			}
			if len(r.GetSpent()) != 1 {
				t.Fatalf("the rollout's record tells %v", r.GetSpent())
			}
			b.service = b.start()
			b.during(10*time.Second, traffic(b, c.canary, c.control))
			again := b.service.Spent(b.world.Machine.Rollout("r-1"))[0]
			if again.GetBad() < spent.GetBad() || again.GetTotal() > spent.GetTotal()+150 {
				t.Errorf("a new leader counts %v, the old one had %v", again, spent)
			}
		})
	}
}

func TestRolloutsThatWereThen(t *testing.T) {
	b := newBench(t, 4, fast("o"))
	before := b.now.Add(-time.Minute)
	b.rollout("r-1")
	during := b.now.Add(time.Minute)
	if got := b.service.rolloutAt(fast("o"), before.UnixMilli()); got != "" {
		t.Errorf("before it began: %q", got)
	}
	if got := b.service.rolloutAt(fast("o"), during.UnixMilli()); got != "r-1" {
		t.Errorf("during it: %q", got)
	}
}

func TestUnchangedViolationIsNotProposed(t *testing.T) {
	b := newBench(t, 2, hourly("o"))
	b.during(time.Minute, steady(5, 2))
	was := b.violations()[0]
	b.during(2*time.Minute, steady(5, 2))
	if diff := cmp.Diff(was, b.violations()[0], protocmp.Transform()); diff != "" {
		t.Errorf("it changed: %s", diff)
	}
}
