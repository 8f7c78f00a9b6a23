package des

import (
	"slices"
	"time"
)

// Objective is a bound on a request's latency. Zero bounds are not checked.
type Objective struct {
	TTFT, TPOT, E2E time.Duration
}

// Met reports whether a finished request stays within all bounds.
func (o Objective) Met(r Outcome) bool {
	within := func(v, bound time.Duration) bool { return bound == 0 || v <= bound }
	return r.Done() && within(r.TTFT(), o.TTFT) && within(r.TPOT(), o.TPOT) && within(r.E2E(), o.E2E)
}

// Summary condenses a run. Latencies are over finished requests that arrived after the warm-up.
type Summary struct {
	Requests, Finished, Refused int
	TTFT, TPOT, E2E, Queue      Quantiles
	MaxGap                      Quantiles
	GoodRate                    float64 // requests per second that meet the objective
	GoodShare                   float64 // of the requests that arrived
	RequestRate                 float64 // finished per second
	OutputTokenRate             float64 // generated per second, all replicas
	Busy                        float64 // share of the time a replica was in a step
	Preemptions                 uint64
	PrefixHitRate               float64
}

// Quantiles of a latency.
type Quantiles struct {
	P50, P90, P95, P99, Mean time.Duration
}

func summarize(r Result, opts Options) Summary {
	s := Summary{}
	var ttft, tpot, e2e, queue, gaps []time.Duration
	good, tokens := 0, 0
	for _, o := range r.Outcomes {
		if o.Arrival < opts.Warmup || o.Replica < 0 {
			continue
		}
		s.Requests++
		if o.Err != nil {
			s.Refused++
		}
		if !o.Done() {
			continue
		}
		s.Finished++
		tokens += o.Tokens
		if opts.Objective.Met(o) {
			good++
		}
		ttft, e2e, queue = append(ttft, o.TTFT()), append(e2e, o.E2E()), append(queue, o.Queued)
		if o.Tokens > 1 {
			tpot, gaps = append(tpot, o.TPOT()), append(gaps, o.MaxGap)
		}
	}
	s.TTFT, s.TPOT, s.E2E, s.Queue, s.MaxGap = quantilesOf(ttft), quantilesOf(tpot), quantilesOf(e2e), quantilesOf(queue), quantilesOf(gaps)
	if span := (r.Elapsed - opts.Warmup).Seconds(); span > 0 {
		s.GoodRate = float64(good) / span
		s.RequestRate = float64(s.Finished) / span
		s.OutputTokenRate = float64(tokens) / span
	}
	if s.Requests > 0 {
		s.GoodShare = float64(good) / float64(s.Requests)
	}
	s.fromStats(r)
	return s
}

func (s *Summary) fromStats(r Result) {
	var busy time.Duration
	var query, hit uint64
	for _, st := range r.Stats {
		busy += st.Busy
		s.Preemptions += st.Preemptions
		query += st.PrefixQueryTokens
		hit += st.PrefixHitTokens
	}
	if r.Elapsed > 0 {
		s.Busy = busy.Seconds() / r.Elapsed.Seconds() / float64(len(r.Stats))
	}
	if query > 0 {
		s.PrefixHitRate = float64(hit) / float64(query)
	}
}

func quantilesOf(v []time.Duration) (q Quantiles) {
	if len(v) == 0 {
		return q
	}
	slices.Sort(v)
	at := func(p float64) time.Duration { return v[min(int(p*float64(len(v))), len(v)-1)] }
	var sum time.Duration
	for _, d := range v {
		sum += d
	}
	return Quantiles{P50: at(.5), P90: at(.9), P95: at(.95), P99: at(.99), Mean: sum / time.Duration(len(v))}
}
