// Package drive sends traces of pkg/workload at a real engine with agent/loadtest and hands back what
// every request lived through, in the form that pkg/calibrate learns from.
//
// Prompts are made of syllables that the tiny model's tokenizer knows as one token each, so that a
// trace's lengths are those the engine sees; requests of one group begin with the same text.
package drive

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/calibrate"
	"github.com/optiinfra/performance-agent/pkg/workload"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Run sends trace in an open loop and returns one record per request, in the order of the trace.
// Different seeds give different prompts. A request that fails is an error: its engine is not what the
// trace was meant for.
func Run(ctx context.Context, p *engine.Process, trace []workload.Request, seed uint64) ([]calibrate.Request, error) {
	out := make([]calibrate.Request, len(trace))
	var start time.Time
	var failed error
	runner, err := loadtest.New(loadtest.Config{
		Targets:   []loadtest.Target{{URL: p.URL, API: loadtest.OpenAICompletions}},
		Source:    &source{trace: trace, seed: seed},
		Model:     engine.Model,
		DrainWait: 3 * time.Minute,
		OnRecord: func(r loadtest.Record) {
			if r.Failed != "" && failed == nil {
				failed = fmt.Errorf("request %d: %s %s", r.Number, r.Failed, r.Detail)
			}
			w := trace[r.Number]
			if start.IsZero() {
				start = r.Intended.Add(-w.Offset)
			}
			if r.Failed == "" && r.PromptTokens == 0 && failed == nil {
				failed = fmt.Errorf("request %d: the engine did not tell its prompt tokens", r.Number)
			}
			out[r.Number] = record(r, w, start)
		},
	})
	if err != nil {
		return nil, err
	}
	if err := runner.Run(ctx); err != nil {
		return nil, err
	}
	return out, failed
}

func record(r loadtest.Record, w workload.Request, start time.Time) calibrate.Request {
	c := calibrate.Request{
		Arrival: w.Offset, PromptTokens: r.PromptTokens, OutputTokens: r.Tokens,
		Group: w.Group, GroupTokens: w.GroupTokens,
		FirstToken: r.FirstToken.Sub(start), End: r.LastToken.Sub(start),
	}
	for _, us := range r.GapsUS {
		c.Gaps = append(c.Gaps, time.Duration(us)*time.Microsecond)
	}
	return c
}

// source turns a trace into requests with text.
type source struct {
	trace []workload.Request
	seed  uint64
	next  int
}

// Next implements loadtest.Source.
func (s *source) Next() (loadtest.Request, bool) {
	if s.next == len(s.trace) {
		return loadtest.Request{}, false
	}
	w := s.trace[s.next]
	common := syllables(w.GroupTokens, s.seed, uint64(w.Group)<<32)
	own := syllables(w.PromptTokens-w.GroupTokens, s.seed, uint64(s.next)+1)
	s.next++
	return loadtest.Request{
		Offset: w.Offset, Prompt: strings.Join(slices.Concat(common, own), " "),
		PromptTokens: w.PromptTokens, OutputTokens: w.OutputTokens,
	}, true
}

func syllables(n int, seed, part uint64) []string {
	const consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
	rng := rand.New(rand.NewPCG(seed, part))
	words := make([]string, max(n, 0))
	for i := range words {
		words[i] = string([]byte{consonants[rng.IntN(len(consonants))], vowels[rng.IntN(len(vowels))]})
	}
	return words
}
