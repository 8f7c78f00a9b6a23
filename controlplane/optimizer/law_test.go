package optimizer

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/workload"
)

// TestUnknownHardware predicts an engine that no table knows from telemetry at two sequences, and
// then lets that engine run the proposal under the same senders.
func TestUnknownHardware(t *testing.T) {
	spec := workload.Spec{Arrivals: workload.Arrivals{Rate: 100}, Prompt: workload.Fixed(120), Output: workload.Fixed(64), Count: 1500}
	trace, err := workload.Generate(spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	for name, hidden := range map[string]law{
		"much of a step is fixed": {step: 0.009, sequence: 0.0005, token: 0.00008},
		"sequences cost more":     {step: 0.006, sequence: 0.0015, token: 0.0003},
		"a fast machine":          {step: 0.004, sequence: 0.0001, token: 0.00003},
	} {
		t.Run(name, func(t *testing.T) {
			u := truth{t: t, law: hidden, clients: 32 * replicas}
			elapsed := u.run(2, 2048, trace, nil).Elapsed
			seconds := int(elapsed.Seconds()) + 1
			m := fleetOn(t, "a machine of one's own", map[string]string{"max_num_seqs": "2", "max_num_batched_tokens": "2048"})
			v := service(t, m, u.windows(2, 2048, trace, seconds, now), now)
			r, err := v.Recommend(context.Background(), "chat", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range r.GetEvidence() {
				t.Log(e)
			}
			if r.GetStatus() != "open" {
				t.Fatalf("no proposal: %s", r.GetTitle())
			}
			s := &Scene{Description: description(), Incumbent: r.GetSettings()}
			seqs := int(s.number("max_num_seqs", 0))
			if seqs < 8 || seqs > reach*2 {
				t.Errorf("proposal %s: want more sequences, within reach", r.GetTitle())
			}
			got := u.run(seqs, 2048, trace, nil).Summary
			for name, obtained := range map[string]float64{"throughput_tokens": got.OutputTokenRate, "e2e_p50": got.E2E.P50.Seconds(), "tpot_p50": got.TPOT.P50.Seconds()} {
				p := r.GetPredicted()[name]
				t.Logf("%s: predicted %.3g (%.3g … %.3g), obtained %.3g", name, p.GetValue(), p.GetLow(), p.GetHigh(), obtained)
				if obtained < p.GetLow() || obtained > p.GetHigh() {
					t.Errorf("%s: obtained %.3g is outside of %.3g … %.3g", name, obtained, p.GetLow(), p.GetHigh())
				}
			}
		})
	}
}

// TestUnknownHardwareTinyBudget: where a prompt takes many steps, its time tells little of a token's
// cost; that must not hide what larger steps gain.
func TestUnknownHardwareTinyBudget(t *testing.T) {
	spec := workload.Spec{Arrivals: workload.Arrivals{Rate: 100}, Prompt: workload.Fixed(430), Output: workload.Fixed(16), Count: 1500}
	trace, err := workload.Generate(spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	u := truth{t: t, law: law{step: 0.008, sequence: 0.0005, token: 0.00012}, clients: 32 * replicas}
	seconds := int(u.run(16, 16, trace, nil).Elapsed.Seconds()) + 1
	m := fleetOn(t, "a machine of one's own", map[string]string{"max_num_seqs": "16", "max_num_batched_tokens": "16"})
	v := service(t, m, u.windows(16, 16, trace, seconds, now), now)
	r, err := v.Recommend(context.Background(), "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.GetStatus() != "open" || r.GetFinding().GetClass() != "prefill_bound" {
		t.Fatalf("%s, %s: %s; want an open proposal for a prefill bound", r.GetStatus(), r.GetFinding().GetClass(), r.GetTitle())
	}
	s := &Scene{Description: description(), Incumbent: r.GetSettings()}
	budget, seqs := int(s.number("max_num_batched_tokens", 0)), int(s.number("max_num_seqs", 0))
	if budget < 64 || budget > reach*16 {
		t.Errorf("%s: want more tokens in a step, within reach", r.GetTitle())
	}
	got, p := u.run(seqs, budget, trace, nil).Summary.OutputTokenRate, r.GetPredicted()["throughput_tokens"]
	t.Logf("%s: predicted %.3g (%.3g … %.3g) tok/s, obtained %.3g", r.GetTitle(), p.GetValue(), p.GetLow(), p.GetHigh(), got)
	if got < p.GetLow() || got > p.GetHigh() {
		t.Errorf("throughput %.3g is outside of %.3g … %.3g", got, p.GetLow(), p.GetHigh())
	}
}

// TestPrefillMisfit: one step where no budget is known, several below one, no complaint at the truth.
func TestPrefillMisfit(t *testing.T) {
	l := law{step: 0.01, sequence: 0.001, token: 0.0001}
	for _, c := range []struct {
		budget, steps float64
	}{{math.Inf(1), 1}, {2048, 1}, {51, 2}, {11, 10}} {
		p := prefill{sequences: 1, prompt: 100, budget: c.budget}
		if got := p.steps(); got != c.steps {
			t.Errorf("budget %g: %g steps, want %g", c.budget, got, c.steps)
		}
		p.seconds = c.steps*(l.step+l.sequence) + 100*l.token
		if e := p.misfit(l); !(e < 1e-9) {
			t.Errorf("budget %g: misfit %g of the true law", c.budget, e)
		}
	}
}

func TestLawMaxRate(t *testing.T) {
	l := law{step: 0.01, sequence: 0.001, token: 0.0001}
	tr := traffic{prompt: 100, output: 50}
	// 10 sequences with 20 prompt tokens a step: 22 ms, a fifth of a request each.
	if got, want := l.maxRate(10, math.Inf(1), tr), 0.2/0.022; math.Abs(got-want) > 1e-9 {
		t.Errorf("rate %v, want %v", got, want)
	}
	// A budget of 15 leaves 5 prompt tokens a step.
	if got, want := l.maxRate(10, 15, tr), 0.05/0.0205; math.Abs(got-want) > 1e-9 {
		t.Errorf("rate within the budget %v, want %v", got, want)
	}
}

func TestInterleave(t *testing.T) {
	for n := 1; n <= 9; n++ {
		laws := make([]law, n)
		for i := range laws {
			laws[i].step = float64(i)
		}
		seen := map[law]bool{}
		for _, l := range interleave(laws) {
			seen[l] = true
		}
		if len(seen) != n {
			t.Errorf("%d of %d draws are left", len(seen), n)
		}
	}
}
