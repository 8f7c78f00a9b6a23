// Package canarysim simulates what a canary analysis sees: replicas whose latencies are noisy, drift,
// differ by hardware and breathe with a shared load. It tells how often methods raise false alarms on
// changes that change nothing, and how soon they find those that do.
//
// The model is latencies alone: no queue that feeds back, no prefix cache. Package des has those.
package canarysim

import (
	"math"
	"math/rand/v2"
)

// Scenario is a group of replicas. Deviations are of natural logarithms of latency.
type Scenario struct {
	Name               string
	Canaries, Controls int
	Rate               float64 // requests per second and replica
	ReplicaSD          float64 // of a replica's own drift, an Ornstein-Uhlenbeck process
	ReplicaTau         float64 // seconds in which the drift forgets itself
	Spread             float64 // of fixed differences between replicas
}

// Scenarios in order: A independent requests; B drifting replicas; C the same with little traffic; D
// worse replicas; E as B with more of them.
var Scenarios = []Scenario{
	{Name: "A", Canaries: 1, Controls: 3, Rate: 5},
	{Name: "B", Canaries: 1, Controls: 3, Rate: 5, ReplicaSD: .15, ReplicaTau: 20, Spread: .05},
	{Name: "C", Canaries: 1, Controls: 3, Rate: 1, ReplicaSD: .15, ReplicaTau: 20, Spread: .05},
	{Name: "D", Canaries: 1, Controls: 3, Rate: 5, ReplicaSD: .25, ReplicaTau: 40, Spread: .15},
	{Name: "E", Canaries: 4, Controls: 12, Rate: 5, ReplicaSD: .15, ReplicaTau: 20, Spread: .05},
}

// What all scenarios share.
const (
	medianTTFT = .3   // seconds
	sigmaTTFT  = .5   // of one request
	loadSD     = .3   // of the load that all replicas share
	loadTau    = 120. // seconds
)

// Fleet is a scenario at work. It is not safe for concurrent use.
type Fleet struct {
	Scenario
	rng   *rand.Rand
	load  walk
	drift []walk
	fixed []float64
	shift float64 // of the canaries, as a logarithm
}

// walk is an Ornstein-Uhlenbeck process in its stationary state, seen once a second.
type walk struct{ value, keep, kick float64 }

func newWalk(rng *rand.Rand, sd, tau float64) walk {
	if sd == 0 {
		return walk{}
	}
	keep := math.Exp(-1 / tau)
	return walk{value: sd * rng.NormFloat64(), keep: keep, kick: sd * math.Sqrt(1-keep*keep)}
}

func (w *walk) step(rng *rand.Rand) {
	if w.kick > 0 {
		w.value = w.keep*w.value + w.kick*rng.NormFloat64()
	}
}

// New returns a fleet in which nothing has been changed yet. Equal seeds give equal fleets.
func New(s Scenario, seed uint64) *Fleet {
	f := &Fleet{Scenario: s, rng: rand.New(rand.NewPCG(seed, 0xca))}
	f.load = newWalk(f.rng, loadSD, loadTau)
	for range s.Canaries + s.Controls {
		f.drift = append(f.drift, newWalk(f.rng, s.ReplicaSD, s.ReplicaTau))
		f.fixed = append(f.fixed, s.Spread*f.rng.NormFloat64())
	}
	return f
}

// Regress makes the canaries' latencies longer by factor from now on.
func (f *Fleet) Regress(factor float64) { f.shift = math.Log(factor) }

// Second passes, and the time to first token of each of its requests is handed to see, in seconds, with
// the number of the replica; the canaries come first.
func (f *Fleet) Second(see func(replica int, ttft float64)) {
	f.load.step(f.rng)
	for i := range f.drift {
		f.drift[i].step(f.rng)
		mean := math.Log(medianTTFT) + f.level(i)
		for range f.poisson(f.Rate) {
			see(i, math.Exp(mean+sigmaTTFT*f.rng.NormFloat64()))
		}
	}
}

// level of a replica's latencies now, as a logarithm.
func (f *Fleet) level(replica int) float64 {
	l := f.load.value + f.drift[replica].value + f.fixed[replica]
	if replica < f.Canaries {
		l += f.shift
	}
	return l
}

// Figures of what only whole rollouts look at.
const (
	medianTPOT = .02
	sigmaTPOT  = .2
	errorRate  = .002
)

// TPOT draws the time per output token of a request that the replica just served, in seconds: it drifts
// and breathes as the time to first token does, and varies less between requests.
func (f *Fleet) TPOT(replica int) float64 {
	return medianTPOT * math.Exp(f.level(replica)+sigmaTPOT*f.rng.NormFloat64())
}

// Failed draws whether the request failed. Changes in latency do not change that.
func (f *Fleet) Failed() bool { return f.rng.Float64() < errorRate }

// poisson draws a small count.
func (f *Fleet) poisson(mean float64) (n int) {
	for left := f.rng.ExpFloat64(); left < mean; left += f.rng.ExpFloat64() {
		n++
	}
	return n
}
