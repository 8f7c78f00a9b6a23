package analysis

import (
	"math"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// signals of one span, means over replica-seconds in which the replica had work.
type signals struct {
	windows    int
	seconds    float64
	staleShare float64

	running, waiting float64 // requests
	kvUsage          float64 // 0–1
	capped           float64 // share of busy replica-seconds with a full batch and a queue
	nearBudget       float64 // share of the step's token budget used on average; 0 if unknown
	waitSlope        float64 // growth of the group's queue, requests per second
	waitSlopeLow     float64 // its lower 95 % bound

	finished, generated, prompt float64 // totals
	preemptions                 float64 // total
	queueShare                  float64 // median queue time ÷ median TTFT
	ttft50, ttft95              float64 // seconds
	itlMean                     float64 // seconds
	prefillSeconds              float64 // median TTFT less median queue time

	hitRate, queried float64 // share of prompt tokens found in the prefix cache; tokens looked for
	itl50, itl99     float64 // seconds
	hosts            []host
}

func summarize(in Input) signals {
	a := fleet.NewAggregate()
	s := signals{}
	limit, hasLimit := in.Config.Number("max_num_seqs")
	queueBySecond := map[int64]float64{}
	var busy, capped float64
	for _, w := range in.Windows {
		if a.Add(w) != nil {
			continue // a sketch of another mapping; nothing else of that window counts either
		}
		r, wt := w.Gauges[fleet.RequestsRunning], w.Gauges[fleet.RequestsWaiting]
		queueBySecond[w.Start.Unix()] += wt
		if r+wt <= 0 {
			continue
		}
		busy++
		s.running += r
		s.waiting += wt
		s.kvUsage += w.Gauges[fleet.KVUsage]
		// One below the limit counts as full: SGLang holds a slot back while a chunked prompt runs.
		if hasLimit && wt > 0 && r >= math.Max(1, limit-1) {
			capped++
		}
	}
	s.windows, s.seconds = a.Windows, a.Seconds()
	if a.Windows > 0 {
		s.staleShare = float64(a.StaleSecs) / float64(a.Windows)
	}
	if busy > 0 {
		s.running, s.waiting, s.kvUsage, s.capped = s.running/busy, s.waiting/busy, s.kvUsage/busy, capped/busy
	}
	s.waitSlope, s.waitSlopeLow = slope(queueBySecond)
	s.totals(a, in.Config)
	s.hosts = hosts(in)
	return s
}

// totals fills in what comes from counters and sketches.
func (s *signals) totals(a *fleet.Aggregate, c Config) {
	s.finished = a.Counters[fleet.RequestsFinished]
	s.generated = a.Counters[fleet.GenerationTokens]
	s.prompt = a.Counters[fleet.PromptTokens]
	s.preemptions = a.Counters[fleet.Preemptions]
	if steps := a.Counters[fleet.Iterations]; steps > 0 {
		if budget, ok := c.Number("max_num_batched_tokens"); ok && budget > 0 {
			s.nearBudget = math.Min(1, a.Counters[fleet.IterationTokens]/steps/budget) // vLLM does not count steps that end no prompt
		}
	}
	s.ttft50, s.ttft95 = a.Quantile(fleet.TTFT, 0.5), a.Quantile(fleet.TTFT, 0.95)
	s.prefillSeconds = s.ttft50
	if q := a.Quantile(fleet.Queue, 0.5); !math.IsNaN(q) && s.ttft50 > 0 {
		s.queueShare = math.Min(1, q/s.ttft50)
		s.prefillSeconds = math.Max(0, s.ttft50-q)
	}
	s.itl50, s.itl99 = a.Quantile(fleet.ITL, 0.5), a.Quantile(fleet.ITL, 0.99)
	if s.queried = a.Counters[fleet.PrefixQueryTokens]; s.queried > 0 {
		s.hitRate = a.Counters[fleet.PrefixHitTokens] / s.queried
	}
	s.itlMean = math.NaN()
	for _, m := range []string{fleet.ITL, fleet.TPOT} {
		if k := a.Sketches[m]; k != nil && k.Count() > 0 {
			s.itlMean = k.Mean()
			break
		}
	}
}

// slope of values by second: least squares, with the lower bound of its 95 % interval.
func slope(bySecond map[int64]float64) (b, low float64) {
	n := float64(len(bySecond))
	if n < 10 {
		return 0, math.Inf(-1)
	}
	var mx, my float64
	for x, y := range bySecond {
		mx += float64(x) / n
		my += y / n
	}
	var sxx, sxy float64
	for x, y := range bySecond {
		sxx += (float64(x) - mx) * (float64(x) - mx)
		sxy += (float64(x) - mx) * (y - my)
	}
	if sxx == 0 {
		return 0, math.Inf(-1)
	}
	b = sxy / sxx
	var rss float64
	for x, y := range bySecond {
		e := y - my - b*(float64(x)-mx)
		rss += e * e
	}
	return b, b - 1.96*math.Sqrt(rss/(n-2)/sxx)
}
