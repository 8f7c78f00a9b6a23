package loadtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// Test is a load test of one engine.
type Test struct {
	Target Target
	Model  string // sent to OpenAI routes
	Engine load.Subject
	// Forbidden is asked once a second and says in words why the test must not go on; nil: never.
	Forbidden func() string
	Logger    *slog.Logger
}

// checkEvery separates questions whether the test may go on.
const checkEvery = time.Second

// stopped is why a run ended early.
type stopped struct{ words string }

func (s stopped) Error() string { return s.words }

// Run carries out a plan and reports it, also when a stop rule ends it early. The end of ctx is an
// error: nobody waits for the figures.
func (t Test) Run(ctx context.Context, p load.Plan) (*load.Report, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	traffic, err := p.Traffic()
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	limits := p.Stop.WithDefaults()
	collected := load.NewCollector(p, time.Now())
	cfg := Config{
		Targets: []Target{t.Target}, Source: NewReplay(traffic), Duration: p.Span(), Model: t.Model, Seed: p.Seed,
		MaxInFlight: limits.InFlight, Header: http.Header{Synthetic: {"1"}}, Logger: t.Logger,
		OnRecord: func(r Record) {
			collected.Add(r)
			if why := stopRule(collected, limits, r); why != "" {
				stop(stopped{why})
			}
		},
	}
	if p.Arrivals == load.Closed {
		cfg.Clients = p.Concurrency
	}
	runner, err := New(cfg)
	if err != nil {
		return nil, err
	}
	checked := t.check(running, stop)
	err = runner.Run(running)
	early, _ := errors.AsType[stopped](context.Cause(running))
	stop(nil)
	<-checked
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	return collected.Report(t.Engine, early.words)
}

// check asks now and then whether the test may go on; the channel is closed when it no longer does.
func (t Test) check(ctx context.Context, stop context.CancelCauseFunc) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if t.Forbidden == nil {
			return
		}
		for tick := time.NewTicker(checkEvery); ; {
			if why := t.Forbidden(); why != "" {
				stop(stopped{why})
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	return done
}

// stopRule says why a run should not go on after a record.
func stopRule(c *load.Collector, limits load.Stop, r Record) string {
	if r.Failed == FailedTooMany {
		return fmt.Sprintf("%d requests are open: the engine cannot keep up with the load, and more would only measure the queue", limits.InFlight)
	}
	if share, counts := c.FailedShare(); counts && share > limits.FailedShare {
		return fmt.Sprintf("%.0f %% of the requests failed, the last one with %q %s", 100*share, r.Failed, r.Detail)
	}
	return ""
}
