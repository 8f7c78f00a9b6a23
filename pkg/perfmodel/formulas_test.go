package perfmodel

import (
	"errors"
	"math"
	"testing"
)

// TestGPUTable recounts the published ridge, the tokens of a step at which BF16 products take as long as
// reading the weights, from every entry.
func TestGPUTable(t *testing.T) {
	cases := map[string]float64{
		"t4": 203, "a10g": 117, "l4": 403, "l40s": 419, "rtx-4090": 164, "a100-40-sxm": 201, "a100-80-sxm": 153, "h100-pcie": 378, "h100-sxm": 295,
		"h100-64": 490, "h200-sxm": 206, "b200-sxm": 292, "b300-sxm": 290, "gb200": 313, "rtx-pro-6000": 281, "mi300x": 247,
	}
	tables := builtin(t)
	if len(cases) != len(tables.GPUs) {
		t.Errorf("%d GPUs in the table, %d checked", len(tables.GPUs), len(cases))
	}
	for name, want := range cases {
		g := tables.GPUs[name]
		p, err := New(Setup{Model: tables.Models["opt-1.3b"], GPU: g}, Prior())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := p.ComputeBoundTokens(); !near(got, want, .01) {
			t.Errorf("%s: ridge at %.0f tokens, published %.0f", name, got, want)
		}
		if g.SM >= 89 && g.SM < 100 && g.FP8TFLOPS < 1.9*g.BF16TFLOPS {
			t.Errorf("%s: FP8 %g against BF16 %g TFLOP/s", name, g.FP8TFLOPS, g.BF16TFLOPS)
		}
		if g.SM >= 100 && g.FP4TFLOPS == 0 || g.SM < 89 && g.SM > 0 && g.FP8TFLOPS > 0 {
			t.Errorf("%s: formats of another generation", name)
		}
	}
	// W8A8 doubles the rate and halves the bytes; weight-only INT4 computes in BF16.
	ridge := func(w Precision) float64 {
		return predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.Weights = w }).ComputeBoundTokens()
	}
	if bf16 := ridge(BF16); !near(ridge(FP8), bf16, .01) || !near(ridge(INT8), bf16, .01) || !near(ridge(INT4), .265*bf16, .01) {
		t.Errorf("ridges: bf16 %.0f, fp8 %.0f, int8 %.0f, int4 %.0f", bf16, ridge(FP8), ridge(INT8), ridge(INT4))
	}
}

// TestMixtureOfExpertsByHand checks which experts a step touches, and what each layout reads and holds.
func TestMixtureOfExpertsByHand(t *testing.T) {
	touched := func(e, k, tokens float64) float64 { return e * (1 - math.Pow(1-k/e, tokens)) }
	const h, layers, heads, kv, d, ffn, vocab, experts, k = 4096., 94., 64., 4., 128., 1536., 151936., 128., 8.
	attention := layers * (2*h*heads*d + 2*h*kv*d)
	expert, head := 3*h*ffn*layers, vocab*h
	for _, c := range []struct {
		name   string
		layout Layout
		want   float64 // bytes over the rank's GPUs
		memory float64 // bytes of experts per GPU
	}{
		{"tensor parallel", Layout{TP: 4}, attention + expert*touched(experts, k, 20) + 2*head, experts * expert / 4},
		{"experts spread within the rank", Layout{TP: 4, EP: 2}, attention + expert*touched(experts, k, 20) + 2*head, experts * expert / 4},
		{"experts spread over ranks", Layout{TP: 1, DP: 8, EP: 8}, attention + expert*touched(experts, k, 160)/8 + 2*head, experts * expert / 8},
		{"and tensor parallel within them", Layout{TP: 2, DP: 4, EP: 8}, attention + expert*touched(experts, k, 80)*2/8 + 2*head, experts * expert / 8},
	} {
		p := predictor(t, "qwen3-235b-a22b", "h200-sxm", func(s *Setup) { s.Layout, s.Weights = c.layout, FP8 })
		if got := p.WeightBytesPerStep(20); !near(got, c.want, 1e-9) {
			t.Errorf("%s: a step of 20 tokens reads %.4g bytes, want %.4g", c.name, got, c.want)
		}
		rest := p.setup.Model.WeightBytes(FP8) - experts*expert
		if got, want := p.WeightBytesPerGPU(), rest/float64(p.setup.Layout.TP)+c.memory; !near(got, want, 1e-9) {
			t.Errorf("%s: %.4g bytes on a GPU, want %.4g", c.name, got, want)
		}
	}
}

