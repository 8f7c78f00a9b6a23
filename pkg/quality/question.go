// Package quality judges whether a configuration changes what a model answers: golden prompts of our
// own, what counts as a right answer, and a sequential comparison of a candidate's answers with the
// baseline's, and of the baseline's with themselves.
//
// It is pure. Who asks an engine (agent/golden) and what a bad judgement stops (the control plane) is
// others' business.
package quality

import (
	"cmp"
	"fmt"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// Question is one golden prompt as it is put to an engine, at temperature 0.
type Question struct {
	ID        string `json:"id"`
	Prompt    string `json:"prompt"`
	Expect    string `json:"expect,omitempty"` // what a right answer contains
	MaxTokens int    `json:"max_tokens"`
	// Forced tokens whose log-probabilities are asked for; nil: those of the answer itself.
	Forced *Forced `json:"forced,omitempty"`
}

// Forced is an answer that is put into an engine's mouth, to hear how likely it holds each token.
type Forced struct {
	PromptIDs []int  `json:"prompt_ids,omitempty"`
	IDs       []int  `json:"ids"`
	Text      string `json:"text"`
}

// Answer to a question.
type Answer struct {
	ID     string `json:"id"`
	Text   string `json:"text"`
	Finish string `json:"finish,omitempty"`
	Tokens int    `json:"tokens"`
	// Said is the answer in tokens, to be forced on others; nil where the engine does not tell.
	Said *Forced `json:"said,omitempty"`
	// Logprobs of the forced tokens, natural logarithms; LogprobError says why there are none.
	Logprobs     []float64 `json:"logprobs,omitempty"`
	LogprobError string    `json:"logprob_error,omitempty"`
	Error        string    `json:"error,omitempty"` // no answer
}

// defaultMaxTokens of an answer to a prompt of a tenant's own.
const defaultMaxTokens = 64

// Questions of a tenant's own prompts, or of the built-in set when there are none.
func Questions(own []load.GoldPrompt) []Question {
	if len(own) == 0 {
		own = BuiltIn()
	}
	out := make([]Question, len(own))
	for i, p := range own {
		out[i] = Question{ID: cmp.Or(p.ID, fmt.Sprintf("own-%d", i+1)), Prompt: p.Prompt, Expect: p.Expect, MaxTokens: cmp.Or(p.MaxTokens, defaultMaxTokens)}
	}
	return out
}

// Force puts the tokens of answers into the questions that they answer.
func Force(questions []Question, said []Answer) []Question {
	byID := map[string]*Forced{}
	for _, a := range said {
		byID[a.ID] = a.Said
	}
	out := make([]Question, len(questions))
	for i, q := range questions {
		q.Forced = byID[q.ID]
		out[i] = q
	}
	return out
}

// Failures counts answers that are none.
func Failures(as []Answer) (n int) {
	for _, a := range as {
		if a.Error != "" {
			n++
		}
	}
	return n
}
