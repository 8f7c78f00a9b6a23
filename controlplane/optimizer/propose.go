package optimizer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// ErrUnknownGroup is returned for a group that is not in the records.
var ErrUnknownGroup = errors.New("unknown group")

// Telemetry holds recent windows.
type Telemetry interface {
	Windows(instances []string, from, to time.Time) []*fleet.Window
}

// Config of the service.
type Config struct {
	// Span of telemetry that a diagnosis and a proposal look at.
	Span time.Duration
	// MinGain is the least predicted gain worth a change: twice the replicate noise.
	MinGain float64
}

// Service diagnoses groups and proposes configurations on the leader.
type Service struct {
	cfg       Config
	machine   *fsm.Machine
	telemetry Telemetry
	tables    *perfmodel.Tables
	now       func() time.Time

	mu         sync.Mutex // guards what follows
	yardsticks map[string]*yardstick
}

// New returns a service. A zero MinGain is 10 %, a zero Span one minute.
func New(cfg Config, machine *fsm.Machine, telemetry Telemetry, tables *perfmodel.Tables) *Service {
	if cfg.Span <= 0 {
		cfg.Span = time.Minute
	}
	if cfg.MinGain <= 0 {
		cfg.MinGain = 0.10
	}
	return &Service{cfg: cfg, machine: machine, telemetry: telemetry, tables: tables, now: time.Now, yardsticks: map[string]*yardstick{}}
}

// Findings names what limits a group now, primary cause first.
func (v *Service) Findings(_ context.Context, group string) ([]*commandv1.Finding, error) {
	s, err := v.scene(group, v.cfg.Span)
	if err != nil {
		return nil, err
	}
	return v.Diagnose(s), nil
}

// Diagnose names what limits the group of a scene, primary cause first.
func (v *Service) Diagnose(s *Scene) []*commandv1.Finding {
	return analysis.Analyze(s.input(), v.forecaster(s))
}

func (s *Scene) input() analysis.Input {
	return analysis.Input{
		Group: s.Group, Replicas: s.Replicas, Windows: s.Windows, Config: s.Config(), Objectives: s.Objectives, Now: s.Now,
		Pace: analysis.LearnPace(s.Earlier), Warnings: s.Description.GetWarnings(),
	}
}

// forecaster predicts gains of remedies by simulation; it gains nothing where it cannot predict.
func (v *Service) forecaster(s *Scene) analysis.Forecaster {
	sim, err := v.simulator(s)
	return forecast{sim: sim, err: err}
}

type forecast struct {
	sim *simulator
	err error
}

// Gain implements analysis.Forecaster by a short replay of every admissible candidate that moves
// only the given knobs.
func (f forecast) Gain(knobs []string) (gain, low float64, remedy string) {
	if f.err != nil {
		return 0, 0, ""
	}
	all, _ := f.sim.scene.candidates(nil)
	base := f.sim.run(nil, screenDraws, screenRequests)
	for _, c := range all {
		if !movesOnly(c, knobs) {
			continue
		}
		o := f.sim.run(c.neutral, screenDraws, screenRequests)
		if o.err != nil {
			continue
		}
		if g := f.sim.gains(o, base); len(g) > 0 && mean(g) > gain+0.02 {
			gain, low, remedy = mean(g), g[0], c.title(f.sim.scene)
		}
	}
	return gain, low, remedy
}

func movesOnly(c candidate, knobs []string) bool {
	for n := range c.neutral {
		if !slices.Contains(knobs, n) {
			return false
		}
	}
	return true
}

func (v *Service) simulator(s *Scene) (*simulator, error) {
	t, err := s.traffic()
	if err != nil {
		return nil, err
	}
	cal, err := v.calibrate(s, setupOf(s, nil), s.operatingPoint(t), t)
	if err != nil {
		return nil, err
	}
	return newSimulator(s, t, cal)
}

// Recommend proposes a configuration whose changes stay within the knob families asked for (none:
// any one family). A recommendation with status kept_incumbent says why nothing should change.
func (v *Service) Recommend(_ context.Context, group string, asked []string) (*commandv1.Recommendation, error) {
	s, err := v.scene(group, v.cfg.Span)
	if err != nil {
		return nil, err
	}
	finding := v.Diagnose(s)[0]
	r := &commandv1.Recommendation{
		Id: "p-" + uuid.NewString()[:13], Group: group, Finding: finding, Status: "kept_incumbent",
		Predicted: map[string]*commandv1.Predicted{}, CreatedMs: v.now().UnixMilli(),
	}
	if c := analysis.Class(finding.GetClass()); c == analysis.NotEnoughData || c.Fault() {
		r.Title = "keep the incumbent: " + finding.GetSummary()
		return r, nil
	}
	sim, err := v.simulator(s)
	if err != nil {
		r.Title = "keep the incumbent: " + err.Error()
		return r, nil //nolint:nilerr // not being able to predict is an answer
	}
	cands, no := s.candidates(asked)
	cands, failed := v.withoutFailed(s, cands)
	ranked, more := sim.best(cands)
	v.fill(r, s, sim, ranked, slices.Concat(no, failed, more))
	return r, nil
}