// TestLinkByHand checks tensor, expert and pipeline communication against arithmetic outside the code.
func TestLinkByHand(t *testing.T) {
	c := Prior()
	rate := 450e9 * c.Link
	const tokens, h, layers = 32., 4096., 94.
	bytes := tokens * h * 2
	for _, k := range []struct {
		name   string
		layout Layout
		want   float64
	}{
		{"one GPU", Layout{}, 0},
		{"tensor parallel", Layout{TP: 4}, 2 * layers * (c.AllReduceSeconds + 2*3./4*bytes/rate)},
		{"expert parallel", Layout{DP: 4, EP: 4}, 2 * layers * (c.AllReduceSeconds + 8*bytes*3/4/rate)},
		{"pipeline", Layout{PP: 2}, bytes / rate},
	} {
		p := predictor(t, "qwen3-235b-a22b", "h200-sxm", func(s *Setup) { s.Layout, s.Weights = k.layout, FP8 })
		if got := p.linkSeconds(tokens); math.Abs(got-k.want) > 1e-12 {
			t.Errorf("%s: %.4g s, want %.4g", k.name, got, k.want)
		}
	}
}

// TestLatentAttentionByHand: the cache of multi-head latent attention is whole on every rank, and its
// prompts are scored over wider heads.
func TestLatentAttentionByHand(t *testing.T) {
	one := predictor(t, "deepseek-v3", "h200-sxm", func(s *Setup) { s.Layout.TP = 8 })
	if got := one.kvPerGPU; got != (512+64)*2*61 {
		t.Errorf("%.0f bytes of cache per token and rank, want 70272", got)
	}
	step := Step{Chunks: []Chunk{{New: 1000}}}
	want := 4 * 61 * 128 * (128 + 64 + 128.) / 2 * 1000 * 500 / (8 * 989e12 * Prior().Attention)
	if got := one.Terms(step).Attention; !near(got, want, 1e-9) {
		t.Errorf("attention over a prompt takes %.4g s, want %.4g", got, want)
	}
}

// TestSlidingWindow: half of gpt-oss' layers see 128 tokens, so that long contexts cost about half.
func TestSlidingWindow(t *testing.T) {
	p := predictor(t, "gpt-oss-20b", "h100-sxm", nil)
	at := func(context int) float64 { return p.Terms(Step{Decoding: 1, ContextTokens: context}).KV }
	if got, want := at(8128)/at(128), (8128+128.)/2/128; !near(got, want, 1e-9) {
		t.Errorf("8128 tokens of context read %.2f times what 128 do, want %.2f", got, want)
	}
	capacity, err := p.KVCapacityTokens()
	if err != nil {
		t.Fatal(err)
	}
	long, err := p.Sequences(100_128)
	if err != nil || !near(long*50_128, float64(capacity), 1e-9) {
		t.Errorf("%.1f sequences of 100128 tokens (%v), want %.1f", long, err, float64(capacity)/50_128)
	}
}

func TestPipeline(t *testing.T) {
	one := predictor(t, "llama-2-13b", "h100-sxm", nil)
	two := predictor(t, "llama-2-13b", "h100-sxm", func(s *Setup) { s.Layout.PP = 2 })
	three := predictor(t, "llama-2-13b", "h100-sxm", func(s *Setup) { s.Layout.PP = 3 })
	if got, want := two.WeightBytesPerGPU(), one.WeightBytesPerGPU()/2; !near(got, want, 1e-9) {
		t.Errorf("each of two stages holds %.4g bytes, want %.4g", got, want)
	}
	if got, want := three.WeightBytesPerGPU(), one.WeightBytesPerGPU()*14/40; !near(got, want, 1e-9) { // 40 layers: 14, 13, 13
		t.Errorf("the fullest of three stages holds %.4g bytes, want %.4g", got, want)
	}
	step := Step{Decoding: 64, ContextTokens: 64 * 500, Sampling: 64}
	if got, want := three.Terms(step).Weights, two.Terms(step).Weights*(14*3/40.); !near(got, want, 1e-9) {
		t.Errorf("three uneven stages read weights for %.4g s, want %.4g", got, want)
	}
	tables := builtin(t)
	if _, err := New(Setup{Model: tables.Models["opt-1.3b"], GPU: tables.GPUs["h100-sxm"], Layout: Layout{PP: 25}}, Prior()); !errors.Is(err, ErrLayout) {
		t.Errorf("25 stages of 24 layers: %v", err)
	}
}

