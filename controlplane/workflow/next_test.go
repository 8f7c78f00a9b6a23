package workflow

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

var timing = Timing{Collect: time.Minute, Patience: time.Minute, Verify: time.Minute}

func TestNext(t *testing.T) {
	now := time.UnixMilli(1_700_000_300_000)
	finding := func(class string) []*commandv1.Finding {
		return []*commandv1.Finding{{Class: class, Summary: class}}
	}
	record := func(s commandv1.WorkflowState, mode commandv1.Mode) *commandv1.Workflow {
		return &commandv1.Workflow{Id: "w-1", Group: "chat", State: s, Mode: mode, CollectFromMs: now.Add(-70 * time.Second).UnixMilli(), RolloutId: "r-1", RecommendationId: "p-1"}
	}
	auto, approve, advise := commandv1.Mode_MODE_AUTO, commandv1.Mode_MODE_APPROVE, commandv1.Mode_MODE_ADVISE
	long := record(collecting, auto)
	long.CollectFromMs = now.Add(-time.Hour).UnixMilli()
	// As the API begins one: telemetry that is already there counts.
	young := &commandv1.Workflow{Id: "w-1", Group: "chat", State: collecting, Mode: auto, CreatedMs: now.Add(-time.Minute).UnixMilli()}
	old := &commandv1.Workflow{Id: "w-1", Group: "chat", State: verifying, Mode: auto, CreatedMs: now.Add(-time.Hour).UnixMilli()}
	open := &commandv1.Recommendation{Id: "p-1", Status: "open", Title: "up"}
	rollout := func(s commandv1.RolloutState) *commandv1.Rollout {
		return &commandv1.Rollout{Id: "r-1", State: s, EndedMs: now.Add(-90 * time.Second).UnixMilli(), EndReason: "harm"}
	}
	wait := commandv1.WorkflowState_WORKFLOW_STATE_UNSPECIFIED
	budget := func(c commandv1.BudgetClass) *commandv1.BudgetGate {
		return &commandv1.BudgetGate{Class: c, Reason: "little is left"}
	}
	for name, c := range map[string]struct {
		w    *commandv1.Workflow
		o    Observation
		want commandv1.WorkflowState
	}{
		"begins":                      {record(scheduled, auto), Observation{}, collecting},
		"waits for telemetry":         {record(collecting, auto), Observation{}, wait},
		"not enough data, waits":      {record(collecting, auto), Observation{Findings: finding("not_enough_data")}, wait},
		"not enough data, gives up":   {long, Observation{Findings: finding("not_enough_data")}, failed},
		"begun by the API, waits":     {young, Observation{Findings: finding("not_enough_data")}, wait},
		"measured late, waits":        {old, Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED)}, wait},
		"a fault, waits":              {record(collecting, auto), Observation{Findings: finding("cold_start")}, wait},
		"a fault that stays":          {long, Observation{Findings: finding("network_or_client")}, failed},
		"nothing limits":              {record(collecting, auto), Observation{Findings: finding("none")}, learned},
		"a finding":                   {record(collecting, auto), Observation{Findings: finding("batch_limited")}, diagnosed},
		"a proposal":                  {record(diagnosed, auto), Observation{Recommendation: open}, proposed},
		"keeps the incumbent":         {record(diagnosed, auto), Observation{Recommendation: &commandv1.Recommendation{Status: "kept_incumbent", Title: "keep the incumbent: it is best"}}, learned},
		"screened":                    {record(proposed, auto), Observation{Recommendation: open}, screened},
		"lossy without consent":       {record(proposed, auto), Observation{Recommendation: &commandv1.Recommendation{Lossy: true}}, cancelled},
		"needs something first":       {record(proposed, auto), Observation{Recommendation: &commandv1.Recommendation{Prerequisites: []string{"2 GPUs"}}}, cancelled},
		"quarantined":                 {record(proposed, auto), Observation{Recommendation: open, Quarantined: "it failed"}, cancelled},
		"auto goes on":                {record(screened, auto), Observation{}, decided},
		"approve asks":                {record(screened, approve), Observation{}, awaiting},
		"auto asks in a freeze":       {record(screened, auto), Observation{Recommendation: open, Budget: budget(commandv1.BudgetClass_BUDGET_CLASS_FROZEN)}, awaiting},
		"auto asks with little left":  {record(screened, auto), Observation{Recommendation: open, Budget: budget(commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED)}, awaiting},
		"auto goes on at low risk":    {record(screened, auto), Observation{Recommendation: &commandv1.Recommendation{Id: "p-1", Risk: "low"}, Budget: budget(commandv1.BudgetClass_BUDGET_CLASS_RESTRICTED)}, decided},
		"auto goes on with care":      {record(screened, auto), Observation{Recommendation: open, Budget: budget(commandv1.BudgetClass_BUDGET_CLASS_CAREFUL)}, decided},
		"advise stops":                {record(screened, advise), Observation{}, learned},
		"a person is awaited":         {record(awaiting, approve), Observation{}, wait},
		"starts the rollout":          {record(decided, auto), Observation{Recommendation: open}, rollingOut},
		"rollout under way":           {record(rollingOut, auto), Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_OBSERVING)}, wait},
		"rollout succeeded":           {record(rollingOut, auto), Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED)}, verifying},
		"rollout taken back":          {record(rollingOut, auto), Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK)}, failed},
		"incomplete rollback waits":   {record(rollingOut, auto), Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE)}, wait},
		"measures for a while":        {record(verifying, auto), Observation{Rollout: &commandv1.Rollout{EndedMs: now.UnixMilli()}, Measured: &commandv1.Measured{}}, wait},
		"learned":                     {record(verifying, auto), Observation{Rollout: rollout(commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED), Measured: &commandv1.Measured{}}, learned},
		"ended stays ended":           {record(learned, auto), Observation{Findings: finding("batch_limited")}, wait},
		"cancelled stays cancelled":   {record(cancelled, auto), Observation{Recommendation: open}, wait},
		"recommendation vanished":     {record(decided, auto), Observation{}, failed},
		"its rollout is gone":         {record(rollingOut, auto), Observation{}, failed},
		"recommendation vanished too": {record(proposed, auto), Observation{}, failed},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Now = now
			got := Next(c.w, c.o, timing)
			if c.want == wait {
				if got != nil {
					t.Fatalf("step to %s, want to wait", got.Command.GetNext())
				}
				return
			}
			if got == nil || got.Command.GetNext() != c.want {
				t.Fatalf("step %v, want %s", got, c.want)
			}
			if got.Command.GetExpect() != c.w.GetState() {
				t.Errorf("expects %s, the record is in %s", got.Command.GetExpect(), c.w.GetState())
			}
			if Ended(&commandv1.Workflow{State: c.want}) && got.Command.GetEndReason() == "" {
				t.Error("a workflow must not end without a reason")
			}
		})
	}
}

