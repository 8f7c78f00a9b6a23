package optimizer

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// law is the step time of an engine whose hardware or model is in no table: a part that every step
// costs, a part for each sequence that decodes and one for each prompt token, in seconds.
type law struct {
	step, sequence, token float64
}

// StepSeconds implements des.Cost.
func (l law) StepSeconds(s perfmodel.Step) float64 {
	return l.at(float64(s.Decoding), float64(s.PromptTokens()))
}

func (l law) at(sequences, tokens float64) float64 {
	return l.step + l.sequence*sequences + l.token*tokens
}

// maxRate is the largest rate of requests per second with n sequences at once and a step's budget
// of tokens (+Inf: none): a sequence takes output steps, and the prompts must pass the budget.
func (l law) maxRate(n, budget float64, t traffic) float64 {
	computed := t.prompt * (1 - t.hit)
	perStep := n * computed / t.output
	if room := math.Max(1, budget-n); perStep > room {
		return room / computed / l.at(n, room)
	}
	return n / t.output / l.at(n, perStep)
}

// What is assumed of unknown hardware: a decoding sequence costs a few times what a prompt token
// does, since it has host work of its own and reads its cache. Standard deviations are of logarithms.
const (
	sequencePerToken = 2.5
	sequenceSpread   = 0.9
	tokenSpread      = 1.0
	tokenShare       = 0.3 // of the mean step, for the work of its tokens, where no prefill is seen
	leastFixed       = 0.05
	particles        = 4000
	binSeconds       = 5
	pointNoise       = 0.1 // of a bin's mean step; bins are not independent, so at most effectiveBins count
	effectiveBins    = 6.0
	prefillNoise     = 0.3
)

// point is what one bin of telemetry says: the mean time between two tokens of a sequence, at a mean
// load.
type point struct {
	steps             float64 // of the engine in that time
	sequences, tokens float64 // in that time: decoding sequences, prompt tokens
	seconds           float64
	weight            float64 // generated tokens that it rests on
}

// between two tokens of a sequence at a load, in seconds.
func (l law) between(p point) float64 {
	return l.step*p.steps + l.sequence*p.sequences + l.token*p.tokens
}

// liveLaws draws laws that agree with what the engines show and are as different as that allows. It
// returns none where no source tells the step time.
func (s *Scene) liveLaws(t traffic, n int) []law {
	points := s.points(t)
	mean := meanPoint(points)
	if !(mean.seconds > 0) {
		return nil
	}
	seen := prefill{
		seconds: s.prefillSeconds(t), sequences: math.Max(0, mean.sequences-1),
		prompt: math.Max(1, t.prompt*(1-t.hit)), budget: s.number("max_num_batched_tokens", math.Inf(1)),
	}
	guess := tokenShare * mean.seconds / (mean.sequences + mean.tokens)
	if seen.seconds > 0 {
		guess = math.Max(guess/10, (seen.seconds-0.7*mean.seconds/mean.steps*seen.steps())/seen.prompt)
	}
	rng := rand.New(rand.NewPCG(1, 2)) // fixed: equal telemetry gives equal proposals
	type particle struct {
		law
		weight float64
	}
	var cloud []particle
	var total float64
	for range particles {
		l := law{token: guess * math.Exp(tokenSpread*rng.NormFloat64())}
		l.sequence = l.token * sequencePerToken * math.Exp(sequenceSpread*rng.NormFloat64())
		l.step = (mean.seconds - l.sequence*mean.sequences - l.token*mean.tokens) / mean.steps
		if l.step*mean.steps < leastFixed*mean.seconds {
			continue
		}
		w := math.Exp(-misfit(l, points) - seen.misfit(l))
		cloud, total = append(cloud, particle{l, w}), total+w
	}
	if len(cloud) == 0 || total == 0 {
		return []law{{step: mean.seconds / mean.steps}}
	}
	slices.SortFunc(cloud, func(a, b particle) int { return cmp.Compare(a.sequence, b.sequence) })
	laws := make([]law, 0, n)
	sum := 0.0
	for _, p := range cloud {
		for sum += p.weight; len(laws) < n && sum >= total*(float64(len(laws))+0.5)/float64(n); {
			laws = append(laws, p.law)
		}
	}
	return interleave(laws)
}

// interleave orders draws so that the first few already span the whole.
func interleave(laws []law) []law {
	out := make([]law, 0, len(laws))
	for stride, first := max(1, len(laws)/2), max(1, len(laws)/2)/2; len(out) < len(laws); first = (first + 1) % stride {
		for i := first; i < len(laws); i += stride {
			out = append(out, laws[i])
		}
	}
	return out
}

