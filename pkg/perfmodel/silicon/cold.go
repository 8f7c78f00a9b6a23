package silicon

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// Observation is a measurement with what the closed form says of it.
type Observation struct {
	Row
	Name   string // the model in the table
	Family string // dense, moe or mla
	Mean   perfmodel.Mean
	// Roofline and Priors are the time per token, in seconds, at data-sheet rates without overheads and
	// by the prior's efficiencies and overheads.
	Roofline, Priors float64
}

// Group is what a cold prediction must not have seen.
type Group struct {
	Name, GPU string
	Precision perfmodel.Precision
}

// Group of the observation.
func (o Observation) Group() Group { return Group{o.Name, o.GPU, o.Precision} }

// String names the group as the tables of accuracy do.
func (g Group) String() string { return fmt.Sprintf("%s %s, %s", g.Name, g.Precision, g.GPU) }

// Benchmark rigs let all clients run at once and give prompts this many tokens of a step.
const (
	rigSeqs   = 4096
	rigTokens = 8192
)

// Observe describes the aggregated rows that can be trusted, and counts by reason those it leaves out.
func Observe(rows []Row, tables *perfmodel.Tables) (all []Observation, without map[string]int) {
	without = map[string]int{}
	for _, r := range rows {
		o, reason := observe(r, tables)
		if reason != "" {
			without[reason]++
			continue
		}
		all = append(all, o)
	}
	return all, without
}

func observe(r Row, tables *perfmodel.Tables) (o Observation, without string) {
	if !r.Aggregated {
		return o, "disaggregated"
	}
	if r.Doubt != "" {
		return o, "layout in doubt"
	}
	name, model, err := tables.Model(r.Model)
	if err != nil {
		return o, "model " + r.Model + " in no table"
	}
	_, gpu, err := tables.GPU(r.GPU)
	if err != nil {
		return o, "GPU " + r.GPU + " in no table"
	}
	if model.Heads%r.Layout.TP != 0 {
		return o, "tensor parallel degree does not divide the heads"
	}
	o = Observation{Row: r, Name: name, Family: model.Family()}
	setup := perfmodel.Setup{
		Model: model, GPU: gpu, Layout: r.Layout, Weights: r.Precision, MaxNumSeqs: rigSeqs, MaxBatchedTokens: rigTokens,
	}
	return o, o.predict(setup)
}

// predict by the closed form, without anything learned.
func (o *Observation) predict(setup perfmodel.Setup) (without string) {
	traffic := perfmodel.Traffic{PromptTokens: float64(o.ISL), OutputTokens: float64(o.OSL)}
	for _, c := range []struct {
		coefficients perfmodel.Coefficients
		tpot         *float64
	}{
		{perfmodel.Coefficients{Weights: 1, Compute: 1, Attention: 1, KV: 1, Link: 1}, &o.Roofline},
		{perfmodel.Prior(), &o.Priors},
	} {
		p, err := perfmodel.New(setup, c.coefficients)
		if err != nil {
			return "the GPU cannot run the precision"
		}
		if o.Mean, err = p.ClosedLoop(traffic, float64(o.Concurrency)); errors.Is(err, perfmodel.ErrDoesNotFit) {
			return "the weights do not fit"
		}
		*c.tpot = o.Mean.Seconds
	}
	return ""
}

// Prediction of an observation, in seconds.
type Prediction struct{ TPOTSeconds, TTFTSeconds float64 }

// Cold predicts every observation by laws that saw nothing of its model on its GPU in its precision,
// under any engine. The laws are learned from other observations than those predicted, or from the same,
// without the group. The order is that of the predicted.
func Cold(predict, learn []Observation) []Prediction {
	predicted := make([]Prediction, len(predict))
	for _, g := range Groups(predict) {
		laws := FitLaws(slices.DeleteFunc(slices.Clone(learn), func(o Observation) bool { return o.Group() == g }))
		for i, o := range predict {
			if o.Group() == g {
				law := laws.For(o)
				predicted[i] = Prediction{law.TPOTSeconds(o.Mean), law.TTFTSeconds(o.Mean)}
			}
		}
	}
	return predicted
}

// Groups present, in the order of their first observation.
func Groups(all []Observation) (groups []Group) {
	for _, o := range all {
		if !slices.Contains(groups, o.Group()) {
			groups = append(groups, o.Group())
		}
	}
	return groups
}

// Laws fitted to observations, by family, and by family and engine.
type Laws map[string]perfmodel.Law

// Hierarchy of the laws: an engine's starts at its family's, which counts for so many observations, and
// is fitted only from that many groups on. From fewer it would learn the groups, not the engine.
const (
	engineWeight = 4
	engineGroups = 3
)

// FitLaws to each family, and to each engine of it.
func FitLaws(all []Observation) Laws {
	laws := Laws{}
	families := map[string][]Observation{}
	for _, o := range all {
		families[o.Family] = append(families[o.Family], o)
	}
	for family, of := range families {
		laws[family] = fit(of, startLaw(), 0)
		engines := map[string][]Observation{}
		for _, o := range of {
			engines[o.Engine] = append(engines[o.Engine], o)
		}
		for engine, own := range engines {
			if len(Groups(own)) >= engineGroups {
				laws[family+"-"+engine] = fit(own, laws[family], engineWeight)
			}
		}
	}
	return laws
}

// startLaw is where every fit begins: efficiencies near the data sheet's and overheads as engines have.
func startLaw() perfmodel.Law {
	return perfmodel.Law{Theta: perfmodel.Features{1, .66, 0, 1.37, 1.25, 0, 60, 31, .13, 0}, TTFT: perfmodel.TTFTFeatures{2, .1, 1, 10, 100}}
}

// For is the law of the observation's engine, or of its family.
func (l Laws) For(o Observation) perfmodel.Law {
	if law, ok := l[o.Family+"-"+o.Engine]; ok {
		return law
	}
	return l[o.Family]
}

func fit(all []Observation, start perfmodel.Law, weight float64) perfmodel.Law {
	var m []perfmodel.Mean
	var tpot, ttft []float64
	for _, o := range all {
		m, tpot, ttft = append(m, o.Mean), append(tpot, o.TPOTSeconds), append(ttft, o.TTFTSeconds)
	}
	return start.FitTPOT(m, tpot, weight).FitTTFT(m, ttft, weight)
}

// Spread is the standard deviation of the logarithm that makes a 90 % interval as wide as 90 % of the
// ratios need it.
func Spread(ratios []float64) float64 {
	logs := make([]float64, len(ratios))
	for i, r := range ratios {
		logs[i] = math.Abs(math.Log(r))
	}
	slices.Sort(logs)
	const wide = 1.6449 // standard deviations to each side
	return logs[int(.9*float64(len(logs)-1))] / wide
}
