package rollout

import (
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// arms of a wave: changed replicas with as many requests a second, log-normal times to the first token.
func (s fastWorld) arms(t *testing.T, rng *rand.Rand, upTo int) (canary, control armSeconds, all, against *fleet.Aggregate) {
	t.Helper()
	var c, b []*fleet.Window
	for sec := range upTo {
		at := time.Unix(1_700_000_000+int64(sec), 0)
		c = append(c, s.second(t, rng, "c", at, s.canaryRate, s.slow, s.canaryFails))
		b = append(b, s.second(t, rng, "b", at, s.controlRate, 1, s.controlFails))
	}
	every := func(*fleet.Window) bool { return true }
	canary, all, err := bySecond(c, every)
	if err != nil {
		t.Fatal(err)
	}
	control, against, err = bySecond(b, every)
	if err != nil {
		t.Fatal(err)
	}
	return canary, control, all, against
}

type fastWorld struct {
	canaryRate, controlRate   float64 // requests a second
	slow                      float64
	canaryFails, controlFails float64
}

func (s fastWorld) second(t *testing.T, rng *rand.Rand, id string, at time.Time, rate, slow, fails float64) *fleet.Window {
	n := int(rate)
	if rng.Float64() < rate-float64(n) {
		n++
	}
	w := window(t, rng, id, at, float64(n), .2*slow)
	failed := 0.
	for range n {
		if rng.Float64() < fails {
			failed++
		}
	}
	w.Counters[fleet.RequestsFailed], w.Counters[fleet.RequestsFinished] = failed, float64(n)-failed
	return w
}

// found says when the fast tier alarms, in seconds; 0: never within five minutes.
func (s fastWorld) found(t *testing.T, seed uint64, r *commandv1.Rollout) (int, string) {
	t.Helper()
	c := &Controller{logger: slog.New(slog.DiscardHandler)}
	alpha := fastLevel / (fastTests * fastWaves)
	for _, upTo := range []int{5, 10, 15, 20, 30, 60, 120, 300} {
		canary, control, all, against := s.arms(t, rand.New(rand.NewPCG(seed, 1)), upTo)
		if words := c.moreEvents(r, canary, control, alpha); words != "" {
			return upTo, words
		}
		if words := c.slowerQuantile(r, all, against, alpha); words != "" {
			return upTo, words
		}
	}
	return 0, ""
}

func TestFastTier(t *testing.T) {
	r := &commandv1.Rollout{Id: "r", Policy: &commandv1.Policy{Margin: 1.25, Objectives: &commandv1.Objectives{TtftSeconds: .5}}}
	usual := fastWorld{canaryRate: 5, controlRate: 15, slow: 1, canaryFails: .01, controlFails: .01}
	with := func(change func(*fastWorld)) fastWorld { w := usual; change(&w); return w }
	for name, c := range map[string]struct {
		world fastWorld
		by    int // seconds; 0: never
		says  string
	}{
		"nothing changed":        {usual, 0, ""},
		"ten per cent slower":    {with(func(w *fastWorld) { w.slow = 1.1 }), 0, ""},
		"three times slower":     {with(func(w *fastWorld) { w.slow = 3 }), 20, "TTFT"},
		"twice as slow":          {with(func(w *fastWorld) { w.slow = 2 }), 60, "TTFT"},
		"a fifth fails":          {with(func(w *fastWorld) { w.canaryFails = .2 }), 60, "failed requests"},
		"a little traffic, dead": {with(func(w *fastWorld) { w.canaryRate, w.controlRate, w.slow = 1, 3, 10 }), 60, "TTFT"},
	} {
		for seed := range uint64(5) {
			got, words := c.world.found(t, seed, r)
			if (c.by == 0) != (got == 0) || got > c.by || !strings.Contains(words, c.says) {
				t.Errorf("%s, seed %d: alarm after %d s, want it by %d: %s", name, seed, got, c.by, words)
			}
		}
	}
	// Without an objective the pace of streams is no bad event, and the baseline's tail stands for TTFT's.
	for _, e := range badEvents(&commandv1.Rollout{Baseline: &commandv1.Measured{Values: map[string]float64{"ttft_p95": .6}}}) {
		if strings.HasPrefix(e.name, "TPOT") || strings.HasPrefix(e.name, "TTFT") && !strings.Contains(e.name, "600ms") {
			t.Errorf("bad event %q", e.name)
		}
	}
}
