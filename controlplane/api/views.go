package api

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Engine is one engine replica.
type Engine struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	AgentID         string            `json:"agent_id"`
	Group           string            `json:"group"`
	Engine          string            `json:"engine"`
	Version         string            `json:"version"`
	Model           string            `json:"model"`
	Hardware        string            `json:"hardware"`
	URL             string            `json:"url"`
	ReadyURL        string            `json:"ready_url"`
	Reachable       bool              `json:"reachable"`
	Serving         bool              `json:"serving" doc:"in rotation now"`
	Phase           string            `json:"phase"`
	RunningEpoch    uint64            `json:"running_epoch"`
	LastKnownGood   uint64            `json:"last_known_good_epoch"`
	FailedEpoch     uint64            `json:"failed_epoch,omitempty"`
	FailedReason    string            `json:"failed_reason,omitempty"`
	FailedLog       string            `json:"failed_log,omitempty" doc:"the engine's last lines before it was taken back"`
	Health          string            `json:"health,omitempty"`
	StartSteps      []string          `json:"start_steps,omitempty" doc:"what the log of the engine's process shows of its start and its end, in order, while it is not serving"`
	OperatorDrained bool              `json:"operator_drained"`
	CutRequests     uint32            `json:"cut_requests" doc:"requests that the last drain had to cut at its limit"`
	Settings        map[string]string `json:"settings" doc:"knobs in effect as far as they are known"`
}

// Agent is one perf-agent process with its engines.
type Agent struct {
	ID        string   `json:"id"`
	Reachable bool     `json:"reachable"`
	Engines   []Engine `json:"engines"`
}

// Group of engines that are tuned together.
type Group struct {
	Name          string   `json:"name"`
	Engine        string   `json:"engine"`
	Mode          string   `json:"mode"`
	Replicas      int      `json:"replicas"`
	Serving       int      `json:"serving"`
	Unreachable   int      `json:"unreachable"`
	PromotedEpoch uint64   `json:"promoted_epoch"`
	LockHolder    string   `json:"lock_holder,omitempty"`
	Policy        Policy   `json:"policy"`
	Engines       []Engine `json:"engines,omitempty"`
}

// Policy of a group: how careful to be.
type Policy struct {
	Floor             uint32   `json:"floor"`
	MaxUnavailable    uint32   `json:"max_unavailable"`
	Reserve           float64  `json:"reserve"`
	Steps             []uint32 `json:"steps"`
	TTFTSeconds       float64  `json:"objective_ttft_seconds"`
	TPOTSeconds       float64  `json:"objective_tpot_seconds"`
	E2ESeconds        float64  `json:"objective_e2e_seconds"`
	ObserveMinSeconds float64  `json:"observe_min_seconds"`
	ObserveMaxSeconds float64  `json:"observe_max_seconds"`
	BakeSeconds       float64  `json:"bake_seconds"`
	MinRequests       uint32   `json:"min_requests"`
	ProbationSeconds  float64  `json:"probation_seconds"`
	Margin            float64  `json:"margin"`
	HardMargin        float64  `json:"hard_margin"`
}

// Rollout is one change of one group's engines.
type Rollout struct {
	ID               string            `json:"id"`
	Group            string            `json:"group"`
	State            string            `json:"state"`
	PreviousState    string            `json:"previous_state,omitempty"`
	Settings         map[string]string `json:"settings"`
	BodyHash         string            `json:"body_hash"`
	Epoch            uint64            `json:"epoch"`
	ParentEpoch      uint64            `json:"parent_epoch"`
	Reason           string            `json:"reason"`
	CreatedBy        string            `json:"created_by"`
	Created          time.Time         `json:"created"`
	Ended            *time.Time        `json:"ended,omitempty"`
	EndReason        string            `json:"end_reason,omitempty"`
	Restart          bool              `json:"restart"`
	Lossy            bool              `json:"lossy"`
	Waves            []Wave            `json:"waves"`
	MitigateSeconds  float64           `json:"time_to_mitigate_seconds,omitempty" doc:"first sign of harm to no bad replica in rotation"`
	RestoreSeconds   float64           `json:"time_to_restore_seconds,omitempty" doc:"first sign of harm to full capacity on last-known-good"`
	RecommendationID string            `json:"recommendation_id,omitempty"`
	WorkflowID       string            `json:"workflow_id,omitempty"`
	RollsForwardFrom string            `json:"rolls_forward_from,omitempty"`
	Notes            []Note            `json:"notes"`
	ModifyIndex      uint64            `json:"modify_index"`
	Fix              bool              `json:"fix,omitempty"`
	ApprovedBy       string            `json:"approved_by,omitempty"`
	Budget           string            `json:"error_budget,omitempty" doc:"why it began with care: what was left of the error budget"`
	BudgetSpent      []BudgetSpend     `json:"error_budget_spent,omitempty" doc:"what it has cost"`
}

