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
	QueueBound    Class = "queue_bound"   // work arrives faster than the group can do it
	BatchLimited  Class = "batch_limited" // the sequence cap keeps requests waiting while the engine could take more
	PrefillBound  Class = "prefill_bound" // prompts wait for their turn in the step's token budget
	DecodeBound   Class = "decode_bound"  // each step reads weights and cache at the memory's pace
	KVBound       Class = "kv_bound"      // the cache is full and requests are evicted or wait for room
	None          Class = "none"
	NotEnoughData Class = "not_enough_data"
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
	knobs     []string // neutral knobs that the remedy may move
	falsified string
	fires     func(Input, signals) (evidence []string, confidence float64, ok bool)
}

// Analyze returns the findings, primary cause first. It never returns an empty list.
func Analyze(in Input, forecast Forecaster) []*commandv1.Finding {
	s := summarize(in)
	if why := ineligible(s); why != "" {
		return []*commandv1.Finding{{Class: string(NotEnoughData), Summary: "not enough data, because " + why}}
	}
	var found []*commandv1.Finding
	for _, r := range rules {
		evidence, confidence, ok := r.fires(in, s)
		if !ok {
			continue
		}
		f := &commandv1.Finding{
			Class: string(r.class), Evidence: evidence, Confidence: confidence,
			FalsifiedBy: r.falsified, Knobs: r.knobs,
		}
		gain, low, remedy := forecast.Gain(r.knobs)
		f.Gain = gain
		f.Summary = fmt.Sprintf("%s: %s", sentence[r.class], evidence[0])
		if remedy != "" {
			f.Evidence = append(f.Evidence, fmt.Sprintf("remedy %s is predicted to gain %.0f %% (at least %.0f %% with 90 %% confidence)", remedy, 100*gain, 100*low))
		}
		found = append(found, f)
	}
	return rank(found, s)
}

// sentence opens a finding's summary.
var sentence = map[Class]string{
	QueueBound:   "requests arrive faster than the group serves them",
	BatchLimited: "the sequence limit keeps requests waiting while the engine has room",
	PrefillBound: "prompts wait for the step's token budget",
	DecodeBound:  "decoding runs at the memory's pace",
	KVBound:      "the KV cache is full",
}

// rank puts the finding with the largest gain first and marks the others as suppressed by it.
func rank(found []*commandv1.Finding, s signals) []*commandv1.Finding {
	slices.SortStableFunc(found, func(a, b *commandv1.Finding) int { return cmp.Compare(b.GetGain(), a.GetGain()) })
	if len(found) == 0 || found[0].GetGain() < minGain {
		reason := fmt.Sprintf("none, because no remedy is predicted to gain %.0f %%: mean batch %.1f, waiting %.1f, KV use %.0f %%", 100*minGain, s.running, s.waiting, 100*s.kvUsage)
		none := &commandv1.Finding{Class: string(None), Summary: reason}
		for _, f := range found {
			f.SuppressedBy = string(None)
		}
		return append([]*commandv1.Finding{none}, found...)
	}
	for _, f := range found[1:] {
		f.SuppressedBy = found[0].GetClass()
	}
	return found
}

// ineligible says why the span cannot be judged, or "".
func ineligible(s signals) string {
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
