package fsm

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Bounds of an experiment's record: what is larger is evidence and lies in files.
const (
	maxSpecBytes       = 4 << 10
	maxSummaryBytes    = 4 << 10
	maxExperimentRuns  = 64
	maxExperimentNotes = 50
)

// Short names for the states of an experiment.
const (
	experimentRunning   = commandv1.ExperimentState_EXPERIMENT_STATE_RUNNING
	experimentDone      = commandv1.ExperimentState_EXPERIMENT_STATE_DONE
	experimentFailed    = commandv1.ExperimentState_EXPERIMENT_STATE_FAILED
	experimentCancelled = commandv1.ExperimentState_EXPERIMENT_STATE_CANCELLED
)

// Arms of an experiment.
const (
	ArmBaseline  = "baseline"
	ArmCandidate = "candidate"
)

// createExperiment takes a test in when its engine may be tested: users come first.
func (t *tx) createExperiment(cmd *commandv1.CreateExperiment) (string, *Refusal) {
	e := &commandv1.Experiment{
		Id: cmp.Or(cmd.GetId(), fmt.Sprintf("t-%d", t.entry)), Kind: cmd.GetKind(), Group: cmd.GetGroup(), Instance: cmd.GetInstance(), Twin: cmd.GetTwin(),
		State: experimentRunning, SpecJson: cmd.GetSpecJson(), Consent: cmd.GetConsent(), CreatedMs: t.now, CreatedBy: t.actor, ModifyIndex: t.entry,
	}
	g, known := t.groups.get(e.GetGroup())
	_, exists := t.experiments.get(e.GetId())
	switch {
	case exists:
		return "", refuse(AlreadyExists, "test %s exists", e.GetId())
	case !known:
		return "", refuse(NotFound, "group %q is unknown", e.GetGroup())
	case e.GetKind() != commandv1.ExperimentKind_EXPERIMENT_KIND_RUN && e.GetKind() != commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE:
		return "", refuse(Invalid, "a test of kind %d is unknown", e.GetKind())
	case len(e.GetSpecJson()) == 0 || len(e.GetSpecJson()) > maxSpecBytes:
		return "", refuse(Invalid, "the description of the test has %d bytes, of 1 to %d that are allowed", len(e.GetSpecJson()), maxSpecBytes)
	case e.GetTwin() != (e.GetInstance() == ""):
		return "", refuse(Invalid, "name the engine to test, or ask for the twin, which has none")
	}
	if refusal := t.takeCandidate(e, g, cmd.GetCandidate()); refusal != nil {
		return "", refusal
	}
	if !e.GetTwin() {
		if refusal := t.checkSubject(e, cmd.GetCandidate() != nil || cmd.GetRestarts()); refusal != nil {
			return "", refusal
		}
	}
	t.experiments.put(e.GetId(), e)
	forget(t.experiments, func(o *commandv1.Experiment) bool {
		return o.GetGroup() == e.GetGroup() && ExperimentEnded(o.GetState())
	}, (*commandv1.Experiment).GetCreatedMs)
	t.experimentNote(e, "%s asks for test %s of %s", cmp.Or(t.actor, "someone"), e.GetId(), cmp.Or(t.name(e.GetInstance()), "the twin of group "+e.GetGroup()))
	return e.GetId(), nil
}

// ExperimentEnded reports whether an experiment's state is terminal.
func ExperimentEnded(s commandv1.ExperimentState) bool { return s > experimentRunning }

// takeCandidate holds the settings to try against the knob tables. Quarantined ones may be tested:
// that is how one learns whether the cause is gone.
func (t *tx) takeCandidate(e *commandv1.Experiment, g *commandv1.Group, body *agentv1.Body) *Refusal {
	if body == nil {
		if e.GetKind() == commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE {
			return refuse(Invalid, "a validation needs a candidate: the settings to compare with those that run")
		}
		return nil
	}
	body = proto.CloneOf(body)
	body.Engine = cmp.Or(body.GetEngine(), g.GetEngine())
	class, refusal := t.classify(g, body)
	if refusal != nil {
		return refusal
	}
	e.CandidateHash, e.Lossy = t.keepBody(body), class.lossy
	return nil
}

func (t *tx) keepBody(body *agentv1.Body) (hash string) {
	hash = fleet.BodyHash(body)
	if _, known := t.bodies.get(hash); !known {
		t.bodies.put(hash, &commandv1.ConfigBody{Hash: hash, Body: body, CreatedIndex: t.entry})
	}
	return hash
}

