package tgi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

// version that the simulated server reports.
const version = "3.3.7"

// commentEvery is how much silence a stream bears before a comment is written.
const commentEvery = 15 * time.Second

type server struct {
	set     *settings
	engine  *live.Engine
	metrics *metrics
	output  live.Output
	lost    atomic.Bool // the shard is gone
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	mux.HandleFunc("GET /health", ok)
	mux.HandleFunc("GET /ping", ok)
	mux.HandleFunc("GET /info", s.info)
	mux.HandleFunc("GET /{$}", s.info)
	mux.HandleFunc("GET /metrics", s.metrics.serve(s.engine))
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("POST /{$}", s.authorised(s.either))
	mux.HandleFunc("POST /generate", s.authorised(s.native(false)))
	mux.HandleFunc("POST /generate_stream", s.authorised(s.native(true)))
	mux.HandleFunc("POST /v1/completions", s.authorised(s.openAI(false)))
	mux.HandleFunc("POST /v1/chat/completions", s.authorised(s.openAI(true)))
	return mux
}

func (s *server) authorised(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.set.apiKey != "" && r.Header.Get("Authorization") != "Bearer "+s.set.apiKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (s *server) info(w http.ResponseWriter, _ *http.Request) {
	wire.JSON(w, http.StatusOK, map[string]any{
		"model_id": s.set.model, "model_sha": nil, "model_pipeline_tag": "text-generation", "max_concurrent_requests": s.set.concurrent,
		"max_best_of": s.set.args.Int("max-best-of", 2), "max_stop_sequences": s.set.args.Int("max-stop-sequences", 4),
		"max_input_tokens": s.set.maxInput, "max_total_tokens": s.set.maxTotal, "validation_workers": s.set.workers,
		"max_client_batch_size": s.set.args.Int("max-client-batch-size", 4), "router": "text-generation-router", "version": version,
		"sha": nil, "docker_label": nil,
	})
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	wire.JSON(w, http.StatusOK, map[string]any{"object": "list", "data": []map[string]any{{
		"id": s.set.model, "object": "model", "created": 0, "owned_by": s.set.model,
	}}})
}

// parameters of the native routes.
type parameters struct {
	Inputs     string `json:"inputs"`
	Stream     bool   `json:"stream"`
	Parameters struct {
		MaxNewTokens *int `json:"max_new_tokens"`
		Details      bool `json:"details"`
		InputDetails bool `json:"decoder_input_details"`
		IgnoreEOS    bool `json:"ignore_eos_token"`
	} `json:"parameters"`
}

func (s *server) either(w http.ResponseWriter, r *http.Request) { s.generate(w, r, nil) }

func (s *server) native(stream bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, &stream) }
}

func (s *server) generate(w http.ResponseWriter, r *http.Request, stream *bool) {
	var body parameters
	if err := wire.Decode(r, &body); err != nil {
		s.unreadable(w, err.Error())
		return
	}
	if stream != nil {
		body.Stream = *stream
	}
	q := wire.Request{Stream: body.Stream, IgnoreEOS: body.Parameters.IgnoreEOS, Parts: []string{body.Inputs}}
	if n := body.Parameters.MaxNewTokens; n != nil {
		if q.MaxTokens = *n; *n == 0 {
			q.MaxTokens = -1 // 0 stands for none asked
		}
	}
	s.run(w, r, generation{
		request: q,
		frames:  func(c *live.Call) wire.Frames { return nativeFrames(c, body.Parameters.Details) },
		body: func(c *live.Call, text, finish string) string {
			return wholeAnswer(body, text, finish, c, s.set.args.Bool("enable-prefill-logprobs", false), s.set.drift)
		},
		event: func(text, kind string) any { return map[string]string{"error": text, "error_type": kind} },
	})
}

func (s *server) openAI(chat bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := wire.Read(r, chat)
		if err != nil {
			s.unreadable(w, err.Error())
			return
		}
		s.metrics.counted()
		created := time.Now().Unix()
		s.run(w, r, generation{
			request: q,
			frames:  func(c *live.Call) wire.Frames { return frames(q, s.set.model, created, c) },
			body: func(c *live.Call, text, finish string) string {
				return answer(q, s.set.model, created, text, finish, c)
			},
			event: func(text, _ string) any {
				return map[string]any{"error": map[string]any{"message": text, "http_status_code": http.StatusUnprocessableEntity}}
			},
		})
	}
}

// generation is one request with its way to be answered.
type generation struct {
	request wire.Request
	frames  func(*live.Call) wire.Frames
	body    func(c *live.Call, text, finish string) string
	event   func(text, kind string) any // an error in a stream
}

// unreadable answers a body that is no request at all.
func (s *server) unreadable(w http.ResponseWriter, text string) {
	s.metrics.failed("validation")
	wire.JSON(w, http.StatusUnprocessableEntity, map[string]string{"error": "Input validation error: " + text, "error_type": "validation"})
}

// fail answers a request that is not served. A streamed one gets status 200 with an error event:
// whoever looks at the status alone sees a success.
func (s *server) fail(w http.ResponseWriter, g generation, status int, kind, text string) {
	s.metrics.failed(kind)
	if !g.request.Stream {
		wire.JSON(w, status, map[string]string{"error": text, "error_type": kind})
		return
	}
	wire.Begin(w)
	g.write(w, text, kind)
}

