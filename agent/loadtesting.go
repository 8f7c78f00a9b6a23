package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/load"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// maxLoadTest bounds what one directive may ask for.
const maxLoadTest = 10 * time.Minute

// loadTest drives load at the instance, which must be out of rotation: users come first. Its requests
// say that they are no user's.
func (in *instance) loadTest(ctx context.Context, t *agentv1.LoadTest) ([]byte, error) {
	duration := t.GetDuration().AsDuration()
	switch serving, _ := in.machine.Serving(); {
	case serving:
		return nil, errors.New("the instance serves users; drain it before a load test")
	case t.GetRequestsPerSecond() <= 0 || t.GetPromptTokens() == 0 || t.GetOutputTokens() == 0:
		return nil, errors.New("a load test needs a rate and lengths above zero")
	case duration <= 0 || duration > maxLoadTest:
		return nil, fmt.Errorf("a load test of %v is not between 0 and %v", duration, maxLoadTest)
	}
	api := loadtest.OpenAICompletions
	if in.adapter.described().GetEngine() == "tgi" {
		api = loadtest.TGIGenerateStream
	}
	var records []load.Record
	runner, err := loadtest.New(loadtest.Config{
		Targets:  []loadtest.Target{{Name: in.id, URL: in.cfg.URL, API: api}},
		Source:   loadtest.NewPoisson(t.GetRequestsPerSecond(), int(t.GetPromptTokens()), int(t.GetOutputTokens()), t.GetSeed()),
		Duration: duration, Model: in.adapter.described().GetModel(), Seed: t.GetSeed(),
		Header:   http.Header{loadtest.Synthetic: {"1"}},
		OnRecord: func(r load.Record) { records = append(records, r) }, Logger: in.log,
	})
	if err != nil {
		return nil, err
	}
	if err := runner.Run(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(load.Summarize(records, time.Time{}, time.Time{}, load.Objectives{}))
}
