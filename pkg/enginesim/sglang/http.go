package sglang

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
	"github.com/optiinfra/performance-agent/pkg/enginesim/wire"
)

// version that the simulated server reports.
const version = "0.5.23"

// Bounds of a health probe, which runs through the model.
const (
	healthSoonest = time.Second
	healthLimit   = 20 * time.Second
)

// state of the server as /health shows it.
type state int32

const (
	starting state = iota
	up
	draining
)

type server struct {
	set     *settings
	engine  *live.Engine
	metrics *metrics
	output  live.Output
	phases  []phase
	state   atomic.Int32
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	s.route(mux, "/health", false, s.health)
	s.route(mux, "/health_generate", false, s.health)
	for _, path := range []string{"/server_info", "/get_server_info"} {
		s.route(mux, path, true, s.serverInfo)
	}
	for _, path := range []string{"/model_info", "/get_model_info"} {
		s.route(mux, path, true, s.modelInfo)
	}
	s.route(mux, "/v1/loads", true, s.loads)
	s.route(mux, "/v1/models", true, s.models)
	s.route(mux, "/generate", true, s.native)
	s.route(mux, "/v1/completions", true, s.openAI(false))
	s.route(mux, "/v1/chat/completions", true, s.openAI(true))
	if s.set.metrics {
		s.route(mux, "/metrics", false, s.metrics.serve(s.engine))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		wire.JSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
	})
	return mux
}

// route adds a path with key check and the HTTP counters.
func (s *server) route(mux *http.ServeMux, path string, guarded bool, next http.HandlerFunc) {
	posted := path == "/generate" || strings.HasSuffix(path, "/completions")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if guarded && s.set.apiKey != "" && r.Header.Get("Authorization") != "Bearer "+s.set.apiKey {
			wire.JSON(w, http.StatusUnauthorized, map[string]string{"error": "Unauthorized"})
			return
		}
		if posted && r.Method != http.MethodPost && r.Method != http.MethodPut {
			wire.JSON(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
			return
		}
		labels := []string{"endpoint", path, "method", r.Method}
		active := s.metrics.of("http_requests_active", labels)
		s.metrics.of("http_requests_total", labels).Add(1)
		active.Add(1)
		defer active.Add(-1)
		rec := wire.Record(w)
		next(rec, r)
		s.metrics.of("http_responses_total", append(labels, "status_code", fmt.Sprint(rec.Status))).Add(1)
	})
}

// health runs one token through the model, or on a busy server waits for any output.
func (s *server) health(w http.ResponseWriter, r *http.Request) {
	if state(s.state.Load()) != up {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), healthLimit)
	defer cancel()
	soonest := time.NewTimer(healthSoonest)
	defer soonest.Stop()
	alive := s.alive(ctx)
	select {
	case <-soonest.C:
	case <-ctx.Done():
	}
	if !alive || state(s.state.Load()) != up {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (s *server) alive(ctx context.Context) bool {
	if before := s.engine.Stats(); before.Running+before.Waiting > 0 {
		return sim.Poll(ctx, 50*time.Millisecond, func() bool {
			now := s.engine.Stats()
			return now.GeneratedTokens > before.GeneratedTokens || now.Finished > before.Finished
		})
	}
	call, err := s.engine.Submit(live.Request{Internal: true, Request: des.Request{PromptTokens: 1, OutputTokens: 1}})
	if err != nil {
		return false
	}
	if _, err := wire.Collect(ctx, wire.Answer{Call: call, Word: func(int) string { return "" }}); err != nil {
		s.engine.Cancel(call)
		return false
	}
	return true
}

// failNative writes an error as /generate does.
func failNative(w http.ResponseWriter, text string) {
	wire.JSON(w, http.StatusBadRequest, map[string]any{"error": map[string]string{"message": text}})
}

// bad answers a request that cannot be read, in the words of SGLang's validation.
func bad(w http.ResponseWriter, err error) {
	kind, where, text := "value_error", "", err.Error()
	if e, ok := errors.AsType[*wire.BodyError](err); ok {
		switch where = e.Field; e.Field {
		case "":
			kind, text = "json_invalid", "JSON decode error"
		case "prompt":
			kind, text = "missing", "Field required"
		case "max_tokens":
			text = "Value error, max_tokens must be positive"
		}
	}
	fail(w, http.StatusBadRequest, "Bad Request", fmt.Sprintf("1 validation error:\n  {'type': '%s', 'loc': ('body', '%s'), 'msg': '%s'}", kind, where, text))
}

// warmUp is the request that every server sends to itself before it says that it serves.
func (s *server) warmUp(ctx context.Context) bool {
	call, err := s.engine.Submit(live.Request{Own: true, Request: des.Request{PromptTokens: 4, OutputTokens: 8}})
	if err != nil {
		return false
	}
	_, err = wire.Collect(ctx, wire.Answer{Call: call, Word: func(int) string { return "" }})
	return err == nil
}

// fail writes an error as the OpenAI-compatible routes do.
func fail(w http.ResponseWriter, code int, kind, text string) {
	wire.JSON(w, code, errorBody(code, kind, text))
}

func errorBody(code int, kind, text string) map[string]any {
	return map[string]any{"object": "error", "message": text, "type": kind, "param": nil, "code": code}
}

func newID() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

func (s *server) openAI(chat bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := wire.Read(r, chat)
		if err != nil {
			bad(w, err)
			return
		}
		if q.Model == "" {
			q.Model = s.set.served // any name is served
		}
		g := generation{request: q, prompt: q.Prompt(s.set.core.BlockSize), id: newID(), created: time.Now().Unix()}
		if q.MaxTokens == 0 {
			q.MaxTokens = 16
			if chat {
				q.MaxTokens = max(s.set.core.MaxModelLen-g.prompt.Tokens-1, 1)
			}
		}
		g.limit = q.MaxTokens
		g.frames = func(c *live.Call) wire.Frames { return frames(q, g.id, q.Model, g.created, c) }
		g.body = func(c *live.Call, text, finish string) string {
			return answer(q, g.id, q.Model, g.created, text, finish, c)
		}
		s.run(w, r, g)
	}
}

