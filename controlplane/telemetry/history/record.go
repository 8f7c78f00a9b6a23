package history

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// Windows are the recent windows of this node; telemetry.Store has them.
type Windows interface {
	Instances() []string
	// Aggregate merges the windows that lie wholly within [from, to).
	Aggregate(instances []string, from, to time.Time) (*fleet.Aggregate, error)
}

// Identity of an engine, for labels.
type Identity struct{ Group, Model string }

// RecorderConfig times a Recorder. Zero fields take the defaults.
type RecorderConfig struct {
	// Step between samples; default 10 s.
	Step time.Duration
	// Settle is how long windows may take to arrive; default 5 s.
	Settle time.Duration
	// Arrive is how long an engine is known before its first sample, so that a new leader has been told
	// of its past; default 30 s.
	Arrive time.Duration
	// Reach is how far back windows are looked for; default 10 min.
	Reach time.Duration
	// Silent is how long an engine may be without windows before its series end; default 1 min.
	Silent time.Duration
	// File of the snapshot; empty: none is kept.
	File string
	// SaveEvery is how often it is written; default 10 min. It is also written when Run ends.
	SaveEvery time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

func (c RecorderConfig) withDefaults() RecorderConfig {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.Step, 10*time.Second)
	set(&c.Settle, 5*time.Second)
	set(&c.Arrive, 30*time.Second)
	set(&c.Reach, 10*time.Minute)
	set(&c.Silent, time.Minute)
	set(&c.SaveEvery, 10*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Recorder turns windows into the samples of a Head. Run owns it.
type Recorder struct {
	cfg      RecorderConfig
	head     *Head
	windows  Windows
	identify func(engine string) (Identity, bool)
	logger   *slog.Logger
	engines  map[string]*recorded
	adopt    chan adoption
}

// recorded is how far an engine's windows are recorded.
type recorded struct {
	seen time.Time // when its first window was noticed
	next time.Time // begin of the first step that is not recorded
	last time.Time // end of the last step that had windows; zero: its series have ended
	who  Identity
}

// NewRecorder returns a recorder. identify tells what is known of an engine; false: not registered,
// then its windows wait.
func NewRecorder(cfg RecorderConfig, head *Head, windows Windows, identify func(engine string) (Identity, bool), logger *slog.Logger) *Recorder {
	return &Recorder{
		cfg: cfg.withDefaults(), head: head, windows: windows, identify: identify,
		logger: logger.With("component", "history"), engines: map[string]*recorded{}, adopt: make(chan adoption),
	}
}

// Run loads the snapshot, then records until ctx ends; it returns nil. What goes wrong with the
// snapshot is logged: history is worth less than a control plane that runs.
func (r *Recorder) Run(ctx context.Context) error {
	r.load()
	step, save := time.NewTicker(r.cfg.Step), time.NewTicker(r.cfg.SaveEvery)
	defer step.Stop()
	defer save.Stop()
	for {
		select {
		case <-step.C:
			r.Record()
		case <-save.C:
			r.save()
		case a := <-r.adopt:
			a.done <- r.head.adopt(a.other)
		case <-ctx.Done():
			r.Record()
			r.save()
			return nil
		}
	}
}

func (r *Recorder) load() {
	if r.cfg.File == "" {
		return
	}
	if err := r.head.Load(r.cfg.File); err != nil {
		r.logger.Error("history begins anew", "error", err)
		return
	}
	if s := r.head.Stats(); s.Series > 0 {
		r.logger.Info("history restored", "series", s.Series, "bytes", s.Bytes, "oldest", s.Oldest)
	}
}

func (r *Recorder) save() {
	if r.cfg.File == "" {
		return
	}
	if err := r.head.Save(r.cfg.File); err != nil {
		r.logger.Error("history not saved", "error", err)
	}
}

// Record appends the samples of all steps that are over, and drops what is too old.
func (r *Recorder) Record() {
	now := r.cfg.Now()
	until := now.Add(-r.cfg.Settle).Truncate(r.cfg.Step)
	here := r.windows.Instances()
	for _, id := range here {
		r.recordEngine(id, now, until)
	}
	for id, e := range r.engines {
		if !e.last.IsZero() && until.Sub(e.last) >= r.cfg.Silent {
			r.end(id, e)
		}
		if e.last.IsZero() && !slices.Contains(here, id) {
			delete(r.engines, id)
		}
	}
	r.head.Truncate(now)
}

func (r *Recorder) end(id string, e *recorded) {
	r.head.End(e.last.Add(time.Second), labels.MustNewMatcher(labels.MatchEqual, series.LabelEngine, id))
	e.last = time.Time{}
}

func (r *Recorder) recordEngine(id string, now, until time.Time) {
	e := r.engines[id]
	if e == nil {
		e = &recorded{seen: now, next: now.Add(-r.cfg.Reach).Truncate(r.cfg.Step)}
		r.engines[id] = e
	}
	who, known := r.identify(id)
	if !known || now.Sub(e.seen) < r.cfg.Arrive {
		return
	}
	if oldest := now.Add(-r.cfg.Reach).Truncate(r.cfg.Step); e.next.Before(oldest) {
		e.next = oldest
	}
	// Steps without windows are looked at again: an agent that was cut off sends what it has later.
	for from := e.next; from.Before(until); from = from.Add(r.cfg.Step) {
		to := from.Add(r.cfg.Step)
		a, err := r.windows.Aggregate([]string{id}, from, to)
		if err != nil {
			r.logger.Error("windows not recorded", "engine", id, "from", from, "error", err)
			continue
		}
		if a.Windows == 0 {
			continue
		}
		if !e.last.IsZero() && (from.Sub(e.last) >= r.cfg.Silent || who != e.who) {
			r.end(id, e)
		}
		r.append(id, who, a, to)
		e.next, e.last, e.who = to, to, who
	}
}

// append a step. A sample that a restored history already has is refused by the head, which counts it.
func (r *Recorder) append(id string, who Identity, a *fleet.Aggregate, at time.Time) {
	for metric, k := range a.Sketches {
		if s, known := series.Find(metric); known && s.Kind == series.Histogram {
			r.appendHistogram(seriesLabels(s, id, who, a.Origin[metric]), native(k), at)
		}
	}
	for metric, v := range a.Counters {
		if s, can := series.Of(metric, series.Counter); can {
			l := seriesLabels(s, id, who, "")
			_, before, _ := r.head.Last(l)
			_ = r.head.Append(l, series.Counter, at, before+v)
		}
	}
	for metric, g := range a.Gauges {
		if s, can := series.Of(metric, series.Gauge); can {
			_ = r.head.Append(seriesLabels(s, id, who, ""), series.Gauge, at, g.Mean())
		}
	}
}

func (r *Recorder) appendHistogram(l labels.Labels, increase *histogram.FloatHistogram, at time.Time) {
	total := increase
	if _, before := r.head.LastHistogram(l); before != nil {
		sum, _, _, err := before.Add(increase)
		if err != nil {
			r.logger.Error("histogram not recorded", "series", l.String(), "error", err)
			return
		}
		total = sum
	}
	_ = r.head.AppendHistogram(l, at, total)
}

func seriesLabels(s series.Info, engine string, who Identity, source string) labels.Labels {
	b := labels.NewScratchBuilder(5)
	b.Add(model.MetricNameLabel, s.Name)
	b.Add(series.LabelEngine, engine)
	if s.OTel != "" && who.Model != "" {
		b.Add(series.LabelModel, who.Model)
	}
	b.Add(series.LabelGroup, who.Group)
	if source != "" {
		b.Add(series.LabelSource, source)
	}
	b.Sort()
	return b.Labels()
}
