package perfmodel

import "math"

// Traffic is what a replica serves, as means.
type Traffic struct {
	PromptTokens  float64 // ISL
	OutputTokens  float64 // OSL
	PrefixHitRate float64 // share of prompt tokens found in the prefix cache
	Rate          float64 // requests per second and replica, open loop
	ArrivalCV     float64 // of the gaps between arrivals; 0 counts as 1
	ServiceCV     float64 // of the service times; 0 counts as 1
}

func (t Traffic) computed() float64 { return t.PromptTokens * (1 - t.PrefixHitRate) }

// perOutput is the number of prompt tokens to compute for every generated one.
func (t Traffic) perOutput() float64 { return t.computed() / max(t.OutputTokens, 1) }

// Prediction is a mean state of one replica.
type Prediction struct {
	Running         float64 // sequences in the engine's running set
	Decoding        float64 // of them, those that generate
	PromptPerStep   float64 // prompt tokens per step
	StepSeconds     float64
	QueueSeconds    float64 // until admitted to the running set
	TTFTSeconds     float64 // queue included
	TPOTSeconds     float64
	E2ESeconds      float64
	RequestsPerSec  float64
	TokensPerSecGPU float64 // output tokens per second and GPU
	Utilization     float64 // Rate ÷ MaxRate; open loop only
	Stable          bool    // the queue does not grow without bound
}

// step is the mean duration of a step, in seconds, that d decoding sequences and the prompts that keep
// them going share. Prompts come whole or in chunks that fill the budget, not in equal shares: most steps
// may carry none, and a step is as long as the longer of reading weights and computing, so the mean of
// the two kinds of step exceeds a step of mean content.
func (p *Predictor) step(t Traffic, d float64) (seconds float64) {
	p.kinds(t, d, func(share float64, l load) { seconds += share * p.terms(l).Seconds() })
	return seconds
}

// kinds calls f with each kind of step beside d decoding sequences and its share of the steps.
func (p *Predictor) kinds(t Traffic, d float64, f func(share float64, l load)) {
	perStep := d * t.perOutput()
	chunk := math.Min(max(t.computed(), 1), max(float64(p.setup.MaxBatchedTokens)-d, 1))
	share := perStep / chunk
	if share >= 1 { // several prompts per step
		f(1, p.mixed(t, d, perStep))
		return
	}
	f(1-share, p.mixed(t, d, 0))
	f(share, p.mixed(t, d, chunk))
}

// mixed is a step of d decoding sequences and that many prompt tokens.
func (p *Predictor) mixed(t Traffic, d, prompt float64) load {
	return load{
		decoding: d,
		context:  d * (t.PromptTokens + t.OutputTokens/2),
		prompt:   prompt,
		sampling: d + prompt/max(t.computed(), 1),
		scores:   prompt * p.setup.Model.windowed(t.PromptTokens*t.PrefixHitRate+t.computed()/2),
	}
}

