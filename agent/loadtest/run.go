package loadtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Config of a run. Zero values take the defaults named beside them.
type Config struct {
	Targets  []Target
	Policy   Policy // RoundRobin
	Source   Source
	Duration time.Duration // 0: until the source or ctx ends
	// Clients above 0 makes it a closed loop: so many clients, each of which sends the source's next
	// request when its last one has ended. When the source says that requests are due is ignored.
	Clients int
	Model   string // sent to OpenAI routes; a vLLM server accepts its own name only
	Seed    uint64 // of prompts and of the random policy
	// Vocabulary above 0 sends generated prompts as token ids below it, so that their lengths are
	// exact; the API must take ids. 0 sends words, of about one token each.
	Vocabulary int
	Header     http.Header // added to every request

	Timeout     time.Duration // 10 min for one request
	ReadyWait   time.Duration // 10 s for a target that is ready and takes the connection, then the request failed
	DrainWait   time.Duration // 30 s for open requests when the run ends
	MaxInFlight int           // 20000 open requests; one more fails without being sent

	// OnRecord gets each finished request, from one goroutine at a time. It may be nil and must be
	// quick.
	OnRecord func(Record)
	Logger   *slog.Logger
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Timeout, 10*time.Minute)
	def(&c.ReadyWait, 10*time.Second)
	def(&c.DrainWait, 30*time.Second)
	if c.Policy == "" {
		c.Policy = RoundRobin
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 20000
	}
	if c.OnRecord == nil {
		c.OnRecord = func(Record) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Runner carries out one run.
type Runner struct {
	cfg      Config
	log      *slog.Logger
	client   *http.Client
	balancer *balancer

	mu sync.Mutex // one OnRecord at a time
}

// New checks the configuration and reports all faults together.
func New(cfg Config) (*Runner, error) {
	cfg = cfg.withDefaults()
	var faults []error
	if len(cfg.Targets) == 0 {
		faults = append(faults, errors.New("no target: give the address of at least one engine"))
	}
	if cfg.Source == nil {
		faults = append(faults, errors.New("no source of requests"))
	}
	for _, t := range cfg.Targets {
		faults = append(faults, t.Validate())
		if cfg.Vocabulary > 0 && !t.API.takesIDs() {
			faults = append(faults, fmt.Errorf("target %s: %s takes no token ids", t.name(), t.API))
		}
	}
	client := newClient()
	b, err := newBalancer(cfg.Targets, cfg.Policy, cfg.Seed, client)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg, log: cfg.Logger.With("component", "loadtest"), client: client, balancer: b}, nil
}

// Synthetic marks requests that no user waits for: our observer leaves those that carry it out of
// users' latencies. Engines pass over the header, so that their own histograms count such requests.
const Synthetic = "X-Perf-Synthetic"

// newClient keeps connections for less than the five seconds after which vLLM and SGLang close idle
// ones, so that no request meets a connection that is just being closed.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     4 * time.Second,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a status like any other
	}
}

// Run sends every request when it is due, however the others fare, until the duration, the source
// or ctx ends; then it waits for open requests up to DrainWait and cuts the rest. Offsets count from
// the call.
func (r *Runner) Run(ctx context.Context) error {
	start := time.Now()
	defer r.client.CloseIdleConnections()
	polling, stopPolling := context.WithCancel(context.WithoutCancel(ctx))
	sending, cut := context.WithCancel(polling)
	defer cut()
	var watching, open sync.WaitGroup
	watching.Go(func() { r.balancer.watch(polling) })

	dispatch := r.dispatch
	if r.cfg.Clients > 0 {
		dispatch = r.dispatchClosed
	}
	dispatch(ctx, start, &open, func(req Request, rec Record) {
		r.send(sending, req, &rec)
		r.finish(rec)
	})
	r.drain(&open, cut)
	stopPolling()
	watching.Wait()
	return nil
}

// dispatch starts requests at their times. It does not wait for any.
func (r *Runner) dispatch(ctx context.Context, start time.Time, open *sync.WaitGroup, do func(Request, Record)) {
	slots := make(chan struct{}, r.cfg.MaxInFlight)
	due := time.NewTimer(0)
	defer due.Stop()
	<-due.C
	for number := 0; ; number++ {
		req, ok := r.cfg.Source.Next()
		if !ok || r.cfg.Duration > 0 && req.Offset >= r.cfg.Duration {
			return
		}
		intended := start.Add(req.Offset)
		due.Reset(time.Until(intended))
		select {
		case <-due.C:
		case <-ctx.Done():
			return
		}
		rec := Record{Number: number, Intended: intended, PromptTokens: req.PromptTokens}
		select {
		case slots <- struct{}{}:
			open.Go(func() {
				defer func() { <-slots }()
				do(req, rec)
			})
		default:
			rec.Fail(FailedTooMany, "")
			r.finish(rec)
		}
	}
}

// dispatchClosed starts a request whenever a client is free. A request is due at that moment, so that
// what clients wait for one another shows in no latency.
func (r *Runner) dispatchClosed(ctx context.Context, start time.Time, open *sync.WaitGroup, do func(Request, Record)) {
	if r.cfg.Duration > 0 {
		var end context.CancelFunc
		ctx, end = context.WithDeadline(ctx, start.Add(r.cfg.Duration))
		defer end()
	}
	busy := make(chan struct{}, r.cfg.Clients)
	for number := 0; ; number++ {
		select {
		case busy <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		req, ok := r.cfg.Source.Next()
		if !ok {
			return
		}
		rec := Record{Number: number, Intended: time.Now(), PromptTokens: req.PromptTokens}
		open.Go(func() {
			defer func() { <-busy }()
			do(req, rec)
		})
	}
}

func (r *Runner) finish(rec Record) {
	rec.Done = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.OnRecord(rec)
}

// drain waits for open requests, then cuts what is left.
func (r *Runner) drain(open *sync.WaitGroup, cut context.CancelFunc) {
	ended := make(chan struct{})
	go func() { open.Wait(); close(ended) }()
	limit := time.NewTimer(r.cfg.DrainWait)
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
		r.log.Warn("cutting requests that are still open", "waited", r.cfg.DrainWait)
		cut()
		<-ended
	}
}
