package analysis

import (
	"fmt"
	"math"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// hostBound: a quota holds the engine back, or it could run and finds no core. On a GPU the
// engine's own thread may be the limit as well; its share of a core is not judged here, because
// engines on a CPU always use theirs whole.
func hostBound(_ Input, s signals) verdict {
	h, known := worst(s.hosts, func(h host) float64 { return math.Max(orZero(h.throttled), orZero(h.crowded())) })
	if !known || math.IsNaN(h.engineCPU) {
		return unknown("the engine's processes cannot be seen")
	}
	lost := math.Max(orZero(h.throttled), orZero(h.crowded()))
	if lost < hostExcuse {
		return no
	}
	relief := min(lost, 0.95) / (1 - min(lost, 0.95))
	evidence := []string{fmt.Sprintf("a CPU quota keeps %s from running in %.0f %% of the time; it uses %.2f cores", h.instance, 100*h.throttled, h.engineCPU)}
	if orZero(h.throttled) < hostExcuse {
		evidence[0] = fmt.Sprintf("a thread of %s that could run has no core in %.0f %% of the time, while others on the host use %.2f cores and the hypervisor takes %.2f", h.instance, 100*h.waiting, h.others, h.stolen)
	}
	return yes(relief, 0.9, append(evidence, slowWords(h))...)
}

func orZero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

// Thresholds of prefix misses.
const (
	leastHits  = 0.3 // earlier hit rate below which there was little to lose
	lostHits   = 0.3 // of the prompt tokens, less hits than before
	keptHits   = 0.7 // of the tokens that the cache spared a request before: prompts are longer, the cache serves as before
	leastQuery = 5000
)

// prefixMisses: the same group's prompts hit the cache far more rarely than before. The prompts
// themselves are not seen, so the best that is known of an infinite cache is what the group
// reached. A full cache that evicts is its own cause.
func prefixMisses(in Input, s signals) verdict {
	switch {
	case in.Pace == nil || math.IsNaN(in.Pace.HitRate):
		return unknown("no earlier hit rate is known to compare with")
	case in.Pace.HitRate < leastHits || s.queried < leastQuery || in.Pace.HitRate-s.hitRate < lostHits:
		return no
	case s.hitRate*s.queried/math.Max(1, s.finished) > keptHits*in.Pace.HitsPerRequest:
		return no
	case s.preemptions > 0 || s.kvUsage >= 0.9:
		return no
	}
	return yes((1-s.hitRate)/max(0.05, 1-in.Pace.HitRate)-1, 0.8,
		fmt.Sprintf("%.0f %% of the prompt tokens are found in the prefix cache, earlier it were %.0f %%", 100*s.hitRate, 100*in.Pace.HitRate),
		fmt.Sprintf("%.0f prompt tokens a second are computed", (1-s.hitRate)*s.queried/max(1, s.seconds)),
	)
}

// leastPromptShare is the least share of prompts in the work, in tokens, for which a prefix cache that
// is off is worth a look: a prompt token costs a fraction of a generated one.
const leastPromptShare = 0.8

// cacheOff: most of the work is prompts, and the prefix cache is off. Whether they begin alike is not
// seen while it is, so that only the forecast and a canary tell what it would gain.
func cacheOff(in Input, s signals) verdict {
	work := s.prompt + s.generated
	if in.Config["prefix_caching"] != "false" || work == 0 || s.prompt < leastPromptShare*work {
		return no
	}
	return yes(0, 0.5,
		fmt.Sprintf("the prefix cache is off and %.0f %% of all tokens are prompts (%.0f a request): what they have in common is computed each time", 100*s.prompt/work, s.prompt/math.Max(1, s.finished)))
}

// Thresholds of long-prompt interference.
const (
	spikeRatio   = 3.0  // 99th percentile ÷ median of the time between tokens
	longRatio    = 2.0  // longest ÷ usual mean prompt of a second
	leastSpike   = 3    // seconds with a spike
	leastPrompts = 1000 // tokens of prompts within such a second
)

// longPrompts: most tokens come quickly, some wait for prompts much longer than the usual ones.
// Spikes of requests that were preempted are the cache's. While the prefix cache is off, how much of a
// prompt needs computing is not known, and that comes first.
func longPrompts(in Input, s signals) verdict {
	if cacheOff(in, s).fires {
		return no
	}
	if math.IsNaN(s.itl99) {
		return unknown("no source tells the time between tokens")
	}
	if s.itl99 < spikeRatio*s.itl50 || s.preemptions > 0 {
		return no
	}
	with, without := spikes(in.Windows, spikeRatio*s.itl50)
	usual := median(promptsOf(without))
	long := median(promptsOf(with))
	if len(with) < leastSpike || !(long >= longRatio*usual) || tokensOf(with) < leastPrompts {
		return no
	}
	return yes(s.itl99/(spikeRatio*s.itl50)-1, 0.8,
		fmt.Sprintf("the slowest hundredth of tokens takes %.0f ms, the median %.0f ms", 1e3*s.itl99, 1e3*s.itl50),
		fmt.Sprintf("seconds with such spikes compute %.0f prompt tokens a request, the others %.0f", long, usual),
	)
}

// spikes divides the windows by whether their slowest tokens exceed a time, in seconds.
func spikes(ws []*fleet.Window, above float64) (with, without []*fleet.Window) {
	for _, w := range ws {
		itl := w.Sketches[fleet.ITL]
		switch {
		case itl == nil || itl.Count() == 0:
		case itl.Quantile(0.99) > above:
			with = append(with, w)
		default:
			without = append(without, w)
		}
	}
	return with, without
}

// promptsOf are the mean computed prompt tokens per first token, of windows that have any.
func promptsOf(ws []*fleet.Window) (out []float64) {
	for _, w := range ws {
		if first := w.Sketches[fleet.TTFT]; first != nil && first.Count() > 0 {
			out = append(out, computed(w)/first.Count())
		}
	}
	return out
}

// computed prompt tokens of a window: those of its steps that were not generated.
func computed(w *fleet.Window) float64 {
	return math.Max(0, w.Counters[fleet.IterationTokens]-w.Counters[fleet.GenerationTokens])
}

func tokensOf(ws []*fleet.Window) float64 {
	var sum float64
	for _, w := range ws {
		sum += computed(w)
	}
	return sum / math.Max(1, float64(len(ws)))
}

func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// imbalance: one replica has half as much again as the median one, and at least two requests more.
func imbalance(_ Input, s signals) verdict {
	if len(s.hosts) < 2 {
		return no
	}
	var loads []float64
	for _, h := range s.hosts {
		loads = append(loads, h.load)
	}
	busiest, _ := worst(s.hosts, func(h host) float64 { return h.load })
	middle := median(loads)
	if len(loads) == 2 {
		middle = min(loads[0], loads[1])
	}
	if busiest.load < 1.5*middle || busiest.load-middle < 2 || s.seconds < 60 {
		return no
	}
	return yes(busiest.load/max(1, middle)-1, 0.7,
		fmt.Sprintf("%s has %.1f requests, the median replica %.1f", busiest.instance, busiest.load, middle))
}
