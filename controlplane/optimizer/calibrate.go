package optimizer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// draws of the coefficients that a prediction is averaged over; their spread is its interval.
const draws = 8

// Spread of a coefficient around its prior, and of the whole model around the truth: the standard
// deviations of logarithms. The second pair is the leave-one-out residual of the closed form on
// published measurements before anything is learned of an engine; anchoring removes part of it.
const (
	priorSpread   = 0.25
	errorTPOT     = 0.15
	errorTTFT     = 0.35
	anchorlessMul = 2.0 // without an anchor the model error doubles
)

// calibration is a set of draws that agree with what the engines show: of coefficients where tables
// know hardware and model, of laws otherwise.
type calibration struct {
	gpu      perfmodel.GPU
	model    perfmodel.Model
	draws    []perfmodel.Coefficients
	laws     []law // take the place of the draws above; none: the tables hold
	anchored bool
	notes    []string // evidence in words, assumptions included
}

// fallbacks stand in for hardware and models that no table knows.
const (
	fallbackGPU   = "h100-sxm"
	fallbackModel = "llama-3.1-8b"
)

// calibrate draws coefficients from the prior and scales each draw so that the step it predicts at
// the operating point takes as long as the engines' steps do. The shape of the dependence on batch
// and prompt stays the prior's; its level is the engine's own.
func (v *Service) calibrate(s *Scene, setup func(perfmodel.GPU, perfmodel.Model) perfmodel.Setup, op operatingPoint, t traffic) (*calibration, error) {
	c := &calibration{}
	if unknown := s.unknown(v.tables); unknown != "" {
		if c.laws = s.liveLaws(t, draws); len(c.laws) > 0 {
			c.anchored = true
			c.notes = append(c.notes, c.lawNote(unknown, op))
			return c, nil
		}
	}
	if err := c.lookUp(v.tables, s); err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(1, 2)) // fixed: equal telemetry gives equal proposals
	step := perfmodel.Step{
		Decoding: int(math.Round(op.running)), Sampling: int(math.Round(op.running)),
		ContextTokens: int(op.running * (t.prompt + t.output/2)), Async: true,
	}
	if op.promptStep >= 1 {
		step.Chunks = []perfmodel.Chunk{{New: int(op.promptStep), Cached: int(t.prompt / 2)}}
	}
	c.anchored = op.stepSeconds > 0
	for range draws {
		coeff := perturb(perfmodel.Prior(), rng)
		p, err := perfmodel.New(setup(c.gpu, c.model), coeff)
		if err != nil {
			return nil, fmt.Errorf("predict %s: %w", s.Group, err)
		}
		if c.anchored {
			coeff = scale(coeff, op.stepSeconds/p.StepSeconds(step))
		}
		c.draws = append(c.draws, coeff)
	}
	if c.anchored {
		c.notes = append(c.notes, fmt.Sprintf("step time anchored at %.1f ms for %.1f running sequences and %.0f prompt tokens a step", 1e3*op.stepSeconds, op.running, op.promptStep))
	} else {
		c.notes = append(c.notes, "no source tells the step time: predictions rest on data-sheet physics and have wide intervals")
	}
	return c, nil
}

// unknown says what of hardware and model is in no table, "" when both are.
func (s *Scene) unknown(tables *perfmodel.Tables) string {
	var parts []string
	if _, _, err := tables.GPU(s.Hardware); err != nil {
		parts = append(parts, fmt.Sprintf("hardware %q", s.Hardware))
	}
	if _, _, err := tables.Model(s.Model); err != nil {
		parts = append(parts, fmt.Sprintf("model %q", s.Model))
	}
	return strings.Join(parts, " and ")
}

// lawNote says what a prediction without tables rests on, and how far the draws differ at eight
// times the sequences.
func (c *calibration) lawNote(unknown string, op operatingPoint) string {
	few, many := op.running, 8*op.running
	low, high := math.Inf(1), 0.0
	for _, l := range c.laws {
		low, high = math.Min(low, l.at(many, 0)), math.Max(high, l.at(many, 0))
	}
	return fmt.Sprintf("%s not in the tables: predicted from the engines' own step times (%.1f ms at %.1f sequences, %.1f … %.1f ms guessed at %.0f)",
		unknown, 1e3*op.stepSeconds, few, 1e3*low, 1e3*high, many)
}

func (c *calibration) lookUp(tables *perfmodel.Tables, s *Scene) (err error) {
	if _, c.gpu, err = tables.GPU(s.Hardware); err != nil {
		c.notes = append(c.notes, fmt.Sprintf("hardware %q is not in the table; predicted as %s, scaled to the observed step time: add a table entry for better predictions", s.Hardware, fallbackGPU))
		if _, c.gpu, err = tables.GPU(fallbackGPU); err != nil {
			return err
		}
	}
	if _, c.model, err = tables.Model(s.Model); err != nil {
		c.notes = append(c.notes, fmt.Sprintf("model %q is not in the table; predicted as %s, scaled to the observed step time: add a table entry for better predictions", s.Model, fallbackModel))
		if _, c.model, err = tables.Model(fallbackModel); err != nil {
			return err
		}
	}
	return nil
}

// perturb multiplies each coefficient by an independent log-normal factor.
func perturb(c perfmodel.Coefficients, rng *rand.Rand) perfmodel.Coefficients {
	f := func(v float64) float64 { return v * math.Exp(priorSpread*rng.NormFloat64()) }
	return perfmodel.Coefficients{
		Weights: f(c.Weights), Compute: f(c.Compute), Attention: f(c.Attention), KV: f(c.KV), Link: f(c.Link),
		LayerSeconds: f(c.LayerSeconds), RequestSeconds: f(c.RequestSeconds), FixedSeconds: f(c.FixedSeconds), AllReduceSeconds: f(c.AllReduceSeconds),
	}
}

// scale makes every step take factor times as long.
func scale(c perfmodel.Coefficients, factor float64) perfmodel.Coefficients {
	if !(factor > 0) || math.IsInf(factor, 0) {
		return c
	}
	return perfmodel.Coefficients{
		Weights: c.Weights / factor, Compute: c.Compute / factor, Attention: c.Attention / factor, KV: c.KV / factor, Link: c.Link / factor,
		LayerSeconds: c.LayerSeconds * factor, RequestSeconds: c.RequestSeconds * factor,
		FixedSeconds: c.FixedSeconds * factor, AllReduceSeconds: c.AllReduceSeconds * factor,
	}
}
