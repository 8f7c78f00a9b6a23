package slo

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

// Limits of an objective's query. Lookback is short: a series that ended must not count on.
const (
	queryTimeout  = 5 * time.Second
	querySamples  = 1_000_000
	queryLookback = 30 * time.Second
)

// PromQL evaluates queries of objectives over a store. It implements Querier.
type PromQL struct {
	store  storage.Queryable
	engine *promql.Engine
}

var _ Querier = (*PromQL)(nil)

// NewQuerier returns one over store.
func NewQuerier(store storage.Queryable, logger *slog.Logger) *PromQL {
	return &PromQL{store: store, engine: promql.NewEngine(promql.EngineOpts{
		Logger: logger.With("component", "slo"), MaxSamples: querySamples, Timeout: queryTimeout, LookbackDelta: queryLookback,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, Parser: parser.NewParser(parser.Options{}),
	})}
}

// Values implements Querier.
func (p *PromQL) Values(ctx context.Context, query string, at time.Time) ([]float64, error) {
	q, err := p.engine.NewInstantQuery(ctx, p.store, nil, query, at)
	if err != nil {
		return nil, fmt.Errorf("query %q: %w", query, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %q: %w", query, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		values := make([]float64, 0, len(v))
		for _, s := range v {
			if s.H == nil { // a distribution is no number
				values = append(values, s.F)
			}
		}
		return values, nil
	case promql.Scalar:
		return []float64{v.V}, nil
	}
	return nil, fmt.Errorf("query %q gives a %s, not numbers of one time", query, res.Value.Type())
}
