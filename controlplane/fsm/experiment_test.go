package fsm_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const first = "agent-00/vllm"

func ask(change func(*commandv1.CreateExperiment)) *commandv1.CreateExperiment {
	c := &commandv1.CreateExperiment{
		Id: "t-1", Kind: commandv1.ExperimentKind_EXPERIMENT_KIND_RUN, Group: fsmtest.Group, Instance: first, SpecJson: []byte("{}"),
	}
	if change != nil {
		change(c)
	}
	return c
}

func experiment(w *fsmtest.World, c *commandv1.CreateExperiment) fsm.Result {
	return w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_EXPERIMENT, c)
}

func tryStep(w *fsmtest.World, id string, s *commandv1.StepExperiment) fsm.Result {
	s.Id = id
	s.Runs = uint32(len(w.Machine.Experiment(id).GetRuns()))
	return w.Do(commandv1.CommandType_COMMAND_TYPE_STEP_EXPERIMENT, s)
}

func doStep(t *testing.T, w *fsmtest.World, id string, s *commandv1.StepExperiment) {
	t.Helper()
	if err := tryStep(w, id, s).Err(); err != nil {
		t.Fatal(err)
	}
}

func offerArm(arm string) *commandv1.StepExperiment {
	return &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Offer{Offer: &commandv1.OfferTrial{Arm: arm}}}
}

func endTrial() *commandv1.StepExperiment {
	return &commandv1.StepExperiment{Step: &commandv1.StepExperiment_EndTrial{EndTrial: &commandv1.EndTrial{}}}
}

func finish(q *commandv1.QualityVerdict) *commandv1.StepExperiment {
	return &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Finish{Finish: &commandv1.FinishExperiment{Verdict: "better", Quality: q}}}
}

func drain(t *testing.T, w *fsmtest.World, drained bool) fsm.Result {
	t.Helper()
	r := w.Do(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: first, Drained: drained})
	w.Settle()
	return r
}

func setStaging(w *fsmtest.World) {
	i := w.Machine.Instance(first)
	w.Do(commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, &commandv1.AgentsReport{Transitions: []*commandv1.AgentTransition{{
		InstanceId: first, Engine: &agentv1.EngineInfo{InstanceId: first, Name: i.GetName(), Group: i.GetGroup(), Hardware: i.GetHardware(), Staging: true},
	}}})
}

// TestExperimentsAskForUsersFirst: who may be tested, and in which words others are refused.
func TestExperimentsAskForUsersFirst(t *testing.T) {
	candidate := func(c *commandv1.CreateExperiment) {
		c.Kind, c.Candidate = commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE, fsmtest.Body("32")
	}
	for name, c := range map[string]struct {
		prepare func(*testing.T, *fsmtest.World)
		change  func(*commandv1.CreateExperiment)
		words   string
	}{
		"production":                {nil, nil, "serves users"},
		"production with consent":   {nil, func(c *commandv1.CreateExperiment) { c.Consent = "kim" }, ""},
		"consent is not for change": {nil, func(c *commandv1.CreateExperiment) { candidate(c); c.Consent = "kim" }, "consent covers load, not restarts"},
		"drained":                   {func(t *testing.T, w *fsmtest.World) { drain(t, w, true) }, candidate, ""},
		"staging":                   {func(_ *testing.T, w *fsmtest.World) { setStaging(w) }, candidate, ""},
		"twin":                      {nil, func(c *commandv1.CreateExperiment) { c.Twin, c.Instance = true, "" }, ""},
		"twin with engine":          {nil, func(c *commandv1.CreateExperiment) { c.Twin = true }, "which has none"},
		"rollout under way": {
			func(t *testing.T, w *fsmtest.World) { started(t, w, "r-1", "16") },
			func(c *commandv1.CreateExperiment) { c.Consent = "kim" },
			"rollout r-1 holds group",
		},
		"unreachable":       {func(_ *testing.T, w *fsmtest.World) { w.SetReachable(w.Agents[0], false) }, nil, "not connected"},
		"no candidate":      {nil, func(c *commandv1.CreateExperiment) { c.Kind = commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE }, "needs a candidate"},
		"unknown engine":    {nil, func(c *commandv1.CreateExperiment) { c.Instance = "x/y" }, "no engine"},
		"bad candidate":     {nil, func(c *commandv1.CreateExperiment) { candidate(c); c.Candidate.Settings["max_num_seqs"] = "0" }, "at least 1"},
		"large description": {nil, func(c *commandv1.CreateExperiment) { c.SpecJson = bytes.Repeat([]byte("x"), 5000) }, "5000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			w := fsmtest.New(4)
			if c.prepare != nil {
				c.prepare(t, w)
			}
			err := experiment(w, ask(c.change)).Err()
			if (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %q", err, c.words)
			}
		})
	}
}

