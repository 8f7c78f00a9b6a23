package fsm_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/fsm/fsmtest"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// walker takes a world at random through sensible steps and mischief, and looks after each whether
// an invariant broke. What it holds the machine to it takes from the agents, not from the machine.
type walker struct {
	w      *fsmtest.World
	choose func(n int) int
	calm   bool // no mischief, no failures
	made   int
	epochs []uint64
	after  map[string]bool // rollouts that have begun to be taken back
	err    error
}

// randomWalk returns the first invariant that broke, nil when none did.
func randomWalk(choose func(n int) int, steps int) (*fsmtest.World, error) {
	k := newWalker(choose)
	return k.w, k.walk(steps)
}

func newWalker(choose func(n int) int) *walker {
	return &walker{w: fsmtest.New(2 + choose(8)), choose: choose, calm: choose(4) == 0, after: map[string]bool{}}
}

func (k *walker) walk(steps int) error {
	for range steps {
		k.move()
		if k.check(); k.err != nil {
			return k.err
		}
	}
	return nil
}

func (k *walker) broke(format string, args ...any) {
	if k.err == nil {
		k.err = fmt.Errorf(format, args...)
	}
}

func (k *walker) move() {
	w := k.w
	what := k.choose(16)
	if k.calm && what >= 4 && what <= 8 {
		what = 3
	}
	switch what {
	case 0:
		if k.made < 4 {
			k.made++
			w.Create(fmt.Sprintf("r-%d", k.made), []string{"16", "32"}[k.choose(2)])
		}
	case 1:
		w.DeliverTo(k.agent())
	case 2:
		w.Work()
	case 3:
		w.Settle()
	case 4:
		a := k.agent()
		w.SetReachable(a, !a.Reachable)
	case 5:
		k.agent().FailNext = true
	case 6:
		w.Advance(time.Duration(k.choose(150)) * time.Second)
	case 7:
		k.mischief()
	case 8:
		if a := k.agent(); a.State.GetPhase() == agentv1.Phase_PHASE_PROBATION {
			a.Revert("no lease")
			if a.Reachable {
				k.w.Report(a)
			}
		}
	default:
		k.sensible()
	}
}

func (k *walker) agent() *fsmtest.Agent { return k.w.Agents[k.choose(len(k.w.Agents))] }

func (k *walker) rollout() *commandv1.Rollout {
	open := slices.DeleteFunc(k.w.Machine.Rollouts(""), func(r *commandv1.Rollout) bool { return fsm.Ended(r.GetState()) })
	if len(open) == 0 {
		return nil
	}
	return open[k.choose(len(open))]
}

// mischief tries a step wherever the rollout is.
func (k *walker) mischief() {
	r := k.rollout()
	if r == nil {
		return
	}
	index := max(len(r.GetWaves())-1, 0)
	all := []*commandv1.StepRollout{
		start(), abort(), pause(), guard(k.w.Term), bakeDone(), drained(), stalled(), batch(index, k.agent().ID), batch(index, k.agent().ID, k.agent().ID),
		{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}},
		{Step: &commandv1.StepRollout_Promote{Promote: &commandv1.Promote{}}},
		{Step: &commandv1.StepRollout_Verdict{Verdict: &commandv1.GiveVerdict{Wave: uint32(index), Verdict: &commandv1.Verdict{
			Outcome: commandv1.Outcome(1 + k.choose(3)), EvidenceHash: "e", Term: k.w.Term, EvidenceFromMs: k.w.NowMs, EvidenceToMs: k.w.NowMs,
		}}}},
	}
	k.step(r, all[k.choose(len(all))])
}

// sensible takes the step that a leader would, more or less.
func (k *walker) sensible() {
	if r := k.rollout(); r != nil {
		k.lead(r)
	}
}

