package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// API is a request format.
type API string

// Request formats, named after engine and route.
const (
	OpenAICompletions API = "openai-completions"  // POST /v1/completions
	OpenAIChat        API = "openai-chat"         // POST /v1/chat/completions
	SGLangGenerate    API = "sglang-generate"     // POST /generate
	TGIGenerateStream API = "tgi-generate_stream" // POST /generate_stream
)

var paths = map[API]string{
	OpenAICompletions: "/v1/completions",
	OpenAIChat:        "/v1/chat/completions",
	SGLangGenerate:    "/generate",
	TGIGenerateStream: "/generate_stream",
}

// Target is one engine.
type Target struct {
	Name string `json:"name,omitempty"` // in records; the URL when empty
	URL  string `json:"url"`            // of the server, without the route
	// ReadyURL answers 200 while the target wants requests; without one it always gets them.
	ReadyURL string `json:"ready_url,omitempty"`
	API      API    `json:"api"`
}

// Validate says what is wrong with a target.
func (t Target) Validate() error {
	if _, ok := paths[t.API]; !ok {
		known := make([]string, 0, len(paths))
		for a := range paths {
			known = append(known, string(a))
		}
		slices.Sort(known)
		return fmt.Errorf("target %s: unknown api %q; use one of %s", t.name(), t.API, strings.Join(known, ", "))
	}
	for _, u := range []string{t.URL, t.ReadyURL} {
		if u == "" && t.URL != "" {
			continue
		}
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return errors.Join(fmt.Errorf("target %s: %q is no http:// address", t.name(), u), err)
		}
	}
	return nil
}

func (t Target) name() string {
	if t.Name != "" {
		return t.Name
	}
	return t.URL
}

func (t Target) endpoint() string { return strings.TrimSuffix(t.URL, "/") + paths[t.API] }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// openAIBody asks for temperature 0 and no end before the last token.
type openAIBody struct {
	Model         string        `json:"model,omitempty"`
	Prompt        any           `json:"prompt,omitempty"` // text, or token ids
	Messages      []message     `json:"messages,omitempty"`
	MaxTokens     int           `json:"max_tokens"`
	Temperature   float64       `json:"temperature"`
	IgnoreEOS     bool          `json:"ignore_eos"`
	Stream        bool          `json:"stream"`
	StreamOptions streamOptions `json:"stream_options"`
}

type sglangSampling struct {
	MaxNewTokens int     `json:"max_new_tokens"`
	Temperature  float64 `json:"temperature"`
	IgnoreEOS    bool    `json:"ignore_eos"`
}

type sglangBody struct {
	Text     string         `json:"text,omitempty"`
	InputIDs []int          `json:"input_ids,omitempty"`
	Sampling sglangSampling `json:"sampling_params"`
	Stream   bool           `json:"stream"`
}

// tgiBody has no way to ignore the end-of-sequence token: TGI may answer with fewer tokens.
type tgiBody struct {
	Inputs     string        `json:"inputs"`
	Parameters tgiParameters `json:"parameters"`
}

type tgiParameters struct {
	MaxNewTokens int `json:"max_new_tokens"`
}

// takesIDs says whether a prompt may be given as token ids.
func (a API) takesIDs() bool { return a == OpenAICompletions || a == SGLangGenerate }

// body of a request for exactly that many output tokens, where the API can ask for that. The prompt
// is ids where there are any, else text.
func (a API) body(model, text string, ids []int, tokens int) ([]byte, error) {
	open := openAIBody{Model: model, MaxTokens: tokens, IgnoreEOS: true, Stream: true, StreamOptions: streamOptions{true}}
	switch a {
	case OpenAICompletions:
		open.Prompt = text
		if ids != nil {
			open.Prompt = ids
		}
		return json.Marshal(open)
	case OpenAIChat:
		open.Messages = []message{{"user", text}}
		return json.Marshal(open)
	case SGLangGenerate:
		return json.Marshal(sglangBody{text, ids, sglangSampling{MaxNewTokens: tokens, IgnoreEOS: true}, true})
	case TGIGenerateStream:
		return json.Marshal(tgiBody{text, tgiParameters{tokens}})
	}
	return nil, fmt.Errorf("unknown api %q", a)
}
