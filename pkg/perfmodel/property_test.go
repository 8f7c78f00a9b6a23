package perfmodel

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawSetup is any model on any GPU that can run it, in any layout that divides it.
func drawSetup(t *rapid.T, tables *Tables) Setup {
	s := Setup{
		Model:            tables.Models[rapid.SampledFrom(slices.Sorted(maps.Keys(tables.Models))).Draw(t, "model")],
		GPU:              tables.GPUs[rapid.SampledFrom(slices.Sorted(maps.Keys(tables.GPUs))).Draw(t, "gpu")],
		MaxNumSeqs:       rapid.IntRange(1, 1024).Draw(t, "seqs"),
		MaxBatchedTokens: rapid.IntRange(1024, 16384).Draw(t, "budget"),
		Weights:          rapid.SampledFrom([]Precision{"", BF16, FP8, INT8, INT4}).Draw(t, "weights"),
		KV:               rapid.SampledFrom([]Precision{"", FP8}).Draw(t, "kv"),
	}
	s.Layout.TP = rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "tp")
	s.Layout.PP = rapid.SampledFrom([]int{1, 1, 2}).Draw(t, "pp")
	if s.Model.Experts > 1 && rapid.Bool().Draw(t, "spread experts") {
		s.Layout.DP = rapid.SampledFrom([]int{1, 2, 8}).Draw(t, "dp")
		s.Layout.EP = s.Layout.TP * s.Layout.DP
	}
	return s
}

// drawPredictor skips what the GPU cannot run.
func drawPredictor(t *rapid.T, s Setup) *Predictor {
	p, err := New(s, Prior())
	if err != nil {
		t.Skip(err)
	}
	return p
}

func drawStep(t *rapid.T) Step {
	s := Step{Decoding: rapid.IntRange(0, 500).Draw(t, "decoding")}
	s.ContextTokens = s.Decoding * rapid.IntRange(1, 20000).Draw(t, "context")
	s.Sampling = s.Decoding
	for range rapid.IntRange(0, 3).Draw(t, "chunks") {
		s.Chunks = append(s.Chunks, Chunk{New: rapid.IntRange(1, 4000).Draw(t, "new"), Cached: rapid.IntRange(0, 4000).Draw(t, "cached")})
	}
	return s
}

// least is what rounding may take away in a comparison of sums.
const least = 1 - 1e-12

// TestMoreWorkTakesLonger: more sequences, longer contexts, longer prompts and drafts never shorten a step.
func TestMoreWorkTakesLonger(t *testing.T) {
	tables := builtin(t)
	rapid.Check(t, func(t *rapid.T) {
		p := drawPredictor(t, drawSetup(t, tables))
		s := drawStep(t)
		base, law := p.StepSeconds(s), p.Cost(PublicLaw(p.setup.Model, ""))
		for name, change := range map[string]func(*Step){
			"a sequence": func(s *Step) {
				n := s.ContextTokens / max(s.Decoding, 1)
				s.Decoding, s.ContextTokens, s.Sampling = s.Decoding+1, s.ContextTokens+max(n, 1), s.Sampling+1
			},
			"context": func(s *Step) { s.ContextTokens += 1000 * min(s.Decoding, 1) },
			"prompt":  func(s *Step) { s.Chunks = append(slices.Clone(s.Chunks), Chunk{New: 300}) },
			"cached":  func(s *Step) { s.Chunks = append(slices.Clone(s.Chunks), Chunk{New: 1, Cached: 5000}) },
			"drafts":  func(s *Step) { s.Drafts += s.Decoding },
		} {
			more := s
			change(&more)
			if got := p.StepSeconds(more); got < base*least {
				t.Fatalf("more %s: %.6g s, before %.6g s", name, got, base)
			}
			if got := law.StepSeconds(more); got < law.StepSeconds(s)*least {
				t.Fatalf("by the law, more %s: %.6g s, before %.6g s", name, got, law.StepSeconds(s))
			}
		}
	})
}

