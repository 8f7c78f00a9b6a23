package tgi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

const fingerprint = version + "-native"

func usage(c *live.Call, completion int) string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, c.PromptTokens, completion, c.PromptTokens+completion)
}

// finishReason translates to TGI's own words outside the OpenAI-compatible routes.
func finishReason(finish string) string {
	if finish == "stop" {
		return "eos_token"
	}
	return finish
}

// nativeFrames streams /generate_stream: one event per token, the last with the whole text.
func nativeFrames(c *live.Call, details bool) wire.Frames {
	var whole strings.Builder
	return wire.Frames{
		Token: func(b []byte, n int, text, last string) []byte {
			whole.WriteString(text)
			b = append(b, `data: {"index":`...)
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, `,"token":{"id":`...)
			b = strconv.AppendInt(b, int64(sim.TokenID(strings.TrimSpace(text))), 10)
			b = append(append(append(b, `,"text":"`...), text...), `","logprob":-0.5,"special":false},`...)
			if last == "" {
				return append(b, `"generated_text":null,"details":null}`+"\n\n"...)
			}
			return append(b, `"generated_text":`+strconv.Quote(whole.String())+`,"details":`+detailsJSON(details, last, n, c)+"}\n\n"...)
		},
		End: func(string) string { return "" },
	}
}

func detailsJSON(asked bool, finish string, n int, c *live.Call) string {
	if !asked {
		return "null"
	}
	return fmt.Sprintf(`{"finish_reason":%q,"generated_tokens":%d,"input_length":%d,"seed":null,"prefill":[],"tokens":[]}`, finishReason(finish), n, c.PromptTokens)
}

// token is what the details of an answer tell of each.
type token struct {
	ID      int      `json:"id"`
	Text    string   `json:"text"`
	Logprob *float64 `json:"logprob"` // null for the first of a prompt
	Special *bool    `json:"special,omitempty"`
}

// tokensOf an answer and, when they may be told, of its prompt.
func tokensOf(prompt, text string, prefilled bool, drift float64) (prefill, tokens []token) {
	before, words := strings.Fields(prompt), strings.Fields(text)
	values := sim.Logprobs(sim.TokenIDs(prompt+" "+text), drift)
	prefill, tokens = []token{}, []token{}
	for k, w := range append(before, words...) {
		t := token{ID: sim.TokenID(w), Text: w}
		if k > 0 {
			t.Logprob = &values[k-1]
		}
		if k < len(before) {
			prefill = append(prefill, t)
			continue
		}
		t.Special = new(bool)
		tokens = append(tokens, t)
	}
	if !prefilled {
		prefill = []token{}
	}
	return prefill, tokens
}

// wholeAnswer is the body of a native request that was not streamed.
func wholeAnswer(body parameters, text, finish string, c *live.Call, prefilled bool, drift float64) string {
	details := detailsJSON(body.Parameters.Details, finish, c.Seen(), c)
	if body.Parameters.Details {
		prefill, tokens := tokensOf(body.Inputs, text, prefilled && body.Parameters.InputDetails, drift)
		for name, list := range map[string][]token{"prefill": prefill, "tokens": tokens} {
			raw, err := json.Marshal(list)
			if err != nil {
				panic(err) // numbers and texts alone
			}
			details = strings.Replace(details, `"`+name+`":[]`, `"`+name+`":`+string(raw), 1)
		}
	}
	return fmt.Sprintf(`{"generated_text":%q,"details":%s}`, text, details)
}

// frames builds the events of an OpenAI-compatible stream.
func frames(q wire.Request, model string, created int64, c *live.Call) wire.Frames {
	object := "text_completion"
	if q.Chat {
		object = "chat.completion.chunk"
	}
	lead := `data: {"object":"` + object + `","id":"","created":` + strconv.FormatInt(created, 10) + `,"model":` + strconv.Quote(model) +
		`,"system_fingerprint":"` + fingerprint + `","choices":[`
	const end = `,"usage":null}` + "\n\n"
	f := wire.Frames{Head: lead + `{"index":0,"text":"`, Tail: `","logprobs":null,"finish_reason":""}]}` + "\n\n"}
	f.LastTail = func(finish string) string {
		return `","logprobs":null,"finish_reason":"` + finishReason(finish) + `"}]}` + "\n\n"
	}
	if q.Chat {
		f.Head, f.Tail = lead+`{"index":0,"delta":{"role":"assistant","content":"`, `"},"logprobs":null,"finish_reason":null}]`+end
		f.LastTail = func(finish string) string {
			return `"},"logprobs":null,"finish_reason":"` + finish + `"}]` + end
		}
	}
	f.End = func(string) string {
		if !q.IncludeUsage {
			return "data: [DONE]\n\n"
		}
		return lead + `],"usage":` + usage(c, c.Seen()) + "}\n\ndata: [DONE]\n\n"
	}
	return f
}

// answer is the body of an OpenAI-compatible request that was not streamed.
func answer(q wire.Request, model string, created int64, text, finish string, c *live.Call) string {
	object, body := "text_completion", `"text":`+strconv.Quote(text)
	if q.Chat {
		object, body = "chat.completion", `"message":{"role":"assistant","content":`+strconv.Quote(text)+`}`
	} else {
		finish = finishReason(finish)
	}
	return fmt.Sprintf(`{"object":%q,"id":"","created":%d,"model":%q,"system_fingerprint":%q,"choices":[{"index":0,%s,"logprobs":null,"finish_reason":%q}],"usage":%s}`,
		object, created, model, fingerprint, body, finish, usage(c, c.Seen()))
}
