package fsm_test

import (
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// reach lists, for each state, how a rollout of four replicas gets there.
var reach = map[commandv1.RolloutState]func(t *testing.T, w *fsmtest.World){
	commandv1.RolloutState_ROLLOUT_STATE_DRAFT: func(t *testing.T, w *fsmtest.World) { w.Create("r-1", "16") },
	commandv1.RolloutState_ROLLOUT_STATE_VALIDATED: func(t *testing.T, w *fsmtest.World) {
		w.Create("r-1", "16")
		do(t, w, "r-1", validate())
	},
	commandv1.RolloutState_ROLLOUT_STATE_QUEUED: func(t *testing.T, w *fsmtest.World) {
		w.Create("r-1", "16")
		do(t, w, "r-1", validate())
		do(t, w, "r-1", enqueue())
	},
	commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT: func(t *testing.T, w *fsmtest.World) { started(t, w, "r-1", "16") },
	commandv1.RolloutState_ROLLOUT_STATE_DRAINING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		do(t, w, "r-1", plan(0, "agent-00/vllm"))
		do(t, w, "r-1", batch(0, "agent-00/vllm"))
	},
	commandv1.RolloutState_ROLLOUT_STATE_APPLYING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		do(t, w, "r-1", plan(0, "agent-00/vllm"))
		do(t, w, "r-1", batch(0, "agent-00/vllm"))
		w.Deliver()
		w.Work()
	},
	commandv1.RolloutState_ROLLOUT_STATE_WARMING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		do(t, w, "r-1", plan(0, "agent-00/vllm"))
		do(t, w, "r-1", batch(0, "agent-00/vllm"))
		w.Settle()
	},
	commandv1.RolloutState_ROLLOUT_STATE_OBSERVING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
	},
	commandv1.RolloutState_ROLLOUT_STATE_HOLDING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		do(t, w, "r-1", judged(w, "r-1", inconclusive))
	},
	commandv1.RolloutState_ROLLOUT_STATE_PAUSED: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		do(t, w, "r-1", pause())
	},
	commandv1.RolloutState_ROLLOUT_STATE_BAKING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		for range 4 {
			passed(t, w, "r-1")
		}
	},
	commandv1.RolloutState_ROLLOUT_STATE_MITIGATING: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		do(t, w, "r-1", abort())
	},
	commandv1.RolloutState_ROLLOUT_STATE_ROLLING_BACK: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		do(t, w, "r-1", abort())
		w.Deliver()
		do(t, w, "r-1", drained())
	},
	commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE: func(t *testing.T, w *fsmtest.World) {
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		w.SetReachable(w.Agents[0], false)
		do(t, w, "r-1", abort())
		do(t, w, "r-1", drained())
		w.Advance(time.Hour)
		do(t, w, "r-1", stalled())
	},
	commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED:   func(t *testing.T, w *fsmtest.World) { promote(t, w, "r-1", "16") },
	commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK: func(t *testing.T, w *fsmtest.World) { started(t, w, "r-1", "16"); do(t, w, "r-1", abort()) },
	commandv1.RolloutState_ROLLOUT_STATE_CANCELLED: func(t *testing.T, w *fsmtest.World) {
		w.Create("r-1", "16")
		do(t, w, "r-1", cancel())
	},
}

func pause() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Pause{Pause: &commandv1.Pause{}}}
}

func cancel() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_Cancel{Cancel: &commandv1.Cancel{}}}
}

func stalled() *commandv1.StepRollout {
	return &commandv1.StepRollout{Step: &commandv1.StepRollout_RollbackStalled{RollbackStalled: &commandv1.RollbackStalled{}}}
}

func (s steps) has(name string) bool {
	for _, n := range s {
		if n == name {
			return true
		}
	}
	return false
}

type steps []string

