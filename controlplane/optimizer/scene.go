// Package optimizer answers a finding with a configuration: it generates candidates from the
// engine's own knob table, rejects what cannot work with the reason, predicts the rest on the
// group's traffic with coefficients anchored to what the engines show, and proposes the best, or
// says why the incumbent stays.
//
// It decides nothing about live engines: a proposal goes to the workflow, and canaries judge it.
// What it knows of an engine is what any engine shows: knobs, counters, latencies.
package optimizer

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Scene is everything that the optimizer looks at for one group.
type Scene struct {
	Group       string
	Engine      string
	Model       string
	Hardware    string
	Tabled      bool // hardware and model are in the tables
	Replicas    int
	Description *enginev1.Description
	// Base are the operator's own settings, Incumbent what runs now on top of them; by knob name.
	Base, Incumbent map[string]string
	Objectives      *commandv1.Objectives
	Windows         []*fleet.Window
	Earlier         []*fleet.Window // before Windows, to compare the engines' pace with
	Totals          *fleet.Aggregate
	Now             time.Time
}

// Config returns the settings in effect by neutral knob name, engine defaults filled in.
func (s *Scene) Config() analysis.Config {
	c := analysis.Config{}
	for _, k := range s.Description.GetKnobs() {
		if n := k.GetNeutral(); n != "" && k.GetIgnoredBecause() == "" {
			if v := s.value(k); v != "" {
				c[n] = v
			}
		}
	}
	return c
}

// value of a knob in effect: what runs, what the engine showed, what the operator gave, its default.
func (s *Scene) value(k *enginev1.Knob) string {
	for _, from := range []map[string]string{s.Incumbent, s.Description.GetEffective(), s.Base} {
		if v, ok := from[k.GetName()]; ok && v != "" {
			return v
		}
	}
	return k.GetDefaultValue()
}

// knob finds the knob with a neutral name; nil when this version has none or ignores it.
func (s *Scene) knob(neutral string) *enginev1.Knob {
	for _, k := range s.Description.GetKnobs() {
		if k.GetNeutral() == neutral && k.GetIgnoredBecause() == "" {
			return k
		}
	}
	return nil
}

// number of a neutral knob in effect, or fallback.
func (s *Scene) number(neutral string, fallback float64) float64 {
	if v, ok := s.Config().Number(neutral); ok {
		return v
	}
	return fallback
}

// with returns the complete settings of a candidate: the incumbent's, changed.
func (s *Scene) with(change map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, s.Incumbent)
	maps.Copy(out, change)
	return out
}

// traffic of one replica, as means.
type traffic struct {
	rate           float64 // requests per second and replica
	prompt, output float64 // tokens per request
	hit            float64 // share of prompt tokens found in the prefix cache
}

// traffic from counters. A request that is still queued has not been counted, so growth of the
// queue is added to what finished.
func (s *Scene) traffic() (traffic, error) {
	a := s.Totals
	n := a.Counters[fleet.RequestsFinished]
	if n <= 0 || a.Seconds() <= 0 || s.Replicas <= 0 {
		return traffic{}, fmt.Errorf("group %s finished no request in the span", s.Group)
	}
	started := n
	if ttft := a.Count(fleet.TTFT); ttft > n {
		started = ttft // requests under way have had their first token already
	}
	t := traffic{
		rate:   math.Max(0, started+s.queueGrowth()) / a.Seconds() / float64(s.Replicas),
		prompt: a.Counters[fleet.PromptTokens] / started,
		output: a.Counters[fleet.GenerationTokens] / n,
	}
	if q := a.Counters[fleet.PrefixQueryTokens]; q > 0 {
		t.hit = math.Min(1, a.Counters[fleet.PrefixHitTokens]/q)
	}
	t.prompt, t.output = math.Max(1, t.prompt), math.Max(1, t.output)
	return t, nil
}

// queueGrowth is how many more requests wait at the end of the span than at its beginning.
func (s *Scene) queueGrowth() float64 {
	first, last := map[string]*fleet.Window{}, map[string]*fleet.Window{}
	for _, w := range s.Windows {
		if f := first[w.Instance]; f == nil || w.Start.Before(f.Start) {
			first[w.Instance] = w
		}
		if l := last[w.Instance]; l == nil || w.Start.After(l.Start) {
			last[w.Instance] = w
		}
	}
	growth := 0.0
	for id, l := range last {
		growth += l.Gauges[fleet.RequestsWaiting] - first[id].Gauges[fleet.RequestsWaiting]
	}
	return growth
}