// native is /generate.
func (s *server) native(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Text     string `json:"text"`
		InputIDs []int  `json:"input_ids"`
		Stream   bool   `json:"stream"`
		Logprob  bool   `json:"return_logprob"`
		From     *int   `json:"logprob_start_len"`
		Sampling struct {
			MaxNewTokens int  `json:"max_new_tokens"`
			IgnoreEOS    bool `json:"ignore_eos"`
		} `json:"sampling_params"`
	}
	if err := wire.Decode(r, &body); err != nil {
		failNative(w, err.Error())
		return
	}
	q := wire.Request{Stream: body.Stream, IgnoreEOS: body.Sampling.IgnoreEOS, Parts: []string{body.Text}, Tokens: body.InputIDs}
	g := generation{request: q, prompt: q.Prompt(s.set.core.BlockSize), id: newID(), limit: body.Sampling.MaxNewTokens}
	if g.limit <= 0 {
		g.limit = 128
	}
	g.frames = func(c *live.Call) wire.Frames { return nativeFrames(g.id, c, s.set.incremental) }
	g.body = func(c *live.Call, text, finish string) string {
		var l *logprobs
		if body.Logprob {
			l = tokenLogprobs(sim.IDs(q.Parts, q.Tokens), sim.TokenIDs(text), body.From, s.set.drift)
		}
		return native(g.id, text, finish, 0, c.Seen(), c, l)
	}
	s.run(w, r, g)
}

// generation is one request with its way to be answered.
type generation struct {
	request wire.Request
	prompt  sim.Prompt
	limit   int
	id      string
	created int64 // 0 on the native route
	frames  func(*live.Call) wire.Frames
	body    func(c *live.Call, text, finish string) string
}

