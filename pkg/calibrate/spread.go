package calibrate

import (
	"math"
	"math/rand/v2"
)

// spread is what observations of one start of an engine at one configuration cannot tell, as standard
// deviations of logarithms.
type spread struct {
	law    float64 // all step times, of a span of one start against a span of another
	beyond float64 // cost of a sequence more than were ever seen together
	front  float64 // time outside the scheduler
}

// machine is the spread that predictions allow for: that of a shared virtual machine of two cores, the
// only one on which it was measured. A machine of its own is steadier; intervals are then too wide.
//
// law: four warm starts of a vLLM, seen in 251 seconds of T11's telemetry at loads like that of a
// calibration, differ in their time between tokens by a standard deviation of 5.4 %, the spans of one
// start by 4.3 %. A prediction compares two spans of two starts: √(2·(.054² + .043²)) = .098, and four
// starts tell that to a factor of two; with three starts that were loaded while they warmed up it was .21.
// `make bar ID=T6.starts ENGINE=vllm` computes it; no cell of T6 has a part in it.
//
// beyond and front are judgements: the sequence after the last one seen costs what that one did within
// a third, which matters where a batch is several times those seen; the front process is a fifth faster
// or slower, which hardly matters.
var machine = spread{law: .10, beyond: .35, front: .2}

// draw is a law, and a time outside the scheduler in seconds, that agree with the observations.
func (c *Calibration) draw(rng *rand.Rand, s spread) (Law, float64) {
	l := Law{theta: c.post.draw(rng), seen: c.seen}
	l.scale = c.post.bias * math.Exp(s.law*rng.NormFloat64())
	l.beyond = math.Exp(s.beyond * rng.NormFloat64())
	return l, c.front * math.Exp(s.front*rng.NormFloat64())
}
