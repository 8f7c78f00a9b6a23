package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/optiinfra/performance-agent/agent/adapter"
	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/controlplane/optimizer"
	pkgengine "github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	measured "github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/test/real/engine"
	"github.com/optiinfra/performance-agent/test/real/inject"
)

// recorder runs one session: an engine with the sidecar's own sources beside it.
type recorder struct {
	options diagnosisOptions
	session session
	repeat  int
	recipe  engine.Recipe
	bin     string
	todo    []span

	process     *engine.Process
	description *pkgengine.Description
	source      *collect.Engine
	serving     atomic.Bool

	mu      sync.Mutex // guards windows
	windows []*fleet.Window
}

// plan lists the spans that are not recorded yet. The base engine is started once for every repeat
// and calibrated each time; of the others, one start serves all repeats, except where the start
// itself is the cause.
func (r *recorder) plan() {
	add := func(s span) {
		s.Session = r.session.name
		if _, err := os.Stat(s.file(r.options.dir)); err != nil {
			r.todo = append(r.todo, s)
		}
	}
	for _, c := range causes {
		if c.session != r.session.name {
			continue
		}
		intensities := c.scored
		if r.options.learn {
			intensities = c.learned
		}
		for repeat := range r.options.repeats {
			if repeat == r.repeat || r.session.name != "base" && r.session.name != "cold_start" {
				add(span{Cause: c.name, Repeat: repeat, Intensity: intensities[repeat%len(intensities)]})
			}
		}
	}
	if r.session.name == "base" && len(r.todo) > 0 {
		var first []span
		for i, rate := range calibrationRates {
			first = append(first, span{Cause: calibration, Session: "base", Repeat: 10*r.repeat + i, Intensity: rate})
		}
		r.todo = append(first, r.todo...)
	}
}

func (r *recorder) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flags := append(slices.Clone(baseFlags), r.session.flags...)
	r.process, err = r.recipe.Start(engine.Options{Port: r.options.port, Core: r.options.core, Flags: flags})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.process.Close()) }()
	stop, err := r.observe(ctx, flags)
	if err != nil {
		return err
	}
	defer stop()
	began := time.Now()
	if r.session.name == "cold_start" {
		if err := r.coldStart(ctx, &r.todo[0]); err != nil {
			return err
		}
		return r.keep(&r.todo[0], time.Since(began))
	}
	if err := r.process.Ready(ctx); err != nil {
		return err
	}
	started := time.Since(began)
	if err := r.described(ctx, flags); err != nil {
		return err
	}
	r.serving.Store(true)
	for i := range r.todo {
		if err := r.span(ctx, &r.todo[i]); err != nil {
			return fmt.Errorf("%s: %w", r.todo[i].Cause, err)
		}
		if err := r.keep(&r.todo[i], started); err != nil {
			return err
		}
	}
	return nil
}

// observe starts what a sidecar runs beside an engine.
func (r *recorder) observe(ctx context.Context, flags []string) (stop func(), err error) {
	if err := r.described(ctx, flags); err != nil {
		return nil, err
	}
	host := collect.NewHost(r.port())
	collector := collect.New([]collect.Instance{{
		ID: "bar/0", Sources: []collect.Source{r.source, host},
		State: func() collect.State { return collect.State{Serving: r.serving.Load()} },
	}}, func(w *fleet.Window) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.windows = append(r.windows, w)
	})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{r.source.Run, host.Run, collector.Run} {
		running.Go(func() { _ = run(ctx) }) // they end with ctx alone
	}
	return func() { cancel(); running.Wait() }, nil
}

func (r *recorder) port() uint16 {
	u, err := url.Parse(r.process.URL)
	if err != nil {
		return 0
	}
	port, _ := strconv.ParseUint(u.Port(), 10, 16) // the engine's own URL has one
	return uint16(port)
}

// described asks the engine's adapter what it is, as the sidecar does, and reads its page so.
func (r *recorder) described(ctx context.Context, flags []string) (err error) {
	base := ""
	if r.source != nil {
		base = r.process.URL
	}
	if r.description, err = describe(ctx, r.bin, r.recipe, int(r.port()), base, flags); err != nil {
		return err
	}
	if r.source == nil {
		r.source = collect.NewEngine(time.Second)
	}
	r.source.Read(scrape.New(scrape.Config{
		MetricsURL: r.process.URL + "/metrics", Timeout: 5 * time.Second, Series: collect.Series(r.description.GetSignals()),
	}, http.DefaultTransport), r.description.GetSignals())
	return nil
}

// describe asks the adapter about an engine with these flags; base is its URL once it serves.
func describe(ctx context.Context, bin string, recipe engine.Recipe, port int, base string, flags []string) (*pkgengine.Description, error) {
	plugins := adapter.New(adapter.Config{Dir: filepath.Join(bin, "plugins"), AllowUnsigned: true})
	defer plugins.Close()
	one, err := plugins.Adapter(ctx, string(recipe.Kind))
	if err != nil {
		return nil, err
	}
	d, err := one.Describe(ctx, &pkgengine.Target{Argv: recipe.Argv(port, flags...), BaseUrl: base})
	if err != nil {
		return nil, fmt.Errorf("describe the engine: %w", err)
	}
	return d, nil
}