// memory is a log of one node; every command is applied twice when again is set, as a new leader
// that repeats a step would.
type memory struct {
	t       *testing.T
	machine *fsm.Machine
	index   uint64
	clock   int64
}

func (m *memory) Propose(_ context.Context, typ commandv1.CommandType, payload proto.Message, id, actor string) (fsm.Result, error) {
	m.index++
	raw, err := fsm.Encode(typ, payload, id, actor, m.clock, 1)
	if err != nil {
		return fsm.Result{}, err
	}
	return m.machine.Apply(m.index, raw), nil
}

func (m *memory) must(typ commandv1.CommandType, payload proto.Message) {
	m.t.Helper()
	res, err := m.Propose(context.Background(), typ, payload, "", "test")
	if err != nil || res.Err() != nil {
		m.t.Fatal(err, res.Err())
	}
}

type fixedAdvice struct{}

func (fixedAdvice) Findings(context.Context, string) ([]*commandv1.Finding, error) {
	return []*commandv1.Finding{{Class: "batch_limited", Summary: "full"}}, nil
}

func (fixedAdvice) Recommend(_ context.Context, group string, _ []string) (*commandv1.Recommendation, error) {
	return &commandv1.Recommendation{Id: "p-x", Group: group, Status: "open", Title: "max_num_seqs 4 → 64", Settings: map[string]string{"max_num_seqs": "64"}}, nil
}

