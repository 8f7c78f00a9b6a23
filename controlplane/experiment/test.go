package experiment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// ErrRefused is what Engines return, wrapped with the agent's words, for a test that the agent would
// not or could not carry out.
var ErrRefused = errors.New("the agent did not carry the test out")

// test is one open test, driven by one goroutine. What it has read of evidence is kept.
type test struct {
	*Controller
	id     string
	logger *slog.Logger

	spec    *Spec
	reports map[string]*load.Report // by hash
	answers map[string][]byte       // by hash
	prompts []load.GoldPrompt
}

// step takes at most one step; false when there is nothing to do but wait.
func (t *test) step(ctx context.Context, e *commandv1.Experiment) (acted bool, err error) {
	if err := t.prepare(e); err != nil {
		return false, fmt.Errorf("%w: %w", errGiveUp, err)
	}
	w, out, err := t.wanted(e)
	if err != nil {
		return false, err
	}
	i := t.machine.Instance(e.GetInstance())
	switch a := next(e, i, t.machine.Cluster().Incarnation, w, t.cfg.Now()); {
	case a.fail != "":
		return false, fmt.Errorf("%w: %s", errGiveUp, a.fail)
	case a.refused != "":
		return true, t.finish(ctx, e, outcome{verdict: t.verdictOf(e, Worse), words: "the candidate does not start: " + a.refused, judgement: notStarted(e)})
	case a.finish:
		return true, t.finish(ctx, e, out)
	case a.endRun:
		return true, t.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_EndTrial{EndTrial: &commandv1.EndTrial{}}})
	case a.offer != "":
		return true, t.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Offer{Offer: &commandv1.OfferTrial{Arm: a.offer}}})
	case a.measure != nil:
		return true, t.run(ctx, e, a.measure)
	}
	return false, nil
}

// verdictOf a validation; a run has none.
func (t *test) verdictOf(e *commandv1.Experiment, v string) string {
	if e.GetKind() == commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE {
		return v
	}
	return ""
}

// notStarted: answers that could not be asked for have not passed.
func notStarted(e *commandv1.Experiment) *load.Judgement {
	if !e.GetLossy() {
		return nil
	}
	return &load.Judgement{Words: "the candidate does not start, so that its answers could not be judged"}
}

// prepare reads the spec and what belongs to it, once.
func (t *test) prepare(e *commandv1.Experiment) error {
	if t.spec != nil {
		return nil
	}
	s, err := decodeSpec(e.GetSpecJson())
	if err != nil {
		return err
	}
	if s.TraceHash != "" {
		if err := t.readJSON(s.TraceHash, &s.Plan.Requests); err != nil {
			return fmt.Errorf("the trace of the test lies on the node that was leader when it was asked for: ask again: %w", err)
		}
	}
	if s.PromptsHash != "" {
		if err := t.readJSON(s.PromptsHash, &t.prompts); err != nil {
			return fmt.Errorf("the prompts of the test lie on the node that was leader when it was asked for: ask again: %w", err)
		}
	}
	t.spec, t.reports, t.answers = &s, map[string]*load.Report{}, map[string][]byte{}
	return nil
}

