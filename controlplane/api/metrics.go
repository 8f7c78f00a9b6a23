package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// Distribution of one latency.
type Distribution struct {
	Metric string   `json:"metric"`
	Source string   `json:"source" doc:"engine: from its histograms; probe: seen on the wire; mixed: of some engines one, of some the other"`
	Count  float64  `json:"count"`
	Mean   *float64 `json:"mean_seconds"`
	P50    *float64 `json:"p50_seconds"`
	P95    *float64 `json:"p95_seconds"`
	P99    *float64 `json:"p99_seconds"`
	// Percentiles asked for.
	Percentiles map[string]*float64 `json:"percentiles_seconds,omitempty" doc:"those asked for, by name, such as p99.9"`
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
	// Open requests as the wire shows them.
	Open *float64 `json:"requests_open" doc:"mean per engine, as the wire shows them; null where it is not seen"`
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
	huma.Register(s.api, op(http.MethodGet, "/metrics/latency", "metrics-latency", "Latency distributions", "metrics"), s.latency)
	metricRoute(s, "throughput", "Requests and tokens per second", throughputOf)
	metricRoute(s, "tokens", "Token counts", tokensOf)
	metricRoute(s, "kv-cache", "KV cache use, preemptions and prefix hits", kvCacheOf)
	metricRoute(s, "gpu", "GPUs of the engines: activity, memory, power, heat, throttling, links", gpuOf)
	huma.Register(s.api, op(http.MethodGet, "/metrics/history", "metrics-history", "One metric over time, with its trend", "metrics"), s.past)
	huma.Register(s.api, op(http.MethodGet, "/metrics/engines/{id}", "metrics-engine", "Everything measured of one engine", "metrics"), s.engineMetrics)
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

func (s *Server) latency(_ context.Context, in *spanInput) (*body[Latency], error) {
	percentiles, err := in.percentiles()
	if err != nil {
		return nil, err
	}
	span, a, err := s.aggregate(in)
	if err != nil {
		return nil, err
	}
	return ok(s, Latency{Span: span, Distributions: distributions(a, percentiles)})
}

func distributions(a *fleet.Aggregate, percentiles map[string]float64) []Distribution {
	found := []Distribution{}
	for _, m := range []string{fleet.TTFT, fleet.TPOT, fleet.ITL, fleet.E2E, fleet.Queue} {
		k := a.Sketches[m]
		if k == nil {
			continue
		}
		d := Distribution{
			Metric: m, Source: a.Origin[m], Count: k.Count(), Mean: number(k.Mean()),
			P50: number(k.Quantile(0.5)), P95: number(k.Quantile(0.95)), P99: number(k.Quantile(0.99)),
		}
		for name, q := range percentiles {
			if d.Percentiles == nil {
				d.Percentiles = map[string]*float64{}
			}
			d.Percentiles[name] = number(k.Quantile(q))
		}
		found = append(found, d)
	}
	return found
}

func throughputOf(span Span, a *fleet.Aggregate) Throughput {
	span.Sources = sources(a, map[string]string{
		"requests_per_second": fleet.RequestsFinished, "failed_per_second": fleet.RequestsFailed,
		"generation_tokens_per_second": fleet.GenerationTokens, "prompt_tokens_per_second": fleet.PromptTokens,
		"requests_running": fleet.RequestsRunning, "requests_waiting": fleet.RequestsWaiting, "requests_open": fleet.RequestsOpen,
	})
	return Throughput{
		Span:              span,
		RequestsPerSecond: a.Rate(fleet.RequestsFinished), FailedPerSecond: a.Rate(fleet.RequestsFailed),
		GenerationTokensPerSecond: a.Rate(fleet.GenerationTokens), PromptTokensPerSecond: a.Rate(fleet.PromptTokens),
		Running: orZero(a.Gauges[fleet.RequestsRunning].Mean()), Waiting: orZero(a.Gauges[fleet.RequestsWaiting].Mean()),
		Open: number(a.Gauges[fleet.RequestsOpen].Mean()),
	}
}

func tokensOf(span Span, a *fleet.Aggregate) Tokens {
	span.Sources = sources(a, map[string]string{
		"prompt_tokens": fleet.PromptTokens, "generation_tokens": fleet.GenerationTokens,
		"prompt_tokens_per_request": fleet.RequestsFinished, "generation_tokens_per_request": fleet.RequestsFinished,
	})
	t := Tokens{Span: span, Prompt: a.Counters[fleet.PromptTokens], Generated: a.Counters[fleet.GenerationTokens]}
	if n := a.Counters[fleet.RequestsFinished]; n > 0 {
		t.PerRequestIn, t.PerRequestOut = t.Prompt/n, t.Generated/n
	}
	return t
}

func kvCacheOf(span Span, a *fleet.Aggregate) KVCache {
	span.Sources = sources(a, map[string]string{
		"usage_mean": fleet.KVUsage, "usage_max": fleet.KVUsage, "capacity_tokens": fleet.KVCapacityTokens,
		"preemptions": fleet.Preemptions, "prefix_hit_rate": fleet.PrefixQueryTokens,
	})
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
		Agent  string `json:"agent,omitempty"`
		Engine string `json:"engine,omitempty"`
	}
}

// Collected says which engines were asked.
type Collected struct {
	Asked  []string          `json:"asked"`
	Failed map[string]string `json:"failed,omitempty"`
}

func (s *Server) collect(ctx context.Context, in *collectInput) (*body[Collected], error) {
	ids, err := s.selectEngines(Selection{Group: in.Body.Group, Agent: in.Body.Agent, Engine: in.Body.Engine})
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
