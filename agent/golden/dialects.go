package golden

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/optiinfra/performance-agent/pkg/quality"
)

var errTokensDiffer = errors.New("the forced tokens are not the ones that the engine reads")

type vllm struct{}

type vllmRequest struct {
	Model          string  `json:"model,omitempty"`
	Prompt         any     `json:"prompt"` // text, or token ids
	MaxTokens      int     `json:"max_tokens"`
	Temperature    float64 `json:"temperature"`
	Seed           int     `json:"seed"`
	ReturnTokenIDs bool    `json:"return_token_ids,omitempty"`
	PromptLogprobs *int    `json:"prompt_logprobs,omitempty"` // how many others beside the prompt's own
}

type vllmAnswer struct {
	Choices []struct {
		Text           string `json:"text"`
		Finish         string `json:"finish_reason"`
		IDs            []int  `json:"token_ids"`
		PromptIDs      []int  `json:"prompt_token_ids"`
		PromptLogprobs []map[string]struct {
			Logprob float64 `json:"logprob"`
		} `json:"prompt_logprobs"` // null for the first
	} `json:"choices"`
	Usage struct {
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
}

func (vllm) generate(ctx context.Context, a *Asker, q quality.Question, out *quality.Answer) error {
	var got vllmAnswer
	if err := a.post(ctx, "/v1/completions", vllmRequest{Model: a.Model, Prompt: q.Prompt, MaxTokens: q.MaxTokens, ReturnTokenIDs: true}, &got); err != nil {
		return err
	}
	if len(got.Choices) != 1 {
		return fmt.Errorf("%d choices", len(got.Choices))
	}
	c := got.Choices[0]
	out.Text, out.Finish, out.Tokens = c.Text, c.Finish, got.Usage.Completion
	if len(c.IDs) > 0 && len(c.PromptIDs) > 0 {
		out.Said = &quality.Forced{PromptIDs: c.PromptIDs, IDs: c.IDs, Text: c.Text}
	}
	return nil
}

func (vllm) score(ctx context.Context, a *Asker, _ quality.Question, f quality.Forced) ([]float64, error) {
	var got vllmAnswer
	none := 0
	ids := slices.Concat(f.PromptIDs, f.IDs)
	if err := a.post(ctx, "/v1/completions", vllmRequest{Model: a.Model, Prompt: ids, MaxTokens: 1, PromptLogprobs: &none}, &got); err != nil {
		return nil, err
	}
	if len(got.Choices) != 1 || len(got.Choices[0].PromptLogprobs) != len(ids) {
		return nil, errors.New("the engine tells no log-probabilities of its prompt")
	}
	var out []float64
	for k, id := range f.IDs {
		own, ok := got.Choices[0].PromptLogprobs[len(f.PromptIDs)+k][strconv.Itoa(id)]
		if !ok {
			return nil, errTokensDiffer
		}
		out = append(out, own.Logprob)
	}
	return out, nil
}

type sglang struct{}

type sglangRequest struct {
	Text     string         `json:"text,omitempty"`
	InputIDs []int          `json:"input_ids,omitempty"`
	Sampling sglangSampling `json:"sampling_params"`
	Logprob  bool           `json:"return_logprob"`
	From     int            `json:"logprob_start_len"`
}

type sglangSampling struct {
	Temperature  float64 `json:"temperature"`
	MaxNewTokens int     `json:"max_new_tokens"`
}

// sglangLogprob is [log-probability or null, token id, text or null].
type sglangLogprob []any

func (l sglangLogprob) id() (int, bool) {
	if len(l) < 2 {
		return 0, false
	}
	id, ok := l[1].(float64)
	return int(id), ok
}

type sglangAnswer struct {
	Text string `json:"text"`
	Meta struct {
		Finish struct {
			Type string `json:"type"`
		} `json:"finish_reason"`
		Completion int             `json:"completion_tokens"`
		Input      []sglangLogprob `json:"input_token_logprobs"`
		Output     []sglangLogprob `json:"output_token_logprobs"`
	} `json:"meta_info"`
}

func (sglang) generate(ctx context.Context, a *Asker, q quality.Question, out *quality.Answer) error {
	var got sglangAnswer
	if err := a.post(ctx, "/generate", sglangRequest{Text: q.Prompt, Sampling: sglangSampling{MaxNewTokens: q.MaxTokens}, Logprob: true}, &got); err != nil {
		return err
	}
	out.Text, out.Finish, out.Tokens = got.Text, got.Meta.Finish.Type, got.Meta.Completion
	said := &quality.Forced{Text: got.Text}
	for _, part := range []struct {
		from []sglangLogprob
		to   *[]int
	}{{got.Meta.Input, &said.PromptIDs}, {got.Meta.Output, &said.IDs}} {
		for _, l := range part.from {
			id, ok := l.id()
			if !ok {
				return nil // an answer without its tokens: there is nothing to force
			}
			*part.to = append(*part.to, id)
		}
	}
	if len(said.PromptIDs) > 0 && len(said.IDs) > 0 {
		out.Said = said
	}
	return nil
}

func (sglang) score(ctx context.Context, a *Asker, _ quality.Question, f quality.Forced) ([]float64, error) {
	var got sglangAnswer
	ids := slices.Concat(f.PromptIDs, f.IDs)
	if err := a.post(ctx, "/generate", sglangRequest{InputIDs: ids, Sampling: sglangSampling{MaxNewTokens: 1}, Logprob: true}, &got); err != nil {
		return nil, err
	}
	if len(got.Meta.Input) < len(f.IDs) {
		return nil, errors.New("the engine tells no log-probabilities of its prompt")
	}
	var out []float64
	for k, l := range got.Meta.Input[len(got.Meta.Input)-len(f.IDs):] {
		id, ok := l.id()
		v, known := l[0].(float64)
		if !ok || !known || id != f.IDs[k] {
			return nil, errTokensDiffer
		}
		out = append(out, v)
	}
	return out, nil
}

type tgi struct{}

type tgiRequest struct {
	Inputs     string        `json:"inputs"`
	Parameters tgiParameters `json:"parameters"`
}

type tgiParameters struct {
	MaxNewTokens int  `json:"max_new_tokens"`
	Details      bool `json:"details"`
	InputDetails bool `json:"decoder_input_details"`
	Sample       bool `json:"do_sample"`
}

type tgiToken struct {
	ID      int      `json:"id"`
	Logprob *float64 `json:"logprob"`
}

type tgiAnswer struct {
	Text    string `json:"generated_text"`
	Details struct {
		Finish  string     `json:"finish_reason"`
		Count   int        `json:"generated_tokens"`
		Prefill []tgiToken `json:"prefill"`
		Tokens  []tgiToken `json:"tokens"`
	} `json:"details"`
}

func (tgi) ask(ctx context.Context, a *Asker, text string, tokens int) (got tgiAnswer, err error) {
	err = a.post(ctx, "/generate", tgiRequest{text, tgiParameters{MaxNewTokens: tokens, Details: true, InputDetails: true}}, &got)
	return got, err
}

func (d tgi) generate(ctx context.Context, a *Asker, q quality.Question, out *quality.Answer) error {
	got, err := d.ask(ctx, a, q.Prompt, q.MaxTokens)
	if err != nil {
		return err
	}
	out.Text, out.Finish, out.Tokens = got.Text, got.Details.Finish, got.Details.Count
	said := &quality.Forced{Text: got.Text}
	for _, t := range got.Details.Tokens {
		said.IDs = append(said.IDs, t.ID)
	}
	if len(said.IDs) > 0 {
		out.Said = said
	}
	return nil
}

// score reads the forced text behind the prompt. TGI takes no token ids, so that it may cut the text
// into others than it said; those that come out the same at its end count.
func (d tgi) score(ctx context.Context, a *Asker, q quality.Question, f quality.Forced) ([]float64, error) {
	got, err := d.ask(ctx, a, q.Prompt+f.Text, 1)
	if err != nil {
		return nil, err
	}
	prefill := got.Details.Prefill
	if len(prefill) == 0 {
		return nil, errors.New("the engine tells no log-probabilities of its prompt: start it with --enable-prefill-logprobs")
	}
	ids := f.IDs
	if f.Text != "" && len(ids) > 0 && prefill[len(prefill)-1].ID != ids[len(ids)-1] {
		ids = ids[:len(ids)-1] // the token that ended the answer has no text
	}
	if len(ids) == 0 || len(prefill) <= len(ids) {
		return nil, errTokensDiffer
	}
	var out []float64
	for k, t := range prefill[len(prefill)-len(ids):] {
		if t.ID != ids[k] || t.Logprob == nil {
			return nil, errTokensDiffer
		}
		out = append(out, *t.Logprob)
	}
	return out, nil
}
