package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// Paces of describing an engine.
const (
	lookEvery       = time.Second      // for signs that it should be described anew
	describeSoon    = 2 * time.Second  // while something is not known yet
	describeCalmly  = 60 * time.Second // otherwise
	describeTimeout = 10 * time.Second
)

// minScrapeTimeout: an engine at its limit answers its metrics page late.
const minScrapeTimeout = 5 * time.Second

// upstream is what an instance tells the control plane; *report.Reporter is one.
type upstream interface {
	Engine(e *agentv1.EngineInfo)
	State(s *agentv1.StateReport)
}

// instance is one engine and everything that looks after it.
type instance struct {
	cfg      Engine
	id       string
	readyURL string
	interval time.Duration
	up       upstream
	log      *slog.Logger

	transport *http.Transport
	launcher  probation.Launcher
	client    *launch.Client // nil without a launcher
	adapter   *engineAdapter
	engineLog *engineLog
	source    *collect.Engine
	wire      *collect.Wire // nil where requests cannot be seen on the wire
	gpu       *collect.GPU  // nil where GPUs are not read
	traffic   *traffic
	latencies *latencies
	steps     atomic.Pointer[[]string] // of the engine's start; nil while serving
	machine   *probation.Machine       // set by open
	tests     tests
	said      once

	// To tell the control plane, and what of it was told, the hardware apart. watch's goroutine alone.
	info, told   *agentv1.EngineInfo
	toldHardware string
}

func newInstance(cfg Engine, agentID string, c Config, all adapters, up upstream, log *slog.Logger) *instance {
	in := &instance{
		cfg: cfg, id: agentID + "/" + cfg.Name, readyURL: c.readyURL(cfg.Name), interval: c.ScrapeInterval, up: up,
		log:       log.With("engine", cfg.Name),
		transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second},
		launcher:  noLauncher{},
		source:    collect.NewEngine(c.ScrapeInterval),
		traffic:   &traffic{},
		latencies: &latencies{},
	}
	if cfg.Launcher != "" {
		in.client = launch.Dial(cfg.Launcher)
		in.launcher = in.client
	}
	in.adapter = &engineAdapter{all: all, launcher: in.launcher, url: cfg.URL, name: cfg.Engine}
	in.engineLog = &engineLog{description: in.adapter.described}
	return in
}

// startLimit is how long a question about an engine's start may take.
const startLimit = 500 * time.Millisecond

// startSteps of an engine that is not serving, as its log showed them last.
func (in *instance) startSteps() []string {
	if steps := in.steps.Load(); steps != nil {
		return *steps
	}
	return nil
}

// followStart keeps startSteps up to date.
func (in *instance) followStart(ctx context.Context) {
	if serving, _ := in.machine.Serving(); serving || in.client == nil {
		in.steps.Store(nil)
		return
	}
	steps := in.readStart(ctx)
	in.steps.Store(&steps)
}

// readStart reads from the engine's log how far its start has come.
func (in *instance) readStart(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	s, err := in.client.Status(ctx)
	if err != nil {
		return nil // the reason tells that the launcher does not answer
	}
	l, err := in.client.Log(ctx, s.LogOffset)
	if err != nil {
		return nil
	}
	return in.engineLog.Progress(l.Text)
}

// open reads the journal.
func (in *instance) open(dir string, clock func() probation.Instant) error {
	journal, err := probation.OpenJournal(dir)
	if err != nil {
		return err
	}
	settings := probation.Settings{
		Instance: in.id, Group: in.cfg.Group, Clock: clock, Notify: in.up.State, RestartEstimate: in.restartEstimate,
		Limits: probation.Limits{Settle: in.cfg.Drain.Settle, DrainLimit: in.cfg.Drain.Timeout},
	}
	if in.client == nil {
		settings.Allow = allowNothing
	}
	deps := probation.Dependencies{
		Journal: journal, Launcher: in.launcher, Adapter: in.adapter, Traffic: in.traffic, Logger: in.log,
		Prober: probation.NewHTTPProber(in.cfg.URL, in.adapter.probes, in.inFlight),
	}
	if in.client != nil {
		deps.Log = in.engineLog
	}
	in.machine = probation.New(settings, deps)
	return in.machine.Open()
}

// inFlight counts the requests in the engine: the larger of what its page and the wire say, since a
// drain is over when both agree.
func (in *instance) inFlight(ctx context.Context) (n int, known bool) {
	n, known = in.source.InFlight(ctx)
	if in.wire != nil {
		n = max(n, in.wire.InFlight())
	}
	return n, known
}

// restartEstimate is the usual time from start to serving; zero while nobody knows. The machine
// allows three times as much.
func (in *instance) restartEstimate() time.Duration {
	if in.cfg.ReadyGrace > 0 {
		return in.cfg.ReadyGrace / 3
	}
	return in.adapter.described().GetRestartEstimate().AsDuration()
}

