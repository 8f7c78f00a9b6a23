package perfmodel

import (
	"errors"
	"fmt"
	"strings"
)

// ErrDoesNotFit means the weights leave no room for a KV cache.
var ErrDoesNotFit = errors.New("model does not fit")

// ErrLayout means that the model cannot be spread as asked.
var ErrLayout = errors.New("impossible layout")

// Layout is how one replica spreads over GPUs. Zero degrees count as 1.
type Layout struct {
	TP, PP, DP, EP int // tensor, pipeline, data and expert parallel degree
}

func (l Layout) orOne() Layout {
	return Layout{TP: max(l.TP, 1), PP: max(l.PP, 1), DP: max(l.DP, 1), EP: max(l.EP, 1)}
}

// expertRanks is over how many GPUs the experts of one layer are spread, and joined is how many
// data-parallel ranks share them. Expert parallelism within a rank leaves both as tensor parallelism has
// them: what the expert degree does not divide, splits each expert.
func (l Layout) expertRanks() (ranks, joined float64) {
	if l.EP <= l.TP {
		return float64(l.TP), 1
	}
	return float64(l.EP), float64(l.EP) / float64(l.TP)
}

// GPUs is the number of GPUs of one replica.
func (l Layout) GPUs() int {
	l = l.orOne()
	return l.TP * l.PP * l.DP
}

// Setup is everything the formulas take as given.
type Setup struct {
	Model          Model
	GPU            GPU
	Layout         Layout
	Weights        Precision // empty: the checkpoint's own
	KV             Precision // empty: two bytes
	MemoryFraction float64   // of GPU memory, for weights, activations and KV cache; 0.9

	MaxNumSeqs       int // sequences running per data-parallel rank; 256
	MaxBatchedTokens int // tokens per step; 2048
	KVTokens         int // capacity the engine reported; 0: computed

	Eager       bool // every kernel is launched by the host: no CUDA graphs
	GraphTokens int  // largest step that a captured graph covers; 0: all
}

func (s Setup) withDefaults() Setup {
	s.Layout = s.Layout.orOne()
	if s.MemoryFraction <= 0 {
		s.MemoryFraction = .9
	}
	if s.MaxNumSeqs <= 0 {
		s.MaxNumSeqs = 256
	}
	if s.MaxBatchedTokens <= 0 {
		s.MaxBatchedTokens = 2048
	}
	return s
}

// Predictor evaluates the closed form for one setup. It is immutable and safe for concurrent use.
type Predictor struct {
	setup Setup
	coeff Coefficients
	parts parts

	// Rates per second of one data-parallel rank with efficiencies applied, kvRate of one GPU, and sizes
	// in bytes.
	weightRate, gemmRate, attnRate, kvRate float64
	linkRate                               float64   // 0 without a link
	nccl                                   AllReduce // zero where this link was never measured
	weightBytes, attentionBytes, kvPerGPU  float64
	peak                                   peaks
}

// peaks are a GPU's data-sheet rates for one setup: bytes/s of memory and of the link in one direction,
// FLOP/s of the weights' format and of two-byte formats.
type peaks struct{ memory, link, gemm, half float64 }

// New prepares predictions. Errors wrap ErrMissing, naming the absent table fields, or ErrPrecision.
func New(s Setup, c Coefficients) (*Predictor, error) {
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return nil, err
	}
	weights := s.Model.precision(s.Weights)
	if s.GPU.FP16Only && weights == BF16 && s.Weights == "" {
		weights = FP16 // engines convert an unquantised checkpoint by themselves
	}
	s.Weights = weights
	gemm, err := s.GPU.flops(weights)
	if weights == INT4 {
		gemm, err = s.GPU.BF16TFLOPS*1e12, nil // widened before the product
	}
	if err != nil {
		return nil, err
	}
	tp := float64(s.Layout.TP)
	peak := peaks{memory: s.GPU.HBMTBps * 1e12, link: s.GPU.LinkGbpsBidir / 2 * 1e9, gemm: gemm, half: s.GPU.BF16TFLOPS * 1e12}
	nccl, err := s.GPU.AllReduceLaw(s.Layout.TP)
	if err != nil && !errors.Is(err, ErrNoLaw) {
		return nil, err
	}
	return &Predictor{
		setup: s, coeff: c, parts: s.Model.parts(), peak: peak, nccl: nccl,
		weightRate:     tp * peak.memory * c.Weights,
		gemmRate:       tp * peak.gemm * c.Compute,
		attnRate:       tp * peak.half * c.Attention,
		kvRate:         peak.memory * c.KV,
		linkRate:       peak.link * c.Link,
		weightBytes:    bytesPerWeight[weights],
		attentionBytes: s.Model.attentionBytes(weights),
		kvPerGPU:       s.Model.KVBytesPerToken(s.KV) * s.Model.kvShare(s.Layout.TP),
	}, nil
}

func (s Setup) check() error {
	var errs []error
	if names := s.GPU.missing(); len(names) > 0 {
		errs = append(errs, fmt.Errorf("%w of the GPU: %s", ErrMissing, strings.Join(names, ", ")))
	}
	if names := s.Model.missing(); len(names) > 0 {
		errs = append(errs, fmt.Errorf("%w of the model: %s", ErrMissing, strings.Join(names, ", ")))
	}
	if s.Layout.TP > 1 && s.GPU.LinkGbpsBidir <= 0 {
		errs = append(errs, fmt.Errorf("%w of the GPU: link_gbps_bidir, needed for tensor parallelism", ErrMissing))
	}
	if _, ok := bytesPerKV[s.KV]; !ok {
		errs = append(errs, fmt.Errorf("%w of the KV cache: %q", ErrPrecision, s.KV))
	}
	if s.Layout.PP > s.Model.Layers && s.Model.Layers > 0 {
		errs = append(errs, fmt.Errorf("%w: %d pipeline stages for %d layers", ErrLayout, s.Layout.PP, s.Model.Layers))
	}
	return errors.Join(errs...)
}

// Setup returns the setup in effect, defaults filled in.
func (p *Predictor) Setup() Setup { return p.setup }
