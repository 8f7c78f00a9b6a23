package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Arrivals says when requests are due.
type Arrivals string

// Arrivals. All but Closed are an open loop: a request is due whatever became of the others.
const (
	Constant Arrivals = "constant" // equal gaps
	Poisson  Arrivals = "poisson"  // independent users
	Gamma    Arrivals = "gamma"    // independent gaps with the coefficient of variation CV
	Bursty   Arrivals = "bursty"   // a rate that itself varies by CV, for a minute or so at a time
	Trace    Arrivals = "trace"    // the listed requests, as they are
	// Closed is Concurrency clients, each of which sends when its last request has ended. Its
	// latencies leave out what users of an open system would have waited.
	Closed Arrivals = "closed"
)

// Limits of a plan.
const (
	MaxRequests = 20_000           // planned or sent in one run
	MaxSpan     = 10 * time.Minute // warm-up and measured span together
	burstMemory = 20 * time.Second // how long a bursty rate stays about the same
)

// Plan is one run: what is sent to one engine. Times are in seconds.
type Plan struct {
	Arrivals    Arrivals `json:"arrivals"`
	Rate        float64  `json:"rate,omitempty"` // requests per second, open loop
	CV          float64  `json:"cv,omitempty"`   // of gaps (gamma) or of the rate (bursty)
	Concurrency int      `json:"concurrency,omitempty"`

	Prompt            workload.Quantiles `json:"prompt,omitempty"` // tokens
	Output            workload.Quantiles `json:"output,omitempty"` // tokens
	LengthCorrelation float64            `json:"length_correlation,omitempty"`
	Shared            workload.Shared    `json:"shared,omitzero"`
	Requests          []workload.Request `json:"requests,omitempty"` // of a trace

	Seed     uint64  `json:"seed"`
	WarmUp   float64 `json:"warm_up_seconds"`  // sent first and left out of all figures
	Duration float64 `json:"duration_seconds"` // measured, after the warm-up

	Objectives Objectives `json:"objectives,omitzero"`
	Stop       Stop       `json:"stop,omitzero"`
}

// Stop ends a run early. Zero values take the defaults named beside them.
type Stop struct {
	// FailedShare of the requests that ended, once StopAfter have: 0.5.
	FailedShare float64 `json:"failed_share,omitempty"`
	// InFlight is how many requests may be open: 2000. More would only measure the queue.
	InFlight int `json:"in_flight,omitempty"`
}

// StopAfter is how many requests must have ended before a share of them counts.
const StopAfter = 20

// WithDefaults fills in the defaults.
func (s Stop) WithDefaults() Stop {
	if s.FailedShare == 0 {
		s.FailedShare = 0.5
	}
	if s.InFlight == 0 {
		s.InFlight = 2000
	}
	return s
}

// Span is the whole time for which requests are sent.
func (p Plan) Span() time.Duration { return seconds(p.WarmUp + p.Duration) }

