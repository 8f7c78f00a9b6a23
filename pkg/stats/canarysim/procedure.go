package canarysim

import (
	"errors"

	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/stats/canary"
)

// Plan of a whole rollout: how many replicas are changed in each wave that has controls. The last wave of
// a rollout, which changes all, has none and is not simulated.
type Plan struct {
	Replicas int
	Waves    []int
}

// Plans of groups of four and of sixteen replicas, at steps of 5, 25 and 50 %.
var Plans = []Plan{{Replicas: 4, Waves: []int{1, 2}}, {Replicas: 16, Waves: []int{2, 4, 8}}}

// Ended tells how a rollout ended.
type Ended struct {
	Outcome canary.Outcome // of the wave that ended it: Pass, Fail, Hold, Invalid, or Inconclusive at the deadline
	Wave    int            // from 0
	Seconds int            // into that wave
	Unequal bool           // placebo ratios forbade the comparison
	Why     string
}

// Whole simulates a rollout from its first wave: ten minutes before the change, then every test of the
// judge at every tick until it decides, or until the deadline after so many seconds in one wave. A change
// of factor 1 changes nothing.
func Whole(s Scenario, p Plan, factor float64, deadline int, seed uint64) (Ended, error) {
	s.Controls = p.Replicas
	s.Canaries = 0
	f := New(s, seed)
	end := Ended{Outcome: canary.Pass}
	for i, canaries := range p.Waves {
		f.Canaries, f.Controls = canaries, p.Replicas-canaries
		end.Wave = i
		wave := &wave{fleet: f}
		if err := wave.prepare(); err != nil {
			if errors.Is(err, canary.ErrUnequal) {
				return Ended{Outcome: canary.Invalid, Wave: i, Unequal: true, Why: err.Error()}, nil
			}
			return end, err
		}
		f.Regress(factor)
		for at := tick; ; at += tick {
			w, err := wave.window()
			if err != nil {
				return end, err
			}
			wave.judge.Observe(w)
			v := wave.judge.Verdict()
			end.Outcome, end.Seconds, end.Why = v.Outcome, at, v.Summary
			if v.Outcome == canary.Pass {
				break
			}
			// A hold lasts while more windows come; the deadline ends it.
			if v.Outcome == canary.Fail || at >= deadline {
				return end, nil
			}
		}
		f.Regress(1) // the next wave compares a fresh change with the time before it
	}
	return end, nil
}

// RunWhole simulates whole rollouts on all processors. Equal seeds give equal answers.
func RunWhole(s Scenario, p Plan, factor float64, deadline, runs int, seed uint64) ([]Ended, error) {
	return each(runs, seed, func(seed uint64) (Ended, error) { return Whole(s, p, factor, deadline, seed) })
}

// wave is one wave of a simulated rollout.
type wave struct {
	fleet *Fleet
	judge *canary.Judge
}

// window lets a tick pass.
func (w *wave) window() (canary.Window, error) {
	arms, _, err := w.second()
	return arms, err
}

// replica is what one replica served, by latency.
type replica [2]*stats.Sketch

// second lets a tick pass and also returns what each replica served.
func (w *wave) second() (canary.Window, []replica, error) {
	arms := [2]canary.Arm{}
	for i := range arms {
		arms[i] = canary.Arm{Latencies: []*stats.Sketch{stats.NewSketch(), stats.NewSketch()}, Events: []float64{0, 0}}
	}
	replicas := make([]replica, w.fleet.Canaries+w.fleet.Controls)
	for i := range replicas {
		replicas[i] = replica{stats.NewSketch(), stats.NewSketch()}
	}
	var errs []error
	for range tick {
		w.fleet.Second(func(number int, ttft float64) {
			arm := &arms[0]
			if number >= w.fleet.Canaries {
				arm = &arms[1]
			}
			arm.Requests++
			if w.fleet.Failed() {
				arm.Events[0]++
				return
			}
			for i, v := range []float64{ttft, w.fleet.TPOT(number)} {
				errs = append(errs, arm.Latencies[i].Add(v), replicas[number][i].Add(v))
			}
			if ttft > timeout {
				arm.Events[1]++
			}
		})
	}
	share := float64(w.fleet.Canaries) / float64(len(replicas))
	return canary.Window{Canary: arms[0], Control: arms[1], Share: share}, replicas, errors.Join(errs...)
}

const timeout = 10 // seconds to the first token that a client waits

// prepare watches the ten minutes before the change, sets thresholds and margins, and makes the judge.
func (w *wave) prepare() error {
	windows := make([]canary.Window, 0, FullBefore)
	var spans [2][][]*stats.Sketch // by latency
	for n := range FullBefore {
		arms, replicas, err := w.second()
		if err != nil {
			return err
		}
		windows = append(windows, arms)
		for i := range spans {
			if n%placeboTicks == 0 {
				spans[i] = append(spans[i], make([]*stats.Sketch, len(replicas)))
			}
			for k, s := range spans[i][len(spans[i])-1] {
				if s == nil {
					spans[i][len(spans[i])-1][k] = replicas[k][i]
				} else if err := s.Merge(replicas[k][i]); err != nil {
					return err
				}
			}
		}
	}
	cfg, err := w.config(windows, spans)
	if err != nil {
		return err
	}
	if w.judge, err = canary.New(cfg); err != nil {
		return err
	}
	for _, before := range windows {
		w.judge.Before(before)
	}
	return nil
}

func (w *wave) config(windows []canary.Window, spans [2][][]*stats.Sketch) (canary.Config, error) {
	latencies := []canary.Latency{{Name: "TTFT"}, {Name: "TPOT"}}
	for i := range latencies {
		all := stats.NewSketch()
		for _, b := range windows {
			for _, arm := range []canary.Arm{b.Canary, b.Control} {
				if err := all.Merge(arm.Latencies[i]); err != nil {
					return canary.Config{}, err
				}
			}
		}
		latencies[i].Threshold = all.Quantile(.95)
		margins, err := canary.Placebo(spans[i], latencies[i].Threshold, canary.Margins{Quantile: 1.25, Events: 2})
		if err != nil {
			return canary.Config{}, err
		}
		latencies[i].Margins = margins
	}
	events := []canary.Event{{Name: "errors", Allowed: .01}, {Name: "timeouts", Allowed: .01}}
	cfg := canary.DefaultConfig(latencies, events, w.fleet.Canaries)
	cfg.BlockWindows = 1
	return cfg, nil
}