// TestBetterHardwareIsFaster: more bandwidth, arithmetic or link, or larger efficiencies, never lengthen a
// step, and more memory never holds less.
func TestBetterHardwareIsFaster(t *testing.T) {
	tables := builtin(t)
	rapid.Check(t, func(t *rapid.T) {
		setup := drawSetup(t, tables)
		p, s := drawPredictor(t, setup), drawStep(t)
		for name, change := range map[string]func(*GPU, *Coefficients){
			"memory bandwidth": func(g *GPU, _ *Coefficients) { g.HBMTBps *= 1.5 },
			"arithmetic":       func(g *GPU, _ *Coefficients) { g.BF16TFLOPS *= 2; g.FP8TFLOPS *= 2; g.INT8TOPS *= 2; g.FP4TFLOPS *= 2 },
			"efficiency": func(_ *GPU, c *Coefficients) {
				c.Weights *= 1.1
				c.Compute *= 1.1
				c.KV *= 1.1
				c.Link *= 1.1
			},
			"host": func(_ *GPU, c *Coefficients) { c.FixedSeconds /= 2; c.RequestSeconds /= 2; c.LayerSeconds /= 2 },
		} {
			better, c := setup, Prior()
			change(&better.GPU, &c)
			q, err := New(better, c)
			if err != nil {
				t.Fatal(err)
			}
			if got, before := q.StepSeconds(s), p.StepSeconds(s); got > before/least {
				t.Fatalf("better %s: %.6g s, before %.6g s", name, got, before)
			}
		}
		larger := setup
		larger.GPU.HBMGB, larger.GPU.UsableGB = larger.GPU.HBMGB*1.2, larger.GPU.UsableGB*1.2
		if q := drawPredictor(t, larger); q.freeBytes() < p.freeBytes() {
			t.Fatalf("more memory leaves %.4g bytes, less left %.4g", q.freeBytes(), p.freeBytes())
		}
	})
}

// TestParallelismSpreadsMemory: more tensor, pipeline or expert ranks never put more weights or cache on a
// GPU, and narrower formats never more bytes.
func TestParallelismSpreadsMemory(t *testing.T) {
	tables := builtin(t)
	rapid.Check(t, func(t *rapid.T) {
		setup := drawSetup(t, tables)
		p := drawPredictor(t, setup)
		for name, change := range map[string]func(*Setup){
			"tensor ranks":    func(s *Setup) { s.Layout.TP *= 2; s.Layout.EP *= 2 },
			"pipeline stages": func(s *Setup) { s.Layout.PP = 2 * max(s.Layout.PP, 1) },
			"expert ranks": func(s *Setup) {
				if s.Layout.EP > 0 {
					s.Layout.DP, s.Layout.EP = 2*s.Layout.DP, 2*s.Layout.EP
				}
			},
			"narrow cache": func(s *Setup) { s.KV = FP8 },
		} {
			more := setup
			change(&more)
			q, err := New(more, Prior())
			if err != nil {
				t.Fatalf("more %s: %v", name, err)
			}
			if got, before := q.WeightBytesPerGPU(), p.WeightBytesPerGPU(); got > before/least {
				t.Fatalf("more %s: %.4g bytes of weights, before %.4g", name, got, before)
			}
			if got, before := q.kvPerStage(), p.kvPerStage(); got > before/least {
				t.Fatalf("more %s: %.4g bytes of cache a token, before %.4g", name, got, before)
			}
			if got, before := q.ActivationBytes(2048, 256), p.ActivationBytes(2048, 256); got > before/least {
				t.Fatalf("more %s: %.4g bytes of activations, before %.4g", name, got, before)
			}
		}
	})
}

// TestMemoryAddsUp: weights, activations, context and the cache that is reported fill the allowed share of
// the memory, to one token.
func TestMemoryAddsUp(t *testing.T) {
	tables := builtin(t)
	rapid.Check(t, func(t *rapid.T) {
		p := drawPredictor(t, drawSetup(t, tables))
		tokens, err := p.KVCapacityTokens()
		if err != nil {
			t.Skip(err)
		}
		s := p.Setup()
		used := p.WeightBytesPerGPU() + p.ActivationBytes(s.MaxBatchedTokens, s.MaxNumSeqs) + contextBytes + float64(tokens)*p.kvPerStage()
		if s.Layout.TP > 1 {
			used += commBytes
		}
		allowed := s.MemoryFraction * s.GPU.UsableBytes()
		if used > allowed || used < allowed-1.001*p.kvPerStage() {
			t.Fatalf("%.6g bytes of %.6g are used", used, allowed)
		}
	})
}

// TestClosedLoopIsSane: more clients never make a token faster nor a replica slower in total, within the
// limit of what runs at once.
func TestClosedLoopIsSane(t *testing.T) {
	tables := builtin(t)
	rapid.Check(t, func(t *rapid.T) {
		p := drawPredictor(t, drawSetup(t, tables))
		traffic := Traffic{PromptTokens: rapid.Float64Range(10, 5000).Draw(t, "isl"), OutputTokens: rapid.Float64Range(2, 2000).Draw(t, "osl")}
		clients := rapid.Float64Range(1, 500).Draw(t, "clients")
		few, err := p.ClosedLoop(traffic, clients)
		if err != nil {
			t.Skip(err)
		}
		many, err := p.ClosedLoop(traffic, 1.5*clients)
		if err != nil {
			t.Fatal(err)
		}
		law := PublicLaw(p.setup.Model, "vllm")
		if many.Seconds < few.Seconds*least || law.TPOTSeconds(many) < law.TPOTSeconds(few)*least || law.TTFTSeconds(few) < 0 {
			t.Fatalf("%.0f clients: %.6g s a token, half as many more: %.6g s", clients, few.Seconds, many.Seconds)
		}
	})
}
