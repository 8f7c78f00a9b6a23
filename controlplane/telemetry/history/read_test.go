package history

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
)

// TestSteps: what was recorded comes back by step, engines merged, gaps as gaps.
func TestSteps(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 600, .2)
	r.add(t, "f", 0, 300, .8)
	r.until(620)
	from := noon.Add(time.Minute)
	steps, err := r.Steps([]string{"e", "f"}, []string{fleet.TTFT, fleet.RequestsFinished, fleet.RequestsRunning}, from, noon.Add(12*time.Minute), time.Minute)
	if err != nil || len(steps) != 11 {
		t.Fatalf("%d steps, %v", len(steps), err)
	}
	for i, a := range steps {
		engines := 2. // e and f for four minutes, e for five more, then nobody
		if i >= 4 {
			engines = 1
		}
		if i >= 9 {
			engines = 0
		}
		if n := a.Counters[fleet.RequestsFinished]; n != 120*engines {
			t.Errorf("step %d: %v finished, want %v", i, n, 120*engines)
		}
		if n := a.Count(fleet.TTFT); math.Abs(n-120*engines) > 1e-6 || a.Windows != int(60*engines) {
			t.Errorf("step %d: %v latencies in %d engine-seconds", i, n, a.Windows)
		}
		if engines == 0 {
			continue
		}
		want := .2
		if engines == 2 {
			want = .8
		}
		if q := a.Quantile(fleet.TTFT, .9); math.Abs(q/want-1) > .03 {
			t.Errorf("step %d: p90 %v, want %v", i, q, want)
		}
		if g := a.Gauges[fleet.RequestsRunning]; math.Abs(g.Mean()-4.5) > 1e-9 || a.SourceOf(fleet.TTFT) != fleet.SourceProbe {
			t.Errorf("step %d: running %v from %s", i, g.Mean(), a.SourceOf(fleet.TTFT))
		}
		if len(a.Counters) != 1 || !a.From.Equal(from.Add(time.Duration(i)*time.Minute)) {
			t.Errorf("step %d: counters %v from %v", i, a.Counters, a.From)
		}
	}
	whole, err := r.Head.Aggregate([]string{"f"}, noon.Add(10*time.Second), noon.Add(10*time.Minute))
	if err != nil || whole.Counters[fleet.RequestsFinished] != 2*290 || whole.Instances["f"] != 290 || math.Abs(whole.Sketches[fleet.TTFT].Sum()-.8*2*290) > 1e-6 {
		t.Errorf("whole span: %+v, %v", whole, err)
	}
}

// TestStepsAcrossReset: a total that begins anew counts from zero.
func TestStepsAcrossReset(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 100, .2)
	r.until(120)
	info, _ := series.Find(fleet.RequestsFinished)
	if err := r.Append(seriesLabels(info, "e", Identity{"g", "m"}, ""), series.Counter, noon.Add(130*time.Second), 7); err != nil {
		t.Fatal(err)
	}
	a, err := r.Head.Aggregate([]string{"e"}, noon.Add(50*time.Second), noon.Add(140*time.Second))
	if err != nil || a.Counters[fleet.RequestsFinished] != 100+7 {
		t.Errorf("%v finished, %v; want 107", a.Counters[fleet.RequestsFinished], err)
	}
}

func TestStepsRefused(t *testing.T) {
	h := New(Config{})
	for name, c := range map[string]struct{ span, step time.Duration }{
		"too short": {time.Hour, time.Second}, "too many": {48 * time.Hour, 10 * time.Second}, "nothing": {0, time.Minute},
	} {
		if _, err := h.Steps(nil, nil, noon, noon.Add(c.span), c.step); !errors.Is(err, ErrStep) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