// TestTrial: the engine goes through trials of both arms and is given back as it was, whoever ends
// the test and when.
func TestTrial(t *testing.T) {
	w := fsmtest.New(2)
	setStaging(w)
	candidate := ask(func(c *commandv1.CreateExperiment) {
		c.Kind, c.Candidate = commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE, fsmtest.Body("32")
	})
	if err := experiment(w, candidate).Err(); err != nil {
		t.Fatal(err)
	}
	if err := tryStep(w, "t-1", offerArm(fsm.ArmCandidate)).Err(); err == nil {
		t.Error("offered while in rotation")
	}
	w.Settle()
	if i := w.Machine.Instance(first); !i.GetOperatorDrain() || i.GetState().GetServing() {
		t.Fatalf("a staging engine is not drained for a test that restarts it: %v", i.GetState())
	}
	if err := drain(t, w, false).Err(); err == nil || !strings.Contains(err.Error(), "cancel it") {
		t.Errorf("undrained under a test: %v", err)
	}
	if err := experiment(w, ask(func(c *commandv1.CreateExperiment) { c.Id = "t-2" })).Err(); err == nil || !strings.Contains(err.Error(), "t-1 runs on") {
		t.Errorf("a second test: %v", err)
	}
	trialOf(t, w, fsm.ArmCandidate)
	trialOf(t, w, fsm.ArmBaseline)

	doStep(t, w, "t-1", offerArm(fsm.ArmCandidate))
	w.Settle()
	if r := w.Do(commandv1.CommandType_COMMAND_TYPE_DELETE_EXPERIMENT, &commandv1.DeleteExperiment{Id: "t-1"}); r.Err() == nil {
		t.Error("deleted while it runs")
	}
	doStep(t, w, "t-1", finish(nil))
	w.Settle()
	w.Settle()
	i := w.Machine.Instance(first)
	if st := i.GetState(); i.GetOperatorDrain() || st.GetDrained() || !st.GetServing() || st.GetRunningEpoch() != 0 || st.GetPhase() != agentv1.Phase_PHASE_IDLE {
		t.Errorf("after the test: drain %v, %v", i.GetOperatorDrain(), st)
	}
	restored := fsm.New()
	var b bytes.Buffer
	snap, err := w.Machine.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := restored.Restore(&b); err != nil || restored.Hash() != w.Machine.Hash() || restored.Experiment("t-1").GetVerdict() != "better" {
		t.Errorf("snapshot: %v", err)
	}
	if r := w.Do(commandv1.CommandType_COMMAND_TYPE_DELETE_EXPERIMENT, &commandv1.DeleteExperiment{Id: "t-1"}); r.Err() != nil || w.Machine.Experiment("t-1") != nil {
		t.Errorf("delete: %v", r.Err())
	}
}

