package experiment

import (
	"math"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/load"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// want is a run that the test still needs.
type want struct {
	arm     string
	plan    load.Plan
	fresh   bool // in a process that no run was made in
	quality bool // golden prompts instead of load
}

// Replicates of the baseline before the candidate is tried: the noise between restarts.
const noiseRuns = 4

// Search for the knee: the rate is doubled or halved until it is enclosed, then the ratio of the
// bounds is halved so often.
const (
	kneeDoublings  = 8
	kneeBisections = 4
)

// wanted is the next run of a test that measures; nil when it has all.
func (s Spec) wanted(runs []*commandv1.ExperimentRun, arm string) *want {
	if s.FindKnee {
		if rate := s.nextRate(runs); rate > 0 {
			p := s.Plan
			p.Rate = rate
			return &want{arm: arm, plan: p}
		}
		return nil
	}
	loads := s.loads()
	n := len(runs)
	if n >= len(loads)*s.Repetitions {
		return nil
	}
	p := loads[n%len(loads)]
	p.Seed += uint64(n / len(loads))
	return &want{arm: arm, plan: p, fresh: s.Restarts && n%len(loads) == 0 && n > 0}
}

func (s Spec) loads() []load.Plan {
	if len(s.Concurrencies) == 0 {
		return []load.Plan{s.Plan}
	}
	var all []load.Plan
	for _, c := range s.Concurrencies {
		p := s.Plan
		p.Concurrency = c
		all = append(all, p)
	}
	return all
}

// kept says whether a run met the objectives often enough, and went to its end.
func (s Spec) kept(r *commandv1.ExperimentRun) bool {
	return r.GetStopped() == "" && r.GetFigures()[figureGoodShare] >= s.KneeShare
}

// bracket encloses the knee: the highest rate that was kept and the lowest above it that was not; 0
// where there is none.
func (s Spec) bracket(runs []*commandv1.ExperimentRun) (low, high float64) {
	for _, r := range runs {
		if s.kept(r) {
			low = max(low, r.GetFigures()[figureAsked])
		}
	}
	for _, r := range runs {
		if rate := r.GetFigures()[figureAsked]; !s.kept(r) && rate > low && (high == 0 || rate < high) {
			high = rate
		}
	}
	return low, high
}

// nextRate to try; 0 when the knee is known well enough, or cannot be found.
func (s Spec) nextRate(runs []*commandv1.ExperimentRun) float64 {
	if len(runs) == 0 {
		return s.Plan.Rate
	}
	low, high := s.bracket(runs)
	switch {
	case low > 0 && high > 0:
		if len(runs)-s.enclosing(runs) >= kneeBisections {
			return 0
		}
		return math.Sqrt(low * high)
	case len(runs) > kneeDoublings:
		return 0
	case low > 0:
		if next := 2 * low; next*(s.Plan.WarmUp+s.Plan.Duration) <= load.MaxRequests {
			return next
		}
		return 0
	}
	return s.lowest(runs) / 2
}

func (s Spec) lowest(runs []*commandv1.ExperimentRun) float64 {
	rate := math.Inf(1)
	for _, r := range runs {
		rate = min(rate, r.GetFigures()[figureAsked])
	}
	return rate
}

// enclosing is how many runs it took to enclose the knee.
func (s Spec) enclosing(runs []*commandv1.ExperimentRun) int {
	for n := range runs {
		if low, high := s.bracket(runs[:n+1]); low > 0 && high > 0 {
			return n + 1
		}
	}
	return len(runs)
}

// comparison is what a validation has so far.
type comparison struct {
	baselines, candidates []*load.Report
	answers               answers
	lossy                 bool
}

// answers to golden prompts: the baseline's, twice, and the candidate's.
type answers struct{ baseline, again, candidate []byte }

// wantedToCompare is the next run of a validation: answers first where they may change, then the
// noise of the baseline, then the candidate, with one more run of the baseline between any two of
// its. A candidate whose answers were judged bad, or which cannot be compared, gets no load.
func (s Spec) wantedToCompare(c comparison, judged bool) *want {
	q := func(arm string) *want { return &want{arm: arm, quality: true} }
	if c.lossy || s.Quality.Always {
		switch {
		case c.answers.baseline == nil, c.answers.again == nil:
			return q(fsm.ArmBaseline)
		case c.answers.candidate == nil:
			return q(fsm.ArmCandidate)
		}
	}
	w := &want{arm: fsm.ArmBaseline, plan: s.Plan, fresh: true}
	b, n := len(c.baselines), len(c.candidates)
	switch {
	case judged:
		return nil
	case b < noiseRuns:
	case n >= s.Rules.Replicates:
		return nil
	case n >= leastOfBothTwo && b < noiseRuns+n-1:
	default:
		w.arm = fsm.ArmCandidate
	}
	// Both arms get the same traffic, another one in each replicate.
	w.plan.Seed += uint64(b)
	if w.arm == fsm.ArmCandidate {
		w.plan.Seed = s.Plan.Seed + uint64(n)
	}
	return w
}
