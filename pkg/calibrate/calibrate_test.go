package calibrate

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// TestTransfer calibrates on 75 requests at four sequences and predicts other limits and loads of
// engines that it was told nothing of.
func TestTransfer(t *testing.T) {
	for name, h := range engines {
		t.Run(name, func(t *testing.T) {
			live := serve(t, config(4), h, outside, traffic(t, 0.03/h.StepSeconds(des.StepShape{}), 75, 1))
			c, err := FromRequests(config(4), live)
			if err != nil {
				t.Fatal(err)
			}
			var covered, all int
			for _, seqs := range []int{2, 8, 16} {
				for _, load := range []float64{0.01, 0.03, 0.05} {
					trace := traffic(t, load/h.StepSeconds(des.StepShape{}), 60, uint64(seqs))
					seen := Observed(serve(t, config(seqs), h, outside, trace))
					p, err := c.Predict(config(seqs), trace, 3)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range []struct {
						what string
						p    Estimate
						seen float64
						off  float64
					}{
						{"TPOT", p.TPOTMean, seen.TPOTMean, .06},
						{"E2E", p.E2EMean, seen.E2EMean, .15},
						{"TTFT", p.TTFTMean, seen.TTFTMean, .30},
					} {
						all++
						if f.p.Covers(f.seen) {
							covered++
						}
						if e := f.p.Value/f.seen - 1; math.Abs(e) > f.off {
							t.Errorf("%d sequences, load %.2f: %s predicted %.1f ms, seen %.1f ms (%+.0f %%)", seqs, load, f.what, 1e3*f.p.Value, 1e3*f.seen, 100*e)
						}
					}
				}
			}
			t.Logf("%d of %d intervals cover", covered, all)
			if covered < all*7/10 {
				t.Errorf("%d of %d intervals of 90 %% cover what was seen", covered, all)
			}
		})
	}
}

// TestDrawsWidenBeyondWhatWasSeen: an interval at sixteen times the sequences is wider than one at the
// calibrated limit.
func TestDrawsWidenBeyondWhatWasSeen(t *testing.T) {
	h := engines["steps cost most"]
	c, err := FromRequests(config(4), serve(t, config(4), h, outside, traffic(t, 4, 75, 1)))
	if err != nil {
		t.Fatal(err)
	}
	width := func(seqs int) float64 {
		p, err := c.Predict(config(seqs), traffic(t, 30, 200, 5), 3)
		if err != nil {
			t.Fatal(err)
		}
		return (p.TPOTMean.High - p.TPOTMean.Low) / p.TPOTMean.Value
	}
	if near, far := width(4), width(64); far < 1.5*near {
		t.Errorf("relative width %.3f at 4 sequences, %.3f at 64; want it clearly wider", near, far)
	}
}

func TestTooLittle(t *testing.T) {
	h := engines["a fast one"]
	_, err := FromRequests(config(4), serve(t, config(4), h, outside, traffic(t, 4, 12, 1)))
	if !errors.Is(err, ErrTooLittle) {
		t.Errorf("twelve requests: error %v, want ErrTooLittle", err)
	}
}

// TestRecord: a calibration is a small record that predicts the same after a round trip.
func TestRecord(t *testing.T) {
	h := engines["prompts cost most"]
	c, err := FromRequests(config(4), serve(t, config(4), h, outside, traffic(t, 4, 75, 1)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 2048 {
		t.Errorf("the record has %d bytes, more than 2 KB", len(raw))
	}
	var back Calibration
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	trace := traffic(t, 5, 60, 2)
	a, errA := c.Predict(config(8), trace, 1)
	b, errB := back.Predict(config(8), trace, 1)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if a.E2EMean.Value != b.E2EMean.Value || math.Abs(a.E2EMean.High/b.E2EMean.High-1) > 0.01 {
		t.Errorf("predicted %+v, after the round trip %+v", a.E2EMean, b.E2EMean)
	}
	if err := json.Unmarshal([]byte(`{"precision":[1]}`), &back); err == nil {
		t.Error("a record with one number of precision was read")
	}
}

// TestPredictionsRepeat: equal seeds give equal predictions.
func TestPredictionsRepeat(t *testing.T) {
	h := engines["a fast one"]
	c, err := FromRequests(config(4), serve(t, config(4), h, outside, traffic(t, 4, 75, 1)))
	if err != nil {
		t.Fatal(err)
	}
	trace := traffic(t, 5, 60, 2)
	a, errA := c.Predict(config(8), trace, 1)
	b, errB := c.Predict(config(8), trace, 1)
	if err := errors.Join(errA, errB); err != nil || a.Figures != b.Figures {
		t.Errorf("%+v and %+v, %v", a.Figures, b.Figures, err)
	}
}
