package experiment

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// Spec is a test as it is carried out: what was asked for, with everything that it left open decided.
// It is part of the record; a trace and prompts of the tenant's own are evidence, by hash.
type Spec struct {
	Plan          load.Plan    `json:"plan"`
	TraceHash     string       `json:"trace_hash,omitempty"`
	Repetitions   int          `json:"repetitions"`
	Restarts      bool         `json:"restarts,omitempty"`
	Concurrencies []int        `json:"concurrencies,omitempty"`
	FindKnee      bool         `json:"find_knee,omitempty"`
	KneeShare     float64      `json:"knee_share,omitempty"`
	Rules         load.Rules   `json:"rules,omitzero"`
	Quality       load.Quality `json:"quality,omitzero"` // without prompts
	PromptsHash   string       `json:"prompts_hash,omitempty"`
}

// Defaults of what an Ask leaves open.
const (
	defaultPrompt, defaultOutput  = 512, 128 // tokens
	defaultDuration               = 60       // seconds
	defaultKneeShare              = 0.95
	defaultMinEffect              = 0.05
	defaultMargin                 = 0.10
	maxReplicates                 = 6
	liveArrivals                  = "live"
	sharedGroups                  = 4
	lengthsOf                     = "azure-conv" // whose shape lengths of live traffic have
	leastRequests, leastOfBothTwo = 30, 2
)

// plan makes a load plan of traffic; live is the group's own, asked for when it is needed.
func plan(t load.Traffic, live func() (load.Plan, error)) (load.Plan, error) {
	p := load.Plan{
		Arrivals: load.Arrivals(cmp.Or(t.Arrivals, string(load.Poisson))), Rate: t.Rate, CV: t.CV, Concurrency: t.Concurrency,
		Seed: cmp.Or(t.Seed, 1), WarmUp: t.WarmUp, Duration: cmp.Or(t.Duration, defaultDuration),
		Objectives: load.Objectives{TTFT: seconds(t.TTFT), TPOT: seconds(t.TPOT), E2E: seconds(t.E2E)},
		Stop:       load.Stop{FailedShare: t.StopFailedShare, InFlight: t.StopInFlight},
	}
	switch {
	case t.Arrivals == liveArrivals:
		l, err := live()
		if err != nil {
			return p, fmt.Errorf("%w: live traffic: %w", ErrInvalid, err)
		}
		p.Arrivals, p.Rate, p.CV = l.Arrivals, l.Rate*cmp.Or(t.Rate, 1), l.CV
		p.Prompt, p.Output, p.LengthCorrelation, p.Shared = l.Prompt, l.Output, l.LengthCorrelation, l.Shared
	case len(t.Trace) > 0:
		p.Arrivals = load.Trace
		for _, r := range t.Trace {
			p.Requests = append(p.Requests, workload.Request{Offset: seconds(r.At), PromptTokens: r.PromptTokens, OutputTokens: r.OutputTokens})
		}
		slices.SortStableFunc(p.Requests, func(a, b workload.Request) int { return cmp.Compare(a.Offset, b.Offset) })
	default:
		if err := lengths(&p, t); err != nil {
			return p, err
		}
	}
	if err := p.Validate(); err != nil {
		return p, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return p, nil
}

func lengths(p *load.Plan, t load.Traffic) error {
	p.Prompt, p.Output = workload.Fixed(int(cmp.Or(t.PromptTokens, defaultPrompt))), workload.Fixed(int(cmp.Or(t.OutputTokens, defaultOutput)))
	if t.Shape != "" {
		spec, err := workload.Named(t.Shape)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		p.Prompt, p.Output, p.LengthCorrelation = Scaled(spec.Prompt, t.PromptTokens), Scaled(spec.Output, t.OutputTokens), spec.LengthCorrelation
	}
	if t.SharedShare > 0 {
		p.Shared = workload.Shared{Groups: sharedGroups, Share: 1, Tokens: max(1, int(t.SharedShare*p.Prompt.Mean()))}
	}
	return nil
}

// Scaled gives lengths another mean and keeps their shape; a mean of 0 leaves them.
func Scaled(q workload.Quantiles, mean float64) workload.Quantiles {
	if mean <= 0 {
		return q
	}
	out := slices.Clone(q)
	factor := mean / q.Mean()
	for i := range out {
		out[i].Tokens = max(1, out[i].Tokens*factor)
	}
	return out
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// spec decides what an Ask leaves open.
func spec(a load.Ask, validate bool, p load.Plan) (Spec, error) {
	s := Spec{
		Plan: p, Repetitions: max(a.Repetitions, 1), Restarts: a.Restarts, Concurrencies: a.Concurrencies,
		FindKnee: a.FindKnee, KneeShare: cmp.Or(a.KneeShare, defaultKneeShare), Rules: a.Comparison, Quality: a.Quality,
	}
	s.Quality.Prompts = nil
	if validate {
		s.Rules.Primary = cmp.Or(s.Rules.Primary, primary(p))
		s.Rules.Margin = cmp.Or(s.Rules.Margin, defaultMargin)
		s.Rules.Replicates = cmp.Or(s.Rules.Replicates, maxReplicates)
	}
	return s, s.check(validate)
}

// primary metric of a comparison when nobody names one.
func primary(p load.Plan) string {
	switch {
	case p.Objectives != load.Objectives{}:
		return goodput
	case p.Arrivals == load.Closed:
		return throughput
	}
	return e2e
}

func (s Spec) check(validate bool) error {
	var faults []error
	say := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New(text))
		}
	}
	open := s.Plan.Arrivals != load.Closed && s.Plan.Arrivals != load.Trace
	say(s.FindKnee && !open, "the knee is found by raising the rate of an open loop: use constant, poisson, gamma, bursty or live arrivals")
	say(s.FindKnee && s.Plan.Objectives == load.Objectives{}, "the knee is where objectives are no longer met: give objective_ttft_seconds, objective_tpot_seconds or objective_e2e_seconds")
	say(s.FindKnee && len(s.Concurrencies) > 0, "find_knee and concurrencies are two sweeps: ask for one")
	say(len(s.Concurrencies) > 0 && s.Plan.Arrivals != load.Closed, "a sweep over numbers of clients is a closed loop: set arrivals to closed")
	say(slices.ContainsFunc(s.Concurrencies, func(n int) bool { return n < 1 || n > 2000 }), "concurrencies lie between 1 and 2000")
	say(validate && (s.FindKnee || len(s.Concurrencies) > 0), "a validation compares at one load: leave find_knee and concurrencies out")
	say(validate && s.Rules.Replicates < leastOfBothTwo, "a validation needs at least 2 runs of the candidate")
	say(validate && s.Rules.Primary == goodput && s.Plan.Objectives == load.Objectives{}, "goodput needs objectives")
	say(validate && s.Rules.Primary == throughput && open, "in an open loop the arrivals decide the throughput: compare goodput or a latency, or use a closed loop")
	if n := s.Plan.Rate * s.Plan.Duration; validate && open && n < leastRequests {
		faults = append(faults, fmt.Errorf("about %.0f requests in one run say nothing: raise the rate or the duration to %d at least", n, leastRequests))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func (s Spec) encode() ([]byte, error) {
	s.Plan.Requests = nil
	return json.Marshal(s)
}

func decodeSpec(raw []byte) (s Spec, err error) {
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("the record of the test cannot be read: %w", err)
	}
	return s, nil
}
