package vllm

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// state of the server; /health does not show it.
type state int32

const (
	serving  state = iota
	draining       // newcomers are aborted while older requests finish
	closed         // newcomers are refused, until the process has ended
)

// aborted is the finish reason of a request that the engine ended.
const aborted = "abort"

type server struct {
	set      *settings
	engine   *live.Engine
	metrics  *metrics
	output   live.Output
	created  int64
	inFlight atomic.Int64
	state    atomic.Int32
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
	mux.HandleFunc("POST /v1/completions", s.api(s.generate(false)))
	mux.HandleFunc("POST /v1/chat/completions", s.api(s.generate(true)))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		wire.JSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
	})
	return s.counted(mux)
}

// unmeasured paths are left out of the HTTP server's own metrics.
var unmeasured = []string{"/health", "/ping", "/version", "/metrics", "/load"}

// counted keeps the HTTP server's metrics, and refuses methods as FastAPI does.
func (s *server) counted(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(unmeasured, r.URL.Path) {
			mux.ServeHTTP(w, r)
			return
		}
		route, began, rec := "none", time.Now(), wire.Record(w)
		if _, pattern := mux.Handler(r); pattern != "/" {
			route = r.URL.Path
		}
		if route == "none" && slices.Contains(posted, r.URL.Path) {
			wire.JSON(rec, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
		} else {
			mux.ServeHTTP(rec, r)
		}
		s.metrics.http(route, r, rec.Status, time.Since(began))
	})
}

// posted are the paths that take POST alone.
var posted = []string{"/tokenize", "/v1/completions", "/v1/chat/completions"}

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

// api wraps a generation route: key and load count.
func (s *server) api(next http.HandlerFunc) http.HandlerFunc {
	return s.authorised(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		next(w, r)
	})
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	type permission struct {
		ID          string  `json:"id"`
		Object      string  `json:"object"`
		Created     int64   `json:"created"`
		CreateEng   bool    `json:"allow_create_engine"`
		Sampling    bool    `json:"allow_sampling"`
		Logprobs    bool    `json:"allow_logprobs"`
		SearchIndex bool    `json:"allow_search_indices"`
		View        bool    `json:"allow_view"`
		FineTuning  bool    `json:"allow_fine_tuning"`
		Org         string  `json:"organization"`
		Group       *string `json:"group"`
		Blocking    bool    `json:"is_blocking"`
	}
	type model struct {
		ID      string       `json:"id"`
		Object  string       `json:"object"`
		Created int64        `json:"created"`
		Owner   string       `json:"owned_by"`
		Root    string       `json:"root"`
		Parent  *string      `json:"parent"`
		MaxLen  int          `json:"max_model_len"`
		Permits []permission `json:"permission"`
	}
	permits := []permission{{ID: fmt.Sprintf("modelperm-%016x", rand.Uint64()), Object: "model_permission", Created: s.created, Sampling: true, Logprobs: true, View: true, Org: "*"}}
	list := []model{}
	for _, name := range s.set.served {
		list = append(list, model{name, "model", s.created, "vllm", s.set.model, nil, s.set.core.MaxModelLen, permits})
	}
	wire.JSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt string `json:"prompt"`
	}
	if err := wire.Decode(r, &body); err != nil {
		bad(w, err)
		return
	}
	n := sim.ReadPrompt(0, body.Prompt).Tokens
	tokens := make([]int, n)
	for i := range tokens {
		tokens[i] = i + 1
	}
	wire.JSON(w, http.StatusOK, map[string]any{"count": n, "max_model_len": s.set.core.MaxModelLen, "tokens": tokens, "token_strs": nil})
}

// fail writes an error as the OpenAI-compatible routes do; param is nil or the name of a field.
func fail(w http.ResponseWriter, code int, kind string, param any, text string) {
	wire.JSON(w, code, map[string]any{"error": map[string]any{"message": text, "type": kind, "param": param, "code": code}})
}

