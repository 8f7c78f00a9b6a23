package fsm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

func TestPromotion(t *testing.T) {
	w := fsmtest.New(8)
	promote(t, w, "r-1", "16")
	r, g := w.Machine.Rollout("r-1"), w.Machine.Group(fsmtest.Group)
	if r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED || g.GetPromotedEpoch() != r.GetEpoch() || g.GetLockHolder() != "" {
		t.Fatalf("state %s, promoted %d of %d, holder %q", r.GetState(), g.GetPromotedEpoch(), r.GetEpoch(), g.GetLockHolder())
	}
	var sizes []int
	for _, wave := range r.GetWaves() {
		sizes = append(sizes, len(wave.GetSelected()))
	}
	if want := []int{2, 0, 2, 4}; !equal(sizes, want) {
		t.Errorf("wave sizes %v, want %v", sizes, want)
	}
	for _, a := range w.Agents {
		if a.State.GetLkgEpoch() != r.GetEpoch() || !a.State.GetServing() {
			t.Errorf("%s: lkg %d, serving %v", a.ID, a.State.GetLkgEpoch(), a.State.GetServing())
		}
		if a.Offers[r.GetEpoch()] != 1 {
			t.Errorf("%s applied the epoch %d times", a.ID, a.Offers[r.GetEpoch()])
		}
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}

func TestFailedVerdictIsTakenBack(t *testing.T) {
	w := fsmtest.New(8)
	started(t, w, "r-1", "16")
	passed(t, w, "r-1")
	passed(t, w, "r-1")
	observed(t, w, "r-1")
	do(t, w, "r-1", judged(w, "r-1", fail))
	if got := state(w, "r-1"); got != commandv1.RolloutState_ROLLOUT_STATE_MITIGATING {
		t.Fatalf("state %s", got)
	}
	if r := w.Step("r-1", judged(w, "r-1", pass)); r.Refusal == nil || r.Refusal.Code != fsm.Conflict {
		t.Errorf("a pass after the decision to take back: %+v", r)
	}
	healthy := 8
	for range 60 { // four replicas in turn, without waiting for their slots
		w.Deliver()
		healthy = min(healthy, fsm.CapacityOf(w.Machine.Group(fsmtest.Group).GetPolicy(), w.Machine.Instances(""), 1).Healthy)
		w.Work()
		w.Advance(time.Second)
		w.Step("r-1", drained())
	}
	if healthy < 7 {
		t.Errorf("taking back left %d of 8 replicas in rotation, the floor is 7", healthy)
	}
	w.Settle()
	r := w.Machine.Rollout("r-1")
	if r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
		t.Fatalf("state %s, %s", r.GetState(), r.GetEndReason())
	}
	if r.GetMitigatedMs() < r.GetHarmMs() || r.GetRestoredMs() < r.GetMitigatedMs() || r.GetMitigatedMs() == 0 {
		t.Errorf("clocks: harm %d, mitigated %d, restored %d", r.GetHarmMs(), r.GetMitigatedMs(), r.GetRestoredMs())
	}
	for _, a := range w.Agents {
		if a.State.GetRunningEpoch() != 0 || !a.State.GetServing() {
			t.Errorf("%s: runs %d, serving %v", a.ID, a.State.GetRunningEpoch(), a.State.GetServing())
		}
	}
	if r := w.Create("r-2", "16"); r.Refusal == nil || r.Refusal.Code != fsm.Quarantined {
		t.Errorf("the same configuration again: %+v", r)
	}
	q := w.Machine.Quarantines()
	if len(q) != 1 {
		t.Fatalf("quarantines %v", q)
	}
	if r := w.Do(commandv1.CommandType_COMMAND_TYPE_LIFT_QUARANTINE, &commandv1.LiftQuarantine{Group: fsmtest.Group, BodyHash: q[0].GetBodyHash()}); r.Err() != nil {
		t.Error(r.Err())
	}
	if r := w.Create("r-2", "16"); r.Err() != nil {
		t.Errorf("after the quarantine was lifted: %v", r.Err())
	}
}

