package fsm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const (
	putObjectives   = commandv1.CommandType_COMMAND_TYPE_PUT_OBJECTIVES
	deleteObjective = commandv1.CommandType_COMMAND_TYPE_DELETE_OBJECTIVE
	recordBudgets   = commandv1.CommandType_COMMAND_TYPE_RECORD_BUDGETS
	putViolation    = commandv1.CommandType_COMMAND_TYPE_PUT_VIOLATION
	putBudgetPolicy = commandv1.CommandType_COMMAND_TYPE_PUT_BUDGET_POLICY
)

const fiveMinutes = int64(5 * time.Minute / time.Millisecond)

// ttft is an objective of the world's group.
func ttft(name string) *commandv1.Objective {
	return &commandv1.Objective{
		Name: name, Group: fsmtest.Group, Indicator: commandv1.Indicator_INDICATOR_TTFT, BoundSeconds: 0.5,
		Target: 0.95, PeriodMs: (30 * 24 * time.Hour).Milliseconds(),
	}
}

func putOne(w *fsmtest.World, o *commandv1.Objective, ifMatch uint64) fsm.Result {
	return w.Do(putObjectives, &commandv1.PutObjectives{Objectives: []*commandv1.Objective{o}, IfMatch: ifMatch})
}

// count records what an objective counted in the five minutes up to now.
func count(t testing.TB, w *fsmtest.World, name string, good, bad float64) {
	t.Helper()
	o := w.Machine.Objective(name)
	res := w.Do(recordBudgets, &commandv1.RecordBudgets{ToMs: w.NowMs, Points: []*commandv1.BudgetPoint{{
		Objective: name, Measure: fsm.Measure(o), Good: good, Bad: bad, KnownMs: fiveMinutes, FromMs: w.NowMs - fiveMinutes,
	}}})
	if res.Err() != nil {
		t.Fatal(res.Err())
	}
}

func TestObjectivesAreChecked(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*commandv1.Objective)
		want   string
	}{
		{"fits", func(*commandv1.Objective) {}, ""},
		{"name", func(o *commandv1.Objective) { o.Name = "a b" }, "objective name"},
		{"name of a route", func(o *commandv1.Objective) { o.Name = "status" }, "route"},
		{"no scope", func(o *commandv1.Objective) { o.Group = "" }, "needs a group or a model"},
		{"two scopes", func(o *commandv1.Objective) { o.Model = "m" }, "choose one"},
		{"target of one", func(o *commandv1.Objective) { o.Target = 1 }, "between 0 and 1"},
		{"target that is no number", func(o *commandv1.Objective) { o.Target = nan() }, "between 0 and 1"},
		{"period too long", func(o *commandv1.Objective) { o.PeriodMs *= 2 }, "30 days"},
		{"no bound", func(o *commandv1.Objective) { o.BoundSeconds = 0 }, "positive number of seconds"},
		{"no indicator", func(o *commandv1.Objective) { o.Indicator = 0 }, "no indicator"},
		{"indicator of another version", func(o *commandv1.Objective) { o.Indicator = 77 }, "no indicator"},
		{"goodput with one bound", func(o *commandv1.Objective) { o.Indicator = commandv1.Indicator_INDICATOR_GOODPUT }, "two bounds"},
		{"odd slices", func(o *commandv1.Objective) { o.SliceMs, o.SliceTarget = 7000, 0.9 }, "ten seconds"},
		{"slice target", func(o *commandv1.Objective) { o.SliceMs = 60_000 }, "slice target"},
		{"query without total", func(o *commandv1.Objective) {
			o.Indicator, o.Query = commandv1.Indicator_INDICATOR_QUERY, &commandv1.Query{Good: "up"}
		}, "needs good or bad with total"},
		{"alert that cannot fire", func(o *commandv1.Objective) {
			o.Alerts = []*commandv1.BurnAlert{{Name: "a", Severity: "page", LookbackMs: 3_600_000, Threshold: 20}}
		}, "could never fire"},
		{"alerts of one name", func(o *commandv1.Objective) {
			a := &commandv1.BurnAlert{Name: "a", Severity: "page", LookbackMs: 3_600_000, Threshold: 2}
			o.Alerts = []*commandv1.BurnAlert{a, a}
		}, "names that differ"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(1)
			o := ttft("chat-first")
			c.change(o)
			err := putOne(w, o, 0).Err()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("answered %v, want %q", err, c.want)
			}
		})
	}
}

func nan() float64 { z := 0.0; return z / z }

