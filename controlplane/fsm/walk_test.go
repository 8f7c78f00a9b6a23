package fsm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// do applies a step that must be accepted.
func do(t *testing.T, w *fsmtest.World, id string, step *commandv1.StepRollout) {
	t.Helper()
	if r := w.Step(id, step); r.Err() != nil {
		t.Fatalf("%T at %s: %v", step.GetStep(), w.Machine.Rollout(id).GetState(), r.Err())
	}
}

func validate() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Validate{Validate: &commandv1.Validate{}}}
}

func enqueue() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Enqueue{Enqueue: &commandv1.Enqueue{}}}
}

func start() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Start{Start: &commandv1.Start{}}}
}

func abort() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Abort{Abort: &commandv1.Abort{Reason: "test"}}}
}

func drained() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Drained{Drained: &commandv1.Drained{}}}
}

func bakeDone() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_BakeDone{BakeDone: &commandv1.BakeDone{}}}
}

func plan(index int, selected ...string) *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_PlanWave{PlanWave: &commandv1.PlanWave{Index: uint32(index), Selected: selected}}}
}

func batch(wave int, ids ...string) *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{
		Wave: uint32(wave), Instances: ids, HeadroomOk: true, Headroom: "enough",
	}}}
}

func warmDone(wave int) *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_WarmDone{WarmDone: &commandv1.WarmDone{Wave: uint32(wave)}}}
}

func guard(term uint64) *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_GuardFailed{GuardFailed: &commandv1.GuardFailed{Reason: "test", Term: term}}}
}

// judged is a verdict on the current wave with evidence from now.
func judged(w *fsmtest.World, id string, outcome commandv1.Outcome) *commandv1.StepRollout {
	wave := fsm.CurrentWave(w.Machine.Rollout(id))
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Verdict{Verdict: &commandv1.GiveVerdict{
		Wave: wave.GetIndex(), Verdict: &commandv1.Verdict{
			Outcome: outcome, EvidenceHash: "e", Term: w.Term, Summary: "test",
			EvidenceFromMs: wave.GetObserveFromMs(), EvidenceToMs: w.NowMs,
		},
	}}}
}

const (
	pass         = commandv1.Outcome_OUTCOME_PASS
	fail         = commandv1.Outcome_OUTCOME_FAIL
	inconclusive = commandv1.Outcome_OUTCOME_INCONCLUSIVE
)

// started brings a rollout to Preflight.
func started(t *testing.T, w *fsmtest.World, id, maxSeqs string) {
	t.Helper()
	if r := w.Create(id, maxSeqs); r.Err() != nil {
		t.Fatal(r.Err())
	}
	do(t, w, id, validate())
	do(t, w, id, enqueue())
	do(t, w, id, start())
}

// selection picks untouched replicas up to the target of the next wave.
func selection(w *fsmtest.World, id string) []string {
	r := w.Machine.Rollout(id)
	members := w.Machine.Instances(r.GetGroup())
	var taken, ids []string
	for _, wave := range r.GetWaves() {
		taken = append(taken, wave.GetSelected()...)
	}
	want := fsm.WaveTarget(len(members), r.GetPolicy().GetSteps()[len(r.GetWaves())]) - len(taken)
	for _, i := range members {
		if len(ids) < want && !slices.Contains(taken, i.GetId()) {
			ids = append(ids, i.GetId())
		}
	}
	return ids
}

// observed brings the next wave to Observing.
func observed(t *testing.T, w *fsmtest.World, id string) {
	t.Helper()
	ids := selection(w, id)
	index := len(w.Machine.Rollout(id).GetWaves())
	do(t, w, id, plan(index, ids...))
	for _, i := range ids {
		do(t, w, id, batch(index, i))
		w.Settle()
	}
	do(t, w, id, warmDone(index))
}

// passed brings the next wave to its end.
func passed(t *testing.T, w *fsmtest.World, id string) {
	t.Helper()
	observed(t, w, id)
	w.Advance(2 * time.Minute)
	do(t, w, id, judged(w, id, pass))
	w.Settle()
}

// promote takes a rollout all the way.
func promote(t *testing.T, w *fsmtest.World, id, maxSeqs string) {
	t.Helper()
	started(t, w, id, maxSeqs)
	for range 4 {
		passed(t, w, id)
	}
	w.Advance(5 * time.Minute)
	do(t, w, id, bakeDone())
	w.Settle()
}

func state(w *fsmtest.World, id string) commandv1.RolloutState {
	return w.Machine.Rollout(id).GetState()
}
