package calibrate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// outcome is what a replay says of one request, in seconds of the client's clock.
type outcome struct {
	arrival, first, end float64
	queued              float64
	cached, tokens      int
}

// replay simulates trace with a law and a time outside the scheduler; the seed is of the steps' noise.
func (c *Calibration) replay(cfg des.Config, trace []workload.Request, law Law, front float64, seed uint64) ([]outcome, error) {
	cfg.StepNoise = c.post.noise
	ends := map[time.Duration]time.Duration{} // of steps, by their start
	r, err := des.Run([]*des.Engine{des.New(cfg, law.Cost(), seed)}, trace, des.Options{OnStep: func(_ int, start time.Duration, s des.Step) {
		if c.lagged {
			ends[start] = start + s.Duration
		}
	}})
	if err != nil {
		return nil, err
	}
	out := make([]outcome, len(trace))
	for i, o := range r.Outcomes {
		if !o.Done() {
			return nil, fmt.Errorf("request %d is not served: %w", i, o.Err)
		}
		first, end := o.FirstToken, o.End
		for _, t := range []*time.Duration{&first, &end} {
			if later, ok := ends[*t]; ok {
				*t = later
			}
		}
		out[i] = outcome{
			arrival: o.Arrival.Seconds(), first: first.Seconds() + front, end: end.Seconds() + front,
			queued: o.Queued.Seconds(), cached: o.Cached, tokens: o.Tokens,
		}
	}
	return out, nil
}

// Estimate is a predicted number with a 90 % interval.
type Estimate struct{ Value, Low, High float64 }

// Covers reports whether the interval contains v.
func (e Estimate) Covers(v float64) bool { return e.Low <= v && v <= e.High }

// Figures are what a run of requests shows, in seconds: of observed ones or of predicted ones.
type Figures[T any] struct{ TTFTMean, TTFTP99, TPOTMean, E2EMean T }

// Prediction of a run.
type Prediction struct {
	Figures[Estimate]
	Notes []string
}

// predictionDraws is how many laws a prediction's interval comes from.
const predictionDraws = 64

// Predict simulates trace under a configuration, once with the most likely law and with draws around it,
// each with step noise of its own. Equal seeds give equal predictions.
func (c *Calibration) Predict(cfg des.Config, trace []workload.Request, seed uint64) (Prediction, error) {
	return c.predict(cfg, trace, seed, machine)
}

func (c *Calibration) predict(cfg des.Config, trace []workload.Request, seed uint64, s spread) (Prediction, error) {
	rng := rand.New(rand.NewPCG(seed, 0xca1))
	var all []Figures[float64]
	for i := range predictionDraws + 1 {
		law, front := c.Law(), c.front
		if i > 0 {
			law, front = c.draw(rng, s)
		}
		outcomes, err := c.replay(cfg, trace, law, front, seed+uint64(i))
		if err != nil {
			return Prediction{}, err
		}
		all = append(all, figures(outcomes))
	}
	estimate := func(of func(Figures[float64]) float64) Estimate {
		var v []float64
		for _, f := range all[1:] {
			v = append(v, of(f))
		}
		slices.Sort(v)
		return Estimate{Value: of(all[0]), Low: bound(v, .05), High: bound(v, .95)}
	}
	return Prediction{Notes: c.Notes, Figures: Figures[Estimate]{
		TTFTMean: estimate(func(f Figures[float64]) float64 { return f.TTFTMean }),
		TTFTP99:  estimate(func(f Figures[float64]) float64 { return f.TTFTP99 }),
		TPOTMean: estimate(func(f Figures[float64]) float64 { return f.TPOTMean }),
		E2EMean:  estimate(func(f Figures[float64]) float64 { return f.E2EMean }),
	}}, nil
}

// bound is the value below which one more draw falls with probability q: of n sorted draws the k-th has
// k/(n+1) below it. The quantile of the draws themselves would leave too little outside.
func bound(sorted []float64, q float64) float64 {
	n := float64(len(sorted))
	return quantile(sorted, min(max((q*(n+1)-1)/(n-1), 0), 1))
}

// Observed are the figures of requests that were served.
func Observed(requests []Request) Figures[float64] {
	out := make([]outcome, len(requests))
	for i, r := range requests {
		out[i] = outcome{arrival: r.Arrival.Seconds(), first: r.FirstToken.Seconds(), end: r.End.Seconds(), tokens: r.OutputTokens}
	}
	return figures(out)
}

func figures(outcomes []outcome) (f Figures[float64]) {
	var ttft []float64
	var several float64
	for _, o := range outcomes {
		ttft = append(ttft, o.first-o.arrival)
		f.E2EMean += (o.end - o.arrival) / float64(len(outcomes))
		if o.tokens > 1 {
			f.TPOTMean += (o.end - o.first) / float64(o.tokens-1)
			several++
		}
	}
	for _, t := range ttft {
		f.TTFTMean += t / float64(len(ttft))
	}
	slices.Sort(ttft)
	f.TTFTP99 = quantile(ttft, .99)
	f.TPOTMean /= max(several, 1)
	return f
}

// quantile of sorted values, between the neighbours.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
