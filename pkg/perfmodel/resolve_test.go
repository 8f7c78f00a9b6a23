package perfmodel

import (
	"errors"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	tables := builtin(t)
	gb := func(n float64) float64 { return n * (1 << 30) }
	for _, c := range []struct {
		name       string
		give       Sought
		gpu, model string
		notes      int
		spread     float64
	}{
		{"both known", Sought{GPU: "NVIDIA H200", Model: "Qwen/Qwen3-8B"}, "h200-sxm", "qwen3-8b", 0, .30},
		{"model by its config", Sought{GPU: "NVIDIA H200", Model: "me/own", Config: []byte(shape(`"num_key_value_heads": 2`))}, "h200-sxm", "me/own", 0, .30},
		{"GPU by its memory", Sought{GPU: "Voodoo 2", GPUMemoryBytes: gb(23), Model: "Qwen/Qwen3-8B"}, "a10g", "qwen3-8b", 1, .76},
		{"nothing of the GPU", Sought{GPU: "Voodoo 2", Model: "Qwen/Qwen3-8B"}, "h100-sxm", "qwen3-8b", 1, .76},
		{"dense model by its size", Sought{GPU: "NVIDIA H200", Model: "me/Novel-14B-Chat"}, "h200-sxm", "llama-2-13b", 1, .58},
		{"experts by both sizes", Sought{GPU: "NVIDIA H200", Model: "me/Novel-40B-A3B"}, "h200-sxm", "mixtral-8x7b", 1, .58},
		{"a version is no size", Sought{GPU: "NVIDIA H200", Model: "me/v2.5beta"}, "h200-sxm", "llama-3.1-8b", 1, 1.04},
		{"neither", Sought{}, "h100-sxm", "llama-3.1-8b", 2, 1.26},
	} {
		f, err := tables.Resolve(c.give)
		if err != nil || f.GPUName != c.gpu || f.ModelName != c.model || len(f.Notes) != c.notes || !near(f.SpreadTPOT, c.spread, .01) || f.SpreadTTFT <= f.SpreadTPOT {
			t.Errorf("%s: %s, %s, spread %.2f, notes %q (%v)", c.name, f.GPUName, f.ModelName, f.SpreadTPOT, f.Notes, err)
		}
		if f.GPU.HBMGB == 0 || f.Model.Layers == 0 {
			t.Errorf("%s: nothing to predict with", c.name)
		}
	}
	f, err := tables.Resolve(Sought{GPU: "Voodoo 2", Model: "nobody"})
	if err != nil || !strings.Contains(f.String(), "hbm_tbps") || !strings.Contains(f.String(), "kv_heads") {
		t.Errorf("the notes should ask for the fields, got %q (%v)", f, err)
	}
	for want, doc := range map[error]string{ErrArchitecture: shape(`"layer_types": ["linear_attention"]`), ErrMissing: `{"hidden_size": 3}`, ErrConfig: "{"} {
		if _, err := tables.Resolve(Sought{GPU: "NVIDIA H200", Model: "me/own", Config: []byte(doc)}); !errors.Is(err, want) || !strings.Contains(err.Error(), "me/own") {
			t.Errorf("%s: %v, want %v", doc, err, want)
		}
	}
}

func TestInterval90(t *testing.T) {
	low, high := Interval90(10, .3)
	if !near(low*high, 100, 1e-9) || !near(high, 16.4, .01) {
		t.Errorf("%g … %g", low, high)
	}
}

func TestPriorSpread(t *testing.T) {
	s := PriorSpread()
	for name, v := range map[string]float64{"weights": s.Weights, "attention": s.Attention, "link": s.Link, "allreduce": s.AllReduceSeconds} {
		if v != .15 {
			t.Errorf("%s: %g, want the least, 15 %%", name, v)
		}
	}
	if !near(s.RequestSeconds, 1./3, .01) || !near(s.LayerSeconds, .29, .01) {
		t.Errorf("a quarter of a wide range: %+v", s)
	}
}
