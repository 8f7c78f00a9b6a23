package sglang

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

func usage(c *live.Call, completion int) string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":null,"reasoning_tokens":0}`,
		c.PromptTokens, c.PromptTokens+completion, completion)
}

// frames builds the events of an OpenAI-compatible stream: a role event of its own before the first
// token of a chat, and a finish event of its own after its last.
func frames(q wire.Request, id, model string, created int64, call *live.Call) wire.Frames {
	object := "text_completion"
	if q.Chat {
		object = "chat.completion.chunk"
	}
	lead := `data: {"id":"` + id + `","object":"` + object + `","created":` + strconv.FormatInt(created, 10) +
		`,"model":` + strconv.Quote(model) + `,"choices":[`
	const end = `,"usage":null}` + "\n\n"
	delta := func(role, content, finish string) string {
		return lead + `{"index":0,"delta":{"role":` + role + `,"content":` + content + `,"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":` +
			finish + `,"matched_stop":null}]` + end
	}
	f := wire.Frames{
		Head: lead + `{"index":0,"text":"`, Tail: `","logprobs":null,"finish_reason":null,"matched_stop":null}]` + end,
		LastTail: func(finish string) string {
			return `","logprobs":null,"finish_reason":"` + finish + `","matched_stop":null}]` + end
		},
	}
	finishEvent := func(string) string { return "" }
	if q.Chat {
		f.First = delta(`"assistant"`, `""`, "null")
		head, tail, _ := strings.Cut(delta("null", `"@"`, "null"), "@")
		f.Head, f.Tail = head, tail
		f.LastTail = func(string) string { return tail }
		finishEvent = func(finish string) string { return delta("null", "null", `"`+finish+`"`) }
	}
	f.End = func(finish string) string {
		s := finishEvent(finish)
		if q.IncludeUsage {
			s += lead + `],"usage":` + usage(call, call.Seen()) + "}\n\n"
		}
		return s + "data: [DONE]\n\n"
	}
	if q.ContinuousUsage {
		f.Token = counted(f, call)
	}
	return f
}

// counted puts the running usage into each token's event.
func counted(f wire.Frames, call *live.Call) func([]byte, int, string, string) []byte {
	return func(b []byte, n int, text, last string) []byte {
		tail := f.Tail
		if last != "" {
			tail = f.LastTail(last)
		}
		return append(b, f.Head+text+strings.Replace(tail, `"usage":null`, `"usage":`+usage(call, n), 1)...)
	}
}

// answer is the body of an OpenAI-compatible request that was not streamed.
func answer(q wire.Request, id, model string, created int64, text, finish string, c *live.Call) string {
	object, body := "text_completion", `"text":`+strconv.Quote(text)
	if q.Chat {
		object, body = "chat.completion", `"message":{"role":"assistant","content":`+strconv.Quote(text)+`,"reasoning_content":null,"tool_calls":null}`
	}
	return fmt.Sprintf(`{"id":%q,"object":%q,"created":%d,"model":%q,"choices":[{"index":0,%s,"logprobs":null,"finish_reason":%q,"matched_stop":null}],"usage":%s,"metadata":{"weight_version":"default"}}`,
		id, object, created, model, body, finish, usage(c, c.Seen()))
}

// native is one object of /generate.
func native(id, text, finish string, n int, c *live.Call) string {
	reason := "null"
	if finish != "" {
		reason = fmt.Sprintf(`{"type":%q,"length":%d}`, finish, n)
	}
	return fmt.Sprintf(`{"text":%q,"meta_info":{"id":%q,"finish_reason":%s,"prompt_tokens":%d,"weight_version":"default","completion_tokens":%d,"cached_tokens":%d}}`,
		text, id, reason, c.PromptTokens, n, c.Cached)
}

// nativeFrames streams /generate: the text so far in each event, or only what is new.
func nativeFrames(id string, c *live.Call, incremental bool) wire.Frames {
	var sofar strings.Builder
	return wire.Frames{
		Token: func(b []byte, n int, text, last string) []byte {
			if !incremental {
				sofar.WriteString(text)
				text = sofar.String()
			}
			return append(b, "data: "+native(id, text, last, n, c)+"\n\n"...)
		},
		End: func(string) string { return "data: [DONE]\n\n" },
	}
}
