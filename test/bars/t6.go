package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/calibrate"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// transferBar calibrates the simulator on 75 requests that a real engine served with one
// configuration, and predicts five others under four loads each. ENGINE names the engine. What is not
// recorded yet below RECORDINGS (.cache/t6) takes two minutes a configuration; ONLY=name,… records
// those and predicts nothing.
func transferBar(ctx context.Context, _ string, out io.Writer) error {
	kind := engine.Kind(os.Getenv("ENGINE"))
	recipe, err := engine.Find(kind)
	if errors.Is(err, engine.ErrAbsent) {
		_, err = fmt.Fprintf(out, "BAR T6.d skipped reason=%q\n", err)
		return err
	}
	if err != nil {
		return err
	}
	dir := os.Getenv("RECORDINGS")
	if dir == "" {
		dir = filepath.Join(".cache", "t6", fmt.Sprintf("%s-%s", kind, engine.Versions[kind]))
	}
	only := os.Getenv("ONLY")
	for _, s := range settings(kind) {
		if only == "" || slices.Contains(strings.Split(only, ","), s.name) {
			if err := recordSetting(ctx, recipe, s, dir); err != nil {
				return err
			}
		}
	}
	if only != "" {
		return nil
	}
	cells, err := predictCells(kind, dir)
	if err != nil {
		return err
	}
	printTransfer(out, kind, cells)
	return nil
}

// cell is one configuration under one load: what was predicted and what was seen.
type cell struct {
	setting, load string
	predicted     calibrate.Figures[calibrate.Estimate]
	seen          calibrate.Figures[float64]
}

// predictCells predicts every recorded cell from the live one.
func predictCells(kind engine.Kind, dir string) ([]cell, error) {
	all := settings(kind)
	live, err := readRun(runFile(dir, liveSetting, liveLoad(kind).name))
	if err != nil {
		return nil, err
	}
	cal, err := calibrate.FromRequests(all[0].des, live)
	if err != nil {
		return nil, fmt.Errorf("calibrate from %s: %w", liveSetting, err)
	}
	var cells []cell
	for _, s := range all {
		for _, l := range loads() {
			requests, err := readRun(runFile(dir, s.name, l.name))
			if err != nil {
				return nil, err
			}
			p, err := cal.Predict(s.des, calibrate.Trace(requests), seedOf(s.name, l.name))
			if err != nil {
				return nil, fmt.Errorf("predict %s under %s: %w", s.name, l.name, err)
			}
			cells = append(cells, cell{s.name, l.name, p.Figures, calibrate.Observed(requests)})
		}
	}
	return cells, nil
}

// errors of the predicted values, relative, in the order of figureNames, and how many intervals cover.
func (c cell) errors() (e [4]float64, covered int) {
	for i, f := range []struct {
		p    calibrate.Estimate
		seen float64
	}{
		{c.predicted.TTFTMean, c.seen.TTFTMean},
		{c.predicted.TTFTP99, c.seen.TTFTP99},
		{c.predicted.TPOTMean, c.seen.TPOTMean},
		{c.predicted.E2EMean, c.seen.E2EMean},
	} {
		e[i] = f.p.Value/f.seen - 1
		covered += count(f.p.Covers(f.seen))
	}
	return e, covered
}

var figureNames = [4]string{"ttft_mean", "ttft_p99", "tpot_mean", "e2e_mean"}

// transferTargets are of the medians over cells, in per cent.
var transferTargets = [4]float64{8, 15, 4, 5}

// printTransfer prints the medians over the cells of other configurations, and apart from them, never
// as transfer, those of the calibrated configuration itself.
func printTransfer(out io.Writer, kind engine.Kind, cells []cell) {
	var other, same []cell
	for _, c := range cells {
		e, covered := c.errors()
		fmt.Fprintf(os.Stderr, "%-18s %-6s", c.setting, c.load)
		for i, name := range figureNames {
			fmt.Fprintf(os.Stderr, "  %s %+.1f %%", name, 100*e[i])
		}
		fmt.Fprintf(os.Stderr, "  intervals that cover: %d of %d\n", covered, len(e))
		if c.setting == liveSetting {
			same = append(same, c)
		} else {
			other = append(other, c)
		}
	}
	real := fmt.Sprintf("%s-%s", kind, engine.Versions[kind])
	medians, covered := summarizeCells(other)
	for i, name := range figureNames {
		id := "T6.d"
		if i > 0 {
			id += "." + name
		}
		fmt.Fprintf(out, "BAR %s value=%.1f unit=percent target<=%.0f of=%s median_over_cells=%d real=%s\n", id, medians[i], transferTargets[i], name, len(other), real)
	}
	fmt.Fprintf(out, "BAR T7.d value=%.0f unit=percent target=85..95 of=covered predictions=%d real=%s\n", covered, len(other)*len(figureNames), real)
	level, rest := commonLevel(other)
	fmt.Fprintf(out, "BAR T6.d.level value=%+.1f unit=percent of=tpot_mean_common_to_all_cells rest=%.1f%% cells=%d real=%s\n", 100*level, 100*rest, len(other), real)
	medians, covered = summarizeCells(same)
	fmt.Fprintf(out, "BAR T6.d.same_configuration value=%.1f unit=percent of=ttft_mean ttft_p99=%.1f tpot_mean=%.1f e2e_mean=%.1f covered=%.0f%% cells=%d real=%s\n",
		medians[0], medians[1], medians[2], medians[3], covered, len(same), real)
}

// commonLevel is by how much a typical cell's TPOT is off, with its sign, and the median of what the
// cells are off it: the one is the pace of the machine in the calibration's minute against that of the
// others, the other is the model's.
func commonLevel(cells []cell) (level, rest float64) {
	const tpot = 2
	var all []float64
	for _, c := range cells {
		e, _ := c.errors()
		all = append(all, e[tpot])
	}
	level = median(all)
	for i, e := range all {
		all[i] = math.Abs((1+e)/(1+level) - 1)
	}
	return level, median(all)
}

// median of values, between the two in the middle where their number is even; it sorts them.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// summarizeCells returns the median absolute errors and the share of intervals that cover, in per cent.
func summarizeCells(cells []cell) (medians [4]float64, covered float64) {
	var all [4][]float64
	for _, c := range cells {
		e, n := c.errors()
		covered += 100 * float64(n) / float64(len(e)*len(cells))
		for i := range e {
			all[i] = append(all[i], 100*math.Abs(e[i]))
		}
	}
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians, covered
}
