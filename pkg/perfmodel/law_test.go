package perfmodel

import (
	"math"
	"strings"
	"testing"
)

// TestFeaturesByHand checks every feature of one step of a mixture of experts under tensor parallelism
// against arithmetic done outside the code.
func TestFeaturesByHand(t *testing.T) {
	p := predictor(t, "qwen3-30b-a3b", "h100-sxm", func(s *Setup) { s.Layout.TP, s.Weights = 2, FP8 })
	const h, layers, experts, k = 2048., 48., 128., 8.
	attention := layers * (2*h*32*128 + 2*h*4*128)
	expert := 3 * h * 768 * layers
	head := 151936 * h
	active := attention + k*expert
	tokens := 10. + 500
	touched := experts * (1 - math.Pow(1-k/experts, tokens))
	want := Features{
		featWeights:  (attention + expert*touched + 2*head) / (2 * 3.35e12),
		featKV:       10 * 1000 * 98304 / 2 / 3.35e12,
		featDecode:   2 * (active + head) * 10 / (2 * 1979e12),
		featPrompt:   2*active*500/(2*1979e12) + 4*layers*32*128*500*(100+250)/(2*989e12),
		featLink:     4 * layers * .5 * tokens * h * 2 / 450e9,
		featReduce:   2 * layers * 1e-6,
		featLayer:    layers * 1e-6,
		featSequence: 10e-6,
		featStep:     1e-3,
		featRoute:    layers * k * tokens * 1e-9,
	}
	got := p.Features(Step{Decoding: 10, ContextTokens: 10000, Chunks: []Chunk{{New: 500, Cached: 100}}, Sampling: 11})
	for i := range want {
		if !near(got[i], want[i], 1e-9) {
			t.Errorf("feature %d is %.6g, want %.6g", i, got[i], want[i])
		}
	}
	dense := predictor(t, "llama-3.1-8b", "h100-sxm", nil).Features(Step{Decoding: 10, ContextTokens: 10000})
	if dense[featRoute] != 0 || dense[featLink] != 0 || dense[featReduce] != 0 || dense[featPrompt] != 0 {
		t.Errorf("one GPU, no experts, no prompt: %v", dense)
	}
}

// TestPublicLaws: every family has a law, engines with their own differ from it, and the rest fall back.
func TestPublicLaws(t *testing.T) {
	tables := builtin(t)
	for model, family := range map[string]string{"llama-3.1-8b": "dense", "gpt-oss-20b": "moe", "deepseek-v3": "mla"} {
		m := tables.Models[model]
		if m.Family() != family {
			t.Errorf("%s is of the family %s", model, m.Family())
		}
		all := PublicLaw(m, "no such engine")
		if all.Theta == (Features{}) || all.SpreadTPOT < .05 || all.SpreadTTFT < all.SpreadTPOT {
			t.Errorf("%s: %+v", family, all)
		}
	}
	if moe := tables.Models["gpt-oss-20b"]; PublicLaw(moe, "vllm") == PublicLaw(moe, "tgi") {
		t.Error("vLLM's law of mixtures is nobody else's")
	}
}

// TestFitTPOTRecovers plants a law over steps of several shapes.
func TestFitTPOTRecovers(t *testing.T) {
	truth := Law{Theta: Features{1.2, .8, 0, 1.5, 0, 0, 40, 20, .3, 0}}
	var means []Mean
	var seconds []float64
	for _, gpu := range []string{"h100-sxm", "a100-80-sxm", "l40s"} {
		p := predictor(t, "llama-3.1-8b", gpu, nil)
		for _, isl := range []float64{100, 1000, 8000} {
			for clients := 1.; clients < 200; clients *= 3 {
				m, err := p.ClosedLoop(Traffic{PromptTokens: isl, OutputTokens: 300}, clients)
				if err != nil {
					t.Fatal(err)
				}
				means, seconds = append(means, m), append(seconds, truth.TPOTSeconds(m))
			}
		}
	}
	got := Law{Theta: Features{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}.FitTPOT(means, seconds, 0)
	for i, m := range means {
		if !near(got.TPOTSeconds(m), seconds[i], .01) {
			t.Errorf("step %d: fitted %.6g s, planted %.6g s", i, got.TPOTSeconds(m), seconds[i])
		}
	}
}

func TestReadLawsRefuses(t *testing.T) {
	entry := func(theta string) string { return "laws: {x: {theta: [" + theta + "], ttft: [1, 1, 1, 1, 1]}}" }
	for name, c := range map[string]struct{ doc, text string }{
		"unknown field": {"laws: {x: {beta: 1}}", "laws"},
		"too short":     {entry("1, 2"), "2 coefficients"},
		"negative":      {entry("1, 1, 1, 1, 1, 1, 1, 1, 1, -1"), "coefficient 9"},
		"not a number":  {entry("1, 1, 1, 1, .nan, 1, 1, 1, 1, 1"), "coefficient 4"},
		"no list":       {"laws: [", "laws"},
	} {
		if _, err := ReadLaws([]byte(c.doc)); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadAllReduce([]byte("allreduce: 3")); err == nil {
		t.Error("laws of all-reduces that are none")
	}
}
