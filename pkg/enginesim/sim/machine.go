package sim

import (
	"fmt"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// eagerLayerSeconds is what launching one layer's kernels one by one adds to a step.
const eagerLayerSeconds = 18e-6

// contextBytes is what a process holds on a device before it loads anything.
const contextBytes = .5 * (1 << 30)

// gpuBytesPerGB is what a nominal GB of device memory holds, in bytes as a driver reports it.
const gpuBytesPerGB = .995 * (1 << 30)

// Machine is the node that the engine believes to run on, and the model it serves.
type Machine struct {
	GPUName, ModelName string
	GPU                perfmodel.GPU
	Model              perfmodel.Model
	GPUs               int
	seed               uint64
}

// Layout is how an engine's settings use the machine.
type Layout struct {
	TP, PP                       int
	Weights, KV                  perfmodel.Precision
	Fraction                     float64 // of device memory
	Static                       bool    // the fraction is for weights and cache alone, activations beside it
	KVBytes                      int     // cache size given outright, per GPU; 0: from the fraction
	MaxBatchedTokens, MaxNumSeqs int     // sizes the activations
	Eager                        bool    // no graphs
}

// Memory is where the device memory goes, per GPU.
type Memory struct {
	WeightBytes     float64
	KVBytes         float64
	KVBytesPerToken float64
	KVTokens        int
	GraphBytes      float64
	ActivationBytes float64
}

// Machine looks the options' names up.
func (e *Env) Machine() (*Machine, error) {
	t, err := perfmodel.Load()
	if err != nil {
		return nil, err
	}
	m := &Machine{GPUs: e.GPUs, seed: e.Seed}
	if m.GPUName, m.GPU, err = t.GPU(e.GPU); err != nil {
		return nil, fmt.Errorf("--sim-gpu: %w", err)
	}
	if m.ModelName, m.Model, err = t.Model(e.Model); err != nil {
		return nil, fmt.Errorf("--sim-model: %w", err)
	}
	return m, nil
}

// MemoryGiB is the memory of one GPU.
func (m *Machine) MemoryGiB() float64 { return m.GPU.HBMGB * gpuBytesPerGB / (1 << 30) }

func (m *Machine) setup(l Layout) perfmodel.Setup {
	return perfmodel.Setup{
		Model: m.Model, GPU: m.GPU, Layout: perfmodel.Layout{TP: l.TP, PP: l.PP}, Weights: l.Weights, KV: l.KV,
		MemoryFraction: l.Fraction, MaxNumSeqs: l.MaxNumSeqs, MaxBatchedTokens: l.MaxBatchedTokens,
	}
}

// Memory divides the device memory. KVTokens is 0 when nothing is left for the cache.
func (m *Machine) Memory(l Layout) (Memory, error) {
	p, err := perfmodel.New(m.setup(l), perfmodel.Prior())
	if err != nil {
		return Memory{}, err
	}
	shards := float64(max(l.TP, 1) * max(l.PP, 1))
	mem := Memory{WeightBytes: m.Model.WeightBytes(l.Weights) / shards}
	mem.KVBytesPerToken = m.Model.KVBytesPerToken(l.KV) / float64(min(max(l.TP, 1), max(m.Model.KVHeads, 1))*max(l.PP, 1))
	if !l.Eager {
		mem.GraphBytes = .5 * (1 << 30)
	}
	if l.KVBytes > 0 {
		mem.KVTokens = int(float64(l.KVBytes) / mem.KVBytesPerToken)
	} else if l.Static {
		mem.KVTokens = int(max(l.Fraction*m.MemoryGiB()*(1<<30)-contextBytes-mem.WeightBytes, 0) / mem.KVBytesPerToken)
	} else if tokens, err := p.KVCapacityTokens(); err == nil {
		mem.KVTokens = tokens
	}
	mem.ActivationBytes = p.ActivationBytes(max(l.MaxBatchedTokens, 1), max(l.MaxNumSeqs, 1))
	mem.KVBytes = float64(mem.KVTokens) * mem.KVBytesPerToken
	return mem, nil
}

// Core builds the engine model. Its coefficients and noise are drawn from the seed, with a small
// factor that is new in each life of the process; nothing the engine exports shows them.
func (m *Machine) Core(cfg des.Config, l Layout) (*des.Engine, error) {
	truth := des.Hidden(m.seed, perfmodel.Prior())
	coeff := truth.Coefficients
	if l.Eager {
		coeff.LayerSeconds += eagerLayerSeconds * coeff.LayerSeconds / perfmodel.Prior().LayerSeconds
	}
	p, err := perfmodel.New(m.setup(l), coeff)
	if err != nil {
		return nil, err
	}
	cfg.StepNoise = truth.StepNoise
	life := uint64(time.Now().UnixNano())
	return des.New(cfg, truth.Life(life, p), m.seed^life), nil
}
