package perfmodel

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func builtin(tb testing.TB) *Tables {
	tb.Helper()
	t, err := Load()
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// near reports whether got is within a share of want.
func near(got, want, share float64) bool { return math.Abs(got-want) <= share*want }

// TestModelTable recounts published sizes from the shapes.
func TestModelTable(t *testing.T) {
	cases := []struct {
		model           string
		total, active   float64 // 1e9 parameters
		bf16, quantised float64 // GB; quantised in format
		format          Precision
		kv              float64 // bytes per token
	}{
		{"llama-3.1-8b", 8.03, 7.50, 16.1, 9.1, FP8, 131072},
		{"llama-3.1-70b", 70.55, 69.5, 141, 72.7, FP8, 327680},
		{"llama-2-7b", 6.74, 6.61, 13.5, 0, "", 524288},
		{"llama-2-13b", 13.0, 12.9, 26.0, 0, "", 819200},
		{"opt-1.3b", 1.31, 1.31, 2.6, 0, "", 196608},
		{"qwen3-8b", 8.19, 7.57, 16.4, 9.4, FP8, 147456},
		{"qwen3-32b", 32.76, 32.0, 65.5, 34.3, FP8, 262144},
		{"qwen3-30b-a3b", 30.5, 3.03, 61, 31.2, FP8, 98304},
		{"qwen3-235b-a22b", 235, 21.5, 470, 236, FP8, 192512},
		{"mistral-7b-v0.3", 7.25, 7.11, 14.5, 7.5, FP8, 131072},
		{"mixtral-8x7b", 46.7, 12.75, 93.4, 47, FP8, 131072},
		{"minimax-m2.5", 229, 10.4, 0, 230, "", 253952},
		{"gpt-oss-20b", 20.9, 3.6, 0, 13.8, "", 49152},
		{"gpt-oss-120b", 116.8, 5.1, 0, 65, "", 73728},
		{"deepseek-v3", 671, 36.5, 0, 689, "", 70272}, // the checkpoint adds a draft layer of 2 %
	}
	tables := builtin(t)
	if len(cases) != len(tables.Models) {
		t.Errorf("%d models in the table, %d checked", len(tables.Models), len(cases))
	}
	for _, c := range cases {
		t.Run(c.model, func(t *testing.T) {
			m := tables.Models[c.model]
			if got := m.ParamCount() / 1e9; !near(got, c.total, .01) {
				t.Errorf("%.2f billion parameters, want %.2f", got, c.total)
			}
			if got := m.ActiveParams() / 1e9; !near(got, c.active, .01) {
				t.Errorf("%.2f billion active, want %.2f", got, c.active)
			}
			if got := m.WeightBytes(BF16) / 1e9; c.bf16 > 0 && !near(got, c.bf16, .01) {
				t.Errorf("%.1f GB in bf16, want %.1f", got, c.bf16)
			}
			if got := m.WeightBytes(c.format) / 1e9; c.quantised > 0 && !near(got, c.quantised, .025) {
				t.Errorf("%.1f GB quantised, want %.1f", got, c.quantised)
			}
			if got := m.KVBytesPerToken(""); got != c.kv {
				t.Errorf("%.0f KV bytes per token, want %.0f", got, c.kv)
			}
			if got := m.KVBytesPerToken(FP8); got != c.kv/2 {
				t.Errorf("%.0f KV bytes per token in fp8, want %.0f", got, c.kv/2)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	tables := builtin(t)
	for product, want := range map[string]string{
		"NVIDIA H100 80GB HBM3": "h100-sxm", "h100-pcie": "h100-pcie", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA L4": "l4",
		"NVIDIA L40S": "l40s", "NVIDIA GeForce RTX 4090": "rtx-4090", "NVIDIA GB200": "gb200", "NVIDIA A100-SXM4-80GB": "a100-80-sxm",
	} {
		if got, _, err := tables.GPU(product); err != nil || got != want {
			t.Errorf("GPU %q is %q (%v), want %q", product, got, err, want)
		}
	}
	// Products whose names contain a known one's.
	for _, product := range []string{"NVIDIA L40", "NVIDIA T400 4GB", "NVIDIA GH200 480GB", "NVIDIA GB300", "NVIDIA A10", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA H200 MIG 7g.141gb", "h100-sxm-custom", ""} {
		if got, _, err := tables.GPU(product); !errors.Is(err, ErrUnknown) {
			t.Errorf("GPU %q is taken for %q (%v)", product, got, err)
		}
	}
	own, err := Load([]byte(`{gpus: {h100-1g: {match: ["H100 80GB HBM3 MIG 1g.10gb"], bf16_tflops: 141, hbm_gb: 10, hbm_tbps: 0.42}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := own.GPU("NVIDIA H100 80GB HBM3 MIG 1g.10gb"); err != nil || got != "h100-1g" {
		t.Errorf("an instance that the user described is %q (%v)", got, err)
	}
	for path, want := range map[string]string{
		"meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b", "/models/Qwen3-30B-A3B-FP8": "qwen3-30b-a3b",
		"deepseek-ai/DeepSeek-R1": "deepseek-v3", "meta-llama/Llama-3.3-70B-Instruct": "llama-3.1-70b",
	} {
		if got, _, err := tables.Model(path); err != nil || got != want {
			t.Errorf("model %q is %q (%v), want %q", path, got, err, want)
		}
	}
	_, _, err = tables.GPU("Voodoo 2")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "hbm_tbps") {
		t.Errorf("an unknown GPU should be refused with the fields to give, got %v", err)
	}
	if _, _, err := tables.Model("nobody/knows-me"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "layers") {
		t.Errorf("an unknown model should be refused with the fields to give, got %v", err)
	}
}

func TestLoadMergesFieldByField(t *testing.T) {
	tables, err := Load([]byte(`
gpus:
  h100-sxm: {hbm_tbps: 3.0, price_usd_hour: {high: 9}}
  mine: {bf16_tflops: 100, hbm_gb: 10, hbm_tbps: 1}
models:
  llama-3.1-8b: {max_model_len: 8192}
`))
	if err != nil {
		t.Fatal(err)
	}
	g := tables.GPUs["h100-sxm"]
	if g.HBMTBps != 3 || g.HBMGB != 80 || g.Price != (Price{Low: 2, High: 9}) || len(g.Match) != 1 {
		t.Errorf("merged GPU %+v", g)
	}
	if m := tables.Models["llama-3.1-8b"]; m.MaxModelLen != 8192 || m.Layers != 32 {
		t.Errorf("merged model %+v", m)
	}
	want := []string{
		"gpus.h100-sxm.hbm_tbps", "gpus.h100-sxm.price_usd_hour", "gpus.mine.bf16_tflops", "gpus.mine.hbm_gb", "gpus.mine.hbm_tbps",
		"models.llama-3.1-8b.max_model_len",
	}
	if diff := cmp.Diff(want, tables.UserFields); diff != "" {
		t.Errorf("user fields (-want +got):\n%s", diff)
	}
	if got := builtin(t).GPUs["h100-sxm"].HBMTBps; got != 3.35 {
		t.Errorf("the override leaked into the built-in table: %g", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown field":   "gpus: {h100-sxm: {hbm_tb: 3}}",
		"unknown section": "cards: {}",
		"wrong type":      "models: {m: {layers: many}}",
		"not YAML":        "gpus: [",
		"not a mapping":   "gpus: {h100-sxm: 7}",
		"empty entry":     "gpus: {h100-sxm: }",
	} {
		if _, err := Load([]byte(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("gpus: {h100-sxm: {hbm_tbps: 3}}"))
	f.Add([]byte("models: {m: {mla: {kv_rank: 1}}}"))
	f.Add([]byte("gpus: {a: {price_usd_hour: }}"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if tables, err := Load(doc); err == nil && len(tables.GPUs) == 0 {
			t.Error("loaded tables lost the built-in GPUs")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	tables := builtin(t)
	good := Setup{Model: tables.Models["llama-3.1-8b"], GPU: tables.GPUs["h100-sxm"]}
	change := func(f func(*Setup)) Setup {
		s := good
		f(&s)
		return s
	}
	cases := []struct {
		name  string
		setup Setup
		want  error
		text  string
	}{
		{"no bandwidth", change(func(s *Setup) { s.GPU.HBMTBps = 0 }), ErrMissing, "hbm_tbps"},
		{"no layers", change(func(s *Setup) { s.Model.Layers = 0 }), ErrMissing, "layers"},
		{"no link", change(func(s *Setup) { s.GPU.LinkGbpsBidir = 0; s.Layout.TP = 2 }), ErrMissing, "link_gbps_bidir"},
		{"no top-k", change(func(s *Setup) { s.Model.Experts = 8 }), ErrMissing, "experts_per_token"},
		{"no MLA ranks", change(func(s *Setup) { s.Model.MLA = &MLA{} }), ErrMissing, "mla.kv_rank"},
		{"fp8 on Ampere", change(func(s *Setup) { s.GPU = tables.GPUs["a100-80-sxm"]; s.Weights = FP8 }), ErrPrecision, "fp8"},
		{"bf16 on Turing", change(func(s *Setup) { s.GPU = tables.GPUs["t4"]; s.Weights = BF16 }), ErrPrecision, "fp16"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := New(c.setup, Prior()); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v naming %s", err, c.want, c.text)
			}
		})
	}
	if _, err := New(change(func(s *Setup) { s.GPU = tables.GPUs["t4"] }), Prior()); err != nil {
		t.Errorf("a checkpoint without a stated format runs in fp16 on Turing: %v", err)
	}
}

func predictor(tb testing.TB, model, gpu string, change func(*Setup)) *Predictor {
	tb.Helper()
	tables := builtin(tb)
	s := Setup{Model: tables.Models[model], GPU: tables.GPUs[gpu], MaxBatchedTokens: 8192, MaxNumSeqs: 1024}
	if change != nil {
		change(&s)
	}
	p, err := New(s, Prior())
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestKVCapacity compares with the capacity an engine logged on an RTX 4090, and with a refusal.
func TestKVCapacity(t *testing.T) {
	got, err := predictor(t, "llama-3.1-8b", "rtx-4090", func(s *Setup) { s.MaxBatchedTokens, s.MaxNumSeqs = 2048, 256 }).KVCapacityTokens()
	if err != nil || !near(float64(got), 41408, .02) {
		t.Errorf("%d tokens (%v), measured 41408", got, err)
	}
	if _, err := predictor(t, "llama-3.1-70b", "h100-sxm", nil).KVCapacityTokens(); !errors.Is(err, ErrDoesNotFit) {
		t.Errorf("140 GB on an 80 GB card: %v", err)
	}
	if got, _ := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.KVTokens = 777 }).KVCapacityTokens(); got != 777 {
		t.Errorf("the engine reported 777 tokens, got %d", got)
	}
	one, _ := predictor(t, "llama-3.1-8b", "h100-sxm", nil).KVCapacityTokens()
	four, _ := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.Layout.TP = 4 }).KVCapacityTokens()
	if four < 4*one {
		t.Errorf("four GPUs hold %d tokens, one %d", four, one)
	}
}

// TestMeasuredPoints compares the uncalibrated closed form with published measurements in a closed loop.
// It is a roofline with one set of efficiencies for everything: right within a third for dense models at
// moderate prompt load, within a factor of two elsewhere. Calibration is another package's work.
func TestMeasuredPoints(t *testing.T) {
	const tight, loose = 1.35, 2.1
	cases := []struct {
		model, gpu string
		weights    Precision
		tp         int
		isl, osl   float64
		clients    int
		tpotMS     float64
		perGPU     float64 // output tokens per second
		factor     float64
	}{
		{"llama-3.1-70b", "h100-sxm", FP8, 2, 1024, 1024, 4, 17.4, 114, tight},
		{"llama-3.1-70b", "h100-sxm", FP8, 2, 1024, 8192, 32, 27.7, 577, tight},
		{"llama-3.1-70b", "h100-sxm", FP8, 8, 8192, 1024, 64, 34.5, 225, tight},
		{"llama-3.1-8b", "h200-sxm", FP8, 1, 1000, 100, 112, 11.2, 9446, loose},
		{"llama-3.1-8b", "h200-sxm", FP8, 1, 8000, 2000, 80, 23.8, 3336, loose},
		{"llama-3.1-8b", "h200-sxm", FP8, 2, 1000, 1000, 512, 31.5, 7626, tight},
		{"qwen3-235b-a22b", "h200-sxm", FP8, 4, 4000, 1000, 24, 34.4, 173, loose},
		{"minimax-m2.5", "h200-sxm", FP8, 8, 8192, 1024, 128, 40.8, 381, loose},
		{"deepseek-v3", "h200-sxm", FP8, 8, 1024, 1024, 32, 23.3, 169, loose},
		{"llama-2-7b", "h100-64", "", 1, 250, 520, 1, 11.2, 89, tight},
		{"llama-2-7b", "h100-64", "", 1, 250, 520, 16, 14.5, 1095, tight},
		{"llama-2-7b", "h100-64", "", 1, 250, 520, 64, 24.6, 2552, tight},
		{"llama-2-7b", "h100-64", "", 1, 250, 520, 128, 38.2, 3204, tight},
		{"opt-1.3b", "h100-64", "", 1, 250, 520, 256, 29.2, 8307, loose},
	}
	for _, c := range cases {
		p := predictor(t, c.model, c.gpu, func(s *Setup) { s.Layout.TP, s.Weights = c.tp, c.weights })
		q, err := p.SteadyState(Traffic{PromptTokens: c.isl, OutputTokens: c.osl}, c.clients)
		if err != nil {
			t.Errorf("%s: %v", c.model, err)
			continue
		}
		within := func(got, want float64) bool { return got < want*c.factor && want < got*c.factor }
		if !within(q.TPOTSeconds*1e3, c.tpotMS) || !within(q.TokensPerSecGPU, c.perGPU) {
			t.Errorf("%s tp %d %.0f/%.0f × %d: TPOT %.1f ms (measured %.1f), %.0f tokens/s and GPU (measured %.0f)",
				c.model, c.tp, c.isl, c.osl, c.clients, q.TPOTSeconds*1e3, c.tpotMS, q.TokensPerSecGPU, c.perGPU)
		}
	}
}

// TestStepTimeByHand checks each term of a dense step against arithmetic done outside the code.
func TestStepTimeByHand(t *testing.T) {
	p := predictor(t, "llama-3.1-8b", "h100-sxm", nil)
	c := Prior()
	// One sequence at 1000 tokens: attention, feed-forward and head are read once.
	got := p.Terms(Step{Decoding: 1, ContextTokens: 1000, Sampling: 1})
	attention := 32. * (2*4096*4096 + 2*4096*1024)
	ffn := 3. * 4096 * 14336 * 32
	head := 128256. * 4096
	want := Terms{
		Weights: 2 * (attention + ffn + head) / (3.35e12 * c.Weights),
		KV:      1000 * 131072 / (3.35e12 * c.KV),
		Host:    c.RequestSeconds + c.FixedSeconds + 32*c.LayerSeconds,
	}
	equalTerms(t, "decode", got, want)
	// A prompt of 4000 tokens is bound by arithmetic.
	got = p.Terms(Step{Chunks: []Chunk{{New: 4000, Cached: 500}}, Sampling: 1})
	want = Terms{
		Compute:   (2*(attention+ffn)*4000 + 2*head) / (989e12 * c.Compute),
		Attention: 4 * 32 * 4096 * 4000 * (500 + 2000) / (989e12 * c.Attention),
		Host:      c.FixedSeconds + 32*c.LayerSeconds,
	}
	equalTerms(t, "prefill", got, want)
}

func equalTerms(t *testing.T, what string, got, want Terms) {
	t.Helper()
	g := []float64{got.Weights, got.Compute, got.KV, got.Attention, got.Link, got.Host}
	w := []float64{want.Weights, want.Compute, want.KV, want.Attention, want.Link, want.Host}
	for i := range g {
		if math.Abs(g[i]-w[i]) > 1e-9 {
			t.Errorf("%s: term %d is %.3g s, want %.3g", what, i, g[i], w[i])
		}
	}
}

func TestStepTimeShape(t *testing.T) {
	dense := predictor(t, "llama-3.1-8b", "h100-sxm", nil)
	step := Step{Decoding: 64, ContextTokens: 64_000, Sampling: 64}
	async := step
	async.Async = true
	if got, want := dense.StepSeconds(async), dense.StepSeconds(step); got >= want {
		t.Errorf("overlapped host work takes %.6f s, serial %.6f", got, want)
	}
	two := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.Layout.TP = 2 }).Terms(step)
	if two.Link <= 0 || two.Weights >= dense.Terms(step).Weights {
		t.Errorf("tensor parallelism should pay on the link and save on weights: %+v", two)
	}
	moe := predictor(t, "qwen3-30b-a3b", "h100-sxm", nil)
	one, many := moe.WeightBytesPerStep(1), moe.WeightBytesPerStep(512)
	if one > 7e9 || many < 55e9 {
		t.Errorf("one token touches %.1f GB, 512 tokens %.1f GB of 61", one/1e9, many/1e9)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Step{Decoding: rapid.IntRange(1, 300).Draw(t, "decoding"), ContextTokens: rapid.IntRange(300, 300_000).Draw(t, "context")}
		s.Sampling = s.Decoding
		more := s
		more.Chunks = []Chunk{{New: rapid.IntRange(1, 4000).Draw(t, "new"), Cached: rapid.IntRange(0, 4000).Draw(t, "cached")}}
		if dense.StepSeconds(more) < dense.StepSeconds(s) || moe.StepSeconds(more) < moe.StepSeconds(s) {
			t.Fatal("more work takes less time")
		}
	})
}

func TestOpenLoop(t *testing.T) {
	traffic := Traffic{PromptTokens: 1155, OutputTokens: 211}
	p := predictor(t, "llama-3.1-8b", "l40s", func(s *Setup) { s.MaxNumSeqs, s.MaxBatchedTokens = 8, 32 })
	most, err := p.MaxRate(traffic)
	if err != nil {
		t.Fatal(err)
	}
	var last Prediction
	for _, load := range []float64{.2, .5, .8, .95} {
		traffic.Rate = most * load
		q, err := p.OpenLoop(traffic)
		if err != nil {
			t.Fatal(err)
		}
		if !q.Stable || !near(q.Utilization, load, .05) || q.TTFTSeconds <= last.TTFTSeconds || q.Running <= last.Running {
			t.Errorf("at load %.2f: %+v after %+v", load, q, last)
		}
		last = q
	}
	traffic.Rate = 1.1 * most
	if q, err := p.OpenLoop(traffic); err != nil || q.Stable || !math.IsInf(q.TTFTSeconds, 1) {
		t.Errorf("above capacity: %+v, %v", q, err)
	}
	larger := predictor(t, "llama-3.1-8b", "l40s", func(s *Setup) { s.MaxNumSeqs, s.MaxBatchedTokens = 256, 2048 })
	if more, err := larger.MaxRate(traffic); err != nil || more < 3*most {
		t.Errorf("the usual settings carry %.2f/s, the small budget %.2f/s (%v)", more, most, err)
	}
}

func TestSteadyStateQueuesBeyondTheLimit(t *testing.T) {
	p := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.MaxNumSeqs = 16 })
	traffic := Traffic{PromptTokens: 500, OutputTokens: 200}
	within, err := p.SteadyState(traffic, 16)
	if err != nil {
		t.Fatal(err)
	}
	beyond, err := p.SteadyState(traffic, 64)
	if err != nil {
		t.Fatal(err)
	}
	if within.QueueSeconds != 0 || beyond.QueueSeconds <= 0 || beyond.RequestsPerSec != within.RequestsPerSec {
		t.Errorf("16 clients %+v, 64 clients %+v", within, beyond)
	}
	if got := beyond.RequestsPerSec * beyond.E2ESeconds; !near(got, 64, .1) { // Little's law
		t.Errorf("%.1f requests are in the system of 64 clients", got)
	}
}

func TestParsePrecision(t *testing.T) {
	for in, want := range map[string]Precision{"auto": "", "bfloat16": BF16, "FP8": FP8, "awq_marlin": INT4, "half": FP16, "nvfp4": NVFP4, "w8a8_int8": INT8} {
		if got, err := ParsePrecision(in); err != nil || got != want {
			t.Errorf("%q is %q (%v), want %q", in, got, err, want)
		}
	}
	if _, err := ParsePrecision("fp3"); !errors.Is(err, ErrPrecision) {
		t.Errorf("fp3: %v", err)
	}
}