func (t *test) readJSON(hash string, into any) error {
	raw, err := t.ports.Evidence.Get(hash)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// outcome is what a test ends with.
type outcome struct {
	verdict, words string
	comparison     *load.Comparison
	judgement      *load.Judgement
	knee           *load.Knee
}

// wanted is the next run, or none and what came of the test.
func (t *test) wanted(e *commandv1.Experiment) (*want, outcome, error) {
	if e.GetKind() == commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE {
		return t.wantedToCompare(e)
	}
	arm := fsm.ArmBaseline
	if e.GetCandidateHash() != "" {
		arm = fsm.ArmCandidate
	}
	if w := t.spec.wanted(e.GetRuns(), arm); w != nil {
		return w, outcome{}, nil
	}
	return nil, t.spec.outcome(e.GetRuns()), nil
}

// wantedToCompare reads the runs so far. One whose report lies on another node does not count, and is
// made again.
func (t *test) wantedToCompare(e *commandv1.Experiment) (*want, outcome, error) {
	c := comparison{lossy: e.GetLossy() && !e.GetTwin()}
	for _, r := range e.GetRuns() {
		if err := t.take(&c, r); err != nil {
			return nil, outcome{}, err
		}
	}
	var out outcome
	if judged := t.judge(e, c.answers); judged != nil {
		out.judgement = judged
		if !judged.Passed {
			out.verdict, out.words = Worse, "its answers: "+judged.Words
			return nil, out, nil
		}
	}
	if bad := stoppedRun(e, c); bad != nil {
		bad.judgement = out.judgement
		return nil, *bad, nil
	}
	compared, decided := Compare(c.baselines, c.candidates, t.spec.Rules, e.GetTwin())
	w := t.spec.wantedToCompare(c, decided)
	if w == nil {
		out.comparison, out.verdict, out.words = &compared, compared.Verdict, compared.Words
		if out.judgement != nil {
			out.words += "; its answers: " + out.judgement.Words
		}
	}
	return w, out, nil
}

// take adds a run to what is compared.
func (t *test) take(c *comparison, r *commandv1.ExperimentRun) error {
	raw, err := t.ports.Evidence.Get(r.GetEvidenceHash())
	switch {
	case errors.Is(err, ErrNoEvidence):
		return nil
	case err != nil:
		return err
	case r.GetQuality():
		c.answers.add(r.GetArm(), raw)
		return nil
	}
	report := t.reports[r.GetEvidenceHash()]
	if report == nil {
		report = &load.Report{}
		if err := json.Unmarshal(raw, report); err != nil {
			return fmt.Errorf("report of run %d: %w", r.GetNumber(), err)
		}
		t.reports[r.GetEvidenceHash()] = report
	}
	if r.GetArm() == fsm.ArmCandidate {
		c.candidates = append(c.candidates, report)
	} else {
		c.baselines = append(c.baselines, report)
	}
	return nil
}

func (a *answers) add(arm string, raw []byte) {
	switch {
	case arm == fsm.ArmCandidate:
		a.candidate = raw
	case a.baseline == nil:
		a.baseline = raw
	default:
		a.again = raw
	}
}

// stoppedRun: a run that a rule ended early cannot be compared, but says enough.
func stoppedRun(e *commandv1.Experiment, c comparison) *outcome {
	for _, r := range c.baselines {
		if r.Stopped != "" {
			return &outcome{verdict: NotComparable, words: "the engine as it runs does not carry this load, which is none to compare at: " + r.Stopped}
		}
	}
	for _, r := range c.candidates {
		if r.Stopped != "" {
			return &outcome{verdict: Worse, words: "the candidate does not carry the load that the engine carries as it runs: " + r.Stopped}
		}
	}
	return nil
}

// run carries out one run and records it.
func (t *test) run(ctx context.Context, e *commandv1.Experiment, w *want) error {
	if w.quality {
		return t.ask(ctx, e, w.arm)
	}
	report, err := t.measure(ctx, e, w)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	hash, err := t.ports.Evidence.Put(raw)
	if err != nil {
		return err
	}
	t.reports[hash] = report
	t.logger.Info("run of a test is done", "run", len(e.GetRuns())+1, "arm", w.arm, "load", w.plan.Load(), "requests", report.Summary.Requests, "stopped", report.Stopped)
	return t.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Run{Run: &commandv1.ExperimentRun{
		Arm: w.arm, Load: w.plan.Load(), Epoch: e.GetTrialEpoch(), EvidenceHash: hash, Stopped: report.Stopped, Figures: figures(report),
	}}})
}

// slack is what a run may take beyond the time for which it sends.
const slack = 5 * time.Minute

// measure has the load sent, or the twin run.
func (t *test) measure(ctx context.Context, e *commandv1.Experiment, w *want) (*load.Report, error) {
	if e.GetTwin() {
		var settings map[string]string
		if w.arm == fsm.ArmCandidate {
			settings = t.machine.Body(e.GetCandidateHash()).GetBody().GetSettings()
		}
		r, err := t.ports.Twin.Replay(ctx, e.GetGroup(), settings, w.plan, t.draw(e, w.arm))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errGiveUp, err)
		}
		return r, nil
	}
	plan, err := json.Marshal(w.plan)
	if err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	id := fmt.Sprintf("%s/%d", e.GetId(), len(e.GetRuns())+1)
	raw, err := t.have(ctx, e, id, w.plan.Span()+slack, func(ctx context.Context) ([]byte, error) {
		return t.ports.Engines.LoadTest(ctx, e.GetInstance(), &agentv1.LoadTest{TestId: id, PlanJson: plan, Consent: e.GetConsent()})
	})
	if err != nil {
		return nil, err
	}
	r := &load.Report{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%w: the agent's report cannot be read: %w", errGiveUp, err)
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errGiveUp, err)
	}
	if e.GetTrialEpoch() != 0 && r.Engine.Epoch != e.GetTrialEpoch() {
		return nil, fmt.Errorf("%w: the agent measured epoch %d instead of %d", errGiveUp, r.Engine.Epoch, e.GetTrialEpoch())
	}
	return r, nil
}