// Wave of a rollout.
type Wave struct {
	Index       uint32    `json:"index"`
	StepPercent uint32    `json:"step_percent"`
	Selected    []string  `json:"selected"`
	Controls    []string  `json:"controls"`
	Confirmed   bool      `json:"confirmed"`
	Verdicts    []Verdict `json:"verdicts"`
}

// Verdict on a wave.
type Verdict struct {
	At       time.Time `json:"at"`
	Outcome  string    `json:"outcome"`
	Summary  string    `json:"summary"`
	Evidence string    `json:"evidence_hash"`
}

// Note is one line of history.
type Note struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Workflow is the pipeline from finding to learning, for one group.
type Workflow struct {
	ID               string             `json:"id"`
	Group            string             `json:"group"`
	Mode             string             `json:"mode"`
	State            string             `json:"state"`
	Created          time.Time          `json:"created"`
	Ended            *time.Time         `json:"ended,omitempty"`
	EndReason        string             `json:"end_reason,omitempty"`
	RecommendationID string             `json:"recommendation_id,omitempty"`
	RolloutID        string             `json:"rollout_id,omitempty"`
	Findings         []Finding          `json:"findings"`
	Before           map[string]float64 `json:"before,omitempty"`
	After            map[string]float64 `json:"after,omitempty"`
	Notes            []Note             `json:"notes"`
}

// Finding names what limits a group.
type Finding struct {
	Class        string   `json:"class"`
	Summary      string   `json:"summary"`
	Evidence     []string `json:"evidence"`
	Confidence   float64  `json:"confidence"`
	Gain         float64  `json:"predicted_gain"`
	FalsifiedBy  string   `json:"falsified_by,omitempty"`
	SuppressedBy string   `json:"suppressed_by,omitempty"`
}

// Recommendation is a proposed configuration with its reasons.
type Recommendation struct {
	ID            string               `json:"id"`
	Group         string               `json:"group"`
	Status        string               `json:"status"`
	Title         string               `json:"title"`
	Changes       []Change             `json:"changes"`
	Settings      map[string]string    `json:"settings"`
	Predicted     map[string]Predicted `json:"predicted"`
	Risk          string               `json:"risk"`
	Restart       bool                 `json:"restart"`
	Lossy         bool                 `json:"lossy"`
	Finding       Finding              `json:"finding"`
	Evidence      []string             `json:"evidence"`
	Rejected      []Rejected           `json:"rejected"`
	Prerequisites []string             `json:"prerequisites"`
	CommandLine   string               `json:"command_line"`
	Obtained      map[string]float64   `json:"obtained,omitempty"`
	RolloutID     string               `json:"rollout_id,omitempty"`
	Created       time.Time            `json:"created"`
	DecidedBy     string               `json:"decided_by,omitempty"`
}

// Change of one knob.
type Change struct {
	Knob     string `json:"knob"`
	Current  string `json:"current"`
	Proposed string `json:"proposed"`
}

// Predicted value with its 90 % interval.
type Predicted struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Unit  string  `json:"unit"`
}

// PredictedOf shows a record's prediction.
func PredictedOf(p *commandv1.Predicted) Predicted {
	return Predicted{Value: p.GetValue(), Low: p.GetLow(), High: p.GetHigh(), Unit: p.GetUnit()}
}

// Rejected alternative and why.
type Rejected struct {
	Candidate string `json:"candidate"`
	Because   string `json:"because"`
}

// enumWord turns ROLLOUT_STATE_ROLLING_BACK into rolling_back.
func enumWord(s fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), prefix))
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func atOrNil(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := at(ms)
	return &t
}

// settingsInEffect merges what the engine showed, what the operator started it with and what the
// running configuration sets on top.
func settingsInEffect(in *commandv1.Instance, running *commandv1.ConfigBody) map[string]string {
	out := map[string]string{}
	maps.Copy(out, in.GetBaseSettings())
	maps.Copy(out, in.GetEffective())
	maps.Copy(out, running.GetBody().GetSettings())
	return out
}

