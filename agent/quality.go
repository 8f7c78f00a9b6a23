package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/optiinfra/performance-agent/agent/golden"
	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/quality"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// qualityTest puts golden prompts to the instance.
func (in *instance) qualityTest(ctx context.Context, t *agentv1.QualityTest) ([]byte, error) {
	var questions []quality.Question
	if err := json.Unmarshal(t.GetQuestionsJson(), &questions); err != nil {
		return nil, fmt.Errorf("the questions of the quality test cannot be read: %w", err)
	}
	if why := in.untestable(t.GetConsent()); why != "" {
		return nil, errors.New(why)
	}
	d := in.adapter.described()
	asker, err := golden.New(d.GetEngine(), in.cfg.URL, d.GetModel(), http.Header{loadtest.Synthetic: {"1"}})
	if err != nil {
		return nil, err
	}
	return in.tests.do(ctx, t.GetTestId(), func(ctx context.Context) ([]byte, error) {
		in.log.Info("quality test begins", "test", t.GetTestId(), "prompts", len(questions))
		answers, err := asker.Ask(ctx, questions, func() string { return in.untestable(t.GetConsent()) })
		if err != nil {
			return nil, err
		}
		in.log.Info("quality test ends", "test", t.GetTestId(), "unanswered", quality.Failures(answers))
		return json.Marshal(answers)
	})
}