func misfit(l law, points []point) float64 {
	var sum float64
	for _, p := range points {
		e := (l.between(p)/p.seconds - 1) / pointNoise
		sum += e * e / 2
	}
	return sum * math.Min(1, effectiveBins/float64(len(points)))
}

// prefill is what the engines show of the time from admission to first token.
type prefill struct {
	seconds   float64 // 0: no source tells
	sequences float64 // that decode beside it
	prompt    float64 // tokens to compute
	budget    float64 // tokens of a step; +Inf: a prompt takes one step
}

// steps that a prompt takes.
func (p prefill) steps() float64 {
	return math.Max(1, math.Ceil(p.prompt/math.Max(1, p.budget-p.sequences)))
}

// misfit compares that time with the steps that carry the prompt.
func (p prefill) misfit(l law) float64 {
	if !(p.seconds > 0) {
		return 0
	}
	steps := p.steps()
	e := math.Log(steps*l.at(p.sequences, p.prompt/steps)/p.seconds) / prefillNoise
	return e * e / 2
}

// prefillMetric is the time from admission to first token, where the engine tells it.
const prefillMetric = "prefill_seconds"

// prefillSeconds is the mean time from admission to first token, 0 where no source tells. What is
// left of a request's time is taken from histograms that are all written at its end, and so are of
// the same requests.
func (s *Scene) prefillSeconds(t traffic) float64 {
	mean := func(metric string) float64 {
		if k := s.Totals.Sketches[metric]; k != nil && k.Count() > 0 {
			return k.Mean()
		}
		return math.NaN()
	}
	if v := mean(prefillMetric); v > 0 {
		return v
	}
	rest := mean(fleet.E2E) - mean(fleet.Queue) - mean(fleet.TPOT)*(t.output-1)
	if rest > 0 {
		return rest
	}
	return 0
}

// points of the span: bins of a few seconds of each replica.
func (s *Scene) points(t traffic) []point {
	bins := map[string]*fleet.Aggregate{}
	var order []string
	for _, w := range s.Windows {
		key := fmt.Sprintf("%s/%d", w.Instance, w.Start.Unix()/binSeconds)
		if bins[key] == nil {
			bins[key] = fleet.NewAggregate()
			order = append(order, key)
		}
		if err := bins[key].Add(w); err != nil {
			continue // a sketch of another mapping; the other windows of the bin still count
		}
	}
	slices.Sort(order)
	var out []point
	for _, key := range order {
		if p, ok := s.pointOf(bins[key], t); ok {
			out = append(out, p)
		}
	}
	return out
}

// pointOf reads the time between two tokens, and its load from the engine's own count of steps or,
// without one, from how many requests ran. SGLang computes prompts in steps of their own, between
// those that decode: at least as many as the chunk size asks for.
func (s *Scene) pointOf(a *fleet.Aggregate, t traffic) (point, bool) {
	generated := a.Counters[fleet.GenerationTokens]
	p := point{weight: generated, steps: 1}
	for _, m := range []string{fleet.ITL, fleet.TPOT} {
		if k := a.Sketches[m]; k != nil && k.Count() > 0 {
			p.seconds = k.Mean()
			break
		}
	}
	p.sequences = a.Gauges[fleet.RequestsRunning].Mean()
	p.tokens = p.sequences * t.prompt * (1 - t.hit) / t.output
	if steps := a.Counters[fleet.Iterations]; steps > 0 && a.Counters[fleet.IterationTokens] > 0 {
		p.sequences = generated / steps
		p.tokens = math.Max(0, a.Counters[fleet.IterationTokens]/steps-p.sequences)
	} else if dialects[s.Engine] == des.SGLang {
		p.steps += p.tokens / s.number("max_num_batched_tokens", math.Inf(1))
	}
	return p, generated >= 20 && p.seconds > 0 && p.sequences > 0
}

func meanPoint(points []point) point {
	var m point
	for _, p := range points {
		m.steps += p.weight * p.steps
		m.sequences += p.weight * p.sequences
		m.tokens += p.weight * p.tokens
		m.seconds += p.weight * p.seconds
		m.weight += p.weight
	}
	if m.weight == 0 {
		return point{}
	}
	return point{steps: m.steps / m.weight, sequences: m.sequences / m.weight, tokens: m.tokens / m.weight, seconds: m.seconds / m.weight, weight: m.weight}
}
