package perfmodel

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/goccy/go-yaml"
)

// Terms of the linear step-time law, in the order of Features. Only their sum is identified by data,
// single coefficients are not: never show one as a fact (tuning.md §3).
const (
	featWeights  = iota // reading weights, s at data-sheet bandwidth
	featKV              // reading the cache, s at data-sheet bandwidth
	featDecode          // matrix products of decoding tokens, s at the data-sheet rate
	featPrompt          // matrix products and attention of prompts, s at the data-sheet rate
	featLink            // bytes of the all-reduces, s at the data-sheet link rate
	featReduce          // all-reduces, each 1 µs
	featLayer           // layers, each 1 µs
	featSequence        // decoding sequences, each 1 µs
	featStep            // 1 ms
	featRoute           // tokens routed to experts and dispatched, per layer and expert, each 1 ns; MoE
	numFeatures
)

// Features of a step in seconds at efficiency 1, of which a Law is the weighted sum.
type Features [numFeatures]float64

// Features of the iteration (tuning.md §3, table "Features").
func (p *Predictor) Features(s Step) Features { return p.features(p.load(s)) }

func (p *Predictor) features(l load) (x Features) {
	m, layout := p.setup.Model, p.setup.Layout
	tp, stages, layers := float64(layout.TP), float64(layout.PP), float64(m.Layers)
	tokens := l.tokens() / stages
	generated := (l.decoding + l.drafts) / stages

	x[featWeights] = p.WeightBytesPerStep(tokens) / (tp * p.peak.memory)
	x[featKV] = p.cacheTokens(l) / stages * p.kvPerGPU / p.peak.memory
	x[featDecode] = 2 * (p.parts.active() + p.parts.head) * generated / (tp * p.peak.gemm)
	x[featPrompt] = 2*p.parts.active()*l.prompt/stages/(tp*p.peak.gemm) + 4*layers*m.attentionWidth()*l.scores/stages/(tp*p.peak.half)
	if layout.TP > 1 {
		x[featLink] = 4 * layers * (tp - 1) / tp * tokens * float64(m.Hidden) * 2 / p.peak.link
		x[featReduce] = 2 * layers * 1e-6
	}
	x[featLayer] = layers * 1e-6
	x[featSequence] = l.decoding / stages * 1e-6
	x[featStep] = 1e-3
	if m.Experts > 1 {
		x[featRoute] = (layers - float64(m.DenseLayers)) * float64(m.ExpertsPerToken) * tokens * 1e-9
	}
	return x
}

// Law is a step time as a sum of features with non-negative weights: inverse efficiencies and overheads.
type Law struct {
	Theta Features
	TTFT  TTFTFeatures // of the closed-form time to first token, for pruning only
	// SpreadTPOT and SpreadTTFT are standard deviations of the logarithm of what is observed to what is
	// predicted, in cells that the law never saw: 90 % of them lie within 1.645 of it.
	SpreadTPOT, SpreadTTFT float64
}

// Seconds of a step with such features.
func (w Law) Seconds(x Features) float64 { return dot(x[:], w.Theta[:]) }

// TPOTSeconds is the mean time per token in a closed loop.
func (w Law) TPOTSeconds(m Mean) float64 { return w.Seconds(m.Features) }

// TTFTSeconds is the mean time to the first token in a closed loop without a queue. It errs by a third
// in the median: use it to prune, never for a verdict.
func (w Law) TTFTSeconds(m Mean) float64 {
	x := m.Arrival.with(w.TPOTSeconds(m))
	return dot(x[:], w.TTFT[:])
}

// FitTPOT finds the law's weights from mean steps and the seconds they took per token. The law it is
// called on weighs as much as that many observations.
func (w Law) FitTPOT(m []Mean, seconds []float64, weight float64) Law {
	rows := make([][]float64, len(m))
	for i := range m {
		rows[i] = m[i].Features[:]
	}
	copy(w.Theta[:], LeastRelative(rows, seconds, w.Theta[:], weight))
	return w
}

// FitTTFT finds the weights of the time to the first token, once those of the step are known.
func (w Law) FitTTFT(m []Mean, seconds []float64, weight float64) Law {
	rows := make([][]float64, len(m))
	for i := range m {
		x := m[i].Arrival.with(w.TPOTSeconds(m[i]))
		rows[i] = x[:]
	}
	copy(w.TTFT[:], LeastRelative(rows, seconds, w.TTFT[:], weight))
	return w
}

// LawCost is a law applied to one setup; pkg/des takes it as the cost of a step.
type LawCost struct {
	p   *Predictor
	law Law
}

// Cost of steps by the law.
func (p *Predictor) Cost(law Law) LawCost { return LawCost{p, law} }

// StepSeconds is the duration of one iteration.
func (c LawCost) StepSeconds(s Step) float64 { return c.law.Seconds(c.p.Features(s)) }

//go:embed law.yaml
var builtinLaws []byte

// Family of the model, within which step-time laws carry over: dense, moe (mixture of experts) or mla
// (multi-head latent attention).
func (m Model) Family() string {
	switch {
	case m.MLA != nil:
		return "mla"
	case m.Experts > 1:
		return "moe"
	}
	return "dense"
}

// PublicLaw is the law fitted to public measurements of the model's family on data-centre GPUs, under one
// engine (vllm, sglang, trtllm) where enough of its cells were measured, else under all of them. It is
// where to start for a cell that nothing is known of.
func PublicLaw(m Model, engine string) Law {
	laws := publicLaws()
	if law, ok := laws[m.Family()+"-"+engine]; ok {
		return law
	}
	return laws[m.Family()]
}

var publicLaws = sync.OnceValue(func() map[string]Law {
	laws, err := ReadLaws(builtinLaws)
	if err != nil {
		panic(err) // a test reads the embedded file
	}
	return laws
})

// lawEntry is a law in a file. Its unit is that of the features: 1, µs, ms and ns.
type lawEntry struct {
	Theta        []float64 `yaml:"theta"`
	TTFT         []float64 `yaml:"ttft"`
	SpreadTPOT   float64   `yaml:"spread_tpot"`
	SpreadTTFT   float64   `yaml:"spread_ttft"`
	Measurements int       `yaml:"measurements"`
}

// ReadLaws reads a file of laws by name, the form that the derive command writes.
func ReadLaws(doc []byte) (map[string]Law, error) {
	var file struct {
		Laws map[string]lawEntry `yaml:"laws"`
	}
	if err := yaml.UnmarshalWithOptions(doc, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("step-time laws: %w", err)
	}
	laws := map[string]Law{}
	for name, e := range file.Laws {
		law := Law{SpreadTPOT: e.SpreadTPOT, SpreadTTFT: e.SpreadTTFT}
		if err := errors.Join(fill(law.Theta[:], e.Theta), fill(law.TTFT[:], e.TTFT)); err != nil {
			return nil, fmt.Errorf("step-time law %s: %w", name, err)
		}
		laws[name] = law
	}
	return laws, nil
}

// fill refuses what is no list of non-negative coefficients of the right length.
func fill(to, from []float64) error {
	if len(from) != len(to) {
		return fmt.Errorf("%d coefficients, want %d", len(from), len(to))
	}
	for i, v := range from {
		if !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("coefficient %d is %g", i, v)
		}
	}
	copy(to, from)
	return nil
}
