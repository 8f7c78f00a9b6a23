package calibrate

import (
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// observation is a span of time in which the work that was done is known.
type observation struct {
	x       features
	seconds float64
	steps   float64 // decode steps within
	moment  int     // in which of the observation's moments it ends, momentSeconds each
	weight  float64 // 1 for a span of its own; less where others saw the same steps
}

// record is the part of a request's life that observations are made of, in seconds.
type record struct {
	first, end float64
	fresh      float64 // prompt tokens computed
	cached     float64
	prompt     float64
	rate       float64 // tokens per second between first and end
	span       float64 // time its prompt took, 0 when it was computed within one step
}

// intervals turns records of requests into observations: every gap between two tokens of a request is a
// step, and what shared that step is known from all the others' records. A request without gaps is one
// long span. cached are the prompt tokens that needed no computing.
func intervals(cfg des.Config, requests []Request, cached []int) (out []observation) {
	typical, mixed := typicalGaps(requests)
	slack := typical / slackSteps
	shown := moments(requests)
	past := history{shown: distinct(shown, slack), slack: slack}
	records := make([]record, len(requests))
	for i, r := range requests {
		c := record{first: r.FirstToken.Seconds(), end: r.End.Seconds(), prompt: float64(r.PromptTokens), cached: float64(cached[i])}
		c.fresh = c.prompt - c.cached
		if d := c.end - c.first; d > 0 {
			c.rate = float64(r.OutputTokens-1) / d
		}
		if chunks := math.Ceil(c.fresh / float64(max(cfg.MaxBatchedTokens-cfg.MaxNumSeqs, 1))); chunks > 1 {
			c.span = chunks * mixed
		}
		records[i] = c
		past.prompts = append(past.prompts, c.first)
	}
	slices.Sort(past.prompts)
	for _, r := range requests {
		at := r.FirstToken.Seconds()
		if len(r.Gaps) == 0 && r.OutputTokens > 1 {
			o := observe(cfg, records, at, r.End.Seconds(), float64(r.OutputTokens-1), slack)
			o.x[termAfter] = past.settledWithin(at, r.End.Seconds(), o.steps)
			out = append(out, o)
		}
		for _, gap := range r.Gaps {
			if gap > 0 {
				o := observe(cfg, records, at, at+gap.Seconds(), 1, slack)
				if o.x[termPrefill] == 0 {
					o.x[termAfter] = settled(past.after(at))
				}
				out = append(out, o)
			}
			at += gap.Seconds()
		}
	}
	return out
}

// observe describes the work between from and to, in which that many decode steps ended.
func observe(cfg des.Config, records []record, from, to, steps, slack float64) observation {
	o := observation{seconds: to - from, steps: steps, moment: int(to / momentSeconds)}
	var prompts []float64
	var decoding, context float64
	for _, r := range records {
		begin, end := max(r.first, from), min(r.end, to)
		if share := (end - begin) / (to - from); end > begin && (steps > 1 || r.first <= from+slack && r.end >= to-slack) {
			if steps == 1 {
				share = 1
			}
			decoding += share
			context += share * (r.prompt + 1 + ((begin+end)/2-r.first)*r.rate)
		}
		if share := r.promptShare(from+slack, to+slack); share > 0 {
			o.x.prompt(r.fresh, r.cached, share)
			prompts = append(prompts, min(r.first, to))
		}
	}
	o.x[termPrefill] = float64(len(distinct(prompts, slack)))
	o.x[termStep] = steps
	if cfg.Dialect == des.SGLang { // prompts are computed in steps of their own
		o.x[termStep] += o.x[termPrefill]
	}
	o.x[termDecode] = steps * decoding
	o.x[termContext] = steps * context / 1e3
	o.weight = 1 / max(decoding, 1)
	return o
}

// promptShare is the part of a prompt that was computed in steps that end between from and to.
func (r record) promptShare(from, to float64) float64 {
	if r.span == 0 {
		if r.first > from && r.first <= to {
			return 1
		}
		return 0
	}
	return max(min(r.first, to)-max(r.first-r.span, from), 0) / r.span
}

// moments are the times, in seconds and in order, at which the engine showed tokens.
func moments(requests []Request) (at []float64) {
	for _, r := range requests {
		t := r.FirstToken
		at = append(at, t.Seconds())
		for _, g := range r.Gaps {
			t += g
			at = append(at, t.Seconds())
		}
	}
	slices.Sort(at)
	return at
}

// momentSeconds is a time in which a machine's pace is taken for one.
const momentSeconds = 2

// slackSteps is in how many parts of a step moments are the same.
const slackSteps = 4

// distinct are the times in order, those within slack of the one before being one.
func distinct(times []float64, slack float64) (out []float64) {
	slices.Sort(times)
	last := math.Inf(-1)
	for _, t := range times {
		if t > last+slack {
			out = append(out, t)
		}
		last = t
	}
	return out
}

// history is when steps and prompts ended, in seconds and in order.
type history struct {
	shown, prompts []float64
	slack          float64
}

// after is how many steps ended before at since the last one that computed a prompt.
func (h history) after(at float64) float64 {
	i, _ := slices.BinarySearch(h.prompts, at+h.slack)
	if i == 0 {
		return math.Inf(1)
	}
	from, _ := slices.BinarySearch(h.shown, h.prompts[i-1]+h.slack)
	to, _ := slices.BinarySearch(h.shown, at+h.slack)
	return float64(max(to-from, 0))
}

// settledWithin is the sum of settled over that many even steps between from and to.
func (h history) settledWithin(from, to, steps float64) (sum float64) {
	at, k := from, h.after(from)
	i, _ := slices.BinarySearch(h.prompts, from+h.slack)
	for at < to {
		next := to
		if i < len(h.prompts) {
			next = min(h.prompts[i], to)
		}
		n := (next - at) / (to - from) * steps
		sum += (settled(k) - settled(k+n)) / (1 - settled(1))
		at, k = next, 0
		i++
	}
	return sum
}

// typicalGaps are the median time between tokens, and the median of those gaps in which another request
// got its first token.
func typicalGaps(requests []Request) (typical, mixed float64) {
	var firsts []time.Duration
	for _, r := range requests {
		firsts = append(firsts, r.FirstToken)
	}
	slices.Sort(firsts)
	var all, some []float64
	for _, r := range requests {
		at := r.FirstToken
		for _, g := range r.Gaps {
			all = append(all, g.Seconds())
			if i, _ := slices.BinarySearch(firsts, at+1); i < len(firsts) && firsts[i] <= at+g {
				some = append(some, g.Seconds())
			}
			at += g
		}
		if len(r.Gaps) == 0 && r.OutputTokens > 1 {
			all = append(all, r.TPOT().Seconds())
		}
	}
	typical = median(all)
	if mixed = median(some); mixed == 0 {
		mixed = typical
	}
	return typical, mixed
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
