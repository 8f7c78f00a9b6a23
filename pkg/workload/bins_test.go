package workload

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestBins: quantiles stay within a bin's width of the values, totals are kept, however many bins were
// joined, and merging is the same as adding.
func TestBins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(1, maxTokens), 1, 60).Draw(t, "values")
		whole, first, second := bins{scale: startScale}, bins{scale: startScale}, bins{scale: startScale}
		for i, v := range values {
			whole.add(v, 1)
			if i%2 == 0 {
				first.add(v, 1)
			} else {
				second.add(v, 1)
			}
		}
		first.merge(second)
		if whole.total() != uint64(len(values)) || first.total() != whole.total() || len(whole.counts) > maxBins || len(first.counts) > maxBins {
			t.Fatalf("%d values, %d and %d counted in %d bins", len(values), whole.total(), first.total(), len(whole.counts))
		}
		low, high := values[0], values[0]
		for _, v := range values {
			low, high = min(low, v), max(high, v)
		}
		width := math.Exp2(1 / float64(int(1)<<whole.scale))
		if got := float64(whole.at(0)); got < float64(low)/width-1 || got > float64(low)*width+1 {
			t.Fatalf("the least is %v, want about %d", got, low)
		}
		if got := float64(whole.at(1)); got < float64(high)/width-1 || got > float64(high)*width+1 {
			t.Fatalf("the largest is %v, want about %d", got, high)
		}
	})
}

func TestReuseRate(t *testing.T) {
	ask := func(tokens int, blocks ...uint64) Request {
		return Request{PromptTokens: tokens, OutputTokens: 1, Prefix: blocks, PrefixBlock: 10}
	}
	trace := []Request{ask(30, 1, 2, 3), ask(30, 1, 2, 4), ask(25, 1, 2, 3), ask(15, 9, 2)}
	// Found: nothing; 1 and 2; 1 and 2, as the third block is not full; nothing, as 2 stands behind a new block.
	if got, want := ReuseRate(trace, 0), 40./100; got != want {
		t.Errorf("%.2f of the tokens, want %.2f", got, want)
	}
	if got := ReuseRate(trace, 10); got != 0 {
		t.Errorf("a cache of one block finds %.2f", got)
	}
	grouped := []Request{{PromptTokens: 100, OutputTokens: 1, Group: 1, GroupTokens: 40}, {PromptTokens: 100, OutputTokens: 1, Group: 1, GroupTokens: 40}}
	if got := ReuseRate(grouped, 0); got != .2 {
		t.Errorf("a group's common part is %.2f of both, want .2", got)
	}
	if got := ReuseRate(nil, 0); got != 0 {
		t.Errorf("no traffic: %g", got)
	}
}