func (k *walker) lead(r *commandv1.Rollout) {
	index := len(r.GetWaves())
	switch r.GetState() {
	case commandv1.RolloutState_ROLLOUT_STATE_DRAFT:
		k.step(r, validate())
	case commandv1.RolloutState_ROLLOUT_STATE_VALIDATED:
		k.step(r, enqueue())
	case commandv1.RolloutState_ROLLOUT_STATE_QUEUED:
		k.step(r, start())
	case commandv1.RolloutState_ROLLOUT_STATE_PREFLIGHT:
		k.step(r, plan(0, selection(k.w, r.GetId())...))
	case commandv1.RolloutState_ROLLOUT_STATE_DRAINING, commandv1.RolloutState_ROLLOUT_STATE_APPLYING, commandv1.RolloutState_ROLLOUT_STATE_WARMING:
		k.bringUp(r, index-1)
	case commandv1.RolloutState_ROLLOUT_STATE_OBSERVING:
		if fsm.CurrentWave(r).GetConfirmed() {
			k.step(r, plan(index, selection(k.w, r.GetId())...))
			return
		}
		k.w.Advance(2 * time.Minute)
		k.step(r, judged(k.w, r.GetId(), k.outcome()))
	case commandv1.RolloutState_ROLLOUT_STATE_BAKING:
		k.w.Advance(5 * time.Minute)
		k.step(r, bakeDone())
	case commandv1.RolloutState_ROLLOUT_STATE_MITIGATING:
		k.step(r, drained())
	case commandv1.RolloutState_ROLLOUT_STATE_ROLLING_BACK:
		k.step(r, stalled())
	}
}

func (k *walker) outcome() commandv1.Outcome {
	if k.calm {
		return pass
	}
	return []commandv1.Outcome{pass, pass, pass, fail, inconclusive}[k.choose(5)]
}

func (k *walker) bringUp(r *commandv1.Rollout, index int) {
	w := fsm.CurrentWave(r)
	for _, id := range w.GetSelected() {
		if !slices.Contains(w.GetOffered(), id) {
			b := batch(index, id)
			b.GetNextBatch().HeadroomOk = k.calm || k.choose(4) > 0
			k.step(r, b)
			return
		}
	}
	k.step(r, warmDone(index))
}

// step proposes and looks at what was accepted.
func (k *walker) step(r *commandv1.Rollout, s *commandv1.StepRollout) {
	quarantined := slices.ContainsFunc(k.w.Machine.Quarantines(), func(q *commandv1.Quarantine) bool { return q.GetBodyHash() == r.GetBodyHash() })
	result := k.w.Step(r.GetId(), s)
	accepted := result.Err() == nil
	switch {
	case s.GetNextBatch() != nil && accepted:
		k.checkBatch(s.GetNextBatch())
	case s.GetGuardFailed() != nil && !accepted:
		k.broke("I15: a guard was not heard in %s: %v", r.GetState(), result.Err())
	case s.GetStart() != nil && accepted:
		if quarantined {
			k.broke("I18: %s was started and is quarantined", r.GetBodyHash())
		}
		k.epochs = append(k.epochs, k.w.Machine.Rollout(r.GetId()).GetEpoch())
	}
}

// checkBatch counts what is out of rotation now that the batch was admitted.
func (k *walker) checkBatch(b *commandv1.NextBatch) {
	if !b.GetHeadroomOk() {
		k.broke("I2: a batch without headroom was offered")
	}
	out := 0
	for _, a := range k.w.Agents {
		if !a.Reachable || !a.State.GetServing() || slices.Contains(b.GetInstances(), a.ID) {
			out++
		}
	}
	if most := int(k.w.Machine.Group(fsmtest.Group).GetPolicy().GetMaxUnavailable()); out > most {
		k.broke("I1: %d of %d replicas are out of rotation, at most %d may be", out, len(k.w.Agents), most)
	}
}

func (k *walker) check() {
	for n := 1; n < len(k.epochs); n++ {
		if k.epochs[n] <= k.epochs[n-1] {
			k.broke("I3: epoch %d follows on %d", k.epochs[n], k.epochs[n-1])
		}
	}
	holders := 0
	for _, r := range k.w.Machine.Rollouts("") {
		if r.GetEpoch() != 0 && !fsm.Ended(r.GetState()) {
			holders++
		}
		k.checkTakenBack(r)
		k.checkFailed(r)
	}
	if holders > 1 {
		k.broke("I5: %d rollouts hold one group", holders)
	}
}

