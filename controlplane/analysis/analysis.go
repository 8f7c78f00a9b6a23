// Package analysis names what limits a group of engines in a span of telemetry, with evidence,
// and ranks the causes by the gain that their remedy is predicted to bring.
//
// It is pure: windows, configuration and a forecaster in, findings out. "None, because" and "not
// enough data, because" are findings too. It proposes nothing; the optimizer answers a finding.
package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// Class of a finding.
type Class string

// The classes that this package can name.
const (
	QueueBound             Class = "queue_bound"              // work arrives faster than the group can do it
	BatchLimited           Class = "batch_limited"            // the sequence cap keeps requests waiting while the engine could take more
	PrefillBound           Class = "prefill_bound"            // prompts wait for their turn in the step's token budget
	DecodeBound            Class = "decode_bound"             // each step reads weights and cache at the memory's pace
	KVBound                Class = "kv_bound"                 // the cache is full and requests are evicted or wait for room
	HostBound              Class = "host_bound"               // the engine's processes do not get the processor time they need
	ThermalThrottle        Class = "thermal_throttle"         // the GPU runs below its clock
	PrefixMisses           Class = "prefix_misses"            // prompts begin alike and are computed anew all the same
	NetworkOrClient        Class = "network_or_client"        // answers wait for clients or the network, not for the engine
	LongPromptInterference Class = "long_prompt_interference" // rare long prompts stall everybody's decoding
	AdmissionLimited       Class = "admission_limited"        // requests are refused while the engine has room
	ReplicaImbalance       Class = "replica_imbalance"        // one replica has much more to do than the others
	FailSlow               Class = "fail_slow"                // an engine is slower than it should be, and nothing shows why
	ColdStart              Class = "cold_start"               // the engine has just been started
	ReservationTooLarge    Class = "reservation_too_large"    // room is kept for tokens that do not come
	APIBound               Class = "api_bound"                // the process that speaks HTTP and tokenizes is the limit
	CommunicationBound     Class = "communication_bound"      // GPUs wait for each other
	LinkDegraded           Class = "link_degraded"            // a link between GPU and host or GPU and GPU is not what it can be
	SpeculationIneffective Class = "speculation_ineffective"  // drafts cost more than they bring
	ExpertImbalance        Class = "expert_imbalance"         // some ranks have more expert work than others
	None                   Class = "none"
	NotEnoughData          Class = "not_enough_data"
)

// Config of the group's engines by the optimizer's neutral knob names, engine defaults resolved.
type Config map[string]string

// Number returns a knob as a number; ok is false when it is unknown or not a number.
func (c Config) Number(neutral string) (v float64, ok bool) {
	v, err := strconv.ParseFloat(c[neutral], 64)
	return v, err == nil
}

// Input is one group's telemetry and configuration.
type Input struct {
	Group      string
	Replicas   int
	Windows    []*fleet.Window // one-second windows of all replicas, any order
	Config     Config
	Objectives *commandv1.Objectives
	Now        time.Time
	Pace       *Pace    // that the group's engines had before; nil: unknown
	Warnings   []string // of the engine's adapter: what it cannot see
}

// Forecaster predicts the effect of a change of neutral knobs on the group's own traffic.
type Forecaster interface {
	// Gain is the predicted relative improvement on the group's goodput, or on its end-to-end
	// latency where goodput is already full (0.5 is half as much again), of the best admissible
	// remedy among knobs. low is its 10th percentile. remedy says in words what it would be.
	Gain(knobs []string) (gain, low float64, remedy string)
}

// Limits of an eligible span.
const (
	minSeconds  = 15.0
	minRequests = 20.0
	minTokens   = 500.0
	staleShare  = 0.2
	// minGain is the least gain worth naming a cause for: twice the replicate noise that public
	// measurements show for latency (about 5 %).
	minGain = 0.10
)

// rule answers for one class whether it fires.
type rule struct {
	class     Class
	knobs     []string // neutral knobs that the remedy may move; none: the remedy is not a knob
	falsified string
	fires     func(Input, signals) verdict
}

// verdict of a rule.
type verdict struct {
	fires      bool
	missing    string // the source without which the rule cannot tell
	evidence   []string
	confidence float64
	// relief is the gain if the limiting resource were there in plenty, from the windows alone.
	relief float64
}

// no is the verdict of a rule that does not fire.
var no = verdict{}

func unknown(missing string) verdict { return verdict{missing: missing} }

func yes(relief, confidence float64, evidence ...string) verdict {
	return verdict{fires: true, relief: relief, confidence: confidence, evidence: evidence}
}

// Answer of the rule of one class for a span.
type Answer struct {
	Class   Class
	Fires   bool
	Missing string // why it cannot tell, empty when it can
}

// Examine asks the rules of all classes. Those for which no source exists yet answer what is missing.
// A class with several rules fires when one does, and misses what any of them misses.
func Examine(in Input) []Answer {
	s := summarize(in)
	var out []Answer
	for _, r := range slices.Concat(faults, rules) {
		v := r.fires(in, s)
		i := slices.IndexFunc(out, func(a Answer) bool { return a.Class == r.class })
		if i < 0 {
			i, out = len(out), append(out, Answer{Class: r.class})
		}
		out[i].Fires = out[i].Fires || v.fires
		out[i].Missing = cmp.Or(out[i].Missing, v.missing)
	}
	for _, u := range unseen {
		out = append(out, Answer{Class: u.class, Missing: u.missing})
	}
	return out
}

