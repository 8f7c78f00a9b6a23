package experiment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Start records a test, which the leader then carries out, and returns its id. key makes a repeated
// request the same test. Refusals of the state machine are *fsm.Refusal.
func (c *Controller) Start(ctx context.Context, a load.Ask, validate bool, key, actor string) (string, error) {
	g := c.machine.Group(a.Group)
	if g == nil {
		return "", fmt.Errorf("%w: there is no group %q", ErrUnknown, a.Group)
	}
	instance, err := c.engine(a)
	if err != nil {
		return "", err
	}
	p, err := plan(a.Traffic, func() (load.Plan, error) { return c.ports.Twin.Live(ctx, a.Group) })
	if err != nil {
		return "", err
	}
	s, err := spec(a, validate, p)
	if err != nil {
		return "", err
	}
	if a.Twin && a.Quality.Always {
		return "", fmt.Errorf("%w: a twin has no answers to judge", ErrInvalid)
	}
	if err := c.keep(&s, a); err != nil {
		return "", err
	}
	raw, err := s.encode()
	if err != nil {
		return "", err
	}
	cmd := &commandv1.CreateExperiment{
		Id: testID(key), Kind: commandv1.ExperimentKind_EXPERIMENT_KIND_RUN, Group: a.Group, Instance: instance, Twin: a.Twin,
		SpecJson: raw, Consent: a.Consent, Restarts: a.Restarts || validate,
	}
	if validate {
		cmd.Kind = commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE
	}
	if len(a.Settings) > 0 {
		cmd.Candidate = &agentv1.Body{Engine: g.GetEngine(), Settings: a.Settings}
	}
	r, err := c.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_CREATE_EXPERIMENT, cmd, key, actor)
	if err = errors.Join(err, r.Err()); err != nil {
		return "", err
	}
	return cmp.Or(r.ObjectID, cmd.GetId()), nil
}

func testID(key string) string {
	if key == "" {
		return "t-" + uuid.NewString()[:13]
	}
	return "t-" + uuid.NewSHA1(uuid.NameSpaceOID, []byte(key)).String()[:13]
}