// keep completes a span and writes it.
func (r *recorder) keep(s *span, started time.Duration) error {
	s.Engine = string(r.recipe.Kind) + " " + engine.Versions[r.recipe.Kind]
	s.Config = (&optimizer.Scene{Description: r.description}).Config()
	s.Warnings = r.description.GetWarnings()
	s.Stable = started.Seconds()
	fmt.Fprintf(os.Stderr, "%s-%d: intensity %g, %d requests, ttft p50 %.3f s p95 %.3f s, e2e p50 %.2f s\n",
		s.Cause, s.Repeat, s.Intensity, s.Requests, s.ClientTTFT50, s.ClientTTFT95, s.ClientE2E50)
	return s.write(r.options.dir)
}

// span sends traffic, does the fault, and takes the windows after both have settled.
func (r *recorder) span(ctx context.Context, s *span) error {
	ctx, cancel := context.WithTimeout(ctx, spanLead+spanLength)
	defer cancel()
	began := time.Now()
	var doing sync.WaitGroup
	var fault error
	if act := r.fault(s); act != nil {
		doing.Go(func() { fault = act(ctx) })
	}
	r.traffic(ctx, s)
	<-ctx.Done()
	doing.Wait()
	if errors.Is(fault, context.DeadlineExceeded) {
		fault = nil
	}
	s.windows = r.since(began.Add(spanLead))
	return errors.Join(fault, r.idle(s))
}

// idle waits until the engine has nothing left to do, so that no span inherits a queue.
func (r *recorder) idle(s *span) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if s.Cause == "log_stats_off" {
		return nil
	}
	for {
		n, known := r.source.InFlight(ctx)
		if known && n == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d requests are still in the engine", n)
		}
	}
}

// since returns the windows that began at or after a time.
func (r *recorder) since(from time.Time) []*fleet.Window {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.windows, from, func(w *fleet.Window, at time.Time) int { return w.Start.Compare(at) })
	return slices.Clone(r.windows[i:])
}

// coldStart sends traffic from the moment the engine's port is bound, as a balancer without a
// readiness check would, and takes the windows around the moment it serves.
func (r *recorder) coldStart(ctx context.Context, s *span) error {
	const before, after = 4 * time.Second, 14 * time.Second
	sending, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.traffic(sending, s)
	}()
	if err := r.process.Ready(ctx); err != nil {
		return err
	}
	ready := time.Now()
	r.serving.Store(true)
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	stop()
	<-done
	s.windows = r.since(ready.Add(-before))
	return nil
}

// fault is what is done to the engine beside sending traffic; nil for nothing.
func (r *recorder) fault(s *span) func(context.Context) error {
	switch s.Cause {
	case "cpu_quota":
		return func(ctx context.Context) error {
			release, err := inject.Quota(r.inner(), s.Intensity)
			if err != nil {
				return err
			}
			<-ctx.Done()
			return release()
		}
	case "pauses":
		return func(ctx context.Context) error {
			return inject.Pauses(ctx, r.inner(), time.Duration(s.Intensity*float64(time.Second)), 2*time.Second)
		}
	case "noisy_neighbour":
		return func(ctx context.Context) error { return inject.Neighbour(ctx, r.options.core, int(s.Intensity)) }
	}
	return nil
}

// inner are the engine's processes behind its front.
func (r *recorder) inner() []int {
	return slices.DeleteFunc(r.process.Members(), func(pid int) bool { return pid == r.process.PID() })
}

// shape of a span's traffic. Where the cause is the traffic's, the intensity is its own.
func (s *span) shape() inject.Shape {
	shape := inject.Shape{
		Rate: 3, Prefixes: 4, PrefixTokens: 192, OwnTokens: 48, OutputTokens: 48,
		Seed: uint64(1000*s.Repeat) + uint64(len(s.Cause)) + uint64(100*s.Intensity),
	}
	switch s.Cause {
	case calibration, healthy, "burst", "tiny_batch", "cold_start", "log_stats_off":
		shape.Rate = s.Intensity
	case "kv_small", "oversized_batch":
		shape.Rate, shape.OutputTokens = s.Intensity, 160
	case "long_prompts":
		shape.LongEvery, shape.LongTokens = 6, int(s.Intensity)
	case "prefix_churn":
		shape.Prefixes, shape.PrefixTokens = int(s.Intensity), 768
	}
	return shape
}

// traffic sends the span's requests until ctx ends and cuts what is open then.
func (r *recorder) traffic(ctx context.Context, s *span) {
	source := s.shape().Source(time.Hour)
	if s.Cause == "slow_client" {
		s.Requests = inject.SlowClients(ctx, strings.TrimPrefix(r.process.URL, "http://"), engine.Model, source, int(s.Intensity))
		return
	}
	var records []loadtest.Record
	from := time.Now().Add(spanLead)
	runner, err := loadtest.New(loadtest.Config{
		Targets: []loadtest.Target{{URL: r.process.URL, API: loadtest.OpenAICompletions}}, Source: source, Model: engine.Model,
		DrainWait: time.Millisecond, OnRecord: func(rec loadtest.Record) { records = append(records, rec) },
	})
	if err != nil {
		panic(err) // the configuration is this program's own
	}
	_ = runner.Run(ctx) // it ends with ctx
	sum := measured.Summarize(records, from, time.Time{}, loadtest.Objectives{})
	s.Requests = len(records)
	s.ClientTTFT50, s.ClientTTFT95, s.ClientE2E50 = sum.TTFT.P50, sum.TTFT.P95, sum.E2E.P50
}