func (s *Server) engineView(in *commandv1.Instance) Engine {
	st := in.GetState()
	body := s.machine.Body(st.GetRunningHash())
	return Engine{
		ID: in.GetId(), Name: in.GetName(), AgentID: in.GetAgentId(), Group: in.GetGroup(), Engine: in.GetEngine(),
		Version: in.GetEngineVersion(), Model: in.GetModel(), Hardware: in.GetHardware(), URL: in.GetUrl(), ReadyURL: in.GetReadyUrl(),
		Reachable: in.GetReachable(), Serving: st.GetServing() && in.GetReachable(), Phase: enumWord(st.GetPhase(), "PHASE_"),
		RunningEpoch: st.GetRunningEpoch(), LastKnownGood: st.GetLkgEpoch(), FailedEpoch: st.GetFailedEpoch(),
		FailedReason: st.GetFailedReason(), FailedLog: st.GetFailedLog(), Health: st.GetHealth(), StartSteps: s.startSteps(in.GetId()),
		OperatorDrained: in.GetOperatorDrain(), CutRequests: st.GetCutRequests(), Settings: settingsInEffect(in, body),
	}
}

// startSteps of an engine, unless what is known of them is old.
func (s *Server) startSteps(instance string) []string {
	w := s.telemetry.Latest(instance)
	if w == nil || time.Since(w.Start) > stepsFresh {
		return nil
	}
	return w.StartSteps
}

// stepsFresh is how long the steps of a start count after the second in which they were reported.
const stepsFresh = 10 * time.Second

func (s *Server) groupView(g *commandv1.Group, withEngines bool) Group {
	v := Group{
		Name: g.GetName(), Engine: g.GetEngine(), Mode: enumWord(g.GetPolicy().GetMode(), "MODE_"),
		PromotedEpoch: g.GetPromotedEpoch(), LockHolder: g.GetLockHolder(), Policy: policyView(g.GetPolicy()),
	}
	for _, in := range s.machine.Instances(g.GetName()) {
		v.Replicas++
		switch {
		case !in.GetReachable():
			v.Unreachable++
		case in.GetState().GetServing():
			v.Serving++
		}
		if withEngines {
			v.Engines = append(v.Engines, s.engineView(in))
		}
	}
	return v
}

func seconds(ms int64) float64 { return float64(ms) / 1000 }

func policyView(p *commandv1.Policy) Policy {
	o := p.GetObjectives()
	return Policy{
		Floor: p.GetFloor(), MaxUnavailable: p.GetMaxUnavailable(), Reserve: p.GetReserve(), Steps: p.GetSteps(),
		TTFTSeconds: o.GetTtftSeconds(), TPOTSeconds: o.GetTpotSeconds(), E2ESeconds: o.GetE2ESeconds(),
		ObserveMinSeconds: seconds(p.GetObserveMinMs()), ObserveMaxSeconds: seconds(p.GetObserveMaxMs()), BakeSeconds: seconds(p.GetBakeMs()),
		MinRequests: p.GetMinRequests(), ProbationSeconds: seconds(p.GetProbationMs()), Margin: p.GetMargin(), HardMargin: p.GetHardMargin(),
	}
}

func (s *Server) rolloutView(r *commandv1.Rollout) Rollout {
	body := s.machine.Body(r.GetBodyHash())
	v := Rollout{
		ID: r.GetId(), Group: r.GetGroup(), State: enumWord(r.GetState(), "ROLLOUT_STATE_"),
		Settings: body.GetBody().GetSettings(), BodyHash: r.GetBodyHash(), Epoch: r.GetEpoch(), ParentEpoch: r.GetParentEpoch(),
		Reason: r.GetReason(), CreatedBy: r.GetCreatedBy(), Created: at(r.GetCreatedMs()), Ended: atOrNil(r.GetEndedMs()), EndReason: r.GetEndReason(),
		Restart: r.GetRestart(), Lossy: r.GetLossy(), RecommendationID: r.GetRecommendationId(), WorkflowID: r.GetWorkflowId(),
		RollsForwardFrom: r.GetRollsForwardFrom(), Notes: notesView(r.GetNotes()), ModifyIndex: r.GetModifyIndex(),
		Fix: r.GetFix(), ApprovedBy: r.GetApprovedBy(), Budget: budgetWords(r), BudgetSpent: s.spendViews(r),
	}
	if r.GetPreviousState() != commandv1.RolloutState_ROLLOUT_STATE_UNSPECIFIED {
		v.PreviousState = enumWord(r.GetPreviousState(), "ROLLOUT_STATE_")
	}
	if r.GetHarmMs() > 0 && r.GetMitigatedMs() > 0 {
		v.MitigateSeconds = seconds(r.GetMitigatedMs() - r.GetHarmMs())
	}
	if r.GetHarmMs() > 0 && r.GetRestoredMs() > 0 {
		v.RestoreSeconds = seconds(r.GetRestoredMs() - r.GetHarmMs())
	}
	for _, w := range r.GetWaves() {
		wv := Wave{Index: w.GetIndex(), StepPercent: w.GetStepPercent(), Selected: w.GetSelected(), Controls: w.GetControls(), Confirmed: w.GetConfirmed()}
		for _, d := range w.GetVerdicts() {
			wv.Verdicts = append(wv.Verdicts, Verdict{At: at(d.GetAtMs()), Outcome: enumWord(d.GetOutcome(), "OUTCOME_"), Summary: d.GetSummary(), Evidence: d.GetEvidenceHash()})
		}
		v.Waves = append(v.Waves, wv)
	}
	return v
}

