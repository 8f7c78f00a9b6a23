package perfmodel

import (
	"errors"
	"fmt"
	"strings"
)

// ErrDoesNotFit means the weights leave no room for a KV cache.
var ErrDoesNotFit = errors.New("model does not fit")

// Layout is how one replica spreads over GPUs. Zero degrees count as 1.
type Layout struct {
	TP, PP, DP, EP int // tensor, pipeline, data and expert parallel degree
}

func (l Layout) orOne() Layout {
	return Layout{TP: max(l.TP, 1), PP: max(l.PP, 1), DP: max(l.DP, 1), EP: max(l.EP, 1)}
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

	// Per-second rates of one rank with efficiencies applied, and sizes in bytes.
	weightRate, gemmRate, attnRate, kvRate float64
	linkRate                               float64   // 0 without a link
	nccl                                   AllReduce // zero where this link was never measured
	weightBytes, attentionBytes, kvPerGPU  float64
}

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
	nccl, err := s.GPU.AllReduceLaw(s.Layout.TP)
	if err != nil && !errors.Is(err, ErrNoLaw) {
		return nil, err
	}
	return &Predictor{
		setup: s, coeff: c, parts: s.Model.parts(),
		weightRate:     tp * s.GPU.HBMTBps * 1e12 * c.Weights,
		gemmRate:       tp * gemm * c.Compute,
		attnRate:       tp * s.GPU.BF16TFLOPS * 1e12 * c.Attention,
		kvRate:         s.GPU.HBMTBps * 1e12 * c.KV,
		linkRate:       s.GPU.LinkGbpsBidir / 2 * 1e9 * c.Link,
		nccl:           nccl,
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
	return errors.Join(errs...)
}

// Setup returns the setup in effect, defaults filled in.
func (p *Predictor) Setup() Setup { return p.setup }

// Terms is the duration of a step by cause, in seconds.
type Terms struct {
	Weights   float64 // reading weights; already 0 when Compute is the longer of the two
	Compute   float64 // matrix products; 0 when Weights is the longer
	KV        float64 // reading the cache of decoding sequences
	Attention float64 // attention over prompts
	Link      float64 // communication between GPUs
	Host      float64 // scheduling, sampling, launch
}

// Seconds is the duration of the step.
func (t Terms) Seconds() float64 {
	return t.Weights + t.Compute + t.KV + t.Attention + t.Link + t.Host
}

// StepSeconds is the duration of one engine iteration.
func (p *Predictor) StepSeconds(s Step) float64 { return p.Terms(s).Seconds() }

// Terms breaks the duration of one iteration down by cause.
//
// With pipeline stages, pp micro-batches are in flight and a token passes all stages in turn: the time
// between two tokens of a sequence is that of one micro-batch through the whole model.
func (p *Predictor) Terms(s Step) Terms {
	return p.terms(load{
		decoding: float64(s.Decoding), context: float64(s.ContextTokens), prompt: float64(s.PromptTokens()),
		sampling: float64(s.Sampling), scores: p.scores(s.Chunks), async: s.Async,
	})
}

// load is a step, or the mean of many, in real numbers.
type load struct {
	decoding, context, prompt, sampling float64
	scores                              float64 // Σ new·(cached + new/2) over prompts
	async                               bool
}

func (p *Predictor) scores(chunks []Chunk) (sum float64) {
	for _, c := range chunks {
		sum += float64(c.New) * p.setup.Model.windowed(float64(c.Cached)+float64(c.New)/2)
	}
	return sum
}

func (p *Predictor) terms(l load) Terms {
	m, c := p.setup.Model, p.coeff
	stages, layers := float64(p.setup.Layout.PP), float64(m.Layers)
	tokens := (l.decoding + l.prompt) / stages

	var t Terms
	read := p.WeightBytesPerStep(tokens) / p.weightRate
	multiply := (2*p.parts.active()*tokens + 2*p.parts.head*l.sampling/stages) / p.gemmRate
	if read >= multiply {
		t.Weights = read
	} else {
		t.Compute = multiply
	}
	if l.decoding > 0 {
		t.KV = l.decoding * m.windowed(l.context/l.decoding) * p.kvPerGPU / p.kvRate / stages
	}
	t.Attention = 4 * layers * m.attentionWidth() * l.scores / p.attnRate / stages
	t.Link = p.linkSeconds(tokens)
	host := c.RequestSeconds*l.decoding/stages + c.FixedSeconds
	launch := c.LayerSeconds * layers
	if gpu := t.Seconds() + launch; l.async {
		host = max(host-gpu, 0)
	}
	t.Host = launch + host
	return t
}

// WeightBytesPerStep is what a step over T tokens streams from memory, over all tensor-parallel ranks:
// attention, the feed-forward parts and experts those tokens touch, and the output head.
func (p *Predictor) WeightBytesPerStep(tokens float64) float64 {
	touched := p.parts.expertsTouched(tokens) + p.parts.shared
	return p.parts.attention*p.attentionBytes + (p.parts.dense+p.parts.expert*touched)*p.weightBytes + 2*p.parts.head
}