// heldBack returns how many requests each replica has open when the senders, and not the arrivals,
// decide that; 0 when it is not so. Either some wait all the time and their number stays, or the open
// ones hardly vary: the number of independent arrivals' requests varies by about its mean.
func (s *Scene) heldBack() int {
	var busy, queued, open, squares float64
	for _, w := range s.Windows {
		running, waiting := w.Gauges[fleet.RequestsRunning], w.Gauges[fleet.RequestsWaiting]
		if running+waiting <= 0 {
			continue
		}
		busy++
		open += running + waiting
		squares += (running + waiting) * (running + waiting)
		if waiting >= 1 {
			queued++
		}
	}
	const always, steady, leastOpen, dispersion = 0.8, 0.15, 4, 0.25
	if busy < 10 {
		return 0
	}
	mean := open / busy
	waits := queued >= always*busy && math.Abs(s.queueGrowth()) <= steady*s.Totals.Counters[fleet.RequestsFinished]
	capped := mean >= leastOpen && squares/busy-mean*mean <= dispersion*mean
	if !waits && !capped {
		return 0
	}
	return int(math.Round(mean))
}

// operating point of a replica while it has work.
type operatingPoint struct {
	running     float64 // sequences
	promptStep  float64 // prompt tokens per step
	stepSeconds float64 // NaN when no source tells
}

func (s *Scene) operatingPoint(t traffic) operatingPoint {
	var op operatingPoint
	var busy float64
	for _, w := range s.Windows {
		if r := w.Gauges[fleet.RequestsRunning]; r > 0 {
			op.running += r
			busy++
		}
	}
	if busy > 0 {
		op.running /= busy
	}
	op.running = math.Max(1, op.running)
	op.promptStep = op.running * t.prompt * (1 - t.hit) / t.output
	if steps := s.Totals.Counters[fleet.Iterations]; steps > 0 {
		generated := s.Totals.Counters[fleet.GenerationTokens] / steps
		op.promptStep = math.Max(0, s.Totals.Counters[fleet.IterationTokens]/steps-generated)
		op.running = math.Max(1, generated)
	}
	op.stepSeconds = math.NaN()
	for _, m := range []string{fleet.ITL, fleet.TPOT} {
		if k := s.Totals.Sketches[m]; k != nil && k.Count() > 0 {
			op.stepSeconds = k.Mean()
			break
		}
	}
	return op
}

// kvTokens of one replica: what the engine reports; 0 when it does not.
func (s *Scene) kvTokens() int {
	return int(s.Totals.Gauges[fleet.KVCapacityTokens].Last)
}

// earlierSpans is how far back, in spans, the engines' usual pace is looked for.
const earlierSpans = 5

// scene gathers a group's records and telemetry.
func (v *Service) scene(group string, span time.Duration) (*Scene, error) {
	g := v.machine.Group(group)
	if g == nil {
		return nil, fmt.Errorf("%w: there is no group %q", ErrUnknownGroup, group)
	}
	now := v.now().Truncate(time.Second)
	s := &Scene{
		Group: group, Engine: g.GetEngine(), Objectives: g.GetPolicy().GetObjectives(), Now: now,
		Description: &enginev1.Description{}, Totals: fleet.NewAggregate(),
	}
	var ids []string
	for _, in := range v.machine.Instances(group) {
		if !in.GetReachable() || in.GetState().GetPhase() == agentv1.Phase_PHASE_QUARANTINED {
			continue
		}
		ids = append(ids, in.GetId())
		v.adopt(s, in)
	}
	s.Replicas = len(ids)
	s.Tabled = s.unknown(v.tables) == ""
	s.Windows = v.telemetry.Windows(ids, now.Add(-span), now)
	s.Earlier = v.telemetry.Windows(ids, now.Add(-earlierSpans*span), now.Add(-span))
	for _, w := range s.Windows {
		if err := s.Totals.Add(w); err != nil {
			return nil, fmt.Errorf("merge telemetry of %s: %w", group, err)
		}
	}
	return s, nil
}

// adopt takes what all replicas share from the first one that runs the promoted configuration.
func (v *Service) adopt(s *Scene, in *commandv1.Instance) {
	if s.Model != "" {
		return
	}
	s.Model, s.Hardware, s.Base = in.GetModel(), in.GetHardware(), in.GetBaseSettings()
	if t := v.machine.KnobTable(in.GetKnobTableHash()); t != nil {
		s.Description = t.GetDescription()
	}
	if e := in.GetEffective(); len(e) > 0 {
		s.Description.Effective = e
	}
	if b := v.machine.Body(in.GetState().GetRunningHash()); b != nil {
		s.Incumbent = b.GetBody().GetSettings()
	}
}

func format(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