// allowed is the machine's table: which steps a state accepts, given that their own guards hold.
var allowed = map[commandv1.RolloutState]steps{
	commandv1.RolloutState_ROLLOUT_STATE_DRAFT:               {"validate", "pause", "guard", "abort", "cancel"},
	commandv1.RolloutState_ROLLOUT_STATE_VALIDATED:           {"enqueue", "pause", "guard", "abort", "cancel"},
	commandv1.RolloutState_ROLLOUT_STATE_QUEUED:              {"start", "pause", "guard", "abort", "cancel"},
	commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT:           {"plan", "pause", "deadline", "guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_DRAINING:            {"pause", "deadline", "guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_APPLYING:            {"pause", "deadline", "guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_WARMING:             {"warm", "pause", "deadline", "guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_OBSERVING:           {"verdict", "pause", "deadline", "guard", "abort", "promote"},
	commandv1.RolloutState_ROLLOUT_STATE_HOLDING:             {"verdict", "pause", "resume", "deadline", "guard", "abort", "promote"},
	commandv1.RolloutState_ROLLOUT_STATE_PAUSED:              {"resume", "guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_BAKING:              {"pause", "guard", "abort", "bake", "promote"},
	commandv1.RolloutState_ROLLOUT_STATE_MITIGATING:          {"guard", "abort", "drained"},
	commandv1.RolloutState_ROLLOUT_STATE_ROLLING_BACK:        {"guard", "abort", "stalled"},
	commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE: {"guard", "abort"},
	commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED:           {},
	commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK:         {},
	commandv1.RolloutState_ROLLOUT_STATE_CANCELLED:           {},
}

// every step, as the present state would want it.
func every(w *fsmtest.World) map[string]*commandv1.StepRollout {
	r := w.Machine.Rollout("r-1")
	index := len(r.GetWaves())
	current := max(index-1, 0)
	all := map[string]*commandv1.StepRollout{
		"validate": validate(), "enqueue": enqueue(), "start": start(),
		"plan": plan(index, "agent-03/vllm"), "batch": batch(current, "agent-03/vllm"), "warm": warmDone(current),
		"verdict": {Step: &commandv1.StepRollout_Verdict{Verdict: &commandv1.GiveVerdict{
			Wave: uint32(current), Verdict: &commandv1.Verdict{Outcome: pass, EvidenceHash: "e", Term: w.Term, EvidenceFromMs: w.NowMs - 1, EvidenceToMs: w.NowMs},
		}}},
		"pause": pause(), "resume": {Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}},
		"deadline": {Step: &commandv1.StepRollout_Deadline{Deadline: &commandv1.DeadlinePassed{}}},
		"guard":    guard(w.Term), "abort": abort(), "drained": drained(), "bake": bakeDone(), "stalled": stalled(), "cancel": cancel(),
		"promote": {Step: &commandv1.StepRollout_Promote{Promote: &commandv1.Promote{Reason: "test"}}},
	}
	return all
}

// TestTransitions tries every step in every state. Time has moved far enough for all deadlines.
func TestTransitions(t *testing.T) {
	for value := range commandv1.RolloutState_name {
		s := commandv1.RolloutState(value)
		if s == commandv1.RolloutState_ROLLOUT_STATE_UNSPECIFIED {
			continue
		}
		if reach[s] == nil || allowed[s] == nil {
			t.Errorf("%s is not in the table", s)
			continue
		}
		probe := fsmtest.New(4)
		reach[s](t, probe)
		for name := range every(probe) {
			w := fsmtest.New(4)
			reach[s](t, w)
			if got := state(w, "r-1"); got != s {
				t.Fatalf("reached %s, want %s", got, s)
			}
			w.Advance(time.Hour)
			hash := w.Machine.Rollout("r-1").String()
			r := w.Step("r-1", every(w)[name])
			if (r.Err() == nil) != allowed[s].has(name) {
				t.Errorf("%s in %s: %v", name, s, r.Err())
			}
			if r.Err() != nil && w.Machine.Rollout("r-1").String() != hash {
				t.Errorf("%s in %s: refused, yet the record changed", name, s)
			}
		}
	}
}

// TestGuardsInEveryState holds invariant I15 with changed replicas out: a guard mitigates from any
// state that can have them.
func TestGuardsInEveryState(t *testing.T) {
	for s, get := range reach {
		w := fsmtest.New(4)
		get(t, w)
		if fsm.Ended(s) {
			continue
		}
		do(t, w, "r-1", guard(w.Term))
		r := w.Machine.Rollout("r-1")
		if !fsm.TakingBack(r.GetState()) && r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
			t.Errorf("guard in %s left %s", s, r.GetState())
		}
		for _, i := range w.Machine.Instances("") {
			k := i.GetAssignment().GetKind()
			if fsm.WasOffered(r, i.GetId()) && k != commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE && k != commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT &&
				i.GetState().GetPhase() != agentv1.Phase_PHASE_CONFIRMED {
				t.Errorf("guard in %s left %s with %s", s, i.GetId(), k)
			}
		}
	}
}

func TestStaleTerm(t *testing.T) {
	w := fsmtest.New(4)
	started(t, w, "r-1", "16")
	observed(t, w, "r-1")
	w.Advance(2 * time.Minute)
	late := judged(w, "r-1", pass)
	w.Term++
	for name, step := range map[string]*commandv1.StepRollout{"verdict": late, "guard": guard(1)} {
		if r := w.Step("r-1", step); r.Refusal == nil || r.Refusal.Code != fsm.StaleTerm {
			t.Errorf("%s of an earlier term: %+v", name, r)
		}
	}
}

func TestEvidence(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(v *commandv1.Verdict)
	}{
		{"from before the warm-up", func(v *commandv1.Verdict) { v.EvidenceFromMs -= 1 }},
		{"none", func(v *commandv1.Verdict) { v.EvidenceHash = "" }},
		{"ends before it begins", func(v *commandv1.Verdict) { v.EvidenceToMs = v.EvidenceFromMs - 1 }},
		{"no outcome", func(v *commandv1.Verdict) { v.Outcome = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(4)
			started(t, w, "r-1", "16")
			observed(t, w, "r-1")
			w.Advance(2 * time.Minute)
			step := judged(w, "r-1", pass)
			c.bend(step.GetVerdict().GetVerdict())
			if r := w.Step("r-1", step); r.Refusal == nil || r.Refusal.Code != fsm.Invalid {
				t.Errorf("accepted: %+v", r)
			}
		})
	}
	t.Run("too early", func(t *testing.T) {
		w := fsmtest.New(4)
		started(t, w, "r-1", "16")
		observed(t, w, "r-1")
		w.Advance(time.Second)
		if r := w.Step("r-1", judged(w, "r-1", pass)); r.Refusal == nil {
			t.Error("passed before observe_min")
		}
	})
}