func TestObjectivesArePutTogetherOrNotAtAll(t *testing.T) {
	w := fsmtest.New(1)
	bad := ttft("second")
	bad.Target = 2
	res := w.Do(putObjectives, &commandv1.PutObjectives{Objectives: []*commandv1.Objective{ttft("first"), bad}})
	if res.Refusal == nil || w.Machine.Objective("first") != nil {
		t.Errorf("%v; first is %v", res.Err(), w.Machine.Objective("first"))
	}
}

func TestObjectiveIfMatch(t *testing.T) {
	w := fsmtest.New(1)
	if err := putOne(w, ttft("o"), 0).Err(); err != nil {
		t.Fatal(err)
	}
	at := w.Machine.Objective("o").GetModifyIndex()
	if err := putOne(w, ttft("o"), at).Err(); err != nil || w.Machine.Objective("o").GetModifyIndex() != at {
		t.Errorf("the same again: %v, index %d → %d", err, at, w.Machine.Objective("o").GetModifyIndex())
	}
	other := ttft("o")
	other.Target = 0.9
	if r := putOne(w, other, at+1).Refusal; r == nil || r.Code != fsm.PreconditionFailed {
		t.Errorf("stale condition: %v", r)
	}
	if err := putOne(w, other, at).Err(); err != nil {
		t.Error(err)
	}
	if r := w.Do(deleteObjective, &commandv1.DeleteObjective{Name: "o", IfMatch: at}).Refusal; r == nil || r.Code != fsm.PreconditionFailed {
		t.Errorf("stale condition on delete: %v", r)
	}
	if err := w.Do(deleteObjective, &commandv1.DeleteObjective{Name: "o"}).Err(); err != nil || w.Machine.Objective("o") != nil {
		t.Errorf("%v, %v", err, w.Machine.Objective("o"))
	}
}

