package calibrate

import (
	"math"
	"math/rand/v2"
)

// spread is what observations of one start of an engine at one configuration cannot tell, as standard
// deviations of logarithms.
type spread struct {
	law    float64 // all step times, of one start's span of seconds against another's
	beyond float64 // cost of a sequence more than were ever seen together
	front  float64 // time outside the scheduler
}

// machine is the spread that predictions allow for.
var machine = spread{law: .10, beyond: .35, front: .2}

// draw is a law, and a time outside the scheduler in seconds, that agree with the observations.
func (c *Calibration) draw(rng *rand.Rand, s spread) (Law, float64) {
	l := Law{theta: c.post.draw(rng), seen: c.seen}
	l.scale = c.post.bias * math.Exp(s.law*rng.NormFloat64())
	l.beyond = math.Exp(s.beyond * rng.NormFloat64())
	return l, c.front * math.Exp(s.front*rng.NormFloat64())
}