// withoutFailed leaves out what the group's engines refused or took back before, while that is
// remembered.
func (v *Service) withoutFailed(s *Scene, cands []candidate) (left []candidate, no []rejection) {
	why := map[string]string{}
	for _, q := range v.machine.Quarantines() {
		if q.GetGroup() == s.Group {
			why[q.GetBodyHash()] = q.GetReason()
		}
	}
	for _, c := range cands {
		if reason, failed := why[fleet.BodyHash(&agentv1.Body{Engine: s.Engine, Settings: s.with(c.change)})]; failed {
			no = append(no, rejection{c.title(s), "it failed here before: " + reason})
			continue
		}
		left = append(left, c)
	}
	return left, no
}

// choose the candidate to propose among those ranked: the best of the sure ones that answer the
// finding, that is, move only knobs of its remedy; else the best of all sure ones; else the first, which
// is then not proposed. A setting that limits is put right before others are moved around it.
func choose(ranked []scored, finding *commandv1.Finding, sure func(scored) bool) int {
	answer := slices.IndexFunc(ranked, func(c scored) bool { return sure(c) && movesOnly(c.candidate, finding.GetKnobs()) })
	if answer >= 0 {
		return answer
	}
	return max(0, slices.IndexFunc(ranked, sure))
}

// fill completes the recommendation with the best candidate that gains enough for certain, or that is
// worth a try.
func (v *Service) fill(r *commandv1.Recommendation, s *Scene, sim *simulator, ranked []scored, no []rejection) {
	r.Evidence = append(r.Evidence, sim.cal.notes...)
	r.Evidence = append(r.Evidence, fmt.Sprintf("traffic of a replica: %.2f requests/s, %.0f prompt and %.0f output tokens on average, prefix hits %.0f %%; burstiness and length shape assumed as in a public conversation trace",
		sim.traffic.rate, sim.traffic.prompt, sim.traffic.output, 100*sim.traffic.hit))
	if len(ranked) == 0 {
		r.Title = "keep the incumbent: no candidate is admissible"
		r.Rejected = rejections(no)
		return
	}
	sure := func(c scored) bool { return c.low >= v.cfg.MinGain || v.worthATry(s, sim, c) }
	chosen := choose(ranked, r.GetFinding(), sure)
	pick := ranked[chosen]
	for i, other := range ranked {
		if i != chosen {
			no = append(no, rejection{other.title(s), fmt.Sprintf("predicted gain %+.0f %%, at least %+.0f %% with 90 %% confidence, against %+.0f and %+.0f %% of the proposal", 100*other.gain, 100*other.low, 100*pick.gain, 100*pick.low)})
		}
	}
	r.Rejected = rejections(no)
	if sim.clients > 0 {
		r.Evidence = append(r.Evidence, fmt.Sprintf("requests wait all the time and their number stays: predicted for %d open requests per replica, as now; how many more would come is not seen", sim.clients))
	}
	if s.turnsCacheOn(pick.neutral) {
		r.Evidence = append(r.Evidence, "how much of the prompts repeats cannot be seen while prefix caching is off: predicted over shares of 0 to 90 %; a cache that finds nothing costs next to nothing, so a canary may find out")
	}
	if !sure(pick) {
		r.Title = fmt.Sprintf("keep the incumbent: the best candidate (%s) is predicted to gain %.0f %% (at least %.0f %% with 90 %% confidence), less than the %.0f %% worth a change", pick.title(s), 100*pick.gain, 100*pick.low, 100*v.cfg.MinGain)
		return
	}
	settings := s.with(pick.change)
	r.Status, r.Title, r.Settings = "open", pick.title(s), settings
	r.BodyHash = fleet.BodyHash(&agentv1.Body{Engine: s.Engine, Settings: settings})
	r.Restart, r.Lossy = s.restart(pick.candidate), s.lossy(pick.candidate)
	r.Risk = risk(r)
	for _, name := range slices.Sorted(maps.Keys(pick.change)) {
		r.Changes = append(r.Changes, &commandv1.KnobChange{Knob: name, Current: current(s, name), Proposed: pick.change[name]})
	}
	r.Predicted = predicted(pick.outcome, s.Replicas, sim)
	r.Prerequisites = prerequisites(s, pick)
	r.CommandLine = commandLine(s, pick.change)
}

// worthATry reports whether a canary may find out what cannot be predicted well: much is to be gained
// on average, and even the unlucky draws lose nothing, or no more than an unused cache costs.
func (v *Service) worthATry(s *Scene, sim *simulator, pick scored) bool {
	switch {
	case s.turnsCacheOn(pick.neutral):
		return pick.low > -v.cfg.MinGain && pick.gain > v.cfg.MinGain
	case len(sim.cal.laws) > 0:
		return pick.low > 0 && pick.gain > 3*v.cfg.MinGain
	}
	return false
}

