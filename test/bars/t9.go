package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
	"github.com/optiinfra/performance-agent/pkg/stats/canarysim"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

const (
	t9Runs  = 4000
	t9Seed  = 1
	t9Table = 1000 // rollouts of each cell of the tables
)

// t9Case is a step from a known rate of violations to a higher one.
type t9Case struct {
	name             string
	from, to, alpha  float64
	requests, rate   float64 // target in requests, and requests per second of the canary
	horizon, seconds int     // requests after which the test gives up; target in seconds, 0 for none
}

var t9Cases = []t9Case{
	{name: "step1to5", from: .01, to: .05, alpha: .01, requests: 131, rate: 5, horizon: 400, seconds: 30},
	{name: "step1to5strict", from: .01, to: .05, alpha: 2.1e-4, requests: 247, rate: 8.3, horizon: 600, seconds: 30},
	{name: "step1to20", from: .01, to: .2, alpha: .01, requests: 15, rate: 5, horizon: 400},
}

// canaryBar prints false alarms of the whole procedure, how many requests steps of violations take to be
// found, and the tables of the design.
func canaryBar(_ context.Context, _ string, out io.Writer) error {
	ended, err := canarysim.RunWhole(canarysim.Scenarios[1], canarysim.Plans[1], 1, r9Deadline, t9Table, t9Seed)
	if err != nil {
		return err
	}
	_, failed := r9Procedure(canarysim.Plans[1], ended)
	fmt.Fprintf(out, "BAR T9 value=%s unit=percent target<=1 simulated=true of=false_rollbacks replicas=%d rollouts=%d seed=%d %s\n",
		percentOf(failed, len(ended)), canarysim.Plans[1].Replicas, len(ended), t9Seed, r9Interval(failed, len(ended)))
	for _, name := range []string{"azure_llm_2023_conv.csv", "mooncake_conversation.jsonl"} {
		trace, err := t9Trace(filepath.Join(dataFolder(), name))
		if err != nil {
			fmt.Fprintf(out, "BAR T9.%s skipped reason=%q\n", t9Short(name), err)
			continue
		}
		for _, c := range t9Cases {
			if err := c.print(out, t9Short(name), trace); err != nil {
				return err
			}
		}
	}
	if err := t9Tables(out); err != nil {
		return err
	}
	fmt.Fprintln(out, `BAR T9.cpu skipped reason="verdicts on real engines are not judged by these tests yet"`)
	return nil
}

func t9Short(name string) string {
	if name[0] == 'a' {
		return "conv"
	}
	return "mooncake"
}

func dataFolder() string {
	if d := os.Getenv("DATA"); d != "" {
		return d
	}
	return filepath.Join("..", "shared", "data")
}

func t9Trace(path string) ([]workload.Request, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s is absent", filepath.Base(path))
	}
	defer f.Close()
	if filepath.Ext(path) == ".csv" {
		return workload.ReadAzureCSV(f)
	}
	return workload.ReadMooncakeJSONL(f)
}

// print measures a case on a trace's arrivals and prints its lines.
func (c t9Case) print(out io.Writer, trace string, requests []workload.Request) error {
	wald, err := stats.WaldRequests(c.from, c.to, c.alpha, .95)
	if err != nil {
		return err
	}
	threshold, err := stats.RateThreshold(c.from, c.alpha, c.horizon)
	if err != nil {
		return err
	}
	span := requests[len(requests)-1].Offset.Seconds()
	scaled := workload.Scale(requests, c.rate*span/float64(len(requests)))
	rng := rand.New(rand.NewPCG(t9Seed, uint64(c.horizon)))
	found, wrong, taken, waited := 0, 0, 0.0, []float64{}
	for range t9Runs {
		start := rng.IntN(len(scaled) - c.horizon)
		n, ok, err := c.watch(rng, c.to, threshold)
		if err != nil {
			return err
		}
		taken += float64(n)
		if ok {
			found++
			waited = append(waited, (scaled[start+n-1].Offset - scaled[start].Offset).Seconds())
		}
		if _, alarm, err := c.watch(rng, c.from, threshold); err != nil {
			return err
		} else if alarm {
			wrong++
		}
	}
	slices.Sort(waited)
	fmt.Fprintf(out, "BAR T9.%s.%s value=%.1f unit=requests target<=%.0f wald=%.0f times_wald=%.2f alpha=%g power=%.3f false=%s runs=%d %s\n",
		trace, c.name, taken/t9Runs, c.requests, wald, taken/t9Runs/wald, c.alpha, float64(found)/t9Runs, percentOf(wrong, t9Runs), t9Runs, r9Interval(wrong, t9Runs))
	if c.seconds > 0 && len(waited) > 0 {
		mean := 0.0
		for _, w := range waited {
			mean += w / float64(len(waited))
		}
		fmt.Fprintf(out, "BAR T9.%s.%s.seconds value=%.1f unit=s target<%d of=mean median=%.1f p90=%.1f canary_requests_per_second=%g\n",
			trace, c.name, mean, c.seconds, orderStatistic(waited, .5), orderStatistic(waited, .9), c.rate)
	}
	return nil
}

