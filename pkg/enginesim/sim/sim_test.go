package sim

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

func TestReadPrompt(t *testing.T) {
	a := ReadPrompt(2, "one two  three\nfour five")
	if a.Tokens != 5 || len(a.Hashes) != 2 {
		t.Fatalf("%d tokens, %d hashes; want 5 and 2", a.Tokens, len(a.Hashes))
	}
	b := ReadPrompt(2, "one", "two three four", "six")
	if !slices.Equal(a.Hashes, b.Hashes) {
		t.Error("the same words in other parts have other hashes")
	}
	c := ReadPrompt(2, "one two changed four five")
	if a.Hashes[0] != c.Hashes[0] || a.Hashes[1] == c.Hashes[1] {
		t.Error("hashes must agree up to the first block that differs")
	}
	if ReadPrompt(2, "ab c").Hash == ReadPrompt(2, "a bc").Hash {
		t.Error("word boundaries do not count")
	}
	if n := ReadPrompt(2, " \n").Tokens; n != 0 {
		t.Errorf("%d tokens in white space", n)
	}
}

func TestWordsAreTokens(t *testing.T) {
	p := ReadPrompt(16, "some prompt")
	var text strings.Builder
	for n := range 100 {
		text.WriteString(p.Word(n, live.Normal))
	}
	if n := len(strings.Fields(text.String())); n != 100 {
		t.Errorf("%d words for 100 tokens", n)
	}
	if p.Word(3, live.Normal) != ReadPrompt(16, "some prompt").Word(3, live.Normal) {
		t.Error("answers differ between runs")
	}
}

func TestNaturalLengthVaries(t *testing.T) {
	var lengths []int
	for i := range 400 {
		lengths = append(lengths, ReadTokens(16, []int{i, 7}).NaturalLength())
	}
	slices.Sort(lengths)
	if p10, p50, p90 := lengths[40], lengths[200], lengths[360]; p50 < 110 || p50 > 230 || p10 > p50*3/4 || p90 < p50*4/3 {
		t.Errorf("natural lengths p10 %d, p50 %d, p90 %d; want a spread about 160", p10, p50, p90)
	}
}

