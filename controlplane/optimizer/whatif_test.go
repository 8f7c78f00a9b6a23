package optimizer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

func oracle(t *testing.T) *Service {
	t.Helper()
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{}, fsm.New(), static(nil), tables)
}

// TestSimulateDescribed: without a live group, model and hardware and traffic suffice; more of what limits
// gives more, and what cannot be met is said.
func TestSimulateDescribed(t *testing.T) {
	v := oracle(t)
	ask := func(change func(*Question)) *Simulation {
		t.Helper()
		q := Question{
			Model: "llama-3.1-8b", Hardware: "h100-sxm", PromptTokens: 1000, OutputTokens: 200, RequestsPerSecond: 20,
			Settings: map[string]string{"max_num_seqs": "64"}, Objectives: &commandv1.Objectives{TtftSeconds: 0.5},
		}
		if change != nil {
			change(&q)
		}
		s, err := v.Simulate(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	began := time.Now()
	base := ask(nil)
	t.Logf("answered in %v: %.1f req/s (%.1f to %.1f), %.0f users, %d replicas, because %s", time.Since(began).Round(time.Millisecond),
		base.Capacity.RequestsPerSecond.GetValue(), base.Capacity.RequestsPerSecond.GetLow(), base.Capacity.RequestsPerSecond.GetHigh(), base.Capacity.Users.GetValue(), base.Capacity.ReplicasNeeded, base.Capacity.Why)
	c := base.Capacity
	if !(c.RequestsPerSecond.GetLow() > 0 && c.RequestsPerSecond.GetLow() < c.RequestsPerSecond.GetValue() && c.RequestsPerSecond.GetValue() < c.RequestsPerSecond.GetHigh()) || c.Users.GetValue() < 1 || c.ReplicasNeeded < 1 || c.Why == "" {
		t.Errorf("capacity %+v", c)
	}
	// Latency grows with load, and the curve holds the asked rate.
	asked := false
	for i, p := range base.Curve {
		asked = asked || p.RequestsPerSecond == 20
		if i > 0 && p.Predicted["ttft_p95"].GetValue() < 0.8*base.Curve[i-1].Predicted["ttft_p95"].GetValue() {
			t.Errorf("TTFT p95 falls from %v to %v as load rises to %.1f", base.Curve[i-1].Predicted["ttft_p95"].GetValue(), p.Predicted["ttft_p95"].GetValue(), p.RequestsPerSecond)
		}
	}
	first, last := base.Curve[0], base.Curve[len(base.Curve)-1]
	if !asked || !first.Meets || last.Meets || last.RequestsPerSecond <= c.RequestsPerSecond.GetValue() {
		t.Errorf("curve from %+v to %+v, asked rate in it: %v", first, last, asked)
	}
	best := 0
	for i, p := range base.Pareto {
		if p.Best {
			best++
		}
		if i > 0 && p.TokensPerSecondPerUser > 1.05*base.Pareto[i-1].TokensPerSecondPerUser {
			t.Errorf("more users give each of them more: %+v", p)
		}
	}
	if best < 3 {
		t.Errorf("front %+v", base.Pareto)
	}

	double := ask(func(q *Question) { q.Replicas = 2 }).Capacity.RequestsPerSecond.GetValue()
	if r := double / c.RequestsPerSecond.GetValue(); r < 1.9 || r > 2.1 {
		t.Errorf("two replicas carry %.2f times as much", r)
	}
	if small := ask(func(q *Question) { q.Settings["max_num_seqs"] = "4" }).Capacity; small.RequestsPerSecond.GetValue() > 0.6*c.RequestsPerSecond.GetValue() || small.ReplicasNeeded <= c.ReplicasNeeded {
		t.Errorf("with four sequences %.1f req/s fit, with 64 %.1f", small.RequestsPerSecond.GetValue(), c.RequestsPerSecond.GetValue())
	}
	if free := ask(func(q *Question) { q.Objectives = nil }).Capacity; free.RequestsPerSecond.GetValue() < c.RequestsPerSecond.GetValue() || !strings.Contains(free.Why, "no objective") {
		t.Errorf("without objectives %.1f req/s, with one %.1f: %s", free.RequestsPerSecond.GetValue(), c.RequestsPerSecond.GetValue(), free.Why)
	}
	if none := ask(func(q *Question) { q.Objectives = &commandv1.Objectives{TpotSeconds: 1e-6} }).Capacity; none.RequestsPerSecond.GetValue() != 0 || none.ReplicasNeeded != 0 || !strings.Contains(none.Why, "nothing fits") {
		t.Errorf("an objective that nothing meets: %+v", none)
	}
	if unknown := ask(func(q *Question) { q.Hardware = "abacus" }); !strings.Contains(strings.Join(unknown.Notes, "\n"), "add a table entry") {
		t.Errorf("unknown hardware is not said: %v", unknown.Notes)
	}
}

func TestSimulateRefuses(t *testing.T) {
	v := oracle(t)
	for name, c := range map[string]struct {
		q    Question
		want error
		says string
	}{
		"nothing":          {Question{}, ErrQuestion, "name a group"},
		"no such group":    {Question{Group: "none"}, ErrUnknownGroup, "none"},
		"no such engine":   {Question{Model: "llama-3.1-8b", Hardware: "h100-sxm", Engine: "x"}, ErrQuestion, "vllm, sglang or tgi"},
		"no such setting":  {Question{Model: "llama-3.1-8b", Hardware: "h100-sxm", Settings: map[string]string{"warp": "9"}}, ErrQuestion, "no setting warp"},
		"does not fit":     {Question{Model: "llama-3.1-70b", Hardware: "l4", PromptTokens: 100, OutputTokens: 10}, ErrQuestion, ""},
		"context too long": {Question{Model: "llama-3.1-8b", Hardware: "h100-sxm", PromptTokens: 5e6, OutputTokens: 10}, ErrQuestion, "KV cache"},
	} {
		if _, err := v.Simulate(t.Context(), c.q); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSimulateEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := oracle(t).Simulate(ctx, Question{Model: "llama-3.1-8b", Hardware: "h100-sxm"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
