// Package canary judges whether replicas with a changed configuration do worse than those without, from
// windows of both: fast tests that abort, a slow one that allows for drift, and the rule that a pass must
// be proven. It does no I/O and keeps no clock. Which replicas are compared, over which windows, and what
// follows from a verdict belongs to the rollout.
package canary

import (
	"fmt"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Latency is a metric of which less is better, observed request by request.
type Latency struct {
	Name string
	// Threshold in seconds above which a request counts as a bad event. About the 95th percentile before
	// the change; on histograms it must be a bucket's bound.
	Threshold float64
	// Margins of the fast tests, as ratios; from Placebo, or 0 for the configured ones.
	Margins Margins
}

// Event is something bad that happens to a request or does not: an error, a timeout.
type Event struct {
	Name string
	// Allowed is the share of requests that the objective allows, 0 without one. A canary that provably
	// stays below it passes without a comparison.
	Allowed float64
}

// Margins of the fast tests.
type Margins struct {
	Quantile float64 // of the median and the 95th percentile
	Events   float64 // of the rate of bad events
}

// Config of a judgement. Levels are chances of a false alarm.
type Config struct {
	Latencies []Latency
	Events    []Event
	// Canaries under judgement. With one alone a slow regression holds the wave instead of failing it.
	Canaries int
	// Level that a whole rollout spends on the fast tests, and again on the slow ones: shared among
	// metrics and waves.
	Level float64
	Waves int
	// PassLevel is the chance of passing what is worse by exactly PassMargin.
	PassLevel   float64
	Margins     Margins // where a latency has none of its own
	SlowMargin  float64 // ratio of mean logarithms that the slow test fails above
	PassMargin  float64 // and below which a pass must prove it
	MinRequests float64 // on each arm, for a pass
	// BlockWindows is how many windows the slow tests take together: five seconds' worth.
	BlockWindows int
	// ShareLevel is that of the check that the canary gets the traffic it was given.
	ShareLevel float64
}

// DefaultConfig holds every default for these metrics.
func DefaultConfig(latencies []Latency, events []Event, canaries int) Config {
	return Config{
		Latencies: latencies, Events: events, Canaries: canaries,
		Level: .005, Waves: 4, PassLevel: .01,
		Margins:    Margins{Quantile: 1.25, Events: 2},
		SlowMargin: 1.10, PassMargin: 1.25, MinRequests: 200, BlockWindows: 5, ShareLevel: .001,
	}
}

// Validate reports what is wrong with a configuration.
func (c Config) Validate() error {
	switch {
	case len(c.Latencies) == 0:
		return fmt.Errorf("%w: no latency to compare", stats.ErrInput)
	case c.Canaries < 1 || c.Waves < 1 || c.BlockWindows < 1:
		return fmt.Errorf("%w: %d canaries in %d waves, blocks of %d windows", stats.ErrInput, c.Canaries, c.Waves, c.BlockWindows)
	case !(c.SlowMargin >= 1 && c.PassMargin > 1):
		return fmt.Errorf("%w: margins %v to fail and %v to pass", stats.ErrInput, c.SlowMargin, c.PassMargin)
	}
	for _, level := range []float64{c.Level, c.PassLevel, c.ShareLevel} {
		if !(level > 0 && level < 1) {
			return fmt.Errorf("%w: level %v", stats.ErrInput, level)
		}
	}
	for _, l := range c.Latencies {
		if !(l.Threshold > 0) {
			return fmt.Errorf("%w: threshold of %s is %v", stats.ErrInput, l.Name, l.Threshold)
		}
	}
	return nil
}

// fastLevel is that of one fast test: two for each latency, one for each event.
func (c Config) fastLevel() float64 {
	return c.Level / float64((2*len(c.Latencies)+len(c.Events))*c.Waves)
}

// slowLevel is that of one slow test, one for each latency and one for the cost.
func (c Config) slowLevel() float64 { return c.Level / float64((len(c.Latencies)+1)*c.Waves) }

// Arm is what the replicas of one side did in a window.
type Arm struct {
	Requests float64
	// Latencies and Events in the order of the configuration; a nil sketch or none is no measurement.
	Latencies []*stats.Sketch
	Events    []float64
	// Tokens that were generated, and what the replicas cost meanwhile, in dollars or in replica-seconds
	// where prices are equal; 0 when unknown.
	Tokens, Cost float64
}

func (a Arm) latency(i int) *stats.Sketch {
	if i < len(a.Latencies) {
		return a.Latencies[i]
	}
	return nil
}

// Window is one second of both arms, or a few.
type Window struct {
	Canary, Control Arm
	// Share of the requests that the router meant for the canaries; 0 when it is not known.
	Share float64
}
