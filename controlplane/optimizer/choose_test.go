package optimizer

import (
	"testing"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// TestChooseAnswersTheFinding: a larger gain elsewhere does not come before the setting that limits.
func TestChooseAnswersTheFinding(t *testing.T) {
	one := func(low float64, knobs ...string) scored {
		c := scored{low: low}
		c.neutral = map[string]string{}
		for _, k := range knobs {
			c.neutral[k] = "1"
		}
		return c
	}
	batch, cache, both := one(0.5, "max_num_seqs"), one(0.2, "prefix_caching"), one(0.4, "max_num_seqs", "prefix_caching")
	weak := one(0.01, "prefix_caching")
	cacheOff := &commandv1.Finding{Class: "prefix_misses", Knobs: []string{"prefix_caching"}}
	sure := func(c scored) bool { return c.low >= 0.1 }
	for name, c := range map[string]struct {
		ranked  []scored
		finding *commandv1.Finding
		want    int
	}{
		"the answer, though second":        {[]scored{batch, both, cache}, cacheOff, 2},
		"no sure answer: the best sure":    {[]scored{batch, weak}, cacheOff, 0},
		"a finding without knobs":          {[]scored{batch, cache}, &commandv1.Finding{Class: "replica_imbalance"}, 0},
		"nothing is sure: the first":       {[]scored{weak, one(0.02, "max_num_seqs")}, cacheOff, 0},
		"the first sure one, not the best": {[]scored{weak, batch}, &commandv1.Finding{}, 1},
	} {
		if got := choose(c.ranked, c.finding, sure); got != c.want {
			t.Errorf("%s: candidate %d, want %d", name, got, c.want)
		}
	}
}
