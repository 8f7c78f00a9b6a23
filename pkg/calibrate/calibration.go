package calibrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// ErrTooLittle means that the observations do not suffice; its text says what is missing.
var ErrTooLittle = errors.New("not enough to calibrate from")

// Calibration is what is known of a cell's step time. Its serialised form stays under 2 KB.
type Calibration struct {
	post   posterior
	front  float64 // seconds from a client to the scheduler and back
	lagged bool    // tokens are shown when the step after theirs has run
	seen   float64 // most sequences that decoded together in the observations

	// Observations is how many spans of time it rests on, Notes what a reader of predictions must know.
	Observations int
	Notes        []string
}

// Least data to learn from.
const (
	leastRequests = 20
	leastSpans    = 50
	frontRequests = 5
)

// FromRequests learns from the requests that one replica served with one configuration, in order of
// arrival.
func FromRequests(cfg des.Config, requests []Request) (*Calibration, error) {
	if len(requests) < leastRequests {
		return nil, fmt.Errorf("%w: %d requests, need %d", ErrTooLittle, len(requests), leastRequests)
	}
	var best *Calibration
	for _, lagged := range shows(cfg) {
		c, err := fromRequests(cfg, requests, lagged)
		if err != nil {
			return nil, err
		}
		if best == nil || c.post.miss < best.post.miss {
			best = c
		}
	}
	return best, nil
}

func fromRequests(cfg des.Config, requests []Request, lagged bool) (*Calibration, error) {
	c := &Calibration{lagged: lagged}
	spans := requests
	if lagged {
		spans = computed(requests)
	}
	cached := make([]int, len(requests))
	for range 2 { // what the prefix cache saved is known once a law is
		obs := intervals(cfg, spans, cached)
		if len(obs) < leastRequests {
			return nil, fmt.Errorf("%w: %d spans between tokens, need %d", ErrTooLittle, len(obs), leastRequests)
		}
		c.Observations = len(obs)
		c.post = fit(obs, unknownHardware())
		c.seen = mostDecoding(obs)
		replay, err := c.replay(cfg, Trace(requests), c.Law(), 0, 1)
		if err != nil {
			return nil, fmt.Errorf("replay the observed requests: %w", err)
		}
		for i, o := range replay {
			cached[i] = o.cached
		}
		c.level(requests, replay)
	}
	replay, err := c.replay(cfg, Trace(requests), c.Law(), 0, 1)
	if err != nil {
		return nil, fmt.Errorf("replay the observed requests: %w", err)
	}
	c.front = front(requests, replay)
	return c, nil
}

// level takes from a replay by how much steps are longer on average than the law of the median says.
func (c *Calibration) level(requests []Request, replay []outcome) {
	var seen, expected float64
	for i, r := range requests {
		seen += (r.End - r.FirstToken).Seconds()
		expected += replay[i].end - replay[i].first
	}
	if expected > 0 && seen > 0 {
		c.post.bias *= math.Min(math.Max(seen/expected, 1/mostLevel), mostLevel)
	}
}

// mostLevel bounds a correction that only rare long steps should need.
const mostLevel = 1.15

func mostDecoding(obs []observation) float64 {
	var all []float64
	for _, o := range obs {
		if o.steps > 0 {
			all = append(all, o.x[termDecode]/o.steps)
		}
	}
	slices.Sort(all)
	return max(all[len(all)*99/100], 1)
}

// front is the time that a request spends outside the scheduler, from those that did not queue.
func front(requests []Request, replay []outcome) float64 {
	var free, all []float64
	for i, r := range requests {
		d := r.TTFT().Seconds() - (replay[i].first - r.Arrival.Seconds())
		all = append(all, d)
		if replay[i].queued < 1e-3+.5*r.TPOT().Seconds() {
			free = append(free, d)
		}
	}
	if len(free) >= frontRequests {
		return max(median(free), 0)
	}
	return max(median(all), 0)
}

// Law is a step time, in seconds.
type Law struct {
	theta  features
	scale  float64
	seen   float64 // sequences that were seen to decode together
	beyond float64 // factor of the cost of each sequence more
}

// seconds of a step, that many steps after the last one that computed a prompt.
func (l Law) seconds(s des.StepShape, after float64) float64 {
	t := featuresOf(s, after).dot(l.theta)
	if more := float64(s.Decoding) - l.seen; more > 0 {
		t += more * l.theta[termDecode] * (l.beyond - 1)
	}
	return t * l.scale
}

// Cost is the law at work in one engine.
func (l Law) Cost() des.Cost { return &pace{law: l, after: math.Inf(1)} }

// pace is a law that remembers how long ago a prompt was computed.
type pace struct {
	law   Law
	after float64 // steps
}

// StepSeconds implements des.Cost.
func (p *pace) StepSeconds(s des.StepShape) float64 {
	t := p.law.seconds(s, p.after)
	p.after++
	if len(s.Chunks) > 0 {
		p.after = 0
	}
	return t
}

// Front is the time that a request spends outside the scheduler: from the client, and back.
func (c *Calibration) Front() time.Duration { return time.Duration(c.front * float64(time.Second)) }

// Law is the most likely one.
func (c *Calibration) Law() Law {
	return Law{theta: c.post.mean, scale: c.post.bias, seen: c.seen, beyond: 1}
}

// wire is the serialised form.
type wire struct {
	Mean         features  `json:"mean"`
	Precision    []float32 `json:"precision"` // lower triangle
	Noise        float64   `json:"noise"`
	Bias         float64   `json:"bias"`
	Miss         float64   `json:"miss"`
	Front        float64   `json:"front"`
	Lagged       bool      `json:"lagged"`
	Seen         float64   `json:"seen"`
	Observations int       `json:"observations"`
	Notes        []string  `json:"notes,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (c *Calibration) MarshalJSON() ([]byte, error) {
	w := wire{
		Mean: c.post.mean, Noise: c.post.noise, Bias: c.post.bias, Miss: c.post.miss,
		Front: c.front, Lagged: c.lagged, Seen: c.seen, Observations: c.Observations, Notes: c.Notes,
	}
	for i := range terms {
		for j := range i + 1 {
			w.Precision = append(w.Precision, float32(c.post.precision[i][j]))
		}
	}
	return json.Marshal(w)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Calibration) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("read calibration: %w", err)
	}
	if len(w.Precision) != terms*(terms+1)/2 {
		return fmt.Errorf("read calibration: %d numbers of its precision, want %d", len(w.Precision), terms*(terms+1)/2)
	}
	*c = Calibration{front: w.Front, lagged: w.Lagged, seen: w.Seen, Observations: w.Observations, Notes: w.Notes}
	c.post = posterior{mean: w.Mean, noise: w.Noise, bias: w.Bias, miss: w.Miss}
	k := 0
	for i := range terms {
		for j := range i + 1 {
			v := float64(w.Precision[k])
			c.post.precision[i][j], c.post.precision[j][i] = v, v
			k++
		}
	}
	return nil
}