func (fixedAdvice) Measure(context.Context, string, time.Time, time.Time) (*commandv1.Measured, error) {
	return &commandv1.Measured{Values: map[string]float64{"ttft_p95": 1}}, nil
}

// TestControllerReachesRolloutOnce drives a workflow through two controllers in turn, as leaders
// that take over after each step, and expects one recommendation and one rollout.
func TestControllerReachesRolloutOnce(t *testing.T) {
	m := &memory{t: t, machine: fsm.New(), clock: 1_700_000_000_000}
	yes := true
	m.must(commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, &commandv1.AgentsReport{Transitions: []*commandv1.AgentTransition{{
		InstanceId: "a/0", AgentId: "a", Reachable: &yes,
		Engine: &agentv1.EngineInfo{InstanceId: "a/0", Name: "0", Group: "chat", Description: &enginev1.Description{
			Engine: "vllm", Knobs: []*enginev1.Knob{{Name: "max_num_seqs", Type: enginev1.KnobType_KNOB_TYPE_INT}},
		}},
		State: &agentv1.StateReport{InstanceId: "a/0", Sequence: 1, Phase: agentv1.Phase_PHASE_IDLE, Serving: true},
	}}})
	m.must(commandv1.CommandType_COMMAND_TYPE_CREATE_WORKFLOW, &commandv1.CreateWorkflow{Id: "w-1", Group: "chat", Mode: commandv1.Mode_MODE_AUTO})
	leaders := []*Controller{
		New(Config{Timing: timing}, m.machine, m, fixedAdvice{}, nil, slog.New(slog.DiscardHandler)),
		New(Config{Timing: timing}, m.machine, m, fixedAdvice{}, nil, slog.New(slog.DiscardHandler)),
	}
	for i := range 40 {
		m.clock += 10_000
		c := leaders[i%2]
		c.now = func() time.Time { return time.UnixMilli(m.clock) }
		before := m.machine.Workflow("w-1")
		if err := c.advance(t.Context(), before); err != nil {
			t.Fatalf("in %s: %v", before.GetState(), err)
		}
		// The old leader did not see that its step was taken and takes it again.
		_ = c.advance(t.Context(), before) // refused: the workflow is elsewhere by now
		if s := m.machine.Workflow("w-1").GetState(); s == rollingOut || Ended(m.machine.Workflow("w-1")) {
			break
		}
	}
	w := m.machine.Workflow("w-1")
	if w.GetState() != rollingOut {
		t.Fatalf("workflow is %s: %s", w.GetState(), w.GetEndReason())
	}
	if r, p := len(m.machine.Rollouts("chat")), len(m.machine.Recommendations("chat")); r != 1 || p != 1 {
		t.Errorf("%d rollouts and %d recommendations, want one each", r, p)
	}
	if got := m.machine.Rollout(w.GetRolloutId()).GetWorkflowId(); got != "w-1" {
		t.Errorf("the rollout belongs to workflow %q", got)
	}
}

// TestApprovalInAFreeze: who approves in a freeze says that it is a repair; nobody else can.
func TestApprovalInAFreeze(t *testing.T) {
	frozen := &commandv1.BudgetGate{Class: commandv1.BudgetClass_BUDGET_CLASS_FROZEN}
	plenty := &commandv1.BudgetGate{Class: commandv1.BudgetClass_BUDGET_CLASS_NORMAL}
	for _, c := range []struct {
		approvedBy string
		budget     *commandv1.BudgetGate
		fix        bool
	}{{"ann", frozen, true}, {"ann", plenty, false}, {"", frozen, false}, {"ann", nil, false}} {
		w := &commandv1.Workflow{Id: "w-1", Group: "chat", State: decided, ApprovedBy: c.approvedBy}
		s := Next(w, Observation{Recommendation: &commandv1.Recommendation{Id: "p-1"}, Budget: c.budget}, timing)
		if got := s.CreateRollout; got.GetFix() != c.fix || got.GetApprovedBy() != c.approvedBy {
			t.Errorf("%+v: creates %v", c, got)
		}
	}
}