func (k *walker) checkTakenBack(r *commandv1.Rollout) {
	back := fsm.TakingBack(r.GetState()) || r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK
	if k.after[r.GetId()] && !back {
		k.broke("I6: rollout %s is %s after it was taken back", r.GetId(), r.GetState())
	}
	k.after[r.GetId()] = k.after[r.GetId()] || back
	if r.GetState() != commandv1.RolloutState_ROLLOUT_STATE_ROLLED_BACK || r.GetEpoch() == 0 {
		return
	}
	for _, a := range k.w.Agents {
		if a.State.GetRunningEpoch() == r.GetEpoch() {
			k.broke("I10: %s runs epoch %d, whose rollout %s is rolled back", a.ID, r.GetEpoch(), r.GetId())
		}
	}
}

// checkFailed looks whether a wave's only replica has taken the epoch back, has said so, and the
// rollout goes on.
func (k *walker) checkFailed(r *commandv1.Rollout) {
	if fsm.TakingBack(r.GetState()) || fsm.Ended(r.GetState()) {
		return
	}
	for _, w := range r.GetWaves() {
		if len(w.GetOffered()) != 1 || len(w.GetSelected()) != 1 {
			continue
		}
		if i := k.w.Machine.Instance(w.GetOffered()[0]); i.GetState().GetFailedEpoch() == r.GetEpoch() {
			k.broke("I9: the only replica of wave %d took epoch %d back and rollout %s is %s", w.GetIndex()+1, r.GetEpoch(), r.GetId(), r.GetState())
		}
	}
}

// finish brings everybody back and lets a patient leader work: every rollout must end, nothing may
// stay outstanding, and every replica must serve.
func (k *walker) finish() error {
	k.calm = true
	for _, a := range k.w.Agents {
		a.FailNext = false
		k.w.SetReachable(a, true)
		k.w.Report(a)
	}
	for range 400 {
		open := 0
		for _, r := range k.w.Machine.Rollouts("") {
			if !fsm.Ended(r.GetState()) {
				open++
				k.unblock(r)
				k.lead(k.w.Machine.Rollout(r.GetId()))
			}
		}
		k.w.Settle()
		if open == 0 {
			break
		}
	}
	k.w.Settle()
	for _, r := range k.w.Machine.Rollouts("") {
		if waits := r.GetEpoch() == 0 && r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_QUEUED; !waits && !fsm.Ended(r.GetState()) {
			k.broke("rollout %s never ends: it is %s; %v", r.GetId(), r.GetState(), r.GetNotes())
		}
	}
	for _, a := range k.w.Agents {
		i := k.w.Machine.Instance(a.ID)
		if !a.State.GetServing() || a.State.GetPhase() != agentv1.Phase_PHASE_IDLE {
			k.broke("%s does not come to rest: %v, assignment %v", a.ID, a.State, i.GetAssignment())
		}
		if d := fsm.DirectiveFor(k.w.Machine, i); d != nil {
			k.broke("%s has a directive outstanding for ever: %v; its state is %v", a.ID, d, a.State)
		}
		if k.check(); k.err != nil {
			return k.err
		}
	}
	return nil
}

// unblock resumes what waits for a person, and lets deadlines pass.
func (k *walker) unblock(r *commandv1.Rollout) {
	switch {
	case r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_PAUSED || r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_HOLDING:
		k.step(r, &commandv1.StepRollout{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}})
	case r.GetDeadlineMs() != 0 && k.w.NowMs >= r.GetDeadlineMs() && !fsm.TakingBack(r.GetState()):
		k.step(r, &commandv1.StepRollout{Step: &commandv1.StepRollout_Deadline{Deadline: &commandv1.DeadlinePassed{}}})
	}
}
