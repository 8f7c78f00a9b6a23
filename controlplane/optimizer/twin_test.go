package optimizer

import (
	"math"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// TestTwin: live traffic is what the engines get, and a model of them replays plans: the same for the same
// draw, quicker with room for more sequences, open and closed.
func TestTwin(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	u := truth{t: t, tables: tables, hidden: des.Hidden(1, perfmodel.Prior())}
	v := service(t, fleetOf(t, map[string]string{"max_num_seqs": "8", "max_num_batched_tokens": "2048"}), u.windows(8, 2048, traceOf(t, 5), 60, now), now)
	live, err := v.Live(t.Context(), "chat")
	if err != nil || live.Rate < 5./replicas/2 || live.Rate > 5./replicas*2 || math.Abs(live.Output.Mean()/210-1) > .5 {
		t.Fatalf("live: %.2f a second, answers of %.0f tokens, %v", live.Rate, live.Output.Mean(), err)
	}
	if _, err := v.Live(t.Context(), "nobody"); err == nil {
		t.Error("an unknown group has traffic")
	}
	p := load.Plan{Arrivals: load.Poisson, Rate: 20, Prompt: workload.Fixed(300), Output: workload.Fixed(60), WarmUp: 2, Duration: 20, Seed: 3}
	replay := func(p load.Plan, settings map[string]string, draw int) *load.Report {
		t.Helper()
		r, err := v.Replay(t.Context(), "chat", settings, p, draw)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	now8, again, other := replay(p, nil, 0), replay(p, nil, 0), replay(p, nil, 1)
	if !now8.Engine.Twin || now8.LeftOut == 0 || now8.Summary.Requests < 300 || now8.Summary.E2E != again.Summary.E2E || now8.Summary.E2E == other.Summary.E2E {
		t.Errorf("%+v, again %v, another draw %v", now8.Summary, again.Summary.E2E, other.Summary.E2E)
	}
	if more := replay(p, map[string]string{"max_num_seqs": "128"}, 0); more.Summary.E2E.Mean > .8*now8.Summary.E2E.Mean {
		t.Errorf("mean E2E %.2f s with 128 sequences, %.2f s with 8", more.Summary.E2E.Mean, now8.Summary.E2E.Mean)
	}
	closed := p
	closed.Arrivals, closed.Concurrency = load.Closed, 4
	if r := replay(closed, nil, 0); r.Summary.PeakInFlight > 4 || r.Summary.Requests < 20 || r.Summary.Failed > 0 {
		t.Errorf("closed: %+v", r.Summary)
	}
	if _, err := v.Replay(t.Context(), "chat", map[string]string{"no_such": "1"}, p, 0); err == nil {
		t.Error("an unknown setting is replayed")
	}
}