// bad answers a request that cannot be read.
func bad(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*wire.BodyError](err)
	switch {
	case !ok:
		fail(w, http.StatusBadRequest, "BadRequestError", nil, err.Error())
	case e.Field == "":
		at := fmt.Sprintf("body.%d", e.At)
		fail(w, http.StatusBadRequest, "Bad Request", at, fmt.Sprintf("1 validation error:\n  {'type': 'json_invalid', 'loc': '%s', 'msg': 'JSON decode error'}", at))
	case e.Field == "max_tokens":
		fail(w, http.StatusBadRequest, "BadRequestError", e.Field, fmt.Sprintf("%s. (parameter=max_tokens, value=%d)", e.Text, e.Value))
	case e.Field == "prompt":
		fail(w, http.StatusBadRequest, "BadRequestError", e.Field, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)")
	default:
		fail(w, http.StatusBadRequest, "BadRequestError", e.Field, e.Text)
	}
}

func (s *server) generate(chat bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := wire.Read(r, chat)
		if err != nil {
			bad(w, err)
			return
		}
		if q.Model != "" && !slices.Contains(s.set.served, q.Model) {
			fail(w, http.StatusNotFound, "NotFoundError", "model", fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", q.Model, strings.Join(s.set.served, ", ")))
			return
		}
		q.IncludeUsage = q.IncludeUsage || s.set.forceUsage
		switch state(s.state.Load()) {
		case draining:
			s.abort(w, q)
			return
		case closed:
			fail(w, http.StatusInternalServerError, "InternalServerError", nil, "cannot schedule new futures after shutdown")
			return
		}
		s.run(w, r, q)
	}
}

// limit is how many tokens may be generated: as many as the context has room for. The error text says
// that it has none; the parameter at fault comes with it.
func (s *server) limit(q wire.Request, prompt sim.Prompt) (n int, text string, param any) {
	room := s.set.core.MaxModelLen - prompt.Tokens
	n = q.MaxTokens
	switch {
	case n == 0 && q.Chat:
		n = max(room, 1)
	case n == 0:
		n = 16
	}
	if prompt.Tokens == 0 {
		return 0, "The decoder prompt cannot be empty", nil
	}
	if room < 1 {
		return 0, fmt.Sprintf("This model's maximum context length is %d tokens. However, your prompt contains %d input tokens, which exceeds this limit even without any output tokens. "+
			"Please reduce the length of the input prompt. (parameter=input_tokens, value=%d)", s.set.core.MaxModelLen, prompt.Tokens, prompt.Tokens), "input_tokens"
	}
	return min(n, room), "", nil
}

// abort answers a newcomer while older requests finish: with status 200 and no token.
func (s *server) abort(w http.ResponseWriter, q wire.Request) {
	prompt := q.Prompt(s.set.core.BlockSize)
	id, model := s.name(q)
	counts := usage{Prompt: prompt.Tokens, Total: prompt.Tokens}
	if !q.Stream {
		wire.JSON(w, http.StatusOK, answer(q, id, model, time.Now().Unix(), "", aborted, counts))
		return
	}
	wire.Begin(w)
	f := frames(q, id, model, time.Now().Unix(), func() usage { return counts })
	io.WriteString(w, f.First+f.Head+f.LastTail(aborted)+f.End(aborted))
}

// name makes an answer's id, and tells the model's name in it.
func (s *server) name(q wire.Request) (id, model string) {
	id, model = "cmpl-", q.Model
	if q.Chat {
		id = "chatcmpl-"
	}
	if model == "" {
		model = s.set.served[0]
	}
	return id + fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), model
}

func (s *server) run(w http.ResponseWriter, r *http.Request, q wire.Request) {
	prompt := q.Prompt(s.set.core.BlockSize)
	prompt.Drift = s.set.drift
	limit, problem, param := s.limit(q, prompt)
	if problem != "" {
		fail(w, http.StatusBadRequest, "BadRequestError", param, problem)
		return
	}
	if s.set.maxQueued > 0 && s.engine.InFlight() >= s.set.maxQueued {
		s.metrics.rejected()
		fail(w, http.StatusServiceUnavailable, "Service Unavailable", nil, "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.")
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
	case errors.Is(err, live.ErrStopped):
		fail(w, http.StatusInternalServerError, "InternalServerError", nil, "cannot schedule new futures after shutdown")
	default:
		fail(w, http.StatusBadRequest, "BadRequestError", nil, err.Error())
	}
}

func (s *server) reply(w http.ResponseWriter, ctx context.Context, q wire.Request, a wire.Answer) error {
	id, model := s.name(q)
	created := time.Now().Unix()
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
		c := answer(q, id, model, created, text, a.Finish, counts())
		c.Choices[0].tell(q, text, s.set.drift)
		wire.JSON(w, http.StatusOK, c)
	}
	return err
}