// TestPolicyBoundsAreObjectives: the bounds of a group's policy are advisory objectives until somebody
// puts others in their place.
func TestPolicyBoundsAreObjectives(t *testing.T) {
	w := fsmtest.New(1)
	w.SetPolicy(&commandv1.Policy{Objectives: &commandv1.Objectives{TtftSeconds: 0.3, E2ESeconds: 9}})
	if names := objectiveNames(w); names != "chat-e2e chat-ttft" {
		t.Fatalf("objectives %s", names)
	}
	if o := w.Machine.Objective("chat-ttft"); !o.GetAdvisory() || o.GetBoundSeconds() != 0.3 || o.GetService() != fsmtest.Group {
		t.Errorf("%v", o)
	}
	w.Advance(time.Hour)
	count(t, w, "chat-ttft", 90, 10)
	if l := w.Machine.Ledger(w.Machine.Objective("chat-ttft")); len(l.GetPointEndMs()) != 1 {
		t.Errorf("ledger %v", l)
	}
	if r := w.Do(deleteObjective, &commandv1.DeleteObjective{Name: "chat-ttft"}).Refusal; r == nil || r.Code != fsm.Conflict {
		t.Errorf("delete: %v", r)
	}
	mine := ttft("chat-ttft")
	mine.BoundSeconds = 0.3 // the same measure: what was counted stays
	if err := putOne(w, mine, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if o := w.Machine.Objective("chat-ttft"); o.GetAdvisory() || objectiveNames(w) != "chat-e2e chat-ttft" {
		t.Errorf("%v among %s", o, objectiveNames(w))
	}
	if l := w.Machine.Ledger(w.Machine.Objective("chat-ttft")); len(l.GetPointEndMs()) != 1 {
		t.Errorf("after it was put: ledger %v", l)
	}
}

func objectiveNames(w *fsmtest.World) string {
	var names []string
	for _, o := range w.Machine.Objectives() {
		names = append(names, o.GetName())
	}
	return strings.Join(names, " ")
}

// TestLedger follows 31 days of counting: five-minute points for three days, hours for 30, and nothing
// is lost on the way from the one to the other.
func TestLedger(t *testing.T) {
	w := fsmtest.New(1)
	w.NowMs = 1_700_000_000_000 / fiveMinutes * fiveMinutes
	if err := putOne(w, ttft("o"), 0).Err(); err != nil {
		t.Fatal(err)
	}
	points := 31 * 24 * 12
	for k := range points {
		w.Advance(5 * time.Minute)
		count(t, w, "o", 9, float64(k%2))
		if k == 12*24*4 { // in the midst of it, a repetition by another leader
			before := w.Machine.Ledger(ttft("o"))
			count(t, w, "o", 9, 0)
			if diff := cmp.Diff(before, w.Machine.Ledger(ttft("o")), protocmp.Transform()); diff != "" {
				t.Fatalf("a point counted twice: %s", diff)
			}
		}
	}
	l := w.Machine.Ledger(ttft("o"))
	if got, want := len(l.GetPointEndMs()), 3*24*12; got != want {
		t.Errorf("%d points, want %d", got, want)
	}
	for k, hour := range l.GetHourMs() {
		whole := k > 0 && k < len(l.GetHourMs())-1
		if whole && (l.GetHourGood()[k] != 12*9 || l.GetHourBad()[k] != 6 || l.GetHourKnownMs()[k] != hourMs) {
			t.Fatalf("hour %d: %v good, %v bad, %d ms", hour, l.GetHourGood()[k], l.GetHourBad()[k], l.GetHourKnownMs()[k])
		}
	}
	oldest := w.NowMs - l.GetHourMs()[0]
	if month := 30 * 24 * hourMs; oldest < month || oldest > month+2*hourMs {
		t.Errorf("the oldest hour began %v ago, want about 30 days", time.Duration(oldest)*time.Millisecond)
	}
}

const hourMs = int64(time.Hour / time.Millisecond)

func TestAnotherMeasureBeginsAnew(t *testing.T) {
	w := fsmtest.New(1)
	putOne(w, ttft("o"), 0)
	w.Advance(time.Hour)
	count(t, w, "o", 1, 99)
	open := &commandv1.Violation{Id: "v-1", Objective: "o", Kind: commandv1.ViolationKind_VIOLATION_KIND_BURN, StartMs: w.NowMs}
	if err := w.Do(putViolation, &commandv1.PutViolation{Violation: open}).Err(); err != nil {
		t.Fatal(err)
	}
	stricter := ttft("o")
	stricter.Target = 0.99
	if putOne(w, stricter, 0); w.Machine.Ledger(stricter) == nil {
		t.Error("another target threw the counts away")
	}
	tighter := ttft("o")
	tighter.BoundSeconds = 0.1
	if putOne(w, tighter, 0); w.Machine.Ledger(tighter) != nil {
		t.Error("counts of another bound were kept")
	}
	if v := w.Machine.Violations("o")[0]; v.GetEndMs() == 0 {
		t.Error("the violation of the old bound lasts")
	}
	res := w.Do(recordBudgets, &commandv1.RecordBudgets{ToMs: w.NowMs + 1, Points: []*commandv1.BudgetPoint{{
		Objective: "o", Measure: fsm.Measure(ttft("o")), Good: 5, FromMs: w.NowMs,
	}}})
	if res.Err() != nil || w.Machine.Ledger(tighter) != nil {
		t.Errorf("a late point of the old bound counted: %v", res.Err())
	}
}

func TestNoCounts(t *testing.T) {
	for _, bad := range []float64{-1, nan(), 1 / zero()} {
		w := fsmtest.New(1)
		putOne(w, ttft("o"), 0)
		res := w.Do(recordBudgets, &commandv1.RecordBudgets{ToMs: w.NowMs, Points: []*commandv1.BudgetPoint{{
			Objective: "o", Measure: fsm.Measure(ttft("o")), Bad: bad, FromMs: w.NowMs - 1,
		}}})
		if res.Refusal == nil || w.Machine.Ledger(ttft("o")) != nil {
			t.Errorf("%v was taken for a count", bad)
		}
	}
}

func zero() float64 { return 0 }

func TestViolations(t *testing.T) {
	w := fsmtest.New(1)
	putOne(w, ttft("o"), 0)
	burn := commandv1.ViolationKind_VIOLATION_KIND_BURN
	do := func(v *commandv1.Violation) fsm.Result {
		return w.Do(putViolation, &commandv1.PutViolation{Violation: v})
	}
	one := &commandv1.Violation{Id: "v-1", Objective: "o", Kind: burn, StartMs: w.NowMs, DetectedMs: w.NowMs}
	if err := do(one).Err(); err != nil {
		t.Fatal(err)
	}
	if r := do(&commandv1.Violation{Id: "v-2", Objective: "o", Kind: burn}).Refusal; r == nil || r.Code != fsm.Conflict {
		t.Errorf("a second one at the same time: %v", r)
	}
	if err := do(&commandv1.Violation{Id: "v-3", Objective: "o", Kind: commandv1.ViolationKind_VIOLATION_KIND_ABSENCE}).Err(); err != nil {
		t.Errorf("of another kind: %v", err)
	}
	w.Advance(time.Minute)
	over := proto.CloneOf(one)
	over.EndMs = w.NowMs
	if err := do(over).Err(); err != nil {
		t.Fatal(err)
	}
	if r := do(one).Refusal; r == nil || r.Code != fsm.Conflict {
		t.Errorf("one that is over was opened again: %v", r)
	}
	if r := do(&commandv1.Violation{Id: "v-9", Objective: "nobody", Kind: burn}).Refusal; r == nil || r.Code != fsm.NotFound {
		t.Errorf("of an unknown objective: %v", r)
	}
	texts := ""
	for _, e := range w.Machine.Events(0, 0) {
		if e.GetKind() == "slo" {
			texts += e.GetText() + "\n"
		}
	}
	for _, want := range []string{"set objective o: 95 % of first tokens come within 0.5 s over 30 d", "objective o is violated", "is over after 1m0s"} {
		if !strings.Contains(texts, want) {
			t.Errorf("no event says %q:\n%s", want, texts)
		}
	}
}

func TestBudgetPolicy(t *testing.T) {
	w := fsmtest.New(1)
	if p := w.Machine.BudgetPolicy("chat"); p.GetCarefulBelow() != 0.5 || p.GetRestrictedBelow() != 0.25 || p.GetSpendCap() != 0.02 {
		t.Errorf("default %v", p)
	}
	if err := w.Do(putBudgetPolicy, &commandv1.PutBudgetPolicy{Policy: &commandv1.BudgetPolicy{Service: "chat", SpendCap: 0.1}}).Err(); err != nil {
		t.Fatal(err)
	}
	if p := w.Machine.BudgetPolicy("chat"); p.GetSpendCap() != 0.1 || p.GetCarefulBelow() != 0.5 {
		t.Errorf("changed %v", p)
	}
	for _, p := range []*commandv1.BudgetPolicy{{}, {Service: "chat", RestrictedBelow: 0.9}, {Service: "chat", SpendCap: -1}, {Service: "chat", Mode: 9}} {
		if r := w.Do(putBudgetPolicy, &commandv1.PutBudgetPolicy{Policy: p}).Refusal; r == nil || r.Code != fsm.Invalid {
			t.Errorf("%v was taken: %v", p, r)
		}
	}
}

// TestBudgetGate is the table of slo.md, held at the start of a rollout.
func TestBudgetGate(t *testing.T) {
	const (
		normal     = commandv1.BudgetClass_BUDGET_CLASS_NORMAL
		careful    = commandv1.BudgetClass_BUDGET_CLASS_CAREFUL
		restricted = commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED
		unknown    = commandv1.BudgetClass_BUDGET_CLASS_UNKNOWN
		frozen     = commandv1.BudgetClass_BUDGET_CLASS_FROZEN
	)
	restarts, hot := map[string]string{"max_num_seqs": "16"}, map[string]string{"log_level": "debug"}
	for _, c := range []struct {
		name     string
		class    commandv1.BudgetClass
		settings map[string]string
		fix      bool
		approved string
		starts   bool
	}{
		{"no gate", 0, restarts, false, "", true},
		{"plenty", normal, restarts, false, "", true},
		{"half", careful, restarts, false, "", true},
		{"little, with a restart", restricted, restarts, false, "", false},
		{"little, without a restart", restricted, hot, false, "", true},
		{"little, approved", restricted, restarts, false, "ann", true},
		{"unknown", unknown, hot, false, "", false},
		{"unknown, approved", unknown, restarts, false, "ann", true},
		{"used up", frozen, hot, false, "", false},
		{"used up, approved", frozen, restarts, false, "ann", false},
		{"used up, a repair", frozen, restarts, true, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(10)
			w.SetPolicy(&commandv1.Policy{Steps: []uint32{50, 100}})
			body := fsmtest.Body("16")
			body.Settings = c.settings
			res := w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{Id: "r-1", Group: fsmtest.Group, Body: body, Fix: c.fix, ApprovedBy: c.approved})
			if res.Err() != nil {
				t.Fatal(res.Err())
			}
			do(t, w, "r-1", validate())
			do(t, w, "r-1", enqueue())
			s := start()
			if c.class != 0 {
				s.GetStart().Budget = &commandv1.BudgetGate{Class: c.class, Objective: "o", Reason: "11 % of the error budget of o is left"}
			}
			res = w.Step("r-1", s)
			if c.starts {
				if res.Err() != nil {
					t.Fatal(res.Err())
				}
				checkCare(t, w, c.class)
				return
			}
			if res.Refusal == nil || res.Refusal.Code != fsm.OverBudget || !strings.Contains(res.Refusal.Message, "11 %") {
				t.Errorf("answered %v", res.Err())
			}
			if g := w.Machine.Group(fsmtest.Group); g.GetLockHolder() != "" {
				t.Error("a refused start holds the group")
			}
		})
	}
}

