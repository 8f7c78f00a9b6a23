package calibrate

import (
	"math"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// terms of the step-time law. Each is a non-negative coefficient in seconds per unit of its feature.
// Only their sum is identified by data: never show one of them as a fact.
const (
	termStep    = iota // every step
	termDecode         // a sequence that decodes
	termPrefill        // a step that computes prompts, beside termStep
	termToken          // a prompt token computed
	termPrompt         // a prompt, whole or in part
	termContext        // a thousand tokens of context of decoding sequences
	termScore          // a million pairs of a prompt token and a token before it
	termAfter          // a step without prompts, by how lately one was computed
	terms
)

// features of a step, or the sum over several.
type features [terms]float64

// settleSteps is in how many steps after a prompt a step's extra time falls to 1/e. The step after a
// prompt takes up to a third longer than one in a long quiet run on a CPU, whatever decodes beside it:
// without the term, the crowd that new prompts bring is blamed for it, and larger batches are foreseen
// too slow, short answers too fast. Any constant from 3 to 8 fits the calibration's own requests as well.
const settleSteps = 5

// settled is the share of the extra time that is left a number of steps after a prompt.
func settled(steps float64) float64 { return math.Exp(-steps / settleSteps) }

// featuresOf a step, that many steps after the last one that computed a prompt.
func featuresOf(s des.StepShape, after float64) (x features) {
	x[termStep] = 1
	x[termDecode] = float64(s.Decoding)
	x[termContext] = float64(s.ContextTokens) / 1e3
	for _, c := range s.Chunks {
		x.prompt(float64(c.New), float64(c.Cached), 1)
	}
	if len(s.Chunks) > 0 {
		x[termPrefill] = 1
	} else {
		x[termAfter] = settled(after)
	}
	return x
}

// prompt adds a share of the work of one prompt: fresh tokens after cached ones.
func (x *features) prompt(fresh, cached, share float64) {
	x[termToken] += share * fresh
	x[termPrompt] += share
	x[termScore] += share * fresh * (cached + fresh/2) / 1e6
}

func (x features) dot(theta features) (sum float64) {
	for i := range x {
		sum += x[i] * theta[i]
	}
	return sum
}

// prior is what to assume of a cell that nothing is known about: centres in seconds, and how far off
// they may be as standard deviations. An engine without a known GPU may be a laptop or a rack, so these
// are wide; seventy-five requests outweigh them in every term that the requests exercised.
type prior struct{ mean, sd features }

func unknownHardware() prior {
	p := prior{mean: features{8e-3, 100e-6, 1e-3, 30e-6, .5e-3, .2e-3, 5e-3, .5e-3}}
	for i, m := range p.mean {
		p.sd[i] = 3 * m
	}
	p.sd[termStep] = math.Inf(1) // always seen
	return p
}