// watch tests requests one by one, and returns how many it took and whether the step was found.
func (c t9Case) watch(rng *rand.Rand, rate float64, threshold stats.Evidence) (n int, found bool, err error) {
	test, err := stats.NewRateTest(c.from)
	if err != nil {
		return 0, false, err
	}
	for n = 1; n <= c.horizon; n++ {
		bad := 0.0
		if rng.Float64() < rate {
			bad = 1
		}
		if err := test.Add(bad, 1); err != nil {
			return 0, false, err
		}
		if test.Evidence() >= threshold {
			return n, true, nil
		}
	}
	return c.horizon, false, nil
}

// t9Target of false alarms, in per cent, by scenario: each fast test, and the slow one.
var t9Target = map[string][2]string{"A": {"0.2", "1"}, "B": {"1", "2"}, "C": {"0.2", "2"}, "E": {"0.2", "1"}}

// t9Tables prints the tables of the design: false alarms of each method, what passes, and how soon
// regressions are found.
func t9Tables(out io.Writer) error {
	for _, s := range canarysim.Scenarios {
		start := time.Now()
		cell, err := canarysim.Run(s, canarysim.Options{Factor: 1, Before: canarysim.LeastBefore, Old: true}, t9Table, t9Seed)
		if err != nil {
			return err
		}
		for row := canarysim.Threshold; row <= canarysim.FastEvents; row++ {
			target := ""
			if t, ok := t9Target[s.Name]; ok && row >= canarysim.FastMedian {
				target = " target<=" + t[0]
			} else if ok && row == canarysim.Slow {
				target = " target<=" + t[1]
			}
			fmt.Fprintf(out, "BAR T9.false.%s.%s value=%s unit=percent%s runs=%d %s\n", lower(s.Name), row, percentOf(cell.Alarms(row), t9Table), target, t9Table, r9Interval(cell.Alarms(row), t9Table))
		}
		fmt.Fprintf(out, "BAR T9.pass.%s value=%s unit=percent%s median_s=%d runs=%d wall_s=%.0f\n", lower(s.Name), percentOf(cell.Alarms(canarysim.Proof), t9Table),
			map[string]string{"A": " target>=99", "B": " target>=50", "E": " target>=90"}[s.Name], cell.After(canarysim.Proof, .5), t9Table, time.Since(start).Seconds())
	}
	if err := t9Placebo(out); err != nil {
		return err
	}
	return t9Detections(out)
}

func lower(s string) string { return string(s[0] + 'a' - 'A') }

func t9Placebo(out io.Writer) error {
	cell, err := canarysim.Run(canarysim.Scenarios[3], canarysim.Options{Factor: 1, Before: canarysim.FullBefore}, t9Table, t9Seed)
	if err != nil {
		return err
	}
	for row := canarysim.PlaceboMedian; row <= canarysim.PlaceboEvents; row++ {
		fmt.Fprintf(out, "BAR T9.false.d.%s value=%s unit=percent target<=1 runs=%d not_compared=%d\n", row, percentOf(cell.Alarms(row), t9Table), t9Table, cell.Unequal)
	}
	return nil
}

// t9Detections prints how soon regressions are found, and what passes that must not, with two and with ten
// minutes before the change.
func t9Detections(out io.Writer) error {
	for _, s := range canarysim.Scenarios {
		for _, factor := range []float64{1.25, 1.5, 2, 3} {
			cell, err := canarysim.Run(s, canarysim.Options{Factor: factor, Before: canarysim.LeastBefore}, t9Table/2, t9Seed)
			if err != nil {
				return err
			}
			for _, d := range canarysim.Detections {
				if d.Scenario == s.Name && d.Factor == factor {
					fmt.Fprintf(out, "BAR T9.find.%s.x%.0f.%s value=%d unit=s p90=%d power=%.3f reference=%g reference_p90=%g reference_power=%g looks_later_than_allowed=%d weak=%v runs=%d\n",
						lower(s.Name), 100*factor, d.Row, cell.After(d.Row, .5), cell.After(d.Row, .9), cell.Share(d.Row), d.Median, d.P90, d.Power, max(d.Late(cell), 0), d.Weak(cell), cell.Runs)
				}
			}
			full, err := canarysim.Run(s, canarysim.Options{Factor: factor, Before: canarysim.FullBefore}, t9Table/2, t9Seed)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "BAR T9.wrongpass.%s.x%.0f value=%s unit=percent with_two_minutes_before=%s runs=%d\n", lower(s.Name), math.Round(100*factor),
				percentOf(full.Alarms(canarysim.Proof), full.Runs), percentOf(cell.Alarms(canarysim.Proof), cell.Runs), cell.Runs)
		}
	}
	return nil
}
