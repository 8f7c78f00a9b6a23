package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// loadTest drives load at the instance. Its requests say that they are no user's.
func (in *instance) loadTest(ctx context.Context, t *agentv1.LoadTest) ([]byte, error) {
	plan, err := planOf(t)
	if err != nil {
		return nil, err
	}
	if why := in.untestable(t.GetConsent()); why != "" {
		return nil, errors.New(why)
	}
	return in.tests.do(ctx, t.GetTestId(), func(ctx context.Context) ([]byte, error) {
		test := loadtest.Test{
			Target: loadtest.Target{Name: in.id, URL: in.cfg.URL, API: in.api()}, Model: in.adapter.described().GetModel(),
			Engine: in.tested(), Forbidden: func() string { return in.untestable(t.GetConsent()) }, Logger: in.log,
		}
		in.log.Info("load test begins", "test", t.GetTestId(), "load", plan.Load(), "for", plan.Span(), "consent", t.GetConsent())
		report, err := test.Run(ctx, plan)
		if err != nil {
			return nil, err
		}
		in.log.Info("load test ends", "test", t.GetTestId(), "requests", report.Summary.Requests, "failed", report.Summary.Failed, "stopped", report.Stopped)
		return json.Marshal(report)
	})
}

// planOf reads the plan of a directive; an older control plane names a rate and two lengths.
func planOf(t *agentv1.LoadTest) (p load.Plan, err error) {
	if len(t.GetPlanJson()) > 0 {
		if err := json.Unmarshal(t.GetPlanJson(), &p); err != nil {
			return p, fmt.Errorf("the plan of the load test cannot be read: %w", err)
		}
		return p, p.Validate()
	}
	p = load.Plan{
		Arrivals: load.Poisson, Rate: t.GetRequestsPerSecond(), Duration: t.GetDuration().AsDuration().Seconds(), Seed: t.GetSeed(),
		Prompt: workload.Fixed(int(t.GetPromptTokens())), Output: workload.Fixed(int(t.GetOutputTokens())),
	}
	return p, p.Validate()
}

// untestable says why the instance may not be tested now: users come first.
func (in *instance) untestable(consent string) string {
	if serving, _ := in.machine.Serving(); serving && !in.cfg.Staging && consent == "" {
		return fmt.Sprintf("engine %s serves users: drain it, mark it as staging in its agent's configuration, or give explicit consent to load in production", in.cfg.Name)
	}
	switch p := in.machine.State().GetPhase(); p {
	case agentv1.Phase_PHASE_IDLE, agentv1.Phase_PHASE_PROBATION, agentv1.Phase_PHASE_CONFIRMED:
		return ""
	default:
		return fmt.Sprintf("engine %s is being changed (%s)", in.cfg.Name, strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_")))
	}
}

// api is the request format in which this kind of engine is tested.
func (in *instance) api() loadtest.API {
	if in.adapter.described().GetEngine() == "tgi" {
		return loadtest.TGIGenerateStream
	}
	return loadtest.OpenAICompletions
}

// tested describes the engine for a report.
func (in *instance) tested() load.Subject {
	d := in.adapter.described()
	s := in.machine.Snapshot()
	h, _ := in.hardware()
	return load.Subject{
		Instance: in.id, Kind: d.GetEngine(), Version: d.GetVersion(), Model: d.GetModel(), Hardware: h.Name,
		Settings: s.Running().Settings, Epoch: s.Running().Epoch,
	}
}

// ackTest answers a test's directive.
func (a *agent) ackTest(in *instance, d *agentv1.Directive, test string, result []byte, err error) *agentv1.Ack {
	ack := &agentv1.Ack{InstanceId: d.GetInstanceId(), Fence: d.GetFence(), Result: agentv1.AckResult_ACK_RESULT_ACCEPTED, State: in.machine.State(), ResultJson: result, TestId: test}
	switch {
	case errors.Is(err, errAskedAgain):
		ack.Result, ack.Detail = agentv1.AckResult_ACK_RESULT_DUPLICATE, err.Error()
	case err != nil:
		ack.Result, ack.Detail = agentv1.AckResult_ACK_RESULT_REFUSED, err.Error()
	}
	return ack
}
