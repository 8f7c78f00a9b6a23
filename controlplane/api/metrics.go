package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// spanInput selects whose telemetry and how much of it.
type spanInput struct {
	Group         string  `query:"group" doc:"group; empty: the whole fleet"`
	Engine        string  `query:"engine" doc:"one engine, by id or name"`
	WindowSeconds float64 `query:"window_seconds" minimum:"1" maximum:"600" default:"60"`
}

// Span tells what an answer covers.
type Span struct {
	Group     string    `json:"group,omitempty"`
	Engine    string    `json:"engine,omitempty"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Engines   int       `json:"engines" doc:"engines with telemetry in the span"`
	Windows   int       `json:"windows" doc:"engine-seconds of telemetry"`
	StaleSecs int       `json:"stale_seconds" doc:"engine-seconds whose source had gone stale"`
}

// Distribution of one latency.
type Distribution struct {
	Metric string   `json:"metric"`
	Source string   `json:"source" doc:"engine: from its histograms; probe: seen on the wire"`
	Count  float64  `json:"count"`
	Mean   *float64 `json:"mean_seconds"`
	P50    *float64 `json:"p50_seconds"`
	P95    *float64 `json:"p95_seconds"`
	P99    *float64 `json:"p99_seconds"`
}

// Latency by metric.
type Latency struct {
	Span
	Distributions []Distribution `json:"distributions"`
}

// Throughput of the span.
type Throughput struct {
	Span
	RequestsPerSecond         float64 `json:"requests_per_second"`
	FailedPerSecond           float64 `json:"failed_per_second"`
	GenerationTokensPerSecond float64 `json:"generation_tokens_per_second"`
	PromptTokensPerSecond     float64 `json:"prompt_tokens_per_second"`
	Running                   float64 `json:"requests_running" doc:"mean per engine"`
	Waiting                   float64 `json:"requests_waiting" doc:"mean per engine"`
}

// Tokens of the span.
type Tokens struct {
	Span
	Prompt        float64 `json:"prompt_tokens"`
	Generated     float64 `json:"generation_tokens"`
	PerRequestIn  float64 `json:"prompt_tokens_per_request"`
	PerRequestOut float64 `json:"generation_tokens_per_request"`
}

// KVCache of the span.
type KVCache struct {
	Span
	UsageMean      float64  `json:"usage_mean" doc:"share of the cache in use, 0 to 1"`
	UsageMax       float64  `json:"usage_max"`
	CapacityTokens float64  `json:"capacity_tokens" doc:"per engine, latest"`
	Preemptions    float64  `json:"preemptions"`
	PrefixHitRate  *float64 `json:"prefix_hit_rate" doc:"share of prompt tokens found in the cache; null when the engine does not say"`
}

func (s *Server) metricsRoutes() {
	metricRoute(s, "latency", "Latency distributions", latencyOf)
	metricRoute(s, "throughput", "Requests and tokens per second", throughputOf)
	metricRoute(s, "tokens", "Token counts", tokensOf)
	metricRoute(s, "kv-cache", "KV cache use, preemptions and prefix hits", kvCacheOf)
	huma.Register(s.api, op(http.MethodPost, "/metrics/collect", "collect-metrics", "Ask engines for their current window at once", "metrics"), s.collect)
}

// metricRoute serves one reading of merged telemetry under /metrics/NAME.
func metricRoute[T any](s *Server, name, summary string, read func(Span, *fleet.Aggregate) T) {
	huma.Register(s.api, op(http.MethodGet, "/metrics/"+name, "metrics-"+name, summary, "metrics"),
		func(_ context.Context, in *spanInput) (*body[T], error) {
			span, a, err := s.aggregate(in)
			if err != nil {
				return nil, err
			}
			return ok(s, read(span, a))
		})
}

func (s *Server) aggregate(in *spanInput) (Span, *fleet.Aggregate, error) {
	ids, err := s.selectEngines(in.Group, in.Engine)
	if err != nil {
		return Span{}, nil, err
	}
	to := time.Now().Truncate(time.Second)
	from := to.Add(-time.Duration(in.WindowSeconds * float64(time.Second)))
	a, err := s.telemetry.Aggregate(ids, from, to)
	if err != nil {
		return Span{}, nil, fromError(err)
	}
	return Span{
		Group: in.Group, Engine: in.Engine, From: from.UTC(), To: to.UTC(),
		Engines: len(a.Instances), Windows: a.Windows, StaleSecs: a.StaleSecs,
	}, a, nil
}

func (s *Server) selectEngines(group, engine string) ([]string, error) {
	if engine != "" {
		in, err := s.findEngine(engine)
		if err != nil {
			return nil, err
		}
		return []string{in.GetId()}, nil
	}
	if group != "" {
		if s.machine.Group(group) == nil {
			return nil, notFound("group", group)
		}
	}
	return serving(s.machine.Instances(group)), nil
}

func latencyOf(span Span, a *fleet.Aggregate) Latency {
	l := Latency{Span: span, Distributions: []Distribution{}}
	for _, m := range []string{fleet.TTFT, fleet.TPOT, fleet.ITL, fleet.E2E, fleet.Queue} {
		k := a.Sketches[m]
		if k == nil {
			continue
		}
		l.Distributions = append(l.Distributions, Distribution{
			Metric: m, Source: a.Origin[m], Count: k.Count(), Mean: number(k.Mean()),
			P50: number(k.Quantile(0.5)), P95: number(k.Quantile(0.95)), P99: number(k.Quantile(0.99)),
		})
	}
	return l
}

func throughputOf(span Span, a *fleet.Aggregate) Throughput {
	return Throughput{
		Span:              span,
		RequestsPerSecond: a.Rate(fleet.RequestsFinished), FailedPerSecond: a.Rate(fleet.RequestsFailed),
		GenerationTokensPerSecond: a.Rate(fleet.GenerationTokens), PromptTokensPerSecond: a.Rate(fleet.PromptTokens),
		Running: orZero(a.Gauges[fleet.RequestsRunning].Mean()), Waiting: orZero(a.Gauges[fleet.RequestsWaiting].Mean()),
	}
}

func tokensOf(span Span, a *fleet.Aggregate) Tokens {
	t := Tokens{Span: span, Prompt: a.Counters[fleet.PromptTokens], Generated: a.Counters[fleet.GenerationTokens]}
	if n := a.Counters[fleet.RequestsFinished]; n > 0 {
		t.PerRequestIn, t.PerRequestOut = t.Prompt/n, t.Generated/n
	}
	return t
}

func kvCacheOf(span Span, a *fleet.Aggregate) KVCache {
	use := a.Gauges[fleet.KVUsage]
	k := KVCache{
		Span: span, UsageMean: orZero(use.Mean()), UsageMax: use.Max,
		CapacityTokens: a.Gauges[fleet.KVCapacityTokens].Last, Preemptions: a.Counters[fleet.Preemptions],
	}
	if q := a.Counters[fleet.PrefixQueryTokens]; q > 0 {
		k.PrefixHitRate = number(a.Counters[fleet.PrefixHitTokens] / q)
	}
	return k
}

func orZero(v float64) float64 {
	if p := number(v); p != nil {
		return *p
	}
	return 0
}

type collectInput struct {
	WriteHeaders
	Body struct {
		Group  string `json:"group,omitempty"`
		Engine string `json:"engine,omitempty"`
	}
}

// Collected says which engines were asked.
type Collected struct {
	Asked  []string          `json:"asked"`
	Failed map[string]string `json:"failed,omitempty"`
}

func (s *Server) collect(ctx context.Context, in *collectInput) (*body[Collected], error) {
	ids, err := s.selectEngines(in.Body.Group, in.Body.Engine)
	if err != nil {
		return nil, err
	}
	c := Collected{Asked: []string{}, Failed: map[string]string{}}
	for _, id := range ids {
		if err := s.collector.Collect(ctx, id); err != nil {
			c.Failed[id] = err.Error()
			continue
		}
		c.Asked = append(c.Asked, id)
	}
	return ok(s, c)
}
