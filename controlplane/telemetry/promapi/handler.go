// Package promapi answers the reading half of Prometheus' HTTP API, version 1, well enough for a
// Grafana data source: instant and range queries in PromQL, series, labels and their values, metadata.
// It keeps nothing: a storage.Queryable holds the samples.
package promapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// Metadata of a metric, as the API shows it.
type Metadata struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

// Limits of a query.
const (
	maxSamples = 10_000_000
	maxPoints  = 11_000 // per series of a range query
	timeout    = 30 * time.Second
	lookback   = 5 * time.Minute
)

// Handler serves paths under /prometheus/api/v1/.
type Handler struct {
	*http.ServeMux
	store    storage.Queryable
	engine   *promql.Engine
	parser   parser.Parser
	metadata func() map[string]Metadata
	version  string
	now      func() time.Time
}

// New returns a handler over store. metadata returns what there is now, by metric name; version is told to who asks for it.
func New(store storage.Queryable, metadata func() map[string]Metadata, version string, logger *slog.Logger) *Handler {
	p := parser.NewParser(parser.Options{})
	h := &Handler{
		ServeMux: http.NewServeMux(), store: store, metadata: metadata, version: version, now: time.Now, parser: p,
		engine: promql.NewEngine(promql.EngineOpts{
			Logger: logger.With("component", "promql"), MaxSamples: maxSamples, Timeout: timeout, LookbackDelta: lookback,
			NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
			EnableAtModifier:         true, EnableNegativeOffset: true, Parser: p,
		}),
	}
	for path, f := range map[string]func(*http.Request) (any, annotations.Annotations, error){
		"query": h.query, "query_range": h.queryRange, "series": h.series, "labels": h.labelNames,
		"label/{name}/values": h.labelValues, "metadata": h.meta, "status/buildinfo": h.build, "query_exemplars": none,
	} {
		h.HandleFunc("/prometheus/api/v1/"+path, func(w http.ResponseWriter, r *http.Request) { answer(w, r, f) })
	}
	return h
}

// none are there of what we do not keep.
func none(*http.Request) (any, annotations.Annotations, error) { return []any{}, nil, nil }

func (h *Handler) query(r *http.Request) (any, annotations.Annotations, error) {
	at, err := timeOf(r, "time", h.now())
	if err != nil {
		return nil, nil, err
	}
	return h.run(r, func(ctx context.Context) (promql.Query, error) {
		return h.engine.NewInstantQuery(ctx, h.store, nil, r.FormValue("query"), at)
	})
}

func (h *Handler) queryRange(r *http.Request) (any, annotations.Annotations, error) {
	start, err := timeOf(r, "start", time.Time{})
	if err != nil {
		return nil, nil, err
	}
	end, err := timeOf(r, "end", time.Time{})
	if err != nil {
		return nil, nil, err
	}
	step, err := durationOf(r, "step")
	switch {
	case err != nil:
		return nil, nil, err
	case end.Before(start):
		return nil, nil, bad("end is before start")
	case step <= 0:
		return nil, nil, bad("step must be more than zero")
	case end.Sub(start)/step > maxPoints:
		return nil, nil, bad("more than %d points per series: choose a longer step", maxPoints)
	}
	return h.run(r, func(ctx context.Context) (promql.Query, error) {
		return h.engine.NewRangeQuery(ctx, h.store, nil, r.FormValue("query"), start, end, step)
	})
}

// result of a query.
type result struct {
	Type   parser.ValueType `json:"resultType"`
	Result parser.Value     `json:"result"`
}