// checkSubject refuses an engine that may not be tested now. changes: the test restarts it.
func (t *tx) checkSubject(e *commandv1.Experiment, changes bool) *Refusal {
	i := t.instances.edit(e.GetInstance())
	if i == nil || i.GetGroup() != e.GetGroup() {
		return refuse(NotFound, "there is no engine %q in group %s", e.GetInstance(), e.GetGroup())
	}
	other, r := t.experimentOn(i.GetId()), t.holder(e.GetGroup())
	st := i.GetState()
	switch {
	case other != nil:
		return refuse(Locked, "test %s runs on engine %s; wait for its end or cancel it", other.GetId(), t.name(i.GetId()))
	case !i.GetReachable() || st == nil:
		return refuse(Conflict, "engine %s is not connected", t.name(i.GetId()))
	case st.GetPhase() != agentv1.Phase_PHASE_IDLE || Pending(i, t.incarnation):
		return refuse(Conflict, "engine %s is being changed; test it once that has ended", t.name(i.GetId()))
	case (st.GetServing() || !i.GetOperatorDrain()) && !i.GetStaging() && e.GetConsent() == "":
		return refuse(Conflict, "engine %s serves users: a load test would take their capacity. Drain it first, test the twin, mark the engine as staging in its agent's configuration, or give explicit consent to load in production", t.name(i.GetId()))
	case r != nil && !i.GetOperatorDrain():
		return refuse(Locked, "rollout %s holds group %s: load would disturb its verdict", r.GetId(), e.GetGroup())
	case changes && !i.GetOperatorDrain() && !i.GetStaging():
		return refuse(Conflict, "this test restarts engine %s between runs; consent covers load, not restarts: drain it first", t.name(i.GetId()))
	}
	if changes && !i.GetOperatorDrain() {
		i.OperatorDrain, i.OperatorDrainIndex, i.ModifyIndex, e.DrainedHere = true, t.entry, t.entry, true
	}
	e.BaselineHash = st.GetLkgHash()
	if _, known := t.bodies.get(e.GetBaselineHash()); !known {
		e.BaselineHash = t.keepBody(&agentv1.Body{Engine: i.GetEngine(), Settings: map[string]string{}})
	}
	return nil
}

// experimentOn is the open experiment that has the instance, nil when none has.
func (t *tx) experimentOn(instance string) *commandv1.Experiment {
	if instance == "" {
		return nil
	}
	open := t.experiments.filter(func(e *commandv1.Experiment) bool {
		return e.GetInstance() == instance && !ExperimentEnded(e.GetState())
	})
	if len(open) == 0 {
		return nil
	}
	return open[0]
}

// name of an instance, for people.
func (t *tx) name(id string) string {
	if i, ok := t.instances.get(id); ok {
		return cmp.Or(i.GetName(), id)
	}
	return id
}

func (t *tx) experimentNote(e *commandv1.Experiment, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.Notes = append(e.Notes, &commandv1.ExperimentNote{AtMs: t.now, Text: text})
	if over := len(e.Notes) - maxExperimentNotes; over > 0 {
		e.Notes = e.Notes[over:]
	}
	t.event("test", e.GetGroup(), e.GetId(), "%s", text)
}

func (t *tx) stepExperiment(cmd *commandv1.StepExperiment) (string, *Refusal) {
	e := t.experiments.edit(cmd.GetId())
	if e == nil {
		return "", refuse(NotFound, "test %q is unknown", cmd.GetId())
	}
	if ExperimentEnded(e.GetState()) {
		return "", refuse(Conflict, "test %s has ended", e.GetId())
	}
	e.ModifyIndex = t.entry
	if c := cmd.GetCancel(); c != nil {
		return e.GetId(), t.endExperiment(e, experimentCancelled, cmp.Or(c.GetReason(), "cancelled by "+cmp.Or(t.actor, "someone")))
	}
	if int(cmd.GetRuns()) != len(e.GetRuns()) {
		return "", refuse(Conflict, "test %s has %d runs, not %d: look again", e.GetId(), len(e.GetRuns()), cmd.GetRuns())
	}
	return e.GetId(), t.experimentStep(e, cmd)
}

