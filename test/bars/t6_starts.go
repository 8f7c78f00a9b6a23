package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/optiinfra/performance-agent/pkg/calibrate"
	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// starts is how often each setting of startSettings is started.
const starts = 3

// startSettings are those that pkg/calibrate's constants are learned from. T6 evaluates none of them.
func startSettings(kind engine.Kind) []setting {
	s := vllmSetting
	if kind == engine.SGLang {
		s = sglangSetting
	}
	return []setting{
		s("seqs6", "6", "2048", des.Config{MaxNumSeqs: 6, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs12", "12", "2048", des.Config{MaxNumSeqs: 12, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs24", "24", "2048", des.Config{MaxNumSeqs: 24, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs12-budget192", "12", "192", des.Config{MaxNumSeqs: 12, MaxBatchedTokens: 192, PrefixCaching: true}),
	}
}

// startLoads are the traffic of each start: one like that which a calibration sees, and one that fills
// batches, with lengths and rates that T6 has not.
func startLoads(kind engine.Kind) []load {
	rate := 4.0
	if kind == engine.SGLang {
		rate = 2
	}
	return []load{
		{"steady", workload.Spec{
			Arrivals: workload.Arrivals{Rate: rate, CV: 1.5}, Prompt: between(16, 512), Output: between(8, 64), Count: liveRequests,
		}},
		{"swarm", workload.Spec{
			Arrivals: workload.Arrivals{Rate: 6, BatchMean: 12, BatchGap: 5 * time.Millisecond},
			Prompt:   between(24, 200), Output: between(24, 72), Duration: 12 * time.Second,
		}},
	}
}

// startsBar measures how much one start of an engine differs from the next, from what T11 has recorded
// of a vLLM and from starts of its own. ENGINE names the engine.
// What is not recorded yet below RECORDINGS (.cache/t6/….starts) takes one to two minutes a start; ONLY=name,…
// records those and computes nothing.
func startsBar(ctx context.Context, _ string, out io.Writer) error {
	kind := engine.Kind(os.Getenv("ENGINE"))
	recipe, err := engine.Find(kind)
	if errors.Is(err, engine.ErrAbsent) {
		_, err = fmt.Fprintf(out, "BAR T6.starts skipped reason=%q\n", err)
		return err
	}
	if err != nil {
		return err
	}
	dir := os.Getenv("RECORDINGS")
	if dir == "" {
		dir = filepath.Join(".cache", "t6", fmt.Sprintf("%s-%s.starts", kind, engine.Versions[kind]))
	}
	only := os.Getenv("ONLY")
	if kind == engine.VLLM && only == "" {
		if err := printPaces(out); err != nil {
			return err
		}
	}
	for n := range starts {
		for _, s := range startSettings(kind) {
			name := fmt.Sprintf("%s-%d", s.name, n)
			if only == "" || slices.Contains(strings.Split(only, ","), name) {
				if err := recordStart(ctx, recipe, s, dir, name, startLoads(kind)); err != nil {
					return err
				}
			}
		}
	}
	if only != "" {
		return nil
	}
	all, err := readStarts(kind, dir)
	if err != nil {
		return err
	}
	if err := printStarts(out, kind, all); err != nil {
		return err
	}
	cells, err := predictStarts(all)
	if err != nil {
		return err
	}
	medians, covered := summarizeCells(cells)
	fmt.Fprintf(out, "BAR T6.starts.learned value=%.1f unit=percent of=ttft_mean ttft_p99=%.1f tpot_mean=%.1f e2e_mean=%.1f covered=%.0f%% cells=%d real=%s-%s\n",
		medians[0], medians[1], medians[2], medians[3], covered, len(cells), kind, engine.Versions[kind])
	return nil
}

// start is one start of an engine: what it served, and what was learned from its steady load.
type start struct {
	name        string
	setting     setting
	runs        map[string][]calibrate.Request // by load
	calibration *calibrate.Calibration
}

func readStarts(kind engine.Kind, dir string) (all []start, err error) {
	for n := range starts {
		for _, s := range startSettings(kind) {
			one := start{name: fmt.Sprintf("%s-%d", s.name, n), setting: s, runs: map[string][]calibrate.Request{}}
			for _, l := range startLoads(kind) {
				if one.runs[l.name], err = readRun(runFile(dir, one.name, l.name)); err != nil {
					return nil, err
				}
			}
			if one.calibration, err = calibrate.FromRequests(s.des, one.runs["steady"]); err != nil {
				return nil, fmt.Errorf("calibrate from %s: %w", one.name, err)
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// levels are what each start's law says of common work, and its time outside the scheduler, in seconds.
var levels = []struct {
	name string
	of   func(*calibrate.Calibration) float64
}{
	{"decode_1", func(c *calibrate.Calibration) float64 {
		return c.Law().Cost().StepSeconds(des.StepShape{Decoding: 1, ContextTokens: 300})
	}},
	{"decode_4", func(c *calibrate.Calibration) float64 {
		return c.Law().Cost().StepSeconds(des.StepShape{Decoding: 4, ContextTokens: 1200})
	}},
	{"prompt_256", func(c *calibrate.Calibration) float64 {
		return c.Law().Cost().StepSeconds(des.StepShape{Chunks: []des.Chunk{{New: 256}}})
	}},
	{"front", func(c *calibrate.Calibration) float64 { return c.Front().Seconds() }},
}

// printStarts prints by how much one start's levels are off another's: the standard deviation of the
// logarithm of their ratio, which is what a prediction of another start has to allow for.
func printStarts(out io.Writer, kind engine.Kind, all []start) error {
	for _, l := range levels {
		var logs []float64
		for _, s := range all {
			v := l.of(s.calibration)
			fmt.Fprintf(os.Stderr, "%-20s %-10s %7.2f ms\n", s.name, l.name, 1e3*v)
			logs = append(logs, math.Log(v))
		}
		sd := stat.StdDev(logs, nil)
		if _, err := fmt.Fprintf(out, "BAR T6.starts.%s value=%.3f unit=log_ratio of=standard_deviation starts=%d real=%s-%s\n",
			l.name, math.Sqrt2*sd, len(all), kind, engine.Versions[kind]); err != nil {
			return err
		}
	}
	return nil
}

// predictStarts predicts each start's loads from every start of another setting.
func predictStarts(all []start) (cells []cell, err error) {
	for _, from := range all {
		for _, to := range all {
			if from.setting.name == to.setting.name {
				continue
			}
			for _, load := range slices.Sorted(maps.Keys(to.runs)) {
				requests := to.runs[load]
				p, err := from.calibration.Predict(to.setting.des, calibrate.Trace(requests), seedOf(from.name, to.name, load))
				if err != nil {
					return nil, fmt.Errorf("predict %s under %s from %s: %w", to.name, load, from.name, err)
				}
				one := cell{to.name, load, p.Figures, calibrate.Observed(requests)}
				e, covered := one.errors()
				fmt.Fprintf(os.Stderr, "%-20s from %-20s %-6s ttft %+.1f %% p99 %+.1f %% tpot %+.1f %% e2e %+.1f %% cover %d\n",
					to.name, from.name, load, 100*e[0], 100*e[1], 100*e[2], 100*e[3], covered)
				cells = append(cells, one)
			}
		}
	}
	return cells, nil
}
