package perfmodel

import "fmt"

// Memory beside weights and cache, in bytes. Together they come to 1.2 GB for an 8B model at 2048 tokens
// and 256 sequences, as measured on a 24 GB card, plus communication buffers with tensor parallelism.
const (
	contextBytes   = .84e9 // CUDA context, graphs, workspaces
	commBytes      = .35e9
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

// KVCapacityTokens is the capacity of one data-parallel rank's KV cache: what the engine reported if the
// setup has it, the formula otherwise. ErrDoesNotFit when the weights leave nothing.
func (p *Predictor) KVCapacityTokens() (int, error) {
	s := p.setup
	if s.KVTokens > 0 {
		return s.KVTokens, nil
	}
	gb := s.GPU.HBMGB
	if s.GPU.UsableGB > 0 {
		gb = s.GPU.UsableGB
	}
	left := s.MemoryFraction*gb*visible - p.weightBytesPerGPU() - contextBytes - p.ActivationBytes(s.MaxBatchedTokens, s.MaxNumSeqs)
	if s.Layout.TP > 1 {
		left -= commBytes
	}
	tokens := int(left / (p.kvPerGPU / float64(s.Layout.PP)))
	if tokens <= 0 {
		return 0, fmt.Errorf("%w: %.1f GB of weights per GPU in %.0f GB of memory at fraction %.2f; use more GPUs, a narrower format or a larger fraction",
			ErrDoesNotFit, p.weightBytesPerGPU()/1e9, gb, s.MemoryFraction)
	}
	return tokens, nil
}

// weightBytesPerGPU spreads experts over the expert-parallel ranks and all else over tensor and pipeline
// ranks.
func (p *Predictor) weightBytesPerGPU() float64 {
	l := p.setup.Layout
	shards := float64(l.TP * l.PP)
	total := p.setup.Model.WeightBytes(p.setup.Weights)
	if l.EP <= 1 {
		return total / shards
	}
	experts := p.parts.expert * p.parts.experts * p.weightBytes
	return (total-experts)/shards + experts/float64(l.EP*l.PP)
}
