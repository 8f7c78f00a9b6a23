package experiment

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/quality"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// qualityLimit bounds how long an engine may take for all golden prompts.
const qualityLimit = 20 * time.Minute

// ask has golden prompts answered and records the answers. The baseline's first answers are forced
// on it again and on the candidate, to compare what each thinks of the same tokens.
func (t *test) ask(ctx context.Context, e *commandv1.Experiment, arm string) error {
	questions := quality.Questions(t.prompts)
	for _, r := range e.GetRuns() {
		if !r.GetQuality() || r.GetArm() != fsm.ArmBaseline {
			continue
		}
		var first []quality.Answer
		if err := t.readJSON(r.GetEvidenceHash(), &first); err == nil { // one that lies elsewhere is taken again
			questions = quality.Force(questions, first)
			break
		}
	}
	payload, err := json.Marshal(questions)
	if err != nil {
		return fmt.Errorf("encode the prompts: %w", err)
	}
	id := fmt.Sprintf("%s/%d", e.GetId(), len(e.GetRuns())+1)
	raw, err := t.have(ctx, e, id, qualityLimit, func(ctx context.Context) ([]byte, error) {
		return t.ports.Engines.QualityTest(ctx, e.GetInstance(), &agentv1.QualityTest{TestId: id, QuestionsJson: payload, Consent: e.GetConsent()})
	})
	if err != nil {
		return err
	}
	var got []quality.Answer
	if err := json.Unmarshal(raw, &got); err != nil {
		return fmt.Errorf("%w: the agent's answers cannot be read: %w", errGiveUp, err)
	}
	hash, err := t.ports.Evidence.Put(raw)
	if err != nil {
		return err
	}
	return t.propose(ctx, e, &commandv1.StepExperiment{Step: &commandv1.StepExperiment_Run{Run: &commandv1.ExperimentRun{
		Arm: arm, Load: fmt.Sprintf("%d golden prompts", len(got)), Epoch: e.GetTrialEpoch(), EvidenceHash: hash, Quality: true,
		Figures: map[string]float64{figureRequests: float64(len(got)), figureFailed: float64(quality.Failures(got))},
	}}})
}

// judge the answers once all three are there; nil before.
func (t *test) judge(e *commandv1.Experiment, a answers) *load.Judgement {
	if a.baseline == nil || a.again == nil || a.candidate == nil {
		return nil
	}
	var sets [3][]quality.Answer
	for k, raw := range [][]byte{a.baseline, a.again, a.candidate} {
		if err := json.Unmarshal(raw, &sets[k]); err != nil {
			return &load.Judgement{Words: "the answers cannot be read: " + err.Error()}
		}
	}
	j := quality.Judge(quality.Questions(t.prompts), sets[0], sets[1], sets[2], t.spec.Quality)
	return &j
}

// qualityVerdict is what the record keeps of a judgement.
func (t *test) qualityVerdict(e *commandv1.Experiment, j *load.Judgement, hash string) *commandv1.QualityVerdict {
	if j == nil {
		return nil
	}
	i := t.machine.Instance(e.GetInstance())
	return &commandv1.QualityVerdict{
		Passed: j.Passed, Summary: j.Words, Prompts: uint32(j.Prompts), EvidenceHash: hash, EngineVersion: i.GetEngineVersion(), Model: i.GetModel(),
	}
}