// write writes an error into a stream that has begun.
func (g generation) write(w io.Writer, text, kind string) {
	b, err := json.Marshal(g.event(text, kind))
	if err != nil {
		panic(err) // texts alone
	}
	fmt.Fprintf(w, "data: %s\n\n", b)
}

// crash ends an answer whose shard is gone.
func (s *server) crash(w http.ResponseWriter, g generation) {
	const kind, text = "generation", "Request failed during generation: Server error: transport error"
	if !g.request.Stream {
		s.fail(w, g, http.StatusFailedDependency, kind, text)
		return
	}
	s.metrics.failed(kind)
	g.write(w, text, kind)
}

func (s *server) invalid(w http.ResponseWriter, g generation, text string) {
	s.fail(w, g, http.StatusUnprocessableEntity, "validation", "Input validation error: "+text)
}

func (s *server) run(w http.ResponseWriter, r *http.Request, g generation) {
	began := time.Now()
	s.metrics.counted()
	prompt := g.request.Prompt(s.set.core.BlockSize)
	prompt.Drift = s.set.drift
	limit := g.request.MaxTokens
	if limit == 0 {
		limit = max(s.set.maxTotal-prompt.Tokens, 1)
	}
	switch {
	case limit < 0:
		s.invalid(w, g, "`max_new_tokens` must be strictly positive")
		return
	case prompt.Tokens == 0:
		s.invalid(w, g, "`inputs` cannot be empty")
		return
	case prompt.Tokens > s.set.maxInput:
		s.invalid(w, g, fmt.Sprintf("`inputs` must have less than %d tokens. Given: %d", s.set.maxInput, prompt.Tokens))
		return
	case prompt.Tokens+limit > s.set.maxTotal:
		s.invalid(w, g, fmt.Sprintf("`inputs` tokens + `max_new_tokens` must be <= %d. Given: %d `inputs` tokens and %d `max_new_tokens`", s.set.maxTotal, prompt.Tokens, limit))
		return
	}
	output, finish := g.request.Output(prompt, limit)
	call, err := s.engine.Submit(live.Request{Streamed: g.request.Stream, Request: des.Request{
		PromptTokens: prompt.Tokens, OutputTokens: output, MaxNewTokens: limit, PrefixHashes: prompt.Hashes,
	}})
	if err != nil {
		s.refuse(w, g, err)
		return
	}
	s.metrics.valid(limit, prompt.Tokens, time.Since(began))
	a := wire.Answer{Call: call, Finish: finish, Word: func(n int) string { return prompt.Word(n, s.output) }}
	if err := s.reply(r.Context(), w, g, a); err != nil {
		s.engine.Cancel(call)
		switch {
		case errors.Is(err, live.ErrStopped) && s.lost.Load():
			s.crash(w, g)
		case errors.Is(err, live.ErrStopped):
			panic(http.ErrAbortHandler) // the router was killed under its clients
		}
	}
}

// refuse answers a request that the engine did not take.
func (s *server) refuse(w http.ResponseWriter, g generation, err error) {
	if errors.Is(err, des.ErrOverloaded) {
		s.fail(w, g, http.StatusTooManyRequests, "overloaded", "Model is overloaded")
		return
	}
	s.invalid(w, g, err.Error())
}

func (s *server) reply(ctx context.Context, w http.ResponseWriter, g generation, a wire.Answer) error {
	h := w.Header()
	h["x-compute-type"] = []string{strconv.Itoa(s.set.layout.TP) + "-simulated"}
	if g.request.Stream {
		h["x-accel-buffering"] = []string{"no"}
		wire.Begin(w)
		return wire.Stream(ctx, w, a, g.frames(a.Call), wire.Pace{Interval: 1, Single: true, KeepAlive: commentEvery})
	}
	text, err := wire.Collect(ctx, a)
	if err != nil {
		return err
	}
	timings(h, a.Call)
	h.Set("Content-Type", "application/json")
	_, err = w.Write([]byte(g.body(a.Call, text, a.Finish)))
	return err
}

// timings are the headers that split a request's time, in whole milliseconds.
func timings(h http.Header, c *live.Call) {
	ms := func(d time.Duration) []string { return []string{strconv.FormatInt(d.Milliseconds(), 10)} }
	inference := c.LastToken - c.Admitted
	h["x-total-time"] = ms(c.LastToken - c.Arrived)
	h["x-validation-time"] = ms(0)
	h["x-queue-time"] = ms(c.Queued())
	h["x-inference-time"] = ms(inference)
	h["x-time-per-token"] = ms(inference / time.Duration(max(c.Tokens, 1)))
	h["x-compute-time"] = []string{strconv.FormatFloat((c.LastToken - c.Arrived).Seconds(), 'f', 6, 64)}
	h["x-prompt-tokens"] = []string{strconv.Itoa(c.PromptTokens)}
	h["x-generated-tokens"] = []string{strconv.Itoa(c.Tokens)}
}