func TestLaunches(t *testing.T) {
	graphs := predictor(t, "llama-3.1-8b", "h100-sxm", nil)
	eager := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.Eager = true })
	some := predictor(t, "llama-3.1-8b", "h100-sxm", func(s *Setup) { s.GraphTokens = 32 })
	step := func(n int) Step { return Step{Decoding: n, ContextTokens: n * 100, Sampling: n} }
	if got, want := eager.StepSeconds(step(8))-graphs.StepSeconds(step(8)), 32*15e-6; !near(got, want, .01) {
		t.Errorf("without graphs a step takes %.4g s longer, want %.4g", got, want)
	}
	if some.StepSeconds(step(32)) != graphs.StepSeconds(step(32)) || some.StepSeconds(step(33)) != eager.StepSeconds(step(33)) {
		t.Error("a step is eager from the first token that no graph covers")
	}
}

func TestRoofs(t *testing.T) {
	p := predictor(t, "llama-3.1-8b", "h100-sxm", nil)
	// 15.0 GB of weights against 64 sequences of 131,072 bytes a token.
	if got, want := p.CacheOutweighsWeights(64), 15.01e9/(64*131072); !near(got, want, .01) {
		t.Errorf("the cache outweighs the weights from %.0f tokens of context, want %.0f", got, want)
	}
	context := int(p.CacheOutweighsWeights(64))
	for more, want := range map[int]bool{-50: false, 50: true} {
		s := Step{Decoding: 64, ContextTokens: 64 * (context + more)}
		terms := p.Terms(s)
		if got := terms.KV*p.kvRate > terms.Weights*p.weightRate; got != want {
			t.Errorf("%d tokens of context: cache above weights is %v", context+more, got)
		}
	}
}

func TestSpeculation(t *testing.T) {
	for _, c := range []struct {
		v    Speculation
		want float64
	}{
		{Speculation{}, 1}, {Speculation{Drafts: 3, Acceptance: 1}, 4}, {Speculation{Drafts: 3}, 1}, {Speculation{Drafts: 3, Acceptance: .5}, 1 + .5 + .25 + .125},
	} {
		if got := c.v.ExpectedTokens(); !near(got, c.want, 1e-12) {
			t.Errorf("%+v: %.4f tokens a step, want %.4f", c.v, got, c.want)
		}
	}
	p := predictor(t, "llama-3.1-70b", "h100-sxm", func(s *Setup) { s.Layout.TP = 4 })
	step := func(n int) Step { return Step{Decoding: n, ContextTokens: n * 1000, Sampling: n} }
	free := Speculation{Drafts: 4, Acceptance: .7}
	few, many := p.SpeculationGain(step(1), free), p.SpeculationGain(step(512), free)
	if few < 2.2 || few > free.ExpectedTokens() || many > .8*few || many >= 1 {
		t.Errorf("free guesses gain a factor of %.2f alone and %.2f in a batch past the ridge", few, many)
	}
	if terms := p.Terms(free.verify(step(8))); terms.KV != p.Terms(step(8)).KV {
		t.Error("verifying reads each sequence's cache once")
	}
	draft := predictor(t, "llama-3.1-8b", "h100-sxm", nil)
	paid := free
	paid.DraftSeconds = draft.StepSeconds
	want := (p.StepSeconds(free.verify(step(1))) + 4*draft.StepSeconds(step(1))) / free.ExpectedTokens()
	if got := p.SpeculativeTPOTSeconds(step(1), paid); !near(got, want, 1e-12) || p.SpeculationGain(step(1), paid) >= few {
		t.Errorf("with a draft model a token takes %.4g s, want %.4g", got, want)
	}
}