func TestQuota(t *testing.T) {
	for _, c := range []struct {
		name    string
		n, bad  int
		refuse  bool
		taken   bool
		selects int
	}{
		{"one of two canaries may fail", 8, 1, false, false, 2},
		{"two of two take the change back", 8, 2, false, true, 2},
		{"the only canary takes the change back", 4, 1, false, true, 1},
		{"a refused offer counts", 4, 1, true, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fsmtest.New(c.n)
			started(t, w, "r-1", "16")
			ids := selection(w, "r-1")
			if len(ids) != c.selects {
				t.Fatalf("selected %v", ids)
			}
			do(t, w, "r-1", plan(0, ids...))
			for k, id := range ids {
				a := agentOf(w, id)
				a.FailNext = k < c.bad && !c.refuse
				a.RefuseNext = c.refuse
				do(t, w, "r-1", batch(0, id))
				w.Settle()
			}
			if got := fsm.TakingBack(state(w, "r-1")) || fsm.Ended(state(w, "r-1")); got != c.taken {
				t.Errorf("state %s", state(w, "r-1"))
			}
			if !c.taken {
				do(t, w, "r-1", warmDone(0))
			}
		})
	}
}

func agentOf(w *fsmtest.World, id string) *fsmtest.Agent {
	for _, a := range w.Agents {
		if a.ID == id {
			return a
		}
	}
	return nil
}

func TestLateConfirmCountsAsFailed(t *testing.T) {
	w := fsmtest.New(4)
	started(t, w, "r-1", "16")
	observed(t, w, "r-1")
	canary := agentOf(w, selectionOf(w)[0])
	w.SetReachable(canary, false)
	canary.Revert("no lease") // unseen by the control plane
	w.Advance(2 * time.Minute)
	do(t, w, "r-1", judged(w, "r-1", inconclusive))
	w.SetReachable(canary, true)
	w.Report(canary)
	if got := state(w, "r-1"); got != commandv1.RolloutState_ROLLOUT_STATE_MITIGATING {
		t.Errorf("state %s", got)
	}
}

func selectionOf(w *fsmtest.World) []string {
	return fsm.CurrentWave(w.Machine.Rollout("r-1")).GetSelected()
}

func TestCapacity(t *testing.T) {
	w := fsmtest.New(8)
	started(t, w, "r-1", "16")
	ids := selection(w, "r-1")
	do(t, w, "r-1", plan(0, ids...))
	no := batch(0, ids[0])
	no.GetNextBatch().HeadroomOk = false
	for _, c := range []struct {
		name string
		step *commandv1.StepRollout
	}{
		{"more than max_unavailable", batch(0, ids...)},
		{"no headroom", no},
	} {
		if r := w.Step("r-1", c.step); r.Refusal == nil || r.Refusal.Code != fsm.NoCapacity {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	w.SetReachable(agentOf(w, "agent-07/vllm"), false)
	if r := w.Step("r-1", batch(0, ids[0])); r.Refusal == nil || r.Refusal.Code != fsm.NoCapacity {
		t.Errorf("one unreachable: %+v", r)
	}
}

func TestOneReplica(t *testing.T) {
	w := fsmtest.New(1)
	if r := w.Create("r-1", "16"); r.Err() != nil {
		t.Fatal(r.Err())
	}
	r := w.Step("r-1", validate())
	if r.Refusal == nil || !strings.Contains(r.Refusal.Message, "allow_outage") {
		t.Fatalf("one replica: %+v", r)
	}
	w.SetPolicy(&commandv1.Policy{AllowOutage: proto.Bool(true)})
	promote(t, w, "r-2", "16")
	if got := state(w, "r-2"); got != commandv1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
		t.Errorf("state %s", got)
	}
}

func TestLock(t *testing.T) {
	w := fsmtest.New(4)
	started(t, w, "r-1", "16")
	if r := w.Create("r-2", "32"); r.Err() != nil {
		t.Fatal(r.Err())
	}
	do(t, w, "r-2", validate())
	do(t, w, "r-2", enqueue())
	if r := w.Step("r-2", start()); r.Refusal == nil || r.Refusal.Code != fsm.Locked {
		t.Fatalf("second start: %+v", r)
	}
	do(t, w, "r-1", abort())
	if got := state(w, "r-1"); got != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK {
		t.Errorf("aborted before any offer: %s", got)
	}
	do(t, w, "r-2", start())
}

func TestSettings(t *testing.T) {
	for _, c := range []struct{ name, knob, value, words string }{
		{"unknown", "no_such", "1", "has no setting"},
		{"out of range", "max_num_seqs", "0", "at least 1"},
		{"not a number", "max_num_seqs", "many", "is a number"},
		{"not a value", "log_level", "loud", "one of"},
		{"lossy", "kv_cache_dtype", "fp8", "quality test"},
		{"ignored", "swap_space", "4", "no swap"},
		{"fine", "max_num_seqs", "64", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := fsmtest.New(2).Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{
				Group: fsmtest.Group, Body: &agentv1.Body{Settings: map[string]string{c.knob: c.value}},
			})
			if got := r.Err(); (got == nil) != (c.words == "") || got != nil && !strings.Contains(got.Error(), c.words) {
				t.Errorf("error %v, want %q", got, c.words)
			}
		})
	}
}