// balance splits n sequences of the running set into decoding and prefilling ones: prompts advance by
// what the decoding sequences leave of the token budget, so that on average each finished sequence is
// replaced by one prefilled.
func (p *Predictor) balance(t Traffic, n float64) (decoding float64) {
	budget := float64(p.setup.MaxBatchedTokens)
	slots := func(d float64) float64 { // running set needed to keep d decoding
		prefilling := d * t.perOutput() / max(budget-d, 1e-9)
		if prefilling > 1 {
			return math.Inf(1) // the budget cannot carry the prompts
		}
		return d + prefilling
	}
	low, high := 0.0, math.Min(n, budget)
	for range 60 {
		if mid := (low + high) / 2; slots(mid) <= n {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// limit is the largest running set: sequences, or what the cache holds.
func (p *Predictor) limit(t Traffic) (float64, error) {
	fit, err := p.Sequences(t.PromptTokens + t.OutputTokens/2)
	return max(math.Min(float64(p.setup.MaxNumSeqs), fit), 1), err
}

// at is the state with n sequences in the running set.
func (p *Predictor) at(t Traffic, n float64) Prediction {
	d := p.balance(t, n)
	step := p.step(t, d)
	q := Prediction{
		Running: n, Decoding: d, PromptPerStep: d * t.perOutput(), StepSeconds: step, TPOTSeconds: step, Stable: true,
		TTFTSeconds: p.prefillSeconds(t, d) + step/2, // a request meets a step half done
	}
	q.RequestsPerSec = d / (max(t.OutputTokens, 1) * step)
	q.E2ESeconds = q.TTFTSeconds + step*max(t.OutputTokens-1, 0)
	q.TokensPerSecGPU = q.RequestsPerSec * t.OutputTokens / float64(p.setup.Layout.TP*p.setup.Layout.PP)
	return q
}

// prefillSeconds is the time of the steps that compute one prompt beside d decoding sequences.
func (p *Predictor) prefillSeconds(t Traffic, d float64) float64 {
	budget := max(float64(p.setup.MaxBatchedTokens)-d, 1)
	prompt := max(t.computed(), 1)
	steps := math.Ceil(prompt / budget)
	return steps * p.terms(p.mixed(t, d, prompt/steps)).Seconds()
}

// SteadyState is the mean state under a closed loop of that many clients on one replica. Requests beyond
// the running set's limit wait. Data-parallel ranks share the clients evenly.
func (p *Predictor) SteadyState(t Traffic, clients int) (Prediction, error) {
	limit, err := p.limit(t)
	if err != nil {
		return Prediction{}, err
	}
	ranks := float64(p.setup.Layout.DP)
	perRank := float64(clients) / ranks
	q := p.at(t, math.Min(perRank, limit))
	if q.RequestsPerSec > 0 {
		q.QueueSeconds = max(perRank/q.RequestsPerSec-q.E2ESeconds, 0)
	}
	if perRank <= limit {
		q.QueueSeconds = 0
	}
	q.TTFTSeconds += q.QueueSeconds
	q.E2ESeconds += q.QueueSeconds
	q.RequestsPerSec *= ranks
	return q, nil
}

// MaxRate is the largest rate, in requests per second and replica, that one replica sustains.
func (p *Predictor) MaxRate(t Traffic) (float64, error) {
	limit, err := p.limit(t)
	if err != nil {
		return 0, err
	}
	best := 0.0
	for n := 1.0; ; n = math.Min(n*1.25, limit) {
		best = max(best, p.at(t, n).RequestsPerSec)
		if n == limit {
			return best * float64(p.setup.Layout.DP), nil
		}
	}
}

// OpenLoop is the mean state under Traffic.Rate, by a birth-death chain over the number of requests in
// one rank. Real traffic is burstier than any chain; use pkg/des for percentiles.
func (p *Predictor) OpenLoop(t Traffic) (Prediction, error) {
	limit, err := p.limit(t)
	if err != nil {
		return Prediction{}, err
	}
	ranks := float64(p.setup.Layout.DP)
	arrivals := t.Rate / ranks
	c := p.chain(t, arrivals, int(limit))
	q := p.at(t, max(c.running, 1e-6))
	q.Running = c.running
	q.RequestsPerSec = t.Rate
	q.Utilization = arrivals / c.peak
	q.TokensPerSecGPU = t.Rate * t.OutputTokens / float64(p.setup.Layout.GPUs())
	if q.Stable = c.stable; !c.stable {
		q.QueueSeconds = math.Inf(1)
	} else {
		q.QueueSeconds = c.waiting / arrivals * variability(t)
	}
	wait := max(q.QueueSeconds, p.promptQueue(t, arrivals*t.OutputTokens*q.StepSeconds)) // one congestion, seen from two sides
	q.TTFTSeconds += wait
	q.E2ESeconds += wait
	return q, nil
}

// promptQueue is the time, in seconds, that an admitted prompt waits for the prompts before it: they take
// what decoding leaves of the token budget one after the other. It matters when the budget is small.
// By Little's law the mean number decoding is the rate times the time spent decoding.
func (p *Predictor) promptQueue(t Traffic, decoding float64) float64 {
	left := float64(p.setup.MaxBatchedTokens) - decoding
	busy := decoding * t.perOutput() / max(left, 1e-9)
	if busy >= 1 {
		return math.Inf(1)
	}
	return busy / (1 - busy) * p.prefillSeconds(t, decoding) * variability(t)
}

// variability is the factor by which a queue is longer than with Poisson arrivals and exponential service.
func variability(t Traffic) float64 {
	return (square(orOne(t.ArrivalCV)) + square(orOne(t.ServiceCV))) / 2
}

// chain is the stationary state of the birth-death chain.
type chain struct {
	running float64 // mean running, as an arriving token sees it
	waiting float64 // mean number waiting
	peak    float64 // largest service rate, requests per second
	stable  bool
}

func (p *Predictor) chain(t Traffic, arrivals float64, limit int) chain {
	weight, total, seen, seenWeight := 1.0, 1.0, 0.0, 0.0
	c := chain{}
	for n := 1; n <= limit; n++ {
		rate := p.at(t, float64(n)).RequestsPerSec
		c.peak = max(c.peak, rate)
		weight *= arrivals / rate
		total += weight
		tokens := weight * float64(n) // a token is one of n
		seen += tokens * float64(n)
		seenWeight += tokens
		if weight > 1e200 { // keep the sums finite; earlier states no longer matter
			weight, total, seen, seenWeight = weight/1e200, total/1e200, seen/1e200, seenWeight/1e200
		}
		if n == limit {
			load := arrivals / rate
			if c.stable = load < 1; c.stable {
				beyond := weight * load / (1 - load) // probability mass of the waiting states, unscaled
				c.waiting = beyond / (1 - load) / (total + beyond)
				seen += beyond * float64(limit) * float64(limit)
				seenWeight += beyond * float64(limit)
			}
		}
	}
	if seenWeight > 0 {
		c.running = seen / seenWeight
	}
	if !c.stable {
		c.running = float64(limit)
	}
	return c
}

func orOne(v float64) float64 {
	if v <= 0 {
		return 1
	}
	return v
}

func square(v float64) float64 { return v * v }