func risk(r *commandv1.Recommendation) string {
	switch {
	case r.GetLossy():
		return "high"
	case r.GetRestart():
		return "medium"
	}
	return "low"
}

func current(s *Scene, knob string) string {
	for _, k := range s.Description.GetKnobs() {
		if k.GetName() == knob {
			return s.value(k)
		}
	}
	return ""
}

func prerequisites(s *Scene, c scored) []string {
	if tp, ok := c.neutral["tensor_parallel"]; ok {
		return []string{tp + " GPUs in one link domain per replica: the agent does not see how many there are"}
	}
	return nil
}

// commandLine shows the flags that would apply the change by hand.
func commandLine(s *Scene, change map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(change)) {
		for _, k := range s.Description.GetKnobs() {
			switch {
			case k.GetName() != name:
			case k.GetFlag() == "":
				parts = append([]string{k.GetEnv() + "=" + change[name]}, parts...)
			case change[name] == "true":
				parts = append(parts, k.GetFlag())
			case change[name] == "false" && k.GetNegativeFlag() != "":
				parts = append(parts, k.GetNegativeFlag())
			default:
				parts = append(parts, k.GetFlag()+" "+change[name])
			}
		}
	}
	return strings.Join(parts, " ")
}

// rejections keeps the first two dozen: the rest says the same again.
func rejections(no []rejection) []*commandv1.Rejected {
	var out []*commandv1.Rejected
	for _, r := range no[:min(24, len(no))] {
		out = append(out, &commandv1.Rejected{Candidate: r.candidate, Because: r.because})
	}
	return out
}

// predicted figures with 90 % intervals: the spread over the draws, widened by the model's error.
func predicted(o outcome, replicas int, sim *simulator) map[string]*commandv1.Predicted {
	scale := float64(replicas) / float64(sim.replicas)
	p := map[string]*commandv1.Predicted{}
	put := func(name, unit string, spread float64, read func(des.Summary) float64) {
		var vs []float64
		for _, s := range o.runs {
			vs = append(vs, read(s))
		}
		slices.Sort(vs)
		if !sim.cal.anchored {
			spread *= anchorlessMul
		}
		w := math.Exp(1.645 * spread)
		p[name] = &commandv1.Predicted{Value: mean(vs), Low: vs[0] / w, High: vs[len(vs)-1] * w, Unit: unit}
	}
	quantiles := func(name string, spread float64, of func(des.Summary) des.Quantiles) {
		put(name+"_p50", "s", spread, func(s des.Summary) float64 { return of(s).P50.Seconds() })
		put(name+"_p95", "s", spread, func(s des.Summary) float64 { return of(s).P95.Seconds() })
		put(name+"_p99", "s", spread, func(s des.Summary) float64 { return of(s).P99.Seconds() })
	}
	quantiles("ttft", errorTTFT, func(s des.Summary) des.Quantiles { return s.TTFT })
	quantiles("tpot", errorTPOT, func(s des.Summary) des.Quantiles { return s.TPOT })
	quantiles("e2e", errorTPOT, func(s des.Summary) des.Quantiles { return s.E2E })
	served := 0.0 // what arrives is served, unless more waits
	if sim.clients > 0 {
		served = errorTPOT
	}
	put("throughput_tokens", "tok/s", served, func(s des.Summary) float64 { return scale * s.OutputTokenRate })
	put("goodput_share", "1", 0, func(s des.Summary) float64 { return s.GoodShare })
	return p
}

// Measure summarises what a group did between two times.
func (v *Service) Measure(_ context.Context, group string, from, to time.Time) (*commandv1.Measured, error) {
	if v.machine.Group(group) == nil {
		return nil, fmt.Errorf("%w: there is no group %q", ErrUnknownGroup, group)
	}
	var ids []string
	for _, in := range v.machine.Instances(group) {
		ids = append(ids, in.GetId())
	}
	a := fleet.NewAggregate()
	for _, w := range v.telemetry.Windows(ids, from, to) {
		if err := a.Add(w); err != nil {
			return nil, fmt.Errorf("merge telemetry of %s: %w", group, err)
		}
	}
	return Measured(a, from, to), nil
}

// Measured turns merged telemetry into the figures that proposals predict.
func Measured(a *fleet.Aggregate, from, to time.Time) *commandv1.Measured {
	m := &commandv1.Measured{FromMs: from.UnixMilli(), ToMs: to.UnixMilli(), Values: map[string]float64{
		"throughput_tokens":   a.Rate(fleet.GenerationTokens),
		"requests_per_second": a.Rate(fleet.RequestsFinished),
		"requests_failed":     a.Counters[fleet.RequestsFailed],
	}}
	for name, metric := range map[string]string{"ttft": fleet.TTFT, "tpot": fleet.TPOT, "e2e": fleet.E2E, "queue": fleet.Queue} {
		for suffix, q := range map[string]float64{"_p50": 0.5, "_p95": 0.95, "_p99": 0.99} {
			if x := a.Quantile(metric, q); !math.IsNaN(x) {
				m.Values[name+suffix] = x
			}
		}
	}
	return m
}