func machine(t *testing.T, seed uint64) *Machine {
	t.Helper()
	m, err := (&Env{Options: Options{GPU: "h100-sxm", GPUs: 8, Model: "llama-3.1-8b", Seed: seed}}).Machine()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMemoryFollowsTheLayout(t *testing.T) {
	m := machine(t, 1)
	tokens := func(l Layout) int {
		if l.Fraction == 0 {
			l.Fraction = .9
		}
		mem, err := m.Memory(l)
		if err != nil {
			t.Fatal(err)
		}
		return mem.KVTokens
	}
	base := tokens(Layout{MaxBatchedTokens: 8192, MaxNumSeqs: 256})
	if base < 350_000 || base > 500_000 {
		t.Errorf("%d tokens for an 8B model on an H100, want about 430,000", base)
	}
	for name, larger := range map[string]int{
		"fp8 cache":       tokens(Layout{MaxBatchedTokens: 8192, MaxNumSeqs: 256, KV: perfmodel.FP8}),
		"two GPUs":        tokens(Layout{MaxBatchedTokens: 8192, MaxNumSeqs: 256, TP: 2}),
		"fp8 weights":     tokens(Layout{MaxBatchedTokens: 8192, MaxNumSeqs: 256, Weights: perfmodel.FP8}),
		"larger fraction": tokens(Layout{MaxBatchedTokens: 8192, MaxNumSeqs: 256, Fraction: .95}),
		"smaller budget":  tokens(Layout{MaxBatchedTokens: 2048, MaxNumSeqs: 256}),
	} {
		if larger <= base {
			t.Errorf("%s: %d tokens, want more than %d", name, larger, base)
		}
	}
	if got := tokens(Layout{KVBytes: 1 << 30}); got != 8192 {
		t.Errorf("1 GiB holds %d tokens, want 8192", got)
	}
}

// stepSeconds is how long one decode step of eight sequences takes.
func stepSeconds(t *testing.T, m *Machine, l Layout) float64 {
	t.Helper()
	l.Fraction = .9
	core, err := m.Core(des.Config{ChunkedPrefill: true}, l)
	if err != nil {
		t.Fatal(err)
	}
	for id := range 8 {
		core.Submit(0, des.Request{ID: uint64(id + 1), PromptTokens: 100, OutputTokens: 200})
	}
	core.Step(0)
	before := core.Stats()
	for range 100 {
		core.Step(0)
	}
	return (core.Stats().Busy - before.Busy).Seconds() / 100
}

func TestSeedAndSettingsChangeTheTiming(t *testing.T) {
	one := stepSeconds(t, machine(t, 1), Layout{})
	least, most := one, one
	for seed := range uint64(8) {
		s := stepSeconds(t, machine(t, seed), Layout{})
		least, most = min(least, s), max(most, s)
	}
	if most/least < 1.1 {
		t.Errorf("steps of 8 seeds take %.2g to %.2g s: nothing hidden", least, most)
	}
	if eager := stepSeconds(t, machine(t, 1), Layout{Eager: true}); eager < 1.05*one {
		t.Errorf("eager step %.2g s, with graphs %.2g s", eager, one)
	}
	if fp8 := stepSeconds(t, machine(t, 1), Layout{Weights: perfmodel.FP8}); fp8 > .8*one {
		t.Errorf("fp8 step %.2g s, bf16 %.2g s", fp8, one)
	}
}

func TestOptions(t *testing.T) {
	o, rest, err := ParseOptions([]string{"--dialect", "tgi", "--sim-seed", "7", "--sim-fault", "nan", "--", "launcher", "--port", "1"}, io.Discard)
	if err != nil || o.Seed != 7 || o.Faults.Output != live.NaN || !slices.Equal(rest, []string{"launcher", "--port", "1"}) {
		t.Errorf("%+v, %v, %v", o, rest, err)
	}
	for _, bad := range [][]string{{"--sim-start-scale", "-1"}, {"--sim-gpus", "0"}, {"--sim-fault", "x"}, {"--wrong"}} {
		if _, _, err := ParseOptions(bad, io.Discard); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// TestDrift: log-probabilities depend on all that came before and on nothing else; formats that lose more
// move them further, and turn more answers into others.
func TestDrift(t *testing.T) {
	ids := TokenIDs("the quick model reads a long prompt")
	exact := Logprobs(ids, 0)
	if len(exact) != len(ids)-1 || !slices.Equal(exact, Logprobs(slices.Clone(ids), 0)) || Logprobs(nil, 0) != nil {
		t.Errorf("%v", exact)
	}
	for k, v := range exact {
		if v >= 0 || v < -3 {
			t.Errorf("log-probability %v of token %d", v, k+1)
		}
	}
	if other := Logprobs(append([]int{5}, ids[1:]...), 0); other[3] == exact[3] {
		t.Error("the first token is forgotten")
	}
	last := 0.
	for _, kv := range []string{"auto", "fp8_e4m3", "fp8_e5m2", "int4_per_token_head"} {
		drift := Drift(kv, "")
		changed, moved := 0, 0.
		for k := range 500 {
			p := ReadPrompt(0, fmt.Sprint("prompt ", k))
			q := p
			q.Drift = drift
			if p.Word(9, live.Normal) != q.Word(9, live.Normal) {
				changed++
			}
			moved += math.Abs(Logprobs([]int{k, 7}, drift)[0] - Logprobs([]int{k, 7}, 0)[0])
		}
		if moved < last || (drift == 0) != (changed == 0 && moved == 0) || float64(changed) > 600*drift {
			t.Errorf("%s: drift %v, %d of 500 answers changed, moved %v", kv, drift, changed, moved/500)
		}
		last = moved
	}
	if Drift("fp8", "awq") <= Drift("fp8", "") || Drift("", "bitsandbytes-nf4") <= Drift("", "fp8") {
		t.Error("weights do not count")
	}
}