// engine finds the instance by id, or by a name that one engine of the group has.
func (c *Controller) engine(a load.Ask) (string, error) {
	if a.Twin {
		return "", nil
	}
	var found []string
	for _, i := range c.machine.Instances(a.Group) {
		if i.GetId() == a.Engine {
			return i.GetId(), nil
		}
		if i.GetName() == a.Engine || a.Engine == "" {
			found = append(found, i.GetId())
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%w: there is no engine %q in group %s", ErrUnknown, a.Engine, a.Group)
	}
	return "", fmt.Errorf("%w: name one of the engines %s", ErrInvalid, strings.Join(found, ", "))
}

// keep puts what is too large for the record into evidence.
func (c *Controller) keep(s *Spec, a load.Ask) (err error) {
	put := func(v any) string {
		raw, encodeErr := json.Marshal(v)
		if err = errors.Join(err, encodeErr); err != nil {
			return ""
		}
		hash, putErr := c.ports.Evidence.Put(raw)
		err = errors.Join(err, putErr)
		return hash
	}
	if len(s.Plan.Requests) > 0 {
		s.TraceHash = put(s.Plan.Requests)
	}
	if len(a.Quality.Prompts) > 0 {
		s.PromptsHash = put(a.Quality.Prompts)
	}
	return err
}

// Document tells all of a test; with the reports of its runs where asked for.
func (c *Controller) Document(id string, reports bool) (*load.Document, error) {
	e := c.machine.Experiment(id)
	if e == nil {
		return nil, fmt.Errorf("%w: there is no test %q", ErrUnknown, id)
	}
	d := c.brief(e)
	if raw, err := c.ports.Evidence.Get(e.GetEvidenceHash()); err == nil { // else the record's own words have to do
		var k kept
		if err := json.Unmarshal(raw, &k); err != nil {
			return nil, fmt.Errorf("evidence of test %s: %w", id, err)
		}
		d.Comparison, d.Quality, d.Knee = k.Comparison, k.Quality, k.Knee
	}
	for k := range d.Runs {
		if r := &d.Runs[k]; reports && !r.Quality {
			r.Report, r.Missing = c.report(r.EvidenceHash)
		}
	}
	return d, nil
}

// report by hash; missing says that this node does not have it.
func (c *Controller) report(hash string) (report *load.Report, missing bool) {
	raw, err := c.ports.Evidence.Get(hash)
	if err != nil {
		return nil, true
	}
	report = &load.Report{}
	if json.Unmarshal(raw, report) != nil {
		return nil, true
	}
	return report, false
}

// Documents lists tests of a group, of all when it is empty, newest first, without evidence.
func (c *Controller) Documents(group string) []load.Document {
	out := []load.Document{}
	for _, e := range c.machine.Experiments(group) {
		out = append(out, *c.brief(e))
	}
	return out
}

// brief is what the record tells.
func (c *Controller) brief(e *commandv1.Experiment) *load.Document {
	d := &load.Document{
		ID: e.GetId(), Kind: "run", Group: e.GetGroup(), Engine: e.GetInstance(), Twin: e.GetTwin(), State: states[e.GetState()],
		Settings: c.machine.Body(e.GetCandidateHash()).GetBody().GetSettings(), Lossy: e.GetLossy(), Consent: e.GetConsent(),
		Created: time.UnixMilli(e.GetCreatedMs()), By: e.GetCreatedBy(), EndReason: e.GetEndReason(), Verdict: e.GetVerdict(),
		Summary: e.GetSummary(), EvidenceHash: e.GetEvidenceHash(), Runs: []load.Finished{},
	}
	if e.GetKind() == commandv1.ExperimentKind_EXPERIMENT_KIND_VALIDATE {
		d.Kind = "validate"
	}
	if e.GetEndedMs() > 0 {
		t := time.UnixMilli(e.GetEndedMs())
		d.Ended = &t
	}
	for _, r := range e.GetRuns() {
		d.Runs = append(d.Runs, load.Finished{
			Number: int(r.GetNumber()), Arm: r.GetArm(), Load: r.GetLoad(), Epoch: r.GetEpoch(), Stopped: r.GetStopped(), Quality: r.GetQuality(),
			Figures: r.GetFigures(), EvidenceHash: r.GetEvidenceHash(), At: time.UnixMilli(r.GetAtMs()),
		})
	}
	for _, n := range e.GetNotes() {
		d.Notes = append(d.Notes, load.Happened{At: time.UnixMilli(n.GetAtMs()), Text: n.GetText()})
	}
	return d
}

var states = map[commandv1.ExperimentState]string{
	commandv1.ExperimentState_EXPERIMENT_STATE_RUNNING: "running", commandv1.ExperimentState_EXPERIMENT_STATE_DONE: "done",
	commandv1.ExperimentState_EXPERIMENT_STATE_FAILED: "failed", commandv1.ExperimentState_EXPERIMENT_STATE_CANCELLED: "cancelled",
}

// Remove cancels a test that runs, and deletes one that has ended.
func (c *Controller) Remove(ctx context.Context, id, key, actor string) (cancelled bool, err error) {
	e := c.machine.Experiment(id)
	if e == nil {
		return false, fmt.Errorf("%w: there is no test %q", ErrUnknown, id)
	}
	if !fsm.ExperimentEnded(e.GetState()) {
		r, err := c.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_STEP_EXPERIMENT,
			&commandv1.StepExperiment{Id: id, Step: &commandv1.StepExperiment_Cancel{Cancel: &commandv1.CancelExperiment{}}}, key, actor)
		return true, errors.Join(err, r.Err())
	}
	r, err := c.ports.Log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_DELETE_EXPERIMENT, &commandv1.DeleteExperiment{Id: id}, key, actor)
	return false, errors.Join(err, r.Err())
}