func trialOf(t *testing.T, w *fsmtest.World, arm string) {
	t.Helper()
	doStep(t, w, "t-1", offerArm(arm))
	w.Settle()
	e, st := w.Machine.Experiment("t-1"), w.Machine.Instance(first).GetState()
	if st.GetPhase() != agentv1.Phase_PHASE_PROBATION || st.GetServing() || st.GetRunningEpoch() != e.GetTrialEpoch() || st.GetRunningHash() != e.GetTrialHash() {
		t.Fatalf("%s on trial: %v", arm, st)
	}
	doStep(t, w, "t-1", &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Run{Run: &commandv1.ExperimentRun{Arm: arm}}})
	stale := &commandv1.StepExperiment{Id: "t-1", Runs: 99, Step: endTrial().GetStep()}
	if r := w.Do(commandv1.CommandType_COMMAND_TYPE_STEP_EXPERIMENT, stale); r.Err() == nil {
		t.Error("a step on what was is taken")
	}
	doStep(t, w, "t-1", endTrial())
	w.Settle()
	if st := w.Machine.Instance(first).GetState(); st.GetPhase() != agentv1.Phase_PHASE_IDLE || st.GetRunningEpoch() != 0 || st.GetServing() {
		t.Fatalf("after the trial: %v", st)
	}
}

// TestTrialIsRevertedWhenItsTestIsGone: an engine that was away when its test was cancelled comes back
// on a trial's epoch, and is taken back.
func TestTrialIsRevertedWhenItsTestIsGone(t *testing.T) {
	w := fsmtest.New(2)
	drain(t, w, true)
	c := ask(func(c *commandv1.CreateExperiment) { c.Restarts = true })
	if err := experiment(w, c).Err(); err != nil {
		t.Fatal(err)
	}
	doStep(t, w, "t-1", offerArm(fsm.ArmBaseline))
	w.Settle()
	w.SetReachable(w.Agents[0], false)
	doStep(t, w, "t-1", &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Cancel{Cancel: &commandv1.CancelExperiment{}}})
	w.Settle()
	w.SetReachable(w.Agents[0], true)
	w.Settle()
	w.Settle()
	i := w.Machine.Instance(first)
	if st := i.GetState(); st.GetRunningEpoch() != 0 || !i.GetOperatorDrain() || st.GetServing() {
		t.Errorf("drain %v, %v", i.GetOperatorDrain(), st)
	}
}

// TestQualityLetsLossyConfigurationsPass: exactly the tested body, on the tested version, once the
// newest test has passed.
func TestQualityLetsLossyConfigurationsPass(t *testing.T) {
	w := fsmtest.New(2)
	body := func(dtype string) *agentv1.Body {
		return &agentv1.Body{Engine: "vllm", Settings: map[string]string{"kv_cache_dtype": dtype}}
	}
	rollOut := func(id string, b *agentv1.Body) error {
		return w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{Id: id, Group: fsmtest.Group, Body: b}).Err()
	}
	drain(t, w, true)
	test := func(id string, q *commandv1.QualityVerdict) {
		t.Helper()
		w.Advance(1e9)
		c := ask(func(c *commandv1.CreateExperiment) {
			c.Id, c.Kind, c.Candidate = id, commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE, body("fp8")
		})
		if err := experiment(w, c).Err(); err != nil {
			t.Fatal(err)
		}
		if !w.Machine.Experiment(id).GetLossy() {
			t.Error("not recorded as lossy")
		}
		doStep(t, w, id, finish(q))
	}
	refused := func(id, words string) {
		t.Helper()
		if err := rollOut(id, body("fp8")); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	refused("r-0", "no quality test has been run")
	test("t-0", nil)
	refused("r-0", "no quality test has been run")
	good := &commandv1.QualityVerdict{Passed: true, EngineVersion: "0.11.0", Model: "tiny"}
	test("t-1", &commandv1.QualityVerdict{Passed: true, EngineVersion: "0.10.0", Model: "tiny"})
	refused("r-0", "is tiny 0.11.0: validate it again")
	test("t-2", good)
	if err := rollOut("r-1", body("fp8")); err != nil || !w.Machine.Rollout("r-1").GetLossy() {
		t.Errorf("after a passed test: %v", err)
	}
	other := body("fp8")
	other.Settings["max_num_seqs"] = "9"
	if err := rollOut("r-2", other); err == nil {
		t.Error("a body that was not tested passes")
	}
	test("t-3", &commandv1.QualityVerdict{Summary: "answers differ", EngineVersion: "0.11.0", Model: "tiny"})
	refused("r-3", "did not pass: answers differ")
	if err := w.Step("r-1", validate()).Err(); err == nil {
		t.Error("validated after a newer test failed")
	}
}