// Measured is when the measured part begins, from the start of the run.
func (p Plan) Measured() time.Duration { return seconds(p.WarmUp) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Validate reports all faults together.
func (p Plan) Validate() error {
	var faults []error
	say := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	finite := !math.IsNaN(p.WarmUp+p.Duration+p.Rate+p.CV) && !math.IsInf(p.WarmUp+p.Duration+p.Rate+p.CV, 0)
	say(!finite, "rate, cv, warm_up_seconds and duration_seconds must be finite numbers")
	say(p.Duration <= 0 || p.WarmUp < 0, "duration_seconds must be above 0 and warm_up_seconds at least 0")
	say(finite && p.Span() > MaxSpan, "warm-up and duration of %.0f s together are longer than %v", p.WarmUp+p.Duration, MaxSpan)
	say(p.Stop.FailedShare < 0 || p.Stop.FailedShare > 1, "stop.failed_share is a share between 0 and 1")
	say(p.Stop.InFlight < 0, "stop.in_flight cannot be negative")
	say(min(p.Objectives.TTFT, p.Objectives.TPOT, p.Objectives.E2E) < 0, "objectives cannot be negative")
	switch p.Arrivals {
	case Constant, Poisson, Gamma, Bursty:
		say(p.Rate <= 0, "%s arrivals need a rate above 0", p.Arrivals)
		say(p.Rate*(p.WarmUp+p.Duration) > MaxRequests, "%.0f requests in one run are more than %d", p.Rate*(p.WarmUp+p.Duration), MaxRequests)
		say((p.Arrivals == Gamma || p.Arrivals == Bursty) && p.CV <= 0, "%s arrivals need a cv above 0", p.Arrivals)
	case Closed:
		say(p.Concurrency < 1 || p.Concurrency > MaxRequests, "a closed loop needs a concurrency between 1 and %d", MaxRequests)
	case Trace:
		say(len(p.Requests) == 0 || len(p.Requests) > MaxRequests, "a trace holds 1 to %d requests, this one %d", MaxRequests, len(p.Requests))
		faults = append(faults, checkTrace(p.Requests))
	default:
		say(true, "arrivals %q are not known: use constant, poisson, gamma, bursty, trace or closed", p.Arrivals)
	}
	if err := errors.Join(faults...); err != nil || p.Arrivals == Trace {
		return err
	}
	_, err := workload.Generate(p.spec(1), p.Seed) // its own checks of lengths
	return err
}

func checkTrace(rs []workload.Request) error {
	for i, r := range rs {
		switch {
		case r.PromptTokens < 1 || r.OutputTokens < 1 || r.PromptTokens > 10_000_000 || r.OutputTokens > 10_000_000:
			return fmt.Errorf("request %d of the trace has %d prompt and %d output tokens", i+1, r.PromptTokens, r.OutputTokens)
		case r.Offset < 0 || i > 0 && r.Offset < rs[i-1].Offset:
			return fmt.Errorf("request %d of the trace is due before the one before it", i+1)
		}
	}
	return nil
}

// spec of the generated traffic; count above 0 bounds the requests instead of the span.
func (p Plan) spec(count int) workload.Spec {
	s := workload.Spec{
		Arrivals: workload.Arrivals{Rate: max(p.Rate, 1e-3)}, Prompt: p.Prompt, Output: p.Output,
		LengthCorrelation: p.LengthCorrelation, Shared: p.Shared, Count: count,
	}
	if count == 0 {
		s.Duration = p.Span()
	}
	switch p.Arrivals {
	case Gamma:
		s.Arrivals.CV = p.CV
	case Bursty:
		s.Arrivals.Modulation = workload.Modulation{CV: p.CV, Memory: burstMemory}
	}
	return s
}

// Traffic lists the requests of a valid plan in the order in which they are due. Equal plans give equal
// traffic. A closed loop takes them one after the other and ignores when they are due.
func (p Plan) Traffic() ([]workload.Request, error) {
	switch p.Arrivals {
	case Trace:
		end, _ := slices.BinarySearchFunc(p.Requests, p.Span(), func(r workload.Request, t time.Duration) int {
			if r.Offset < t {
				return -1
			}
			return 1
		})
		return slices.Clone(p.Requests[:end]), nil
	case Closed:
		return workload.Generate(p.spec(MaxRequests), p.Seed)
	case Constant:
		n := int(math.Ceil(p.Rate * (p.WarmUp + p.Duration)))
		rs, err := workload.Generate(p.spec(n), p.Seed)
		for i := range rs {
			rs[i].Offset = time.Duration(float64(i) / p.Rate * float64(time.Second))
		}
		return rs, err
	default:
		rs, err := workload.Generate(p.spec(0), p.Seed)
		if len(rs) > MaxRequests {
			rs = rs[:MaxRequests]
		}
		return rs, err
	}
}

// Load in words, for people: "4 requests/s (poisson)".
func (p Plan) Load() string {
	switch p.Arrivals {
	case Closed:
		return fmt.Sprintf("%d clients (closed loop)", p.Concurrency)
	case Trace:
		return fmt.Sprintf("a trace of %d requests", len(p.Requests))
	case Gamma, Bursty:
		return fmt.Sprintf("%.3g requests/s (%s, cv %.2g)", p.Rate, p.Arrivals, p.CV)
	default:
		return fmt.Sprintf("%.3g requests/s (%s)", p.Rate, p.Arrivals)
	}
}