func (h *Handler) run(r *http.Request, build func(context.Context) (promql.Query, error)) (any, annotations.Annotations, error) {
	ctx := r.Context()
	if r.FormValue("timeout") != "" {
		limit, err := durationOf(r, "timeout")
		if err != nil {
			return nil, nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	q, err := build(ctx)
	if err != nil {
		return nil, nil, bad("%s", err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, res.Warnings, res.Err
	}
	// Points go back to the engine's pool at Close.
	raw, err := json.Marshal(result{res.Value.Type(), res.Value})
	return json.RawMessage(raw), res.Warnings, err
}

func (h *Handler) series(r *http.Request) (any, annotations.Annotations, error) {
	sets, err := h.selectors(r)
	if err != nil {
		return nil, nil, err
	}
	if len(sets) == 0 {
		return nil, nil, bad("no match[] is given")
	}
	q, limit, err := h.querier(r)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	found := map[string]labels.Labels{}
	for _, matchers := range sets {
		set := q.Select(r.Context(), false, nil, matchers...)
		for set.Next() {
			found[set.At().Labels().String()] = set.At().Labels()
		}
		if set.Err() != nil {
			return nil, nil, set.Err()
		}
	}
	all := make([]labels.Labels, 0, len(found))
	for _, l := range found {
		all = append(all, l)
	}
	slices.SortFunc(all, labels.Compare)
	cut, warning := limited(all, limit)
	return cut, warning, nil
}

func (h *Handler) labelNames(r *http.Request) (any, annotations.Annotations, error) {
	return h.strings(r, func(q storage.Querier, m []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelNames(r.Context(), nil, m...)
	})
}

func (h *Handler) labelValues(r *http.Request) (any, annotations.Annotations, error) {
	name := r.PathValue("name")
	if !model.UTF8Validation.IsValidLabelName(name) {
		return nil, nil, bad("%q is no label name", name)
	}
	return h.strings(r, func(q storage.Querier, m []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelValues(r.Context(), name, nil, m...)
	})
}

// strings that ask returns for any of the request's selectors, sorted and without repetition.
func (h *Handler) strings(r *http.Request, ask func(storage.Querier, []*labels.Matcher) ([]string, annotations.Annotations, error)) (any, annotations.Annotations, error) {
	sets, err := h.selectors(r)
	if err != nil {
		return nil, nil, err
	}
	q, limit, err := h.querier(r)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	all := []string{}
	for _, matchers := range sets {
		some, _, err := ask(q, matchers)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, some...)
	}
	slices.Sort(all)
	cut, warning := limited(slices.Compact(all), limit)
	return cut, warning, nil
}

func (h *Handler) meta(r *http.Request) (any, annotations.Annotations, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, nil, err
	}
	found := map[string][]Metadata{}
	for name, m := range h.metadata() {
		if want := r.FormValue("metric"); (want == "" || want == name) && (limit == 0 || len(found) < limit) {
			found[name] = []Metadata{m}
		}
	}
	return found, nil, nil
}

func (h *Handler) build(*http.Request) (any, annotations.Annotations, error) {
	return map[string]string{"version": h.version}, nil, nil
}

// selectors of the request's match[] parameters.
func (h *Handler) selectors(r *http.Request) ([][]*labels.Matcher, error) {
	if err := r.ParseForm(); err != nil {
		return nil, bad("%s", err)
	}
	var sets [][]*labels.Matcher
	for _, s := range r.Form["match[]"] {
		matchers, err := h.parser.ParseMetricSelector(s)
		if err != nil {
			return nil, bad("match[] %q: %s", s, err)
		}
		sets = append(sets, matchers)
	}
	return sets, nil
}

// querier over the request's span, all of history without one.
func (h *Handler) querier(r *http.Request) (storage.Querier, int, error) {
	start, err := timeOf(r, "start", time.UnixMilli(0))
	if err != nil {
		return nil, 0, err
	}
	end, err := timeOf(r, "end", h.now().Add(time.Hour))
	if err != nil {
		return nil, 0, err
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, 0, err
	}
	q, err := h.store.Querier(start.UnixMilli(), end.UnixMilli())
	return q, limit, err
}

func limited[T any](all []T, limit int) ([]T, annotations.Annotations) {
	if limit == 0 || len(all) <= limit {
		return all, nil
	}
	return all[:limit], annotations.New().Add(errors.New("results truncated due to limit"))
}

func limitOf(r *http.Request) (int, error) {
	s := r.FormValue("limit")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, bad("limit %q is no whole number of zero or more", s)
	}
	return n, nil
}

// timeOf reads Unix seconds or RFC 3339. A zero absent means that the parameter must be given.
func timeOf(r *http.Request, name string, absent time.Time) (time.Time, error) {
	s := r.FormValue(name)
	if s == "" && !absent.IsZero() {
		return absent, nil
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(v) < 1e11 {
		whole, part := math.Modf(v)
		return time.Unix(int64(whole), int64(math.Round(part*1000))*int64(time.Millisecond)).UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, bad("%s %q is neither Unix seconds nor RFC 3339", name, s)
}

// durationOf reads seconds or Prometheus' form, such as 5m.
func durationOf(r *http.Request, name string) (time.Duration, error) {
	s := r.FormValue(name)
	if v, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(v) < 1e9 {
		return time.Duration(v * float64(time.Second)), nil
	}
	if d, err := model.ParseDuration(s); err == nil {
		return time.Duration(d), nil
	}
	return 0, bad("%s %q is neither seconds nor a duration such as 5m", name, s)
}

// badData is a fault of the request.
type badData struct{ error }

func bad(format string, args ...any) error { return badData{fmt.Errorf(format, args...)} }

// response is the envelope of every answer.
type response struct {
	Status    string   `json:"status"`
	Data      any      `json:"data,omitempty"`
	ErrorType string   `json:"errorType,omitempty"`
	Error     string   `json:"error,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	Infos     []string `json:"infos,omitempty"`
}

func answer(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, annotations.Annotations, error)) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		write(w, http.StatusMethodNotAllowed, response{Status: "error", ErrorType: "bad_data", Error: r.Method + " is not supported: use GET or POST"})
		return
	}
	data, notes, err := f(r)
	if err != nil {
		code, kind := classify(err)
		write(w, code, response{Status: "error", ErrorType: kind, Error: err.Error()})
		return
	}
	warnings, infos := notes.AsStrings(r.FormValue("query"), 10, 10)
	write(w, http.StatusOK, response{Status: "success", Data: data, Warnings: warnings, Infos: infos})
}

func write(w http.ResponseWriter, code int, v response) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nothing to do
}

// classify returns what Prometheus answers to an error.
func classify(err error) (code int, kind string) {
	var (
		fault    badData
		canceled promql.ErrQueryCanceled
		late     promql.ErrQueryTimeout
		inner    promql.ErrStorage
	)
	switch {
	case errors.As(err, &fault):
		return http.StatusBadRequest, "bad_data"
	case errors.As(err, &canceled):
		return http.StatusServiceUnavailable, "canceled"
	case errors.As(err, &late):
		return http.StatusServiceUnavailable, "timeout"
	case errors.As(err, &inner):
		return http.StatusInternalServerError, "internal"
	default:
		return http.StatusUnprocessableEntity, "execution"
	}
}
