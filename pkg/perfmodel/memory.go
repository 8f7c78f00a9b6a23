package perfmodel

import "fmt"

// Memory beside weights and cache, in bytes: A + G of tuning.md §2. Together they come to 1.2 GB for an 8B model at 2048 tokens
// and 256 sequences, as measured on a 24 GB card, plus communication buffers with tensor parallelism.
const (
	contextBytes   = .84e9           // G: CUDA context, graphs, workspaces
	commBytes      = .35e9           // G: communication buffers, with tensor parallelism
	visible        = .98 * (1 << 30) // bytes an engine sees per nominal GB
	logitBytes     = 6               // per vocabulary entry and sequence: half-precision logits and their copy
	activationWide = 2               // buffers of FFN width per token
	activationHid  = 4               // buffers of hidden width per token
)

// ActivationBytes is the peak of activations of one GPU at a token budget and sequence limit.
func (p *Predictor) ActivationBytes(maxBatchedTokens, maxNumSeqs int) float64 {
	m := p.setup.Model
	wide := float64(m.FFN * max(m.ExpertsPerToken, 1))
	perToken := 2 * (activationWide*wide/float64(p.setup.Layout.TP) + activationHid*float64(m.Hidden))
	return float64(maxBatchedTokens)*perToken + logitBytes*float64(maxNumSeqs)*float64(m.Vocab)/float64(p.setup.Layout.TP)
}

// UsableBytes is the memory of one GPU that an engine sees.
func (g GPU) UsableBytes() float64 {
	gb := g.HBMGB
	if g.UsableGB > 0 {
		gb = g.UsableGB
	}
	return gb * visible
}

// freeBytes is what gmu M − Wtot/(t·pp) − A − G leaves for the cache of one GPU (tuning.md §2, "KV
// capacity").
func (p *Predictor) freeBytes() float64 {
	s := p.setup
	left := s.MemoryFraction*s.GPU.UsableBytes() - p.WeightBytesPerGPU() - contextBytes - p.ActivationBytes(s.MaxBatchedTokens, s.MaxNumSeqs)
	if s.Layout.TP > 1 {
		left -= commBytes
	}
	return left
}

// KVCapacityTokens is the capacity of one data-parallel rank's KV cache as engines report it, every layer
// holding every token: K = freeBytes/kv_g, or what the engine reported if the setup has it. ErrDoesNotFit
// when the weights leave nothing.
func (p *Predictor) KVCapacityTokens() (int, error) {
	s := p.setup
	if s.KVTokens > 0 {
		return s.KVTokens, nil
	}
	tokens := int(p.freeBytes() / p.kvPerStage())
	if tokens <= 0 {
		return 0, fmt.Errorf("%w: %.1f GB of weights per GPU in %.0f GB of memory at fraction %.2f; use more GPUs, a narrower format or a larger fraction",
			ErrDoesNotFit, p.WeightBytesPerGPU()/1e9, s.GPU.UsableBytes()/visible, s.MemoryFraction)
	}
	return tokens, nil
}

// Sequences is how many sequences of so many tokens each the cache of one rank holds. Sliding-window
// layers keep min(C, window) tokens of a sequence (tuning.md §2), so that a model with such layers holds
// more long sequences than its capacity in tokens says.
func (p *Predictor) Sequences(context float64) (float64, error) {
	capacity, err := p.KVCapacityTokens()
	if err != nil {
		return 0, err
	}
	return float64(capacity) / max(p.setup.Model.windowed(context), 1), nil
}

// kvPerStage is the cache of one token on one GPU of the fullest pipeline stage, in bytes:
// kv_g = kv/(pp·min(t, n_kv)).
func (p *Predictor) kvPerStage() float64 {
	return p.kvPerGPU / float64(p.setup.Layout.PP) * p.stageExcess()
}

// WeightBytesPerGPU is the weights of one GPU of the fullest stage, in bytes. Experts are spread over the
// expert-parallel ranks, everything else over tensor and pipeline ranks.
func (p *Predictor) WeightBytesPerGPU() float64 {
	l := p.setup.Layout
	total := p.setup.Model.WeightBytes(p.setup.Weights)
	experts := p.parts.expert * p.parts.experts * p.weightBytes
	ranks, _ := l.expertRanks()
	return ((total-experts)/float64(l.TP) + experts/ranks) / float64(l.PP) * p.stageExcess()
}

// CacheOutweighsWeights is the context, in tokens, beyond which batch sequences read more cache than
// weights in a decode step: C·B·kv > Wb (tuning.md §2, "Roofs").
func (p *Predictor) CacheOutweighsWeights(batch float64) float64 {
	return p.WeightBytesPerStep(batch) / (batch * p.kvPerGPU * float64(p.setup.Layout.TP))
}

// ComputeBoundTokens is B* = F b_w/(2W): the tokens of a step above which the matrix products of a dense
// model take longer than reading its weights, at data-sheet rates (tuning.md §2, "Roofs").
func (p *Predictor) ComputeBoundTokens() float64 {
	return p.peak.gemm * p.weightBytes / (2 * p.peak.memory)
}