func TestRollbackIncompleteAndRollForward(t *testing.T) {
	w := fsmtest.New(4)
	started(t, w, "r-1", "16")
	observed(t, w, "r-1")
	lost := agentOf(w, selectionOf(w)[0])
	w.SetReachable(lost, false)
	do(t, w, "r-1", abort())
	do(t, w, "r-1", drained())
	stalled := &commandv1.StepRollout{Step: &commandv1.StepRollout_RollbackStalled{RollbackStalled: &commandv1.RollbackStalled{}}}
	if r := w.Step("r-1", stalled); r.Refusal == nil {
		t.Fatal("stalled before its time")
	}
	w.Advance(10 * time.Minute)
	do(t, w, "r-1", stalled)
	if got := state(w, "r-1"); got != commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE {
		t.Fatalf("state %s", got)
	}
	create := &commandv1.CreateRollout{Id: "r-2", Group: fsmtest.Group, Body: fsmtest.Body("32"), RollsForwardFrom: "r-1"}
	if r := w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, create); r.Err() != nil {
		t.Fatal(r.Err())
	}
	do(t, w, "r-2", validate())
	do(t, w, "r-2", enqueue())
	do(t, w, "r-2", start())
	if got := w.Machine.Group(fsmtest.Group).GetLockHolder(); got != "r-2" {
		t.Errorf("lock holder %s", got)
	}
}

func TestPauseKeepsTheDeadline(t *testing.T) {
	w := fsmtest.New(4)
	started(t, w, "r-1", "16")
	left := w.Machine.Rollout("r-1").GetDeadlineMs() - w.NowMs
	do(t, w, "r-1", &commandv1.StepRollout{Step: &commandv1.StepRollout_Pause{Pause: &commandv1.Pause{}}})
	w.Advance(10 * time.Hour)
	deadline := &commandv1.StepRollout{Step: &commandv1.StepRollout_Deadline{Deadline: &commandv1.DeadlinePassed{}}}
	if r := w.Step("r-1", deadline); r.Refusal == nil {
		t.Fatal("a deadline passed during a pause")
	}
	do(t, w, "r-1", &commandv1.StepRollout{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}})
	if got := w.Machine.Rollout("r-1").GetDeadlineMs() - w.NowMs; got != left {
		t.Errorf("%d ms left, want %d", got, left)
	}
}

