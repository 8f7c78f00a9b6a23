package perfmodel

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Sought is what is known of hardware and model before any table is asked.
type Sought struct {
	GPU            string  // product name, as NVML reports it
	GPUMemoryBytes float64 // 0: unknown
	Model          string  // served path
	Config         []byte  // the checkpoint's config.json; nil: not seen
}

// Found is what to predict with. Notes say in words what was assumed and what to add to a table to do
// better; spreads are standard deviations of the logarithm of what is observed to what is predicted.
type Found struct {
	GPUName, ModelName string
	GPU                GPU
	Model              Model
	Notes              []string
	SpreadTPOT         float64
	SpreadTTFT         float64
}

// Spreads of predictions by the prior's coefficients (tuning.md §3, leave-one-out residuals), and what a
// guessed GPU or model adds to their variance: a neighbour in the table may have twice the bandwidth or
// half the layers.
const (
	spreadTPOT       = .30
	spreadTTFT       = .74
	spreadGuessedGPU = .7
	spreadNeighbour  = .5 // a model of about the same size
	spreadNoIdea     = 1. // of a model of which not even the size is known
)

// What stands in for hardware and models of which nothing is known.
const (
	defaultGPU   = "h100-sxm"
	defaultModel = "llama-3.1-8b"
)

// Resolve finds GPU and model in the tables, reads the model from its config.json where the tables do not
// know it, and else guesses by memory and by the size in the model's name, with wide intervals and a note.
// An error means that a config.json was given which the formulas cannot follow; it wraps ErrConfig or
// ErrArchitecture.
func (t *Tables) Resolve(s Sought) (Found, error) {
	f := Found{}
	variance := 0.
	var err error
	if f.GPUName, f.GPU, err = t.GPU(s.GPU); err != nil {
		f.GPUName = t.nearestGPU(s.GPUMemoryBytes)
		f.GPU = t.GPUs[f.GPUName]
		variance += spreadGuessedGPU * spreadGuessedGPU
		f.Notes = append(f.Notes, fmt.Sprintf("%v; predicted as %s until then, with wide intervals", err, f.GPUName))
	}
	guessed, err := t.resolveModel(s, &f)
	if err != nil {
		return Found{}, err
	}
	variance += guessed * guessed
	f.SpreadTPOT = math.Sqrt(spreadTPOT*spreadTPOT + variance)
	f.SpreadTTFT = math.Sqrt(spreadTTFT*spreadTTFT + variance)
	return f, nil
}

// resolveModel returns the spread that its guess adds, 0 when nothing was guessed.
func (t *Tables) resolveModel(s Sought, f *Found) (spread float64, err error) {
	name, model, unknown := t.Model(s.Model)
	if unknown == nil {
		f.ModelName, f.Model = name, model
		return 0, nil
	}
	if len(s.Config) > 0 {
		model, notes, err := ModelFromConfig(s.Config)
		if err != nil {
			return 0, fmt.Errorf("model %s: %w", s.Model, err)
		}
		f.ModelName, f.Model, f.Notes = s.Model, model, append(f.Notes, notes...)
		return 0, nil
	}
	f.ModelName, spread = t.nearestModel(s.Model)
	f.Model = t.Models[f.ModelName]
	f.Notes = append(f.Notes, fmt.Sprintf("%v, or let the sidecar see its config.json; predicted as %s until then, with wide intervals", unknown, f.ModelName))
	return spread, nil
}

// nearestGPU is the entry whose memory is closest by ratio.
func (t *Tables) nearestGPU(bytes float64) string {
	return nearest(t.GPUs, defaultGPU, bytes, func(g GPU) float64 { return g.UsableBytes() })
}

// sizes in a model's name: 235B, A22B, 1.3b.
var sizeInName = regexp.MustCompile(`(?i)(?:^|[^a-z0-9.])(a?)(\d+(?:\.\d+)?)b(?:[^a-z0-9]|$)`)

// nearestModel is the entry whose parameter count is closest by ratio to the size in the name, among
// mixtures of experts if the name gives active parameters too.
func (t *Tables) nearestModel(path string) (name string, spread float64) {
	billions, moe := 0., false
	for rest := path; ; {
		m := sizeInName.FindStringSubmatchIndex(rest)
		if m == nil {
			break
		}
		if size, err := strconv.ParseFloat(rest[m[4]:m[5]], 64); err == nil && m[2] == m[3] {
			billions = size
		} else {
			moe = true
		}
		rest = rest[m[5]:]
	}
	if billions == 0 {
		return defaultModel, spreadNoIdea
	}
	alike := maps.Clone(t.Models)
	maps.DeleteFunc(alike, func(_ string, m Model) bool { return (m.Experts > 1) != moe })
	return nearest(alike, defaultModel, billions*1e9, Model.ParamCount), spreadNeighbour
}

// nearest is the name of the entry whose size is closest to wanted by ratio, the first by name of equals.
func nearest[T any](table map[string]T, otherwise string, wanted float64, size func(T) float64) string {
	best, distance := otherwise, math.Inf(1)
	if wanted <= 0 {
		return best
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if d := math.Abs(math.Log(size(table[name]) / wanted)); d < distance {
			best, distance = name, d
		}
	}
	return best
}

// Interval90 is where 90 % of the observations lie whose logarithm has that standard deviation around the
// predicted one.
func Interval90(predicted, spread float64) (low, high float64) {
	factor := math.Exp(1.6449 * spread)
	return predicted / factor, predicted * factor
}

// String is the note that belongs to every figure which rests on a guess; empty when nothing was guessed.
func (f Found) String() string { return strings.Join(f.Notes, "; ") }