// draw of the twin's coefficients: the n-th run of either arm has the n-th.
func (t *test) draw(e *commandv1.Experiment, arm string) int {
	n := 0
	for _, r := range e.GetRuns() {
		if r.GetArm() == arm {
			n++
		}
	}
	return n
}

// have asks an agent for a test, and ends it there when nobody wants it any more.
func (t *test) have(ctx context.Context, e *commandv1.Experiment, id string, limit time.Duration, do func(context.Context) ([]byte, error)) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	raw, err := do(limited)
	now := t.machine.Experiment(e.GetId())
	if err != nil && (now == nil || fsm.ExperimentEnded(now.GetState()) || limited.Err() != nil && ctx.Err() == nil) {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		defer cancel()
		if err := t.ports.Engines.CancelTest(stop, e.GetInstance(), id); err != nil {
			t.logger.Warn("a test could not be ended at its agent", "error", err)
		}
	}
	switch {
	case err == nil:
		return raw, nil
	case errors.Is(err, ErrRefused), limited.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: %w", errGiveUp, err)
	}
	return nil, err
}

// outcome of a test that measures.
func (s Spec) outcome(runs []*commandv1.ExperimentRun) outcome {
	if !s.FindKnee {
		return outcome{words: s.inWords(runs)}
	}
	k := &load.Knee{Share: s.KneeShare}
	k.Rate, k.Broken = s.bracket(runs)
	switch {
	case k.Rate == 0:
		return outcome{knee: k, words: fmt.Sprintf("no rate down to %.3g requests/s kept the objectives for %.0f %% of the requests", s.lowest(runs), 100*s.KneeShare)}
	case k.Broken == 0:
		return outcome{knee: k, words: fmt.Sprintf("%.3g requests/s keep the objectives for %.0f %% of the requests, and no rate was found that does not", k.Rate, 100*s.KneeShare)}
	}
	return outcome{knee: k, words: fmt.Sprintf("the knee lies between %.3g and %.3g requests/s: up to it %.0f %% of the requests meet the objectives", k.Rate, k.Broken, 100*s.KneeShare)}
}

func (s Spec) inWords(runs []*commandv1.ExperimentRun) string {
	if len(runs) == 0 {
		return ""
	}
	f := runs[len(runs)-1].GetFigures()
	text := fmt.Sprintf("%d runs; the last one: %s, %.0f requests, %.0f failed, TTFT p95 %.3g s, TPOT p95 %.3g s, E2E p95 %.3g s, %.4g output tokens/s", len(runs), runs[len(runs)-1].GetLoad(),
		f[figureRequests], f[figureFailed], f[figureTTFT], f[figureTPOT], f[figureE2E], f[figureThroughput])
	if stopped := runs[len(runs)-1].GetStopped(); stopped != "" {
		text += "; it was ended early: " + stopped
	}
	return text
}

// finish closes the test with what came of it.
func (t *test) finish(ctx context.Context, e *commandv1.Experiment, out outcome) error {
	raw, err := json.Marshal(kept{Comparison: out.comparison, Quality: out.judgement, Knee: out.knee})
	if err != nil {
		return fmt.Errorf("encode the outcome: %w", err)
	}
	hash, err := t.ports.Evidence.Put(raw)
	if err != nil {
		return err
	}
	return t.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Finish{Finish: &commandv1.FinishExperiment{
		Verdict: out.verdict, Summary: out.words, EvidenceHash: hash, Quality: t.qualityVerdict(e, out.judgement, hash),
	}}})
}

// kept is the evidence of an outcome.
type kept struct {
	Comparison *load.Comparison `json:"comparison,omitempty"`
	Quality    *load.Judgement  `json:"quality,omitempty"`
	Knee       *load.Knee       `json:"knee,omitempty"`
}