func TestChunkedPrefill(t *testing.T) {
	p := predictor(t, "llama-3.1-70b", "h100-sxm", func(s *Setup) { s.Layout.TP, s.MaxBatchedTokens, s.Weights = 4, 2048, FP8 })
	decode := Step{Decoding: 48, ContextTokens: 48 * 1000, Sampling: 48}
	full := decode
	full.Chunks = []Chunk{{New: 2000, Cached: 100}}
	if got, want := p.WorstGapSeconds(decode, 100), p.StepSeconds(full); got != want {
		t.Errorf("worst gap %.4g s, want that of a full step, %.4g", got, want)
	}
	gap := .08
	budget := p.BudgetFor(decode, gap)
	at := predictor(t, "llama-3.1-70b", "h100-sxm", func(s *Setup) { s.Layout.TP, s.MaxBatchedTokens, s.Weights = 4, budget, FP8 })
	if worst := at.WorstGapSeconds(decode, 0); budget < 500 || !near(worst, gap, .01) || worst > gap {
		t.Errorf("a budget of %d tokens gives gaps of %.4g s, want about %g", budget, worst, gap)
	}
	if got := p.BudgetFor(decode, 1e-4); got != 0 {
		t.Errorf("decoding alone misses the objective, yet the budget is %d", got)
	}
	three := p.LeastTTFTSeconds(decode, 6000, 0)
	var want float64
	for _, cached := range []int{0, 2000, 4000} {
		s := decode
		s.Chunks = []Chunk{{New: 2000, Cached: cached}}
		want += p.StepSeconds(s)
	}
	if !near(three, want, 1e-9) || p.LeastTTFTSeconds(decode, 6000, 4000) >= three {
		t.Errorf("three chunks take %.4g s, want %.4g; two thirds of it cached, less", three, want)
	}
	decode.Decoding = 2048
	if got := p.LeastTTFTSeconds(decode, 1, 0); !math.IsInf(got, 1) {
		t.Errorf("no room for prompts, yet the first token leaves after %g s", got)
	}
}

func TestLockstep(t *testing.T) {
	p := predictor(t, "deepseek-v3", "h200-sxm", func(s *Setup) { s.Layout = Layout{DP: 8, EP: 8} })
	light, heavy := Step{Decoding: 1, ContextTokens: 100}, Step{Decoding: 64, ContextTokens: 64000}
	if got, want := p.LockstepSeconds([]Step{light, heavy, light}), p.StepSeconds(heavy); got != want {
		t.Errorf("joined ranks step in %.4g s, want the slowest's %.4g", got, want)
	}
}

func TestDollars(t *testing.T) {
	low, high, err := Price{Low: 2, High: 5}.DollarsPerMillionTokens(500)
	if err != nil || !near(low, 2/.0036/500, 1e-9) || !near(high, 5/.0036/500, 1e-9) {
		t.Errorf("%g … %g $ (%v)", low, high, err)
	}
	for name, c := range map[string]struct {
		p Price
		x float64
	}{"no price": {Price{}, 1}, "no tokens": {Price{1, 2}, 0}, "upside down": {Price{2, 1}, 1}} {
		if _, _, err := c.p.DollarsPerMillionTokens(c.x); !errors.Is(err, ErrNoPrice) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMeasuredByLaw compares the public laws with published measurements. The rows are among those the
// laws were fitted to, so this checks features and units, not transfer; the cold figures are a bar's.
func TestMeasuredByLaw(t *testing.T) {
	for _, c := range []struct {
		model, gpu, engine string
		weights            Precision
		layout             Layout
		isl, osl, clients  float64
		tpotMS, factor     float64
	}{
		{"llama-3.1-70b", "h100-sxm", "vllm", FP8, Layout{TP: 2}, 1024, 1024, 4, 17.4, 1.15},
		{"llama-3.1-70b", "h100-sxm", "vllm", FP8, Layout{TP: 2}, 1024, 8192, 32, 27.7, 1.25},
		{"llama-3.1-70b", "h100-sxm", "vllm", FP8, Layout{TP: 8}, 8192, 1024, 64, 34.5, 1.35},
		{"llama-3.1-8b", "h200-sxm", "sglang", FP8, Layout{TP: 2}, 1000, 1000, 512, 31.5, 1.25},
		{"minimax-m2.5", "h200-sxm", "vllm", FP8, Layout{TP: 8}, 8192, 1024, 128, 40.8, 1.25},
		{"deepseek-v3", "h200-sxm", "sglang", FP8, Layout{TP: 8}, 1024, 1024, 32, 23.3, 1.35},
	} {
		p := predictor(t, c.model, c.gpu, func(s *Setup) { s.Layout, s.Weights = c.layout, c.weights })
		m, err := p.ClosedLoop(Traffic{PromptTokens: c.isl, OutputTokens: c.osl}, c.clients)
		if err != nil {
			t.Fatal(err)
		}
		got := 1e3 * PublicLaw(p.setup.Model, c.engine).TPOTSeconds(m)
		if got > c.tpotMS*c.factor || c.tpotMS > got*c.factor {
			t.Errorf("%s on %s, %.0f/%.0f × %.0f: %.1f ms per token, measured %.1f", c.model, c.gpu, c.isl, c.osl, c.clients, got, c.tpotMS)
		}
	}
}
