package rollout

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

var t0 = time.Unix(1_700_000_000, 0)

// traffic of one replica over a span: perSecond requests of log-normal latency around ttft.
func traffic(t testing.TB, seed uint64, seconds int, perSecond float64, ttft float64, bend func(w *fleet.Window)) *fleet.Aggregate {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	a := fleet.NewAggregate()
	for s := range seconds {
		w := window(t, rng, "i-1", t0.Add(time.Duration(s)*time.Second), perSecond, ttft)
		if bend != nil {
			bend(w)
		}
		if err := a.Add(w); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func window(t testing.TB, rng *rand.Rand, id string, at time.Time, perSecond, ttft float64) *fleet.Window {
	t.Helper()
	w := fleet.NewWindow(id, at)
	w.Serving = true
	for _, m := range []string{fleet.TTFT, fleet.E2E} {
		sketch := newSketch()
		for range int(perSecond) {
			if err := sketch.Add(ttft * (1 + 0.4*rng.Float64())); err != nil {
				t.Fatal(err)
			}
		}
		w.Sketches[m], w.Origin[m] = sketch, fleet.SourceEngine
	}
	w.Counters[fleet.RequestsFinished] = perSecond
	w.Counters[fleet.GenerationTokens] = perSecond * 10
	w.Counters[fleet.PromptTokens] = perSecond * 30
	w.Gauges[fleet.KVUsage] = 0.3
	w.Gauges[fleet.RequestsRunning] = 2
	return w
}

func TestNonInferiority(t *testing.T) {
	const seconds = 130
	policy := fsm.DefaultPolicy()
	stale := func(w *fleet.Window) { w.Sources = []*agentv1.Source{{Name: "engine", Stale: true}} }
	noTTFT := func(w *fleet.Window) { delete(w.Sketches, fleet.TTFT) }
	failures := func(share float64) func(w *fleet.Window) {
		return func(w *fleet.Window) {
			w.Counters[fleet.RequestsFailed] = w.Counters[fleet.RequestsFinished] * share
		}
	}
	even := traffic(t, 1, seconds, 5, 0.2, nil)
	for _, c := range []struct {
		name            string
		canary, control *fleet.Aggregate
		baseline        *commandv1.Measured
		seconds         int
		want            commandv1.Outcome
		hard            bool
		words           string
	}{
		{"the same passes", traffic(t, 2, seconds, 5, 0.2, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_PASS, false, "TTFT p50"},
		{"better passes", traffic(t, 2, seconds, 5, 0.05, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_PASS, false, ""},
		{"within the margin passes", traffic(t, 2, seconds, 5, 0.23, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_PASS, false, ""},
		{"certainly beyond the margin fails", traffic(t, 2, seconds, 5, 0.32, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_FAIL, false, "more than 1.25 times"},
		{"twice as slow is hard", traffic(t, 2, seconds, 5, 0.5, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, true, "times worse"},
		{"too early", traffic(t, 2, 60, 5, 0.2, nil), traffic(t, 1, 60, 5, 0.2, nil), nil, 60, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "observed for"},
		{"too few requests", traffic(t, 2, seconds, 1, 0.2, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "at least 200 requests"},
		{"too few to compare with", traffic(t, 2, seconds, 5, 0.2, nil), traffic(t, 1, seconds, 1, 0.2, nil), nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "to compare with"},
		{"stale", traffic(t, 2, seconds, 5, 0.2, stale), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "measured freshly"},
		{"gaps", traffic(t, 2, seconds/2, 10, 0.2, nil), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "measured freshly"},
		{"one side only", traffic(t, 2, seconds, 5, 0.2, noTTFT), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "one side only"},
		{"absent", fleet.NewAggregate(), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "no measurements"},
		{"no comparison at all", traffic(t, 2, seconds, 5, 0.2, nil), nil, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "to compare with"},
		{"more failures hold", traffic(t, 2, seconds, 5, 0.2, failures(0.05)), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, false, "failed requests"},
		{"many failures are hard", traffic(t, 2, seconds, 5, 0.2, failures(0.4)), even, nil, seconds, commandv1.Outcome_OUTCOME_INCONCLUSIVE, true, "failed requests"},
		{"against the baseline", traffic(t, 2, seconds, 5, 0.2, nil), nil, summarise(even), seconds, commandv1.Outcome_OUTCOME_PASS, false, "baseline"},
		{"worse than the baseline", traffic(t, 2, seconds, 5, 0.34, nil), nil, summarise(even), seconds, commandv1.Outcome_OUTCOME_FAIL, false, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := NonInferiority{}.Judge(Case{
				Policy: policy, From: t0, To: t0.Add(time.Duration(c.seconds) * time.Second),
				Canary: c.canary, Control: c.control, Baseline: c.baseline,
			})
			if j.Outcome != c.want || j.Hard != c.hard || !strings.Contains(j.Summary, c.words) {
				t.Errorf("%s, hard %v, %q", j.Outcome, j.Hard, j.Summary)
			}
		})
	}
}

// paced gives every request a pace beside its latency.
func paced(t testing.TB, tpot float64) func(w *fleet.Window) {
	return func(w *fleet.Window) {
		for _, m := range []string{fleet.TPOT, fleet.ITL} {
			sketch := newSketch()
			if err := sketch.AddN(tpot, w.Counters[fleet.RequestsFinished]); err != nil {
				t.Fatal(err)
			}
			w.Sketches[m], w.Origin[m] = sketch, fleet.SourceEngine
		}
	}
}

// A larger batch slows each stream: harm only where an objective says so, or requests do not end
// sooner for it.
func TestSlowerPace(t *testing.T) {
	const seconds = 130
	before := traffic(t, 1, seconds, 5, 10, paced(t, 0.01))
	for name, c := range map[string]struct {
		e2e, tpot, objective float64
		hard                 bool
		want                 commandv1.Outcome
	}{
		"requests end sooner":             {e2e: 3, tpot: 0.023, want: commandv1.Outcome_OUTCOME_PASS},
		"they do not":                     {e2e: 10, tpot: 0.023, hard: true},
		"they hardly do":                  {e2e: 9.9, tpot: 0.023, hard: true},
		"the objective allows it":         {e2e: 10, tpot: 0.023, objective: 0.03, want: commandv1.Outcome_OUTCOME_PASS},
		"the objective forbids it":        {e2e: 3, tpot: 0.023, objective: 0.015, hard: true},
		"the objective forbids it barely": {e2e: 3, tpot: 0.016, objective: 0.015, want: commandv1.Outcome_OUTCOME_FAIL},
	} {
		t.Run(name, func(t *testing.T) {
			policy := fsm.DefaultPolicy()
			policy.Objectives = &commandv1.Objectives{TpotSeconds: c.objective}
			after := traffic(t, 2, seconds, 5, c.e2e, paced(t, c.tpot))
			for against, k := range map[string]Case{
				"controls": {Control: before}, "baseline": {Baseline: summarise(before)},
			} {
				k.Policy, k.From, k.To, k.Canary = policy, t0, t0.Add(seconds*time.Second), after
				if j := (NonInferiority{}).Judge(k); j.Hard != c.hard || !c.hard && j.Outcome != c.want {
					t.Errorf("against %s: %s, hard %v, %q", against, j.Outcome, j.Hard, j.Summary)
				}
			}
		})
	}
}

// While nothing has ended yet, a slower pace alone is no regression.
func TestSlowerPaceBeforeAnythingEnds(t *testing.T) {
	noEnd := func(w *fleet.Window) {
		paced(t, 0.023)(w)
		delete(w.Sketches, fleet.E2E)
		delete(w.Sketches, fleet.TTFT)
	}
	j := NonInferiority{}.Judge(Case{
		Policy: fsm.DefaultPolicy(), From: t0, To: t0.Add(30 * time.Second),
		Canary: traffic(t, 2, 30, 5, 1, noEnd), Control: traffic(t, 1, 30, 5, 10, paced(t, 0.01)),
	})
	if j.Hard || j.Outcome != commandv1.Outcome_OUTCOME_INCONCLUSIVE {
		t.Errorf("%s, hard %v, %q", j.Outcome, j.Hard, j.Summary)
	}
}
