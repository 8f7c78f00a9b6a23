package quality

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/load"
)

func TestBuiltIn(t *testing.T) {
	ids, prompts := map[string]bool{}, map[string]bool{}
	for _, p := range BuiltIn() {
		if ids[p.ID] || prompts[p.Prompt] {
			t.Errorf("%s is there twice: %q", p.ID, p.Prompt)
		}
		ids[p.ID], prompts[p.Prompt] = true, true
		if !Right("It is "+p.Expect+".", p.Expect) || Right("x"+p.Expect+"x", p.Expect) || p.MaxTokens == 0 {
			t.Errorf("%s: %q", p.ID, p.Expect)
		}
	}
	if len(prompts) < MinPrompts {
		t.Errorf("%d prompts", len(prompts))
	}
	for id, want := range map[string]string{"sum-1": "41", "code-2": "12", "calendar-1": "Tuesday", "compare-16": "355", "story-3": "29"} {
		for _, p := range BuiltIn() {
			if p.ID == id && p.Expect != want {
				t.Errorf("%s expects %q, not %q: %s", id, p.Expect, want, p.Prompt)
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct {
		answer, expect string
		want           bool
	}{
		{"The answer is 17.", "17", true},
		{"170", "17", false},
		{"1 17", "17", true},
		{"CASA!", "casa", true},
		{"casablanca", "casa", false},
		{"casablanca, casa", "casa", true},
		{"", "x", false},
		{"anything", "", false},
	} {
		if got := Right(c.answer, c.expect); got != c.want {
			t.Errorf("Right(%q, %q) = %v", c.answer, c.expect, got)
		}
	}
	if !repetitive(strings.Repeat("and so on ", 4)) || repetitive("one two three four five six") {
		t.Error("repetition")
	}
	if !refuses("I'm sorry, but I cannot help") || refuses("The can is sorry-looking") {
		t.Error("refusal")
	}
	if d := divergence("abcd", "abxy"); d != .5 {
		t.Errorf("diverges at %v", d)
	}
}

// answered makes a set of answers; spoil changes some.
func answered(qs []Question, spoil func(i int, a *Answer)) []Answer {
	var out []Answer
	for i, q := range qs {
		a := Answer{ID: q.ID, Text: " It is " + q.Expect + ".", Tokens: 4, Said: &Forced{IDs: []int{i, 2, 3}}, Logprobs: []float64{-.5, -.1, -2}}
		if spoil != nil {
			spoil(i, &a)
		}
		out = append(out, a)
	}
	return out
}

func TestJudge(t *testing.T) {
	qs := Questions(nil)
	every := func(n int, f func(*Answer)) func(int, *Answer) {
		return func(i int, a *Answer) {
			if i%n == 0 {
				f(a)
			}
		}
	}
	wrong := func(a *Answer) { a.Text = " It is a fish." }
	noText := func(a *Answer) { a.Text = " " }
	for name, c := range map[string]struct {
		base, again, cand func(int, *Answer)
		passed, ran       bool
		words             string
	}{
		"the same":               {nil, nil, nil, true, true, "as good as"},
		"some words differ":      {nil, nil, every(2, func(a *Answer) { a.Text += " Yes." }), true, true, "as good as"},
		"an eighth is wrong":     {nil, nil, every(8, wrong), false, true, "right answers"},
		"a third is wrong":       {nil, nil, every(3, wrong), false, true, "proven to lose"},
		"both wrong as often":    {every(3, wrong), every(3, wrong), func(i int, a *Answer) { every(3, wrong)(i+1, a) }, false, true, "do not prove"},
		"empty":                  {nil, nil, every(10, noText), false, true, "empty answers"},
		"logprobs drift":         {nil, nil, func(_ int, a *Answer) { a.Logprobs = []float64{-.9, -.5, -2.4} }, false, true, "differ by 0.400"},
		"noise is the engine's":  {nil, func(_ int, a *Answer) { a.Logprobs = []float64{-.9, -.5, -2.4} }, func(_ int, a *Answer) { a.Logprobs = []float64{-.1, .3, -1.6} }, true, true, "as good as"},
		"twice as long":          {nil, nil, func(_ int, a *Answer) { a.Tokens *= 2 }, false, true, "2.00 times as long"},
		"no logprobs":            {nil, nil, func(_ int, a *Answer) { a.Logprobs, a.LogprobError = nil, "switched off" }, false, false, "switched off"},
		"unanswered":             {nil, nil, every(5, func(a *Answer) { a.Error = "http 500" }), false, false, "http 500"},
		"noise, no right answer": {func(i int, a *Answer) { a.Text = fmt.Sprint("x", i) }, func(i int, a *Answer) { a.Text = fmt.Sprint("x", i) }, func(i int, a *Answer) { a.Text = fmt.Sprint("y", i) }, false, true, "the agreement that the baseline has with itself"},
		"noise that agrees":      {func(i int, a *Answer) { a.Text = fmt.Sprint("x", i) }, func(i int, a *Answer) { a.Text = fmt.Sprint("x", i) }, func(i int, a *Answer) { a.Text = fmt.Sprint("x", i) }, true, true, "as good as"},
	} {
		j := Judge(qs, answered(qs, c.base), answered(qs, c.again), answered(qs, c.cand), load.Quality{})
		if j.Passed != c.passed || j.Ran != c.ran || !strings.Contains(j.Words, c.words) {
			t.Errorf("%s: passed %v, ran %v: %s", name, j.Passed, j.Ran, j.Words)
		}
	}
	few := qs[:150]
	if j := Judge(few, answered(few, nil), answered(few, nil), answered(few, nil), load.Quality{}); j.Passed || j.Ran || !strings.Contains(j.Words, "150 prompts are fewer") {
		t.Errorf("few prompts: %+v", j)
	}
	if j := Judge(qs, nil, nil, nil, load.Quality{}); j.Passed || j.Ran {
		t.Errorf("no answers: %+v", j)
	}
}

func TestForce(t *testing.T) {
	qs := Questions([]load.GoldPrompt{{Prompt: "a"}, {Prompt: "b", MaxTokens: 9}})
	forced := Force(qs, []Answer{{ID: "own-2", Said: &Forced{IDs: []int{7}}}})
	if forced[0].Forced != nil || forced[1].Forced.IDs[0] != 7 || qs[1].Forced != nil || qs[0].MaxTokens != defaultMaxTokens || qs[1].MaxTokens != 9 {
		t.Errorf("%+v", forced)
	}
}

// TestSignTestHoldsItsLevel: a candidate that loses exactly what is not allowed passes in 1 of 20
// cases at most, however often one looks; one that loses nothing passes with 200 prompts.
func TestSignTestHoldsItsLevel(t *testing.T) {
	const runs, prompts, margin = 2000, 240, .05
	rng := rand.New(rand.NewPCG(3, 4))
	crossed := func(loss, win, margin, direction, level float64) float64 {
		n := 0
		for range runs {
			s := newSignTest(margin, direction)
			for range prompts {
				d, u := 0., rng.Float64()
				if u < loss {
					d = -1
				} else if u > 1-win {
					d = 1
				}
				if s.add(d) >= math.Log(level) {
					n++
					break
				}
			}
		}
		return float64(n) / runs
	}
	for _, win := range []float64{0, .05, .2} {
		if p := crossed(margin+win, win, margin, +1, passEvidence); p > 1./passEvidence {
			t.Errorf("a loss of the margin, with %.0f %% won, passes with chance %.3f", 100*win, p)
		}
		if p := crossed(margin+win, win, margin, -1, failEvidence); p > 1./failEvidence {
			t.Errorf("a loss of no more than the margin, with %.0f %% won, fails with chance %.3f", 100*win, p)
		}
	}
	if p := crossed(0, 0, margin, +1, passEvidence); p < 1 {
		t.Errorf("no loss passes with chance %.3f", p)
	}
	if p := crossed(.3, 0, margin, -1, failEvidence); p < .95 {
		t.Errorf("a loss of 30 %% fails with chance %.3f", p)
	}
}
