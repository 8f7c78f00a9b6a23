package canarysim

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/stats/canary"
)

// Whole rollouts on drifting replicas: what changes nothing is not taken back, what doubles latency is,
// and nothing harmful gets through.
func TestWholeRollouts(t *testing.T) {
	for _, p := range Plans {
		runs := 80 / p.Replicas
		outcomes := func(factor float64, deadline int) (n [canary.Fail + 1]int) {
			ended, err := RunWhole(scenario(t, "B"), p, factor, deadline, runs, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range ended {
				n[e.Outcome]++
			}
			return n
		}
		if n := outcomes(1, 600); n[canary.Fail] > 0 || n[canary.Pass] == 0 {
			t.Errorf("%d replicas, nothing changed: failed, passed %d, %d of %d", p.Replicas, n[canary.Fail], n[canary.Pass], runs)
		}
		if n := outcomes(2, 120); n[canary.Pass] > 0 || n[canary.Fail]+n[canary.Invalid] < runs {
			t.Errorf("%d replicas at twice the latency: %v of %d", p.Replicas, n, runs)
		}
	}
}