func TestStragglerCatchesUp(t *testing.T) {
	w := fsmtest.New(4)
	promote(t, w, "r-1", "16")
	late := w.Join("agent-99")
	for range 3 {
		w.Settle()
	}
	epoch := w.Machine.Group(fsmtest.Group).GetPromotedEpoch()
	if late.State.GetLkgEpoch() != epoch || late.Offers[epoch] != 1 {
		t.Errorf("lkg %d, want %d; offered %d times", late.State.GetLkgEpoch(), epoch, late.Offers[epoch])
	}
}

// TestStragglersFollowAnEarlyEnd: a replica that joined while a rollout held the group is offered the
// promoted epoch when that rollout ends, also when it had changed nothing yet.
func TestStragglersFollowAnEarlyEnd(t *testing.T) {
	w := fsmtest.New(4)
	promote(t, w, "r-1", "16")
	started(t, w, "r-2", "32")
	late := w.Join("late")
	do(t, w, "r-2", abort())
	d := fsm.DirectiveFor(w.Machine, w.Machine.Instance(late.ID))
	if want := w.Machine.Group(fsmtest.Group).GetPromotedEpoch(); d.GetOffer().GetEpoch() != want {
		t.Errorf("directive %v, want an offer of epoch %d", d, want)
	}
}

func TestOperatorDrain(t *testing.T) {
	w := fsmtest.New(4)
	a := w.Agents[0]
	drain := func(on bool) {
		t.Helper()
		r := w.Do(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: a.ID, Drained: on})
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		w.Settle()
	}
	drain(true)
	if a.State.GetServing() {
		t.Error("still in rotation")
	}
	drain(false)
	if !a.State.GetServing() {
		t.Error("not back in rotation")
	}
	if d := fsm.DirectiveFor(w.Machine, w.Machine.Instance(a.ID)); d != nil {
		t.Errorf("something is outstanding: %v", d)
	}
}

// TestOperatorDoesNotLiftMitigation: a replica that an operator drained and put back while it was
// being mitigated stays out of rotation until it was reverted.
func TestOperatorDoesNotLiftMitigation(t *testing.T) {
	w := fsmtest.New(2)
	started(t, w, "r-1", "16")
	observed(t, w, "r-1")
	do(t, w, "r-1", abort())
	id := fsm.OfferedTo(w.Machine.Rollout("r-1"))[0]
	a := w.Agents[slices.IndexFunc(w.Agents, func(a *fsmtest.Agent) bool { return a.ID == id })]
	for _, on := range []bool{true, false} {
		w.Do(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: id, Drained: on})
	}
	w.DeliverTo(a)
	w.DeliverTo(a)
	if d := fsm.DirectiveFor(w.Machine, w.Machine.Instance(id)); d != nil || a.State.GetServing() {
		t.Errorf("in rotation: %v; outstanding: %v", a.State.GetServing(), d)
	}
	do(t, w, "r-1", drained())
	w.Settle()
	if !a.State.GetServing() || a.State.GetRunningEpoch() != a.State.GetLkgEpoch() {
		t.Errorf("after the revert: %v", a.State)
	}
}

func TestIncarnationOutranksFences(t *testing.T) {
	w := fsmtest.New(4)
	promote(t, w, "r-1", "16")
	w.Do(commandv1.CommandType_COMMAND_TYPE_BUMP_INCARNATION, &commandv1.BumpIncarnation{Reason: "restored"})
	d := fsm.DirectiveFor(w.Machine, w.Machine.Instance(w.Agents[0].ID))
	if d.GetFence().GetIncarnation() != 2 || d.GetPromote() == nil {
		t.Errorf("directive %v", d)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	w := fsmtest.New(2)
	for k := range 120 {
		id := fmt.Sprintf("r-%03d", k)
		w.Create(id, "16")
		do(t, w, id, cancel())
		w.Advance(time.Second)
	}
	w.Create("r-open", "16")
	all := w.Machine.Rollouts("")
	if len(all) != 101 || all[0].GetId() != "r-open" || w.Machine.Rollout("r-119") == nil || w.Machine.Rollout("r-000") != nil {
		t.Errorf("%d rollouts kept, newest %s", len(all), all[0].GetId())
	}
}
