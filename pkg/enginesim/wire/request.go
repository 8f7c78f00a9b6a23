// Package wire reads the OpenAI-compatible requests that all engines take and writes their event
// streams. What an event looks like in one engine's hands is given as Frames by its dialect.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

// maxBody bounds a request body.
const maxBody = 64 << 20

// ErrBody means a request could not be read; the error is a *BodyError.
var ErrBody = errors.New("bad request body")

// BodyError says what is wrong with a request. Each engine has its own words for it.
type BodyError struct {
	Field string // at fault; empty where the body is no JSON of the right form
	Text  string
	At    int // byte at which the JSON ends or goes wrong
	Value int // of max_tokens
}

// Error implements error.
func (e *BodyError) Error() string { return ErrBody.Error() + ": " + e.Text }

// Is makes it an ErrBody.
func (e *BodyError) Is(target error) bool { return target == ErrBody }

// Request is a completion or chat request, reduced to what the simulation uses.
type Request struct {
	Chat            bool
	Model           string
	Stream          bool
	IncludeUsage    bool
	ContinuousUsage bool
	MaxTokens       int // 0: not given
	IgnoreEOS       bool
	N               int
	Parts           []string // texts of the prompt, in order
	Tokens          []int    // or its token numbers
	ReturnTokenIDs  bool     // vLLM: tell the tokens by their numbers
	PromptLogprobs  *int     // vLLM: tell the log-probabilities of the prompt
}

type body struct {
	Model               string          `json:"model"`
	Stream              bool            `json:"stream"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	IgnoreEOS           bool            `json:"ignore_eos"`
	N                   int             `json:"n"`
	Prompt              json.RawMessage `json:"prompt"`
	ReturnTokenIDs      bool            `json:"return_token_ids"`
	PromptLogprobs      *int            `json:"prompt_logprobs"`
	Messages            []message       `json:"messages"`
	StreamOptions       struct {
		IncludeUsage         bool `json:"include_usage"`
		ContinuousUsageStats bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// Read decodes a body of /v1/completions, or of /v1/chat/completions when chat is set.
func Read(r *http.Request, chat bool) (Request, error) {
	var b body
	if err := Decode(r, &b); err != nil {
		return Request{}, err
	}
	q := Request{
		Chat: chat, Model: b.Model, Stream: b.Stream, IgnoreEOS: b.IgnoreEOS, N: max(b.N, 1),
		ReturnTokenIDs: b.ReturnTokenIDs, PromptLogprobs: b.PromptLogprobs,
		IncludeUsage: b.StreamOptions.IncludeUsage, ContinuousUsage: b.StreamOptions.ContinuousUsageStats,
	}
	for _, limit := range []*int{b.MaxTokens, b.MaxCompletionTokens} {
		if limit == nil {
			continue
		}
		if *limit < 1 {
			return q, &BodyError{Field: "max_tokens", Text: fmt.Sprintf("max_tokens must be at least 1, got %d", *limit), Value: *limit}
		}
		q.MaxTokens = *limit
	}
	if q.N > 1 {
		return q, &BodyError{Field: "n", Text: "the simulated engine generates one answer per request (n=1)"}
	}
	var err error
	if chat {
		q.Parts, err = conversation(b.Messages)
	} else {
		q.Parts, q.Tokens, err = prompt(b.Prompt)
	}
	return q, err
}

// Decode reads a JSON body into v.
func Decode(r *http.Request, v any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err == nil {
		return nil
	}
	e := &BodyError{Text: "JSON decode error: " + err.Error()}
	if at, ok := errors.AsType[*json.SyntaxError](err); ok {
		e.At = int(at.Offset)
	}
	return e
}

// Prompt counts and hashes the request's prompt for blocks of the given size.
func (q Request) Prompt(block int) sim.Prompt {
	if q.Tokens != nil {
		return sim.ReadTokens(block, q.Tokens)
	}
	return sim.ReadPrompt(block, q.Parts...)
}

// prompt accepts a text, a list with one text, or a list of token numbers.
func prompt(raw json.RawMessage) ([]string, []int, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []string{text}, nil, nil
	}
	var tokens []int
	if json.Unmarshal(raw, &tokens) == nil {
		return nil, tokens, nil
	}
	var texts []string
	if json.Unmarshal(raw, &texts) == nil && len(texts) == 1 {
		return texts, nil, nil
	}
	return nil, nil, &BodyError{Field: "prompt", Text: "prompt must be a text, a list with one text, or a list of token numbers"}
}

// conversation flattens messages; roles count as tokens, as a chat template makes them.
func conversation(messages []message) ([]string, error) {
	if len(messages) == 0 {
		return nil, &BodyError{Field: "messages", Text: "messages must not be empty"}
	}
	parts := make([]string, 0, 2*len(messages)+1)
	for _, m := range messages {
		text, err := content(m.Content)
		if err != nil {
			return nil, err
		}
		parts = append(parts, "<|"+m.Role+"|>", text)
	}
	return append(parts, "<|assistant|>"), nil
}

func content(raw json.RawMessage) (string, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return "", &BodyError{Field: "messages", Text: "content must be a text or a list of text parts"}
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.Text
	}
	return strings.Join(texts, " "), nil
}

// Output is how many tokens the model generates for a prompt under a limit, and why it stops.
func (q Request) Output(p sim.Prompt, limit int) (tokens int, finish string) {
	if natural := p.NaturalLength(); !q.IgnoreEOS && natural < limit {
		return natural, "stop"
	}
	return limit, "length"
}