func notesView(notes []*commandv1.Note) []Note {
	out := make([]Note, 0, len(notes))
	for _, n := range notes {
		out = append(out, Note{At: at(n.GetAtMs()), Text: n.GetText()})
	}
	return out
}

func workflowView(w *commandv1.Workflow) Workflow {
	return Workflow{
		ID: w.GetId(), Group: w.GetGroup(), Mode: enumWord(w.GetMode(), "MODE_"), State: enumWord(w.GetState(), "WORKFLOW_STATE_"),
		Created: at(w.GetCreatedMs()), Ended: atOrNil(w.GetEndedMs()), EndReason: w.GetEndReason(),
		RecommendationID: w.GetRecommendationId(), RolloutID: w.GetRolloutId(), Findings: findingViews(w.GetFindings()),
		Before: w.GetBefore().GetValues(), After: w.GetAfter().GetValues(), Notes: notesView(w.GetNotes()),
	}
}

func findingView(f *commandv1.Finding) Finding {
	return Finding{
		Class: f.GetClass(), Summary: f.GetSummary(), Evidence: f.GetEvidence(), Confidence: f.GetConfidence(), Gain: f.GetGain(),
		FalsifiedBy: f.GetFalsifiedBy(), SuppressedBy: f.GetSuppressedBy(),
	}
}

func findingViews(fs []*commandv1.Finding) []Finding {
	out := make([]Finding, 0, len(fs))
	for _, f := range fs {
		out = append(out, findingView(f))
	}
	return out
}

func recommendationView(r *commandv1.Recommendation) Recommendation {
	v := Recommendation{
		ID: r.GetId(), Group: r.GetGroup(), Status: r.GetStatus(), Title: r.GetTitle(), Settings: r.GetSettings(), Risk: r.GetRisk(),
		Restart: r.GetRestart(), Lossy: r.GetLossy(), Finding: findingView(r.GetFinding()), Evidence: r.GetEvidence(),
		Prerequisites: r.GetPrerequisites(), CommandLine: r.GetCommandLine(), Obtained: r.GetObtained(), RolloutID: r.GetRolloutId(),
		Created: at(r.GetCreatedMs()), DecidedBy: r.GetDecidedBy(), Predicted: map[string]Predicted{},
	}
	for _, c := range r.GetChanges() {
		v.Changes = append(v.Changes, Change{Knob: c.GetKnob(), Current: c.GetCurrent(), Proposed: c.GetProposed()})
	}
	for k, p := range r.GetPredicted() {
		v.Predicted[k] = PredictedOf(p)
	}
	for _, x := range r.GetRejected() {
		v.Rejected = append(v.Rejected, Rejected{Candidate: x.GetCandidate(), Because: x.GetBecause()})
	}
	return v
}

// agentsView groups engines by their agent, in the order of ids.
func (s *Server) agentsView() []Agent {
	byAgent := map[string]*Agent{}
	for _, in := range s.machine.Instances("") {
		a := byAgent[in.GetAgentId()]
		if a == nil {
			a = &Agent{ID: in.GetAgentId()}
			byAgent[a.ID] = a
		}
		a.Reachable = a.Reachable || in.GetReachable()
		a.Engines = append(a.Engines, s.engineView(in))
	}
	out := make([]Agent, 0, len(byAgent))
	for _, id := range slices.Sorted(maps.Keys(byAgent)) {
		out = append(out, *byAgent[id])
	}
	return out
}

// findEngine resolves an engine's id, or its bare name where that is unique.
func (s *Server) findEngine(id string) (*commandv1.Instance, error) {
	if in := s.machine.Instance(id); in != nil {
		return in, nil
	}
	var match []*commandv1.Instance
	for _, in := range s.machine.Instances("") {
		if in.GetName() == id {
			match = append(match, in)
		}
	}
	switch len(match) {
	case 0:
		return nil, notFound("engine", id)
	case 1:
		return match[0], nil
	}
	return nil, newProblem(400, fmt.Sprintf("%d engines are called %q; give the id, agent/name", len(match), id))
}

// serving keeps the instances that are in rotation.
func serving(ins []*commandv1.Instance) []string {
	var ids []string
	for _, in := range ins {
		if in.GetReachable() && in.GetState().GetPhase() != agentv1.Phase_PHASE_QUARANTINED {
			ids = append(ids, in.GetId())
		}
	}
	return ids
}

// number makes a measurement fit for JSON: nil when there was none.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
