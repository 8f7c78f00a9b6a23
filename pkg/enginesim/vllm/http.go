package vllm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

// version that the simulated server reports.
const version = "0.32.0"

type server struct {
	set      *settings
	engine   *live.Engine
	metrics  *metrics
	output   live.Output
	created  int64
	inFlight atomic.Int64
	draining atomic.Bool
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	mux.HandleFunc("GET /health", ok)
	mux.HandleFunc("/ping", ok)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		wire.JSON(w, http.StatusOK, map[string]string{"version": version})
	})
	mux.HandleFunc("GET /metrics", s.metrics.serve(s.engine))
	mux.HandleFunc("GET /load", func(w http.ResponseWriter, _ *http.Request) {
		load := int64(0)
		if s.set.trackLoad {
			load = s.inFlight.Load()
		}
		wire.JSON(w, http.StatusOK, map[string]int64{"server_load": load})
	})
	mux.HandleFunc("GET /v1/models", s.authorised(s.models))
	mux.HandleFunc("POST /tokenize", s.tokenize)
	mux.HandleFunc("POST /v1/completions", s.api("/v1/completions", s.generate(false)))
	mux.HandleFunc("POST /v1/chat/completions", s.api("/v1/chat/completions", s.generate(true)))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		wire.JSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
	})
	return mux
}

func (s *server) authorised(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if len(s.set.apiKeys) > 0 && !slices.Contains(s.set.apiKeys, key) {
			wire.JSON(w, http.StatusUnauthorized, map[string]string{"error": "Unauthorized"})
			return
		}
		next(w, r)
	}
}

// api wraps a generation route: key, load count, and the HTTP server's own metrics.
func (s *server) api(route string, next http.HandlerFunc) http.HandlerFunc {
	return s.authorised(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		began := time.Now()
		rec := wire.Record(w)
		next(rec, r)
		s.metrics.http(route, r, rec.Status, time.Since(began))
	})
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		ID      string  `json:"id"`
		Object  string  `json:"object"`
		Created int64   `json:"created"`
		Owner   string  `json:"owned_by"`
		Root    string  `json:"root"`
		Parent  *string `json:"parent"`
		MaxLen  int     `json:"max_model_len"`
	}
	list := []model{}
	for _, name := range s.set.served {
		list = append(list, model{name, "model", s.created, "vllm", s.set.model, nil, s.set.core.MaxModelLen})
	}
	wire.JSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt string `json:"prompt"`
	}
	if err := wire.Decode(r, &body); err != nil {
		fail(w, http.StatusBadRequest, "BadRequestError", err.Error())
		return
	}
	n := sim.ReadPrompt(0, body.Prompt).Tokens
	tokens := make([]int, n)
	for i := range tokens {
		tokens[i] = i + 1
	}
	wire.JSON(w, http.StatusOK, map[string]any{"count": n, "max_model_len": s.set.core.MaxModelLen, "tokens": tokens, "token_strs": nil})
}

// fail writes an error as the OpenAI-compatible routes do.
func fail(w http.ResponseWriter, code int, kind, text string) {
	wire.JSON(w, code, map[string]any{"error": map[string]any{"message": text, "type": kind, "param": nil, "code": code}})
}

func (s *server) generate(chat bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := wire.Read(r, chat)
		if err != nil {
			fail(w, http.StatusBadRequest, "BadRequestError", err.Error())
			return
		}
		if q.Model != "" && !slices.Contains(s.set.served, q.Model) {
			fail(w, http.StatusNotFound, "NotFoundError", fmt.Sprintf("The model `%s` does not exist.", q.Model))
			return
		}
		if s.draining.Load() {
			fail(w, http.StatusInternalServerError, "InternalServerError", "cannot schedule new futures after shutdown")
			return
		}
		q.IncludeUsage = q.IncludeUsage || s.set.forceUsage
		s.run(w, r, q)
	}
}

// limit is how many tokens may be generated, or an error text when the context is too short.
func (s *server) limit(q wire.Request, prompt sim.Prompt) (int, string) {
	room := s.set.core.MaxModelLen - prompt.Tokens
	n := q.MaxTokens
	switch {
	case n == 0 && q.Chat:
		n = max(room, 1)
	case n == 0:
		n = 16
	}
	if prompt.Tokens == 0 {
		return 0, "The decoder prompt cannot be empty"
	}
	if room < n {
		return 0, fmt.Sprintf("This model's maximum context length is %d tokens. However, you requested %d output tokens and your prompt contains at least %d input tokens, for a total of at least %d tokens. "+
			"Please reduce the length of the input prompt or the number of requested output tokens.", s.set.core.MaxModelLen, n, prompt.Tokens, prompt.Tokens+n)
	}
	return n, ""
}

func (s *server) run(w http.ResponseWriter, r *http.Request, q wire.Request) {
	prompt := q.Prompt(s.set.core.BlockSize)
	limit, problem := s.limit(q, prompt)
	if problem != "" {
		fail(w, http.StatusBadRequest, "BadRequestError", problem)
		return
	}
	output, finish := q.Output(prompt, limit)
	call, err := s.engine.Submit(live.Request{Streamed: q.Stream, Request: des.Request{
		PromptTokens: prompt.Tokens, OutputTokens: output, MaxNewTokens: limit, PrefixHashes: prompt.Hashes,
	}})
	if err != nil {
		s.refuse(w, err)
		return
	}
	a := wire.Answer{Call: call, Finish: finish, Word: func(n int) string { return prompt.Word(n, s.output) }}
	if err := s.reply(w, r.Context(), q, a); err != nil {
		s.engine.Cancel(call)
		if errors.Is(err, live.ErrStopped) {
			panic(http.ErrAbortHandler) // the real server's sockets close under the client
		}
	}
}

func (s *server) refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, des.ErrQueueFull):
		s.metrics.rejected()
		fail(w, http.StatusServiceUnavailable, "ServiceUnavailableError", "The server is overloaded: the request queue is full (max_num_queued_reqs). Please retry later.")
	case errors.Is(err, live.ErrStopped):
		fail(w, http.StatusInternalServerError, "InternalServerError", "cannot schedule new futures after shutdown")
	default:
		fail(w, http.StatusBadRequest, "BadRequestError", err.Error())
	}
}

func (s *server) reply(w http.ResponseWriter, ctx context.Context, q wire.Request, a wire.Answer) error {
	id, created := "cmpl-", time.Now().Unix()
	if q.Chat {
		id = "chatcmpl-"
	}
	id += fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	model := q.Model
	if model == "" {
		model = s.set.served[0]
	}
	counts := func() usage {
		return usage{Prompt: a.Call.PromptTokens, Completion: a.Call.Seen(), Total: a.Call.PromptTokens + a.Call.Seen()}
	}
	if q.Stream {
		wire.Begin(w)
		pace := wire.Pace{Interval: s.set.stream, KeepAlive: time.Duration(s.set.keepAlive) * time.Second}
		return wire.Stream(ctx, w, a, frames(q, id, model, created, counts), pace)
	}
	text, err := wire.Collect(ctx, a)
	if err == nil {
		wire.JSON(w, http.StatusOK, answer(q, id, model, created, text, a.Finish, counts()))
	}
	return err
}