func (t *tx) experimentStep(e *commandv1.Experiment, cmd *commandv1.StepExperiment) *Refusal {
	switch s := cmd.GetStep().(type) {
	case *commandv1.StepExperiment_Offer:
		return t.offerTrial(e, s.Offer.GetArm())
	case *commandv1.StepExperiment_EndTrial:
		t.endTrial(e, "the run on it has ended")
		return nil
	case *commandv1.StepExperiment_Run:
		if len(e.GetRuns()) >= maxExperimentRuns {
			return refuse(Conflict, "test %s has %d runs already", e.GetId(), maxExperimentRuns)
		}
		run := proto.CloneOf(s.Run)
		run.Number, run.AtMs = uint32(len(e.GetRuns())+1), t.now
		e.Runs = append(e.Runs, run)
		return nil
	case *commandv1.StepExperiment_Finish:
		e.Verdict, e.Summary = s.Finish.GetVerdict(), tail(s.Finish.GetSummary(), maxSummaryBytes)
		e.EvidenceHash, e.Quality = s.Finish.GetEvidenceHash(), proto.CloneOf(s.Finish.GetQuality())
		return t.endExperiment(e, experimentDone, "")
	case *commandv1.StepExperiment_Fail:
		return t.endExperiment(e, experimentFailed, tail(s.Fail.GetReason(), 1024))
	}
	return refuse(Invalid, "a step without content")
}

// offerTrial gives the engine, which is out of rotation, one arm's configuration under an epoch of its
// own. The agent takes it back by itself when leases stop, as any epoch that nobody confirmed.
func (t *tx) offerTrial(e *commandv1.Experiment, arm string) *Refusal {
	hash := map[string]string{ArmBaseline: e.GetBaselineHash(), ArmCandidate: e.GetCandidateHash()}[arm]
	i := t.instances.edit(e.GetInstance())
	switch {
	case hash == "":
		return refuse(Invalid, "test %s has no arm %q", e.GetId(), arm)
	case e.GetTrialEpoch() != 0:
		return refuse(Conflict, "test %s has epoch %d on trial", e.GetId(), e.GetTrialEpoch())
	case i == nil || !i.GetReachable() || !i.GetOperatorDrain() || i.GetState().GetServing() ||
		i.GetState().GetPhase() != agentv1.Phase_PHASE_IDLE || Pending(i, t.incarnation) || drainPending(i, t.incarnation):
		return refuse(Conflict, "engine %s must be connected, idle and out of rotation for a trial", t.name(e.GetInstance()))
	}
	g, _ := t.groups.get(e.GetGroup())
	probation := g.GetPolicy().GetProbationMs()
	t.epochs.put(epochKey(t.entry), &commandv1.Epoch{Id: t.entry, Group: e.GetGroup(), BodyHash: hash, Parent: i.GetState().GetLkgEpoch(), RolloutId: e.GetId(), ProbationMs: probation})
	t.assignAlone(i.GetId(), &commandv1.Assignment{
		Kind: commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER, RolloutId: e.GetId(), Epoch: t.entry, ParentEpoch: i.GetState().GetLkgEpoch(),
		BodyHash: hash, ProbationMs: probation, Reason: "test " + e.GetId(),
	})
	e.TrialEpoch, e.TrialHash = t.entry, hash
	t.experimentNote(e, "test %s: engine %s is restarted as %s (epoch %d, configuration %s)", e.GetId(), t.name(i.GetId()), arm, t.entry, short(hash))
	return nil
}

// endTrial takes the engine back to its last-known-good.
func (t *tx) endTrial(e *commandv1.Experiment, why string) {
	if e.GetTrialEpoch() == 0 {
		return
	}
	if i, ok := t.instances.get(e.GetInstance()); ok {
		t.assignAlone(e.GetInstance(), &commandv1.Assignment{
			Kind: commandv1.AssignmentKind_ASSIGNMENT_KIND_REVERT, RolloutId: e.GetId(), Epoch: e.GetTrialEpoch(), ParentEpoch: i.GetState().GetLkgEpoch(),
			Reason: fmt.Sprintf("test %s: %s", e.GetId(), why),
		})
	}
	e.TrialEpoch, e.TrialHash = 0, ""
}

// endExperiment closes an experiment and gives the engine back as it was.
func (t *tx) endExperiment(e *commandv1.Experiment, state commandv1.ExperimentState, why string) *Refusal {
	onTrial := e.GetTrialEpoch() != 0
	t.endTrial(e, "it has ended")
	e.State, e.EndedMs, e.EndReason = state, t.now, why
	switch state {
	case experimentDone:
		t.experimentNote(e, "test %s is done after %d runs%s", e.GetId(), len(e.GetRuns()), because(e.GetVerdict()))
	case experimentFailed:
		t.experimentNote(e, "test %s could not be carried out: %s", e.GetId(), why)
	default:
		t.experimentNote(e, "test %s is cancelled: %s", e.GetId(), why)
	}
	if !onTrial { // else a revert has this entry's fence, and settle lifts the drain under a later one
		t.liftDrain(e)
	}
	return nil
}