func (s *server) run(w http.ResponseWriter, r *http.Request, g generation) {
	if g.prompt.Tokens >= s.set.core.MaxModelLen {
		text := fmt.Sprintf("The input (%d tokens) is longer than the model's context length (%d tokens).", g.prompt.Tokens, s.set.core.MaxModelLen)
		if g.created == 0 {
			failNative(w, text)
			return
		}
		fail(w, http.StatusBadRequest, "BadRequestError", text)
		return
	}
	if total := g.prompt.Tokens + g.limit; g.prompt.Tokens == 0 || total > s.set.core.MaxModelLen {
		fail(w, http.StatusBadRequest, "BadRequestError", fmt.Sprintf("Requested token count exceeds the model's maximum context length of %d tokens. You requested a total of %d tokens: %d tokens from the input messages and %d tokens for the completion. "+
			"Please reduce the number of tokens in the input messages or the completion to fit within the limit.", s.set.core.MaxModelLen, total, g.prompt.Tokens, g.limit))
		return
	}
	g.prompt.Drift = s.set.drift
	output, finish := g.request.Output(g.prompt, g.limit)
	call, err := s.engine.Submit(live.Request{Streamed: g.request.Stream, Request: des.Request{
		PromptTokens: g.prompt.Tokens, OutputTokens: output, MaxNewTokens: g.limit, PrefixHashes: g.prompt.Hashes,
	}})
	if err != nil {
		s.refuse(w, g, err)
		return
	}
	a := wire.Answer{Call: call, Finish: finish, Word: func(n int) string { return g.prompt.Word(n, s.output) }}
	if err := s.reply(r.Context(), w, g, a); err != nil {
		s.engine.Cancel(call)
		if errors.Is(err, live.ErrStopped) {
			panic(http.ErrAbortHandler) // the process dies under its clients
		}
	}
}

func (s *server) reply(ctx context.Context, w http.ResponseWriter, g generation, a wire.Answer) error {
	if g.request.Stream {
		wire.Begin(w)
		return wire.Stream(ctx, w, a, g.frames(a.Call), wire.Pace{Interval: s.set.stream})
	}
	text, err := wire.Collect(ctx, a)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write([]byte(g.body(a.Call, text, a.Finish)))
	}
	return err
}

// refuse answers a request that the engine did not take. A streamed one gets status 200 with an error
// event: whoever looks at the status alone sees a success.
func (s *server) refuse(w http.ResponseWriter, g generation, err error) {
	code, kind, plain, text := http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "503", "The request queue is full."
	if !errors.Is(err, des.ErrQueueFull) {
		code, kind, plain, text = http.StatusBadRequest, "BadRequestError", "BadRequestError", err.Error()
	} else {
		s.metrics.of("num_aborted_requests_total", s.metrics.front()).Add(1)
	}
	if !g.request.Stream {
		fail(w, code, plain, text)
		return
	}
	wire.Begin(w)
	fmt.Fprintf(w, "data: {\"error\": {\"object\": \"error\", \"message\": %q, \"type\": %q, \"param\": null, \"code\": %d}}\n\n", text, kind, code)
	io.WriteString(w, g.ending())
}

// ending is what follows the error in a stream that was refused: the usage of nothing, if it was asked for.
func (g generation) ending() string {
	if g.created == 0 {
		return "data: [DONE]\n\n"
	}
	end := frames(g.request, g.id, g.request.Model, g.created, &live.Call{}).End("")
	if at := strings.LastIndex(end, `data: {`); at >= 0 && g.request.IncludeUsage {
		return end[at:]
	}
	return "data: [DONE]\n\n"
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	wire.JSON(w, http.StatusOK, map[string]any{"object": "list", "data": []map[string]any{{
		"id": s.set.served, "object": "model", "created": time.Now().Unix(), "owned_by": "sglang",
		"root": s.set.served, "parent": nil, "max_model_len": s.set.core.MaxModelLen,
	}}})
}

func (s *server) modelInfo(w http.ResponseWriter, _ *http.Request) {
	wire.JSON(w, http.StatusOK, map[string]any{
		"model_path": s.set.model, "tokenizer_path": s.set.model, "is_generation": true, "preferred_sampling_params": "", "weight_version": "default",
	})
}

