package calibrate

import (
	"math"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// unsettled is an engine whose steps take longer for a while after a prompt.
type unsettled struct {
	hidden
	extra, left float64
}

// StepSeconds implements des.Cost.
func (u *unsettled) StepSeconds(s des.StepShape) float64 {
	t := u.hidden.StepSeconds(s)
	if len(s.Chunks) > 0 {
		u.left = u.extra
		return t
	}
	t += u.left
	u.left *= .8
	return t
}

// TestStepsAfterPrompts: what prompts leave behind is not taken for a cost of the sequences that come
// with them. Without the term, crowds are foreseen 20 % too slow.
func TestStepsAfterPrompts(t *testing.T) {
	cost := func() des.Cost {
		return &unsettled{hidden: hidden{step: .008, sequence: .0001, token: .0001, context: .0002}, extra: .003}
	}
	c, err := FromRequests(config(4), serve(t, config(4), cost(), outside, traffic(t, 4, 75, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for name, trace := range map[string]struct{ rate, prompt, output float64 }{"crowd": {40, 100, 64}, "short answers": {3, 100, 12}} {
		t.Run(name, func(t *testing.T) {
			requests := lengths(t, trace.rate, 120, 9, trace.prompt, trace.output)
			seen := Observed(serve(t, config(32), cost(), outside, requests))
			p, err := c.Predict(config(32), requests, 3)
			if err != nil {
				t.Fatal(err)
			}
			within(t, p, seen, map[string]float64{"TTFT": .06, "TPOT": .04, "E2E": .04})
		})
	}
}

// wandering is an engine on a machine that is slower in some seconds than in others.
type wandering struct {
	hidden
	busy float64
}

// StepSeconds implements des.Cost.
func (w *wandering) StepSeconds(s des.StepShape) float64 {
	t := w.hidden.StepSeconds(s) * (1 + .12*math.Sin(w.busy))
	w.busy += t
	return t
}

// TestMachineWanders: a machine that was slow while many decoded together does not make a sequence
// dear. Several draws of the traffic put the slow seconds on crowds or beside them.
func TestMachineWanders(t *testing.T) {
	h := hidden{step: .014, sequence: .0005, token: .00018, context: .0025}
	var missed []float64
	for seed := range uint64(8) {
		live := serve(t, config(4), &wandering{hidden: h}, outside, traffic(t, 2, 75, seed))
		c, err := FromRequests(config(4), live)
		if err != nil {
			t.Fatal(err)
		}
		if c.post.drift < .03 {
			t.Errorf("seed %d: the machine wandered by 8 %% (standard deviation), found %.1f", seed, 100*c.post.drift)
		}
		at16 := des.StepShape{Decoding: 16, ContextTokens: 3200}
		missed = append(missed, math.Abs(c.Law().Cost().StepSeconds(at16)/h.StepSeconds(at16)-1))
	}
	if m := median(missed); m > .06 {
		t.Errorf("a step of sixteen is off by %.1f %% in the median", 100*m)
	}
}

// TestShownLate: an engine that shows tokens a step late is recognised, and predicted.
func TestShownLate(t *testing.T) {
	sglang := func(seqs int) des.Config {
		cfg := config(seqs)
		cfg.Dialect, cfg.BlockSize, cfg.AsyncScheduling = des.SGLang, 1, true
		return cfg
	}
	h := hidden{step: .014, sequence: .0005, token: .00018, context: .0025}
	for _, late := range []bool{false, true} {
		c, err := FromRequests(sglang(4), serveLate(t, sglang(4), h, outside, traffic(t, 2, 75, 1), late))
		if err != nil {
			t.Fatal(err)
		}
		if c.lagged != late {
			t.Errorf("shown late: %v, found %v", late, c.lagged)
		}
		requests := traffic(t, 5, 100, 2)
		seen := Observed(serveLate(t, sglang(16), h, outside, requests, late))
		p, err := c.Predict(sglang(16), requests, 3)
		if err != nil {
			t.Fatal(err)
		}
		within(t, p, seen, map[string]float64{"TTFT": .06, "TPOT": .04, "E2E": .04})
	}
}