// liftDrain puts an engine back that an experiment took out of rotation.
func (t *tx) liftDrain(e *commandv1.Experiment) {
	if !e.GetDrainedHere() {
		return
	}
	e.DrainedHere = false
	if i := t.instances.edit(e.GetInstance()); i.GetOperatorDrain() {
		i.OperatorDrain, i.OperatorDrainIndex, i.ModifyIndex = false, t.entry, t.entry
	}
}

// settleExperiments puts engines back once they have left the trial of an experiment that ended.
func (t *tx) settleExperiments(group string) {
	for _, e := range t.experiments.filter(func(e *commandv1.Experiment) bool {
		return e.GetGroup() == group && e.GetDrainedHere() && ExperimentEnded(e.GetState())
	}) {
		i, ok := t.instances.get(e.GetInstance())
		if ok && (i.GetState().GetPhase() != agentv1.Phase_PHASE_IDLE || Pending(i, t.incarnation) || t.experimentOn(i.GetId()) != nil) {
			continue
		}
		t.liftDrain(t.experiments.edit(e.GetId()))
	}
}

// onTrial reports whether the instance runs, or is being given, an epoch that an open experiment
// tries: settle leaves it alone.
func (t *tx) onTrial(i *commandv1.Instance) bool {
	e := t.experimentOn(i.GetId())
	return e.GetTrialEpoch() != 0 && e.GetTrialEpoch() == i.GetState().GetRunningEpoch()
}

func (t *tx) deleteExperiment(cmd *commandv1.DeleteExperiment) (string, *Refusal) {
	e, ok := t.experiments.get(cmd.GetId())
	switch {
	case !ok:
		return "", refuse(NotFound, "test %q is unknown", cmd.GetId())
	case !ExperimentEnded(e.GetState()):
		return "", refuse(Conflict, "test %s runs: cancel it first", e.GetId())
	case e.GetDrainedHere():
		return "", refuse(Conflict, "test %s still gives its engine back: try again in a moment", e.GetId())
	}
	t.experiments.remove(e.GetId())
	t.event("test", e.GetGroup(), e.GetId(), "%s removed test %s", cmp.Or(t.actor, "someone"), e.GetId())
	return e.GetId(), nil
}

// checkQuality refuses a configuration that may change what the model answers, unless the newest
// quality test of exactly it has passed on the engine version and model that the group runs.
func (t *tx) checkQuality(g *commandv1.Group, hash string, knobs []string) *Refusal {
	var newest *commandv1.Experiment
	for _, e := range t.experiments.filter(func(e *commandv1.Experiment) bool {
		return e.GetGroup() == g.GetName() && e.GetCandidateHash() == hash && e.GetQuality() != nil
	}) {
		if newest == nil || e.GetEndedMs() >= newest.GetEndedMs() {
			newest = e
		}
	}
	q := newest.GetQuality()
	switch {
	case newest == nil:
		return refuse(Invalid, "the configuration changes %v, which may alter the model's answers, and no quality test has been run on it; validate exactly these settings on a drained engine first (perfctl test validate), or leave %v as they are", knobs, knobs)
	case !q.GetPassed():
		return refuse(Invalid, "the configuration changes %v, and its quality test %s did not pass: %s", knobs, newest.GetId(), q.GetSummary())
	}
	if k := slices.IndexFunc(t.members(g.GetName()), func(i *commandv1.Instance) bool {
		return i.GetEngineVersion() != q.GetEngineVersion() || i.GetModel() != q.GetModel()
	}); k >= 0 {
		i := t.members(g.GetName())[k]
		return refuse(Invalid, "the configuration changes %v, and its quality test %s was of %s %s; engine %s is %s %s: validate it again", knobs, newest.GetId(), q.GetModel(), q.GetEngineVersion(), t.name(i.GetId()), i.GetModel(), i.GetEngineVersion())
	}
	return nil
}

func experiments(s *state) *table[*commandv1.Experiment] { return s.experiments }

// Experiment by id, nil when unknown.
func (m *Machine) Experiment(id string) *commandv1.Experiment { return one(m, experiments, id) }

// Experiments of a group, of all groups when it is empty, newest first.
func (m *Machine) Experiments(group string) []*commandv1.Experiment {
	rows := all(m, experiments, func(e *commandv1.Experiment) bool { return group == "" || e.GetGroup() == group })
	slices.SortStableFunc(rows, func(a, b *commandv1.Experiment) int { return cmp.Compare(b.GetCreatedMs(), a.GetCreatedMs()) })
	return rows
}

// OpenExperiments are those that have not ended, in order of their ids.
func (m *Machine) OpenExperiments() []*commandv1.Experiment {
	return all(m, experiments, func(e *commandv1.Experiment) bool { return !ExperimentEnded(e.GetState()) })
}
