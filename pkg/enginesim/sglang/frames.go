package sglang

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
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
	return fmt.Sprintf(`{"id":%q,"object":%q,"created":%d,"model":%q,"choices":[{"index":0,%s,"logprobs":null,"finish_reason":%q,"matched_stop":null}],"usage":%s,"metadata":{"weight_version":"default","weight_versions":[{"version":"default","start":0,"end":0}]}}`,
		id, object, created, model, body, finish, usage(c, c.Seen()))
}

// meta is what /generate tells about a request: the parts of its time once they are known, in seconds.
type meta struct {
	ID           string        `json:"id"`
	Finish       *finishReason `json:"finish_reason"`
	Prompt       int           `json:"prompt_tokens"`
	Completion   int           `json:"completion_tokens"`
	Reasoning    int           `json:"reasoning_tokens"`
	Cached       int           `json:"cached_tokens"`
	Retractions  int           `json:"num_retractions"`
	Weights      string        `json:"weight_version"`
	Queued       float64       `json:"queue_time"`
	Prefetched   float64       `json:"storage_prefetch_wait"`
	Staged       float64       `json:"storage_staging_wait"`
	Entered      float64       `json:"forward_entry_time"`    // since the start of the engine
	PrefillEnded float64       `json:"prefill_finished_time"` // as well
	Sent         float64       `json:"response_sent_to_client_ts,omitempty"`
	*whole
	*logprobs
}

// logprobs are lists of [log-probability, token, null]; the first token of an input has none.
type logprobs struct {
	Input  [][]any `json:"input_token_logprobs"`
	Output [][]any `json:"output_token_logprobs"`
}

// tokenLogprobs tells them of the input from a position on, of nothing when that is −1 or not given,
// and of the output.
func tokenLogprobs(input, output []int, from *int, drift float64) *logprobs {
	all := append(slices.Clone(input), output...)
	row := func(k int, values []float64) []any {
		if k == 0 {
			return []any{nil, all[0], nil}
		}
		return []any{values[k-1], all[k], nil}
	}
	l, values := &logprobs{Input: [][]any{}, Output: [][]any{}}, sim.Logprobs(all, drift)
	for k := range all {
		switch {
		case k >= len(input):
			l.Output = append(l.Output, row(k, values))
		case from != nil && *from >= 0 && k >= *from:
			l.Input = append(l.Input, row(k, values))
		}
	}
	return l
}

// whole is what only the last answer of a request tells.
type whole struct {
	Received   float64          `json:"request_received_ts"`
	Dispatched float64          `json:"api_server_dispatch_finish_ts"`
	Finished   float64          `json:"request_finished_ts"`
	Latency    float64          `json:"e2e_latency"`
	First      float64          `json:"first_token_latency"`
	Decoded    float64          `json:"decode_throughput"` // tokens per second
	Versions   []map[string]any `json:"weight_versions"`
}

type finishReason struct {
	Type   string `json:"type"`
	Length int    `json:"length"`
}

// native is one object of /generate after n tokens: it shows those after the first told ones. finish is
// empty but for the last.
func native(id, text, finish string, told, n int, c *live.Call, l *logprobs) string {
	now := float64(time.Now().UnixMicro()) / 1e6
	m := meta{
		ID: id, Prompt: c.PromptTokens, Completion: n, Cached: c.Cached, Weights: "default",
		Queued: c.Queued().Seconds(), Entered: c.Admitted.Seconds(), PrefillEnded: c.FirstToken.Seconds(),
	}
	m.logprobs = l
	if n == 1 || finish != "" {
		m.Sent = now
	}
	if finish != "" {
		took, first := c.LastToken-c.Arrived, c.FirstToken-c.Arrived
		m.Finish = &finishReason{finish, n}
		m.Retractions = c.Preemptions
		m.whole = &whole{
			Received: now - took.Seconds(), Dispatched: now - took.Seconds(), Finished: now, Latency: took.Seconds(), First: first.Seconds(),
			Decoded: float64(n) / max(took-first, time.Millisecond).Seconds(), Versions: []map[string]any{{"version": "default", "start": 0, "end": n}},
		}
	}
	ids := make([]int, n-told)
	for i := range ids {
		ids[i] = firstID + told + i
	}
	b, err := json.Marshal(struct {
		Text string `json:"text"`
		IDs  []int  `json:"output_ids"`
		Meta meta   `json:"meta_info"`
	}{text, ids, m})
	if err != nil {
		panic(err) // numbers and texts alone
	}
	return string(b)
}

// firstID is the number of an answer's first token in /generate: the simulated model has no vocabulary.
const firstID = 100

// nativeFrames streams /generate: the text so far in each event, or only what is new.
func nativeFrames(id string, c *live.Call, incremental bool) wire.Frames {
	var sofar strings.Builder
	told := 0
	return wire.Frames{
		Token: func(b []byte, n int, text, last string) []byte {
			if !incremental {
				sofar.WriteString(text)
				text = sofar.String()
			}
			b = append(b, "data: "+native(id, text, last, told, n, c, nil)+"\n\n"...)
			if incremental {
				told = n
			}
			return b
		},
		End: func(string) string { return "data: [DONE]\n\n" },
	}
}
