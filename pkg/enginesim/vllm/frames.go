package vllm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

// fingerprint of this server's version and configuration, as the last event of an answer tells it.
const fingerprint = "vllm-" + version + "-51319a7e"

// usage is the token count at the end of an answer.
type usage struct {
	Prompt     int  `json:"prompt_tokens"`
	Total      int  `json:"total_tokens"`
	Completion int  `json:"completion_tokens"`
	Details    *int `json:"prompt_tokens_details"`
}

func (u usage) json() string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}`, u.Prompt, u.Total, u.Completion)
}

// frames builds the stream events of one request.
func frames(q wire.Request, id, model string, created int64, promptTokens func() usage) wire.Frames {
	object, role := "text_completion", ""
	if q.Chat {
		object = "chat.completion.chunk"
	}
	lead := `data: {"id":"` + id + `","object":"` + object + `","created":` + strconv.FormatInt(created, 10) +
		`,"model":` + strconv.Quote(model) + `,"choices":[`
	head, tail := lead+`{"index":0,"text":"`, `","logprobs":null,"finish_reason":null,"stop_reason":null}]`
	if q.Chat {
		role = lead + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]` + "}\n\n"
		head, tail = lead+`{"index":0,"delta":{"content":"`, `"},"logprobs":null,"finish_reason":null}]`
	}
	last := `,"system_fingerprint":"` + fingerprint + `"}` + "\n\n" // of whichever event is the last
	end := last
	if q.IncludeUsage {
		end = "}\n\n"
	}
	f := wire.Frames{
		First: role, Head: head, Tail: tail + "}\n\n",
		LastTail: func(finish string) string {
			if q.Chat {
				return `"},"logprobs":null,"finish_reason":"` + finish + `","stop_reason":null}]` + end
			}
			return `","logprobs":null,"finish_reason":"` + finish + `","stop_reason":null}]` + end
		},
		End: func(string) string {
			if !q.IncludeUsage {
				return "data: [DONE]\n\n"
			}
			return lead + `],"usage":` + promptTokens().json() + last + "data: [DONE]\n\n"
		},
	}
	if q.ContinuousUsage {
		f.Token = countedToken(f, tail, promptTokens)
	}
	return f
}

// countedToken puts the running usage into each event.
func countedToken(f wire.Frames, tail string, counts func() usage) func([]byte, int, string, string) []byte {
	return func(b []byte, n int, text, last string) []byte {
		u := counts()
		u.Completion, u.Total = n, u.Prompt+n
		end := tail + "}\n\n"
		if last != "" {
			end = f.LastTail(last)
		}
		b = append(append(b, f.Head...), text...)
		at := strings.LastIndexByte(end, ']') + 1 // behind the choices
		b = append(b, end[:at]...)
		return append(b, `,"usage":`+u.json()+end[at:]...)
	}
}

type choice struct {
	Index   int      `json:"index"`
	Text    *string  `json:"text,omitempty"`
	Message *message `json:"message,omitempty"`
	Log     *int     `json:"logprobs"`
	Finish  string   `json:"finish_reason"`
	Stop    *int     `json:"stop_reason"`

	IDs            []int             `json:"token_ids,omitempty"`
	PromptIDs      []int             `json:"prompt_token_ids,omitempty"`
	PromptLogprobs []map[int]logprob `json:"prompt_logprobs,omitempty"` // null for the first token
}

type logprob struct {
	Logprob float64 `json:"logprob"`
	Rank    int     `json:"rank"`
	Token   string  `json:"decoded_token"`
}

// tell adds what a request asks to know of tokens.
func (c *choice) tell(q wire.Request, text string, drift float64) {
	ids := sim.IDs(q.Parts, q.Tokens)
	if q.ReturnTokenIDs {
		c.IDs, c.PromptIDs = sim.TokenIDs(text), ids
	}
	if q.PromptLogprobs == nil {
		return
	}
	c.PromptLogprobs = []map[int]logprob{nil}
	for k, v := range sim.Logprobs(ids, drift) {
		c.PromptLogprobs = append(c.PromptLogprobs, map[int]logprob{ids[k+1]: {Logprob: v, Rank: 1}})
	}
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type completion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   usage    `json:"usage"`
	Print   string   `json:"system_fingerprint"`
}

// answer is the body of a request that was not streamed.
func answer(q wire.Request, id, model string, created int64, text, finish string, u usage) completion {
	c := completion{ID: id, Object: "text_completion", Created: created, Model: model, Usage: u, Print: fingerprint, Choices: []choice{{Text: &text, Finish: finish}}}
	if q.Chat {
		c.Object = "chat.completion"
		c.Choices = []choice{{Message: &message{Role: "assistant", Content: text}, Finish: finish}}
	}
	return c
}
