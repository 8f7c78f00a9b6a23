// Package workload describes traffic to an inference engine: when requests arrive and how long they
// are. It generates traffic from published statistics, scales it, reads traces and summarises either.
//
// It holds no prompts and no trace data; named workloads are a few quantiles and rates each. How an
// engine serves the traffic belongs to pkg/des, sending it over HTTP to the load generator.
package workload

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// ErrSpec means a workload cannot be generated as described.
var ErrSpec = errors.New("invalid workload")

// Request is one request of a trace.
type Request struct {
	Offset       time.Duration // from the start of the trace
	PromptTokens int
	OutputTokens int
	Group        int // requests of one group above 0 share their first GroupTokens tokens
	GroupTokens  int
	// Prefix names the prompt's leading blocks of PrefixBlock tokens, for traces that record them; each
	// entry covers the whole prefix up to its end.
	Prefix      []uint64
	PrefixBlock int
	Client      string // tenant or client, where a trace knows it
}

// Spec describes traffic to generate.
type Spec struct {
	Arrivals Arrivals
	Prompt   Quantiles // tokens
	Output   Quantiles // tokens
	// LengthCorrelation is the rank correlation of prompt and output length, in (-1, 1).
	LengthCorrelation float64
	// Shared makes part of the requests begin with one of a few common prefixes.
	Shared   Shared
	Duration time.Duration // end of the trace; needed unless Count is set
	Count    int           // requests at most; 0: until Duration
}

// Shared describes common prompt prefixes, such as system prompts.
type Shared struct {
	Groups int     // number of different prefixes; 0: none
	Tokens int     // length of each
	Share  float64 // of requests that begin with one
}

// Generate returns the requests of spec in order of arrival. Equal spec and seed give equal traces.
func Generate(spec Spec, seed uint64) ([]Request, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	// Separate streams, so that a change of one property leaves the others as they were.
	gaps := spec.Arrivals.process(stream(seed, 1))
	lengths, groups := stream(seed, 2), stream(seed, 3)
	var trace []Request
	var at float64
	for spec.Count == 0 || len(trace) < spec.Count {
		at += gaps.next()
		offset := time.Duration(at * float64(time.Second))
		if spec.Duration > 0 && offset >= spec.Duration {
			break
		}
		r := Request{Offset: offset}
		u, v := correlated(lengths, spec.LengthCorrelation)
		r.PromptTokens = spec.Prompt.tokens(u)
		r.OutputTokens = spec.Output.tokens(v)
		spec.Shared.assign(&r, groups)
		trace = append(trace, r)
	}
	return trace, nil
}

func stream(seed, part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, part)) }

func (s Spec) validate() error {
	var errs []error
	if s.Duration <= 0 && s.Count <= 0 {
		errs = append(errs, fmt.Errorf("%w: set a duration or a count", ErrSpec))
	}
	if c := s.LengthCorrelation; c <= -1 || c >= 1 {
		errs = append(errs, fmt.Errorf("%w: length correlation %g is not between -1 and 1", ErrSpec, c))
	}
	if s.Shared.Groups > 0 && (s.Shared.Tokens <= 0 || s.Shared.Share <= 0 || s.Shared.Share > 1) {
		errs = append(errs, fmt.Errorf("%w: shared prefixes need tokens and a share in (0, 1]", ErrSpec))
	}
	return errors.Join(append(errs, s.Arrivals.validate(), s.Prompt.validate("prompt"), s.Output.validate("output"))...)
}

func (s Shared) assign(r *Request, rng *rand.Rand) {
	if s.Groups == 0 || rng.Float64() >= s.Share {
		return
	}
	r.Group = 1 + rng.IntN(s.Groups)
	r.GroupTokens = min(s.Tokens, r.PromptTokens)
}

// Scale returns trace with its arrival rate multiplied by factor, lengths and order unchanged.
func Scale(trace []Request, factor float64) []Request {
	scaled := slices.Clone(trace)
	for i := range scaled {
		scaled[i].Offset = time.Duration(float64(scaled[i].Offset) / factor)
	}
	return scaled
}

// Named returns a built-in workload by name, one hour long.
func Named(name string) (Spec, error) {
	spec, ok := named[name]
	if !ok {
		return Spec{}, fmt.Errorf("%w: no workload is called %q; known: %s", ErrSpec, name, strings.Join(Names(), ", "))
	}
	return spec, nil
}

// Names lists the built-in workloads.
func Names() []string { return slices.Sorted(maps.Keys(named)) }

// named holds statistics of public traces: Azure's 2023 code and conversation services (CC-BY 4.0, with
// Splitwise, ISCA 2024; quantiles by Summarize's nearest rank over the files read by ReadAzureCSV) and an
// arXiv summarisation data set, which has lengths only, so its arrivals are Poisson.
var named = map[string]Spec{
	"azure-conv": {
		Arrivals:          Arrivals{Rate: 5.53, CV: 1.04, Modulation: Modulation{CV: .24, Memory: 3 * time.Minute}},
		Prompt:            quantiles(2, 29, 181, 207, 396, 1020, 1189, 2735, 4083, 4142, 6212, 14050),
		Output:            quantiles(7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 954, 1000),
		LengthCorrelation: .09,
		Duration:          time.Hour,
	},
	"azure-code": {
		Arrivals: Arrivals{Rate: 2.57, BatchMean: 12, BatchGap: 50 * time.Millisecond, Modulation: Modulation{CV: 10, Memory: time.Minute}},
		Prompt:   quantiles(3, 17, 75, 147, 578, 1469, 2745, 5194, 7315, 7436, 7437, 7437),
		Output:   quantiles(6, 6, 6, 7, 9, 13, 24, 55, 90, 252, 831, 1899),
		Duration: time.Hour,
	},
	"arxiv-summary": {
		Arrivals: Arrivals{Rate: 1},
		Prompt:   quantiles(1, 73, 747, 1242, 1986, 2730, 3370, 3702, 3813, 3934, 4012, 4054),
		Output:   quantiles(5, 36, 60, 78, 115, 167, 242, 372, 737, 3273, 3845, 4056),
		Duration: time.Hour,
	},
}

// quantiles pairs values with the probabilities at which the built-in statistics were taken.
func quantiles(tokens ...float64) (q Quantiles) {
	for i, p := range []float64{0, .01, .05, .1, .25, .5, .75, .9, .95, .99, .999, 1} {
		q = append(q, Quantile{P: p, Tokens: tokens[i]})
	}
	return q
}