// checkCare holds a started rollout of ten replicas to a first wave of two and twice the bake, unless
// there is plenty.
func checkCare(t *testing.T, w *fsmtest.World, class commandv1.BudgetClass) {
	t.Helper()
	r := w.Machine.Rollout("r-1")
	bake, first := fsm.DefaultPolicy().GetBakeMs(), 5
	if careful := class > commandv1.BudgetClass_BUDGET_CLASS_NORMAL; careful {
		bake, first = 2*bake, 2
	}
	if r.GetPolicy().GetBakeMs() != bake {
		t.Errorf("bakes %d ms, want %d", r.GetPolicy().GetBakeMs(), bake)
	}
	if got := fsm.FirstWaveTarget(r, 10, 50); got != first {
		t.Errorf("a first step of 50 %% changes %d of 10, want %d", got, first)
	}
	if r := w.Step("r-1", plan(0, ids(w, first+1)...)).Refusal; r == nil {
		t.Errorf("%d replicas were taken into the first wave", first+1)
	}
	if err := w.Step("r-1", plan(0, ids(w, first)...)).Err(); err != nil {
		t.Error(err)
	}
}

func ids(w *fsmtest.World, n int) (found []string) {
	for _, a := range w.Agents[:n] {
		found = append(found, a.ID)
	}
	return found
}

