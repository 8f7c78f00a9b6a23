package perfmodel

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestAllReduceLawsMatchThePublished compares the fitted laws with published latencies and bus
// bandwidths of NCCL on H100 and A100 servers.
func TestAllReduceLawsMatchThePublished(t *testing.T) {
	tables := builtin(t)
	for _, c := range []struct {
		gpu           string
		ranks         int
		latency, gbps float64 // seconds; 0: not published
	}{
		{"h100-sxm", 2, 24e-6, 305},
		{"h100-sxm", 4, 28e-6, 353},
		{"h100-sxm", 8, 35e-6, 366},
		{"a100-80-sxm", 2, 0, 177},
		{"a100-80-sxm", 4, 0, 177},
	} {
		law, err := tables.GPUs[c.gpu].AllReduceLaw(c.ranks)
		if err != nil {
			t.Fatal(err)
		}
		if law.Ranks != c.ranks || !near(law.BusBytesPerSec/1e9, c.gbps, .1) || c.latency > 0 && !near(law.LatencySeconds, c.latency, .2) {
			t.Errorf("%s, %d ranks: %+v, published %g s and %g GB/s", c.gpu, c.ranks, law, c.latency, c.gbps)
		}
		if law.MedianError > .1 {
			t.Errorf("%s, %d ranks: median error %.3f", c.gpu, c.ranks, law.MedianError)
		}
	}
	if h200, err := tables.GPUs["h200-sxm"].AllReduceLaw(3); err != nil || h200.Ranks != 4 {
		t.Errorf("three H200 go by four ranks of the same link, got %+v (%v)", h200, err)
	}
	if most, err := tables.GPUs["h100-sxm"].AllReduceLaw(16); err != nil || most.Ranks != 8 {
		t.Errorf("sixteen ranks go by the largest measured, got %+v (%v)", most, err)
	}
	if _, err := tables.GPUs["b200-sxm"].AllReduceLaw(8); !errors.Is(err, ErrNoLaw) {
		t.Errorf("no law of that link was measured, got %v", err)
	}
}

// TestFitAllReduceRecovers plants a law with outliers, which the fit must find again.
func TestFitAllReduceRecovers(t *testing.T) {
	truth := AllReduce{Ranks: 4, LatencySeconds: 20e-6, BusBytesPerSec: 300e9}
	var bytes, seconds []float64
	for i := range 200 {
		b := float64(2048 * (1 + i*i))
		s := truth.Seconds(b)
		if i%10 == 0 {
			s *= 3 // a stall
		}
		bytes, seconds = append(bytes, b), append(seconds, s)
	}
	got, err := FitAllReduce(4, bytes, seconds)
	if err != nil || !near(got.LatencySeconds, truth.LatencySeconds, .02) || !near(got.BusBytesPerSec, truth.BusBytesPerSec, .02) {
		t.Errorf("fitted %+v (%v), planted %+v", got, err, truth)
	}
	for _, ranks := range []int{0, 1} {
		if _, err := FitAllReduce(ranks, bytes, seconds); !errors.Is(err, ErrNoLaw) {
			t.Errorf("%d ranks: %v", ranks, err)
		}
	}
	if _, err := FitAllReduce(4, nil, nil); !errors.Is(err, ErrNoLaw) {
		t.Errorf("no measurements: %v", err)
	}
}

// TestAllReduceIsMonotone: a larger message never takes less time, across the change of kernel too.
func TestAllReduceIsMonotone(t *testing.T) {
	for _, gpu := range []string{"h100-sxm", "a100-80-sxm", "b200-sxm", "l40s"} {
		p := predictor(t, "llama-3.1-8b", gpu, func(s *Setup) { s.Layout.TP = 4 })
		rapid.Check(t, func(t *rapid.T) {
			a, b := rapid.Float64Range(1, 1e9).Draw(t, "a"), rapid.Float64Range(1, 1e9).Draw(t, "b")
			if p.allReduceSeconds(min(a, b)) > p.allReduceSeconds(max(a, b)) {
				t.Fatalf("%s: %g bytes take longer than %g", gpu, min(a, b), max(a, b))
			}
		})
		if below, above := p.allReduceSeconds(customBytes), p.allReduceSeconds(customBytes+1); above < below || above > 10*below {
			t.Errorf("%s: %g s at the change of kernel, %g s after it", gpu, below, above)
		}
	}
}

// TestLeastRelativeRecovers plants coefficients, one of them zero, and noise of both signs.
func TestLeastRelativeRecovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := []float64{rapid.Float64Range(.1, 10).Draw(t, "a"), 0, rapid.Float64Range(.1, 10).Draw(t, "c")}
		var rows [][]float64
		var y []float64
		for i := range 120 {
			x := []float64{1 + float64(i%7), float64(i % 5), .2 + float64(i%11)}
			noise := 1 + .01*math.Sin(float64(i))
			rows, y = append(rows, x), append(y, dot(x, truth)*noise)
		}
		got := LeastRelative(rows, y, []float64{1, 1, 1}, 0)
		for i := range truth {
			if math.Abs(got[i]-truth[i]) > .03*(truth[0]+truth[2]) || got[i] < 0 {
				t.Fatalf("fitted %v, planted %v", got, truth)
			}
		}
	})
	if got := LeastRelative(nil, nil, []float64{3}, 1); got[0] != 3 {
		t.Errorf("without observations the start stays, got %v", got)
	}
}