// close lets go of idle connections.
func (in *instance) close() {
	in.transport.CloseIdleConnections()
	if in.client != nil {
		in.client.Close()
	}
}

// collected is the instance as the collector sees it.
func (in *instance) collected() collect.Instance {
	sources := []collect.Source{in.source}
	if in.wire != nil {
		sources = append(sources, in.wire)
	}
	if in.gpu != nil {
		sources = append(sources, in.gpu)
	}
	return collect.Instance{ID: in.id, Sources: sources, State: func() collect.State {
		s := in.machine.State()
		return collect.State{Epoch: s.GetRunningEpoch(), Phase: s.GetPhase(), Serving: s.GetServing(), StartSteps: in.startSteps()}
	}}
}

// watch describes the engine whenever it may have changed: at first, when it was started anew, when
// it answers again, and now and then.
func (in *instance) watch(ctx context.Context) error {
	var (
		seen      probation.Engine
		answering bool
		last      time.Time
	)
	for ticker := time.NewTicker(lookEvery); ; {
		now := in.machine.Snapshot().Watch.Engine
		answers := in.source.Status().Problem == ""
		due := answers && !answering || !now.StartedAt.Equal(seen.StartedAt)
		if !now.StartedAt.IsZero() && !now.StartedAt.Equal(seen.StartedAt) && !seen.StartedAt.IsZero() {
			in.source.Restarted(now.StartedAt)
		}
		seen, answering = now, answers
		if due || time.Since(last) >= in.pace() {
			in.describe(ctx)
			last = time.Now()
		}
		in.send()
		in.followStart(ctx)
		if w := in.source.Status().Warning; in.said.first("metrics", w) && w != "" {
			in.log.Warn(w)
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case <-ticker.C:
		}
	}
}

// pace is quick until the engine itself has said what it is.
func (in *instance) pace() time.Duration {
	switch d := in.adapter.described(); {
	case d.GetVersion() == "", d.GetVersionSource() == engine.SourceArgv, in.source.Status().Problem != "":
		return describeSoon
	}
	return describeCalmly
}

// describe asks the adapter and passes on what is new.
func (in *instance) describe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, base, changed, err := in.adapter.describe(ctx)
	if err != nil {
		if ctx.Err() == nil && in.said.first("describe", err.Error()) {
			in.log.Warn("the engine cannot be described; it is watched by its health alone and cannot be tuned", "reason", err)
		}
		if in.adapter.described() == nil {
			in.source.Blind("the engine cannot be described: " + err.Error())
		}
		in.tell(nil, nil)
		return
	}
	in.said.forget("describe")
	for _, w := range d.GetWarnings() {
		if in.said.first("warning "+w, w) {
			in.log.Warn(w)
		}
	}
	if !changed {
		return
	}
	in.log.Info("engine described", "adapter", d.GetEngine(), "version", d.GetVersion(), "model", d.GetModel(), "source", d.GetVersionSource())
	in.source.Version(d.GetVersion())
	in.source.Read(in.scraper(d), d.GetSignals())
	in.tell(d, base)
}

// scraper reads the pages that the description names.
func (in *instance) scraper(d *engine.Description) *scrape.Client {
	url, p := strings.TrimRight(in.cfg.URL, "/"), d.GetProbes()
	cfg := scrape.Config{
		MetricsURL: url + orElse(p.GetMetricsPath(), "/metrics"),
		Load: scrape.LoadPointers{
			Running: p.GetLoadRunningPointer(), Waiting: p.GetLoadWaitingPointer(),
			InFlight: p.GetLoadInFlightPointer(), KVUsage: p.GetLoadKvUsagePointer(),
		},
		Timeout: max(minScrapeTimeout, 2*in.interval),
		Series:  collect.Series(d.GetSignals()),
	}
	if p.GetLoadPath() != "" {
		cfg.LoadURL = url + p.GetLoadPath()
	}
	return scrape.New(cfg, in.transport)
}

// tell takes the engine's description, to be sent up; without one, at least that there is an engine.
func (in *instance) tell(d *engine.Description, base map[string]string) {
	if d == nil && !in.said.first("exists", "") {
		return
	}
	in.said.first("exists", "")
	in.info = &agentv1.EngineInfo{
		InstanceId: in.id, Name: in.cfg.Name, Group: in.cfg.Group, Url: in.cfg.URL,
		Description: d, BaseSettings: base, ReadyUrl: in.readyURL, Staging: in.cfg.Staging,
	}
}

// send sends up what is new. The first time it waits until the hardware is known, for a few seconds
// at most, so that a replica is not another's for a moment whenever its sidecar starts.
func (in *instance) send() {
	h, known := in.hardware()
	if in.info == nil || !known && in.told == nil {
		return
	}
	in.noticeHardware(h)
	if in.info == in.told && h.Name == in.toldHardware {
		return
	}
	in.told, in.toldHardware = in.info, h.Name
	next := proto.CloneOf(in.info)
	next.Hardware = h.Name
	in.up.Engine(next)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