// Analyze returns the findings, primary cause first. It never returns an empty list. A fault comes
// before all bottlenecks, and is told even when the span is too thin to judge anything else.
func Analyze(in Input, forecast Forecaster) []*commandv1.Finding {
	s := summarize(in)
	broken := fire(faults, in, s, nil)
	if why := ineligible(in, s); why != "" {
		if len(broken) > 0 {
			return rank(broken, nil, s)
		}
		return []*commandv1.Finding{{Class: string(NotEnoughData), Summary: "not enough data, because " + why}}
	}
	return rank(broken, fire(rules, in, s, forecast), s)
}

// fire returns the findings of the rules that fire.
func fire(rules []rule, in Input, s signals, forecast Forecaster) (found []*commandv1.Finding) {
	for _, r := range rules {
		v := r.fires(in, s)
		if !v.fires {
			continue
		}
		f := &commandv1.Finding{
			Class: string(r.class), Evidence: v.evidence, Confidence: v.confidence,
			FalsifiedBy: r.falsified, Knobs: r.knobs, Gain: v.relief,
			Summary: fmt.Sprintf("%s: %s", sentence[r.class], v.evidence[0]),
		}
		if forecast != nil && len(r.knobs) > 0 {
			foresee(f, r.knobs, forecast)
		}
		found = append(found, f)
	}
	return found
}

// foresee asks for the gain of the best remedy. Where none is predicted to gain more than the
// resource in plenty would, that bound stands: a remedy may be no knob of this engine.
func foresee(f *commandv1.Finding, knobs []string, forecast Forecaster) {
	gain, low, remedy := forecast.Gain(knobs)
	if remedy != "" {
		f.Evidence = append(f.Evidence, fmt.Sprintf("remedy %s is predicted to gain %.0f %% (at least %.0f %% with 90 %% confidence)", remedy, 100*gain, 100*low))
	}
	f.Gain = max(f.GetGain(), gain)
}

// sentence opens a finding's summary.
var sentence = map[Class]string{
	QueueBound:             "requests arrive faster than the group serves them",
	BatchLimited:           "the sequence limit keeps requests waiting while the engine has room",
	PrefillBound:           "prompts wait for the step's token budget",
	DecodeBound:            "decoding runs at the memory's pace",
	KVBound:                "the KV cache is full",
	HostBound:              "the engine does not get the processor time it needs",
	PrefixMisses:           "prompts that begin alike are computed anew",
	NetworkOrClient:        "answers wait for their clients",
	LongPromptInterference: "long prompts stall the decoding of the others",
	ReplicaImbalance:       "the load is uneven",
	FailSlow:               "the engine is slower than its load explains",
	ColdStart:              "the engine has just been started",
	ThermalThrottle:        "a GPU runs below its clock",
	AdmissionLimited:       "requests are refused while the engine has room",
	APIBound:               "requests wait before the scheduler knows of them",
	CommunicationBound:     "GPUs wait for each other",
	LinkDegraded:           "a link is not what it can be",
	SpeculationIneffective: "speculation costs more than it brings",
	ReservationTooLarge:    "requests wait although neither batch nor cache is full",
}

// rank puts faults first, then the finding with the largest gain, and marks all others as
// suppressed by the first.
func rank(broken, found []*commandv1.Finding, s signals) []*commandv1.Finding {
	slices.SortStableFunc(broken, func(a, b *commandv1.Finding) int { return cmp.Compare(b.GetConfidence(), a.GetConfidence()) })
	slices.SortStableFunc(found, func(a, b *commandv1.Finding) int {
		return cmp.Or(cmp.Compare(locked(a), locked(b)), cmp.Compare(b.GetGain(), a.GetGain()))
	})
	all := slices.Concat(broken, found)
	if len(broken) == 0 && (len(found) == 0 || found[0].GetGain() < minGain) {
		reason := fmt.Sprintf("none, because no remedy is predicted to gain %.0f %%: mean batch %.1f, waiting %.1f, KV use %.0f %%", 100*minGain, s.running, s.waiting, 100*s.kvUsage)
		all = slices.Insert(all, 0, &commandv1.Finding{Class: string(None), Summary: reason})
	}
	for _, f := range all[1:] {
		f.SuppressedBy = all[0].GetClass()
	}
	return all
}

// locked puts a bottleneck before the mere want of more capacity, and both before what gains too
// little: a queue behind a setting is that setting's.
func locked(f *commandv1.Finding) int {
	switch {
	case f.GetGain() < minGain:
		return 2
	case f.GetClass() == string(QueueBound):
		return 1
	}
	return 0
}

// ineligible says why the span cannot be judged, or "".
func ineligible(in Input, s signals) string {
	if why := silent(in); why != "" {
		return why
	}
	switch {
	case s.windows == 0:
		return "no telemetry has arrived"
	case s.seconds < minSeconds:
		return fmt.Sprintf("only %.0f s of telemetry are there, %.0f are needed", s.seconds, minSeconds)
	case s.staleShare > staleShare:
		return fmt.Sprintf("%.0f %% of it comes from sources gone stale", 100*s.staleShare)
	case s.finished < minRequests && s.generated < minTokens:
		return fmt.Sprintf("only %.0f requests and %.0f tokens were served", s.finished, s.generated)
	case math.IsNaN(s.ttft50):
		return "no source reports the time to first token"
	}
	return ""
}