// TestApprovedWorkflow: who let a workflow go on is on its record.
func TestApprovedWorkflow(t *testing.T) {
	w := fsmtest.New(1)
	w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_WORKFLOW, &commandv1.CreateWorkflow{Id: "w-1", Group: fsmtest.Group})
	state := commandv1.WorkflowState_WORKFLOW_STATE_SCHEDULED
	for _, next := range []commandv1.WorkflowState{commandv1.WorkflowState_WORKFLOW_STATE_AWAITING_APPROVAL, commandv1.WorkflowState_WORKFLOW_STATE_DECIDED} {
		if got := w.Machine.Workflow("w-1").GetApprovedBy(); got != "" {
			t.Errorf("approved by %q before it was", got)
		}
		if err := w.DoAs(commandv1.CommandType_COMMAND_TYPE_STEP_WORKFLOW, &commandv1.StepWorkflow{Id: "w-1", Expect: state, Next: next}, "", "ann").Err(); err != nil {
			t.Fatal(err)
		}
		state = next
	}
	if got := w.Machine.Workflow("w-1").GetApprovedBy(); got != "ann" {
		t.Errorf("approved by %q", got)
	}
}

// TestObjectivesReplay (I13 for objectives): any sequence of these commands gives the same state when it
// is replayed, with a snapshot in its midst.
func TestObjectivesReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := fsmtest.New(2)
		w.Create("r-1", "16")
		names := []string{"a", "b", "chat-ttft"}
		for k := range rapid.IntRange(5, 60).Draw(t, "commands") {
			w.Advance(time.Duration(rapid.IntRange(1, 7200).Draw(t, "seconds")) * time.Second)
			name := rapid.SampledFrom(names).Draw(t, "name")
			o := ttft(name)
			o.BoundSeconds = float64(rapid.IntRange(1, 3).Draw(t, "bound"))
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				putOne(w, o, 0)
			case 1:
				w.Do(deleteObjective, &commandv1.DeleteObjective{Name: name})
			case 2:
				w.SetPolicy(&commandv1.Policy{Objectives: &commandv1.Objectives{TtftSeconds: o.GetBoundSeconds()}})
			case 3:
				w.Do(putViolation, &commandv1.PutViolation{Violation: &commandv1.Violation{
					Id: fmt.Sprint("v-", k%5), Objective: name, Kind: commandv1.ViolationKind_VIOLATION_KIND_BURN, EndMs: int64(k % 2 * k),
				}})
			case 4:
				w.Do(putBudgetPolicy, &commandv1.PutBudgetPolicy{Policy: &commandv1.BudgetPolicy{Service: name, SpendCap: 0.1}})
			default:
				w.Do(recordBudgets, &commandv1.RecordBudgets{
					ToMs: w.NowMs, Points: []*commandv1.BudgetPoint{{Objective: name, Measure: fsm.Measure(o), Good: 3, Bad: 1, FromMs: w.NowMs - 300_000}},
					Rollouts: []*commandv1.RolloutSpend{{RolloutId: "r-1", Spends: []*commandv1.BudgetSpend{{Objective: name, Bad: float64(k)}}}},
				})
			}
		}
		replay(t, w, rapid.IntRange(0, len(w.Log)-1).Draw(t, "cut"))
	})
}
