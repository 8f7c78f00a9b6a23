package perfmodel

import (
	_ "embed"
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
	// SpreadTPOT and SpreadTTFT are standard deviations of the logarithm of what is observed to what is
	// predicted, of cells that the law never saw.
	SpreadTPOT, SpreadTTFT float64
}

// Seconds of a step with such features.
func (w Law) Seconds(x Features) float64 { return dot(x[:], w.Theta[:]) }

// FitLaw finds the law of observed steps: features and seconds. The start weighs as much as that many
// observations.
func FitLaw(x []Features, seconds []float64, start Law, weight float64) Law {
	rows := make([][]float64, len(x))
	for i := range x {
		rows[i] = x[i][:]
	}
	fitted := start
	copy(fitted.Theta[:], LeastRelative(rows, seconds, start.Theta[:], weight))
	return fitted
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

// PublicLaw is the law fitted to public measurements of dense or of mixture-of-experts models on data
// centre GPUs, under one engine (vllm, sglang, trtllm) or, for any other name, under all of them. It is
// where to start for a cell that nothing is known of.
func PublicLaw(m Model, engine string) Law {
	laws := publicLaws()
	family := "dense"
	if m.Experts > 1 {
		family = "moe"
	}
	if law, ok := laws[family+"-"+engine]; ok {
		return law
	}
	return laws[family]
}

var publicLaws = sync.OnceValue(func() map[string]Law {
	laws, err := readLaws(builtinLaws)
	if err != nil {
		panic(err) // a test reads the embedded file
	}
	return laws
})

// lawEntry is a law in a file. Its unit is that of the features: 1, µs, ms and ns.
type lawEntry struct {
	Theta        []float64 `yaml:"theta"`
	SpreadTPOT   float64   `yaml:"spread_tpot"`
	SpreadTTFT   float64   `yaml:"spread_ttft"`
	Measurements int       `yaml:"measurements"`
}

func readLaws(doc []byte) (map[string]Law, error) {
	var file struct {
		Laws map[string]lawEntry `yaml:"laws"`
	}
	if err := yaml.UnmarshalWithOptions(doc, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("step-time laws: %w", err)
	}
	laws := map[string]Law{}
	for name, e := range file.Laws {
		law := Law{SpreadTPOT: e.SpreadTPOT, SpreadTTFT: e.SpreadTTFT}
		if len(e.Theta) != len(law.Theta) {
			return nil, fmt.Errorf("step-time law %s has %d coefficients, want %d", name, len(e.Theta), len(law.Theta))
		}
		for i, v := range e.Theta {
			if !(v >= 0) || math.IsInf(v, 0) {
				return nil, fmt.Errorf("step-time law %s: coefficient %d is %g", name, i, v)
			}
			law.Theta[i] = v
		}
		laws[name] = law
	}
	return laws, nil
}