func (s *server) loads(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	defer func() {
		s.metrics.of("get_loads_duration_seconds", s.metrics.front()).Observe(time.Since(began).Seconds())
	}()
	st := s.engine.Stats()
	perSecond, hits := s.metrics.interval()
	usage := float64(st.KVUsed) / float64(max(st.KVTotal, 1))
	if r.URL.Query().Get("format") == "prometheus" {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		var b strings.Builder
		gauge := func(name string, v float64) {
			fmt.Fprintf(&b, "# TYPE sglang_%s gauge\nsglang_%s{dp_rank=\"0\"} %g\n", name, name, v)
		}
		gauge("num_running_reqs", float64(st.Running))
		gauge("num_waiting_reqs", float64(st.Waiting))
		gauge("num_used_tokens", float64(st.KVUsed))
		gauge("max_total_num_tokens", float64(st.KVTotal))
		gauge("token_usage", usage)
		gauge("gen_throughput", perSecond)
		gauge("cache_hit_rate", hits)
		gauge("max_running_requests", float64(s.set.maxRunning))
		fmt.Fprint(w, b.String())
		return
	}
	now := time.Now()
	wire.JSON(w, http.StatusOK, map[string]any{
		"timestamp": now.UTC().Format(time.RFC3339Nano), "version": version, "num_accelerators": s.set.layout.TP * s.set.layout.PP,
		"loads": []map[string]any{{
			"dp_rank": 0, "timestamp": float64(now.UnixMicro()) / 1e6,
			"num_running_reqs": st.Running, "num_waiting_reqs": st.Waiting, "num_waiting_uncached_tokens": 0, "max_running_requests": s.set.maxRunning,
			"num_used_tokens": st.KVUsed, "num_active_tokens": st.KVUsed, "num_total_tokens": st.KVUsed, "num_prealloc_ready_tokens": 0, "max_total_num_tokens": st.KVTotal,
			"token_usage": usage, "gen_throughput": perSecond, "cache_hit_rate": hits, "utilization": float64(st.Running) / float64(max(s.set.maxRunning, 1)),
			"total_prefill_busy_us": 0, "total_prefill_uncached_tokens": st.ComputedTokens, "decode_moments": []float64{0, 0, 0},
			"memory": map[string]any{"weight_gb": gib(s.set.memory.WeightBytes), "kv_cache_gb": gib(s.set.memory.KVBytes), "graph_gb": gib(s.set.memory.GraphBytes), "token_capacity": st.KVTotal},
			"queues": map[string]int{"waiting": st.Waiting, "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
			"disaggregation": map[string]any{
				"mode": "null", "prefill_bootstrap_queue_reqs": 0, "prefill_inflight_queue_reqs": 0, "decode_prealloc_queue_reqs": 0,
				"decode_transfer_queue_reqs": 0, "decode_retracted_queue_reqs": 0, "kv_transfer_speed_gb_s": 0, "kv_transfer_latency_ms": 0,
			},
		}},
	})
}

func gib(bytes float64) float64 { return bytes / (1 << 30) }

// serverInfo shows every resolved setting, as SGLang does. The real server also shows its keys here;
// this one has the good sense not to.
func (s *server) serverInfo(w http.ResponseWriter, _ *http.Request) {
	perSecond, _ := s.metrics.interval()
	info := map[string]any{}
	for _, name := range s.set.args.Given() {
		if name != "api-key" && name != "admin-api-key" {
			info[strings.ReplaceAll(name, "-", "_")] = s.set.args.Text(name, "")
		}
	}
	startup := map[string]float64{}
	for _, p := range s.phases {
		startup[p.name] = p.took.Seconds()
	}
	for k, v := range map[string]any{
		"model_path": s.set.model, "served_model_name": s.set.served, "host": s.set.host, "port": s.set.port,
		"mem_fraction_static": s.set.layout.Fraction, "max_running_requests": s.set.args.Int("max-running-requests", s.set.maxRunning),
		"chunked_prefill_size": s.set.chunk, "max_prefill_tokens": s.set.maxPrefill, "schedule_policy": s.set.args.Text("schedule-policy", "fcfs"),
		"schedule_conservativeness": s.set.core.Conservativeness, "page_size": s.set.page, "tp_size": s.set.layout.TP, "pp_size": s.set.layout.PP,
		"disable_radix_cache": !s.set.core.PrefixCaching, "disable_cuda_graph": s.set.layout.Eager, "kv_cache_dtype": s.set.args.Text("kv-cache-dtype", "auto"),
		"enable_metrics": s.set.metrics, "decode_log_interval": s.set.logInterval, "stream_interval": s.set.stream, "context_length": s.set.core.MaxModelLen,
		"status": "ready", "max_total_num_tokens": s.set.core.KVTokens, "max_req_input_len": s.set.core.MaxModelLen - 5, "version": version,
		"internal_states": []map[string]any{{
			"effective_max_running_requests_per_dp": s.set.maxRunning, "last_gen_throughput": perSecond, "startup_time": startup,
			"memory_usage": map[string]any{
				"weight": s.set.memory.WeightBytes / (1 << 30), "kvcache": s.set.memory.KVBytes / (1 << 30),
				"token_capacity": s.set.core.KVTokens, "graph": map[string]float64{"decode": s.set.memory.GraphBytes / (1 << 30)},
			},
		}},
	} {
		info[k] = v
	}
	wire.JSON(w, http.StatusOK, info)
}
