package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// quietCauses are the spans of T11 in which nothing is done to an engine that has warmed up.
var quietCauses = []string{calibration, healthy, "slow_client", "tiny_batch"}

// Windows of T11 that tell an engine's pace: of some tokens, and of a load like that of a calibration.
const (
	leastTokens  = 20
	mostTogether = 8.0
)

// paceWindow is one second of an engine: its mean time between tokens, in seconds, at a mean load.
type paceWindow struct {
	start, span                string
	between, together, prompts float64
}

// readPaces reads the windows of the quiet spans below the folders of T11's recordings.
func readPaces(dirs ...string) (all []paceWindow, err error) {
	for _, dir := range dirs {
		spans, err := readSpans(filepath.Join(".cache", "t11", dir))
		if err != nil {
			return nil, err
		}
		for _, s := range spans {
			if !slices.Contains(quietCauses, s.Cause) {
				continue
			}
			for _, w := range s.windows {
				if p, ok := paceOf(w); ok {
					p.start, p.span = dir+"/"+s.Session, fmt.Sprintf("%s/%s-%d", dir, s.Cause, s.Repeat)
					all = append(all, p)
				}
			}
		}
	}
	return all, nil
}

func paceOf(w *fleet.Window) (p paceWindow, ok bool) {
	gaps := w.Sketches["itl_seconds"]
	if gaps == nil || gaps.Count() < leastTokens || gaps.Sum() > mostTogether {
		return p, false
	}
	p.between, p.together = gaps.Mean(), gaps.Sum() // a sequence has a second of gaps in a second
	if first := w.Sketches["ttft_seconds"]; first != nil {
		p.prompts = first.Count()
	}
	return p, true
}

// startEffects fits the logarithm of the time between tokens by load, and returns each start's level
// beside it and the standard deviation of the spans of one start.
func startEffects(all []paceWindow) (levels map[string]float64, spans float64, err error) {
	index := map[string]int{}
	for _, p := range all {
		if _, ok := index[p.start]; !ok {
			index[p.start] = len(index)
		}
	}
	x, y := mat.NewDense(len(all), len(index)+2, nil), mat.NewVecDense(len(all), nil)
	for i, p := range all {
		x.Set(i, index[p.start], 1)
		x.Set(i, len(index), p.together)
		x.Set(i, len(index)+1, p.prompts)
		y.SetVec(i, math.Log(p.between))
	}
	var theta, fitted mat.VecDense
	if err := theta.SolveVec(x, y); err != nil {
		return nil, 0, fmt.Errorf("fit the levels of starts: %w", err)
	}
	fitted.MulVec(x, &theta)
	levels = map[string]float64{}
	for name, i := range index {
		levels[name] = theta.AtVec(i)
	}
	residuals := map[string][]float64{}
	for i, p := range all {
		residuals[p.span] = append(residuals[p.span], y.AtVec(i)-fitted.AtVec(i))
	}
	var means []float64
	for _, span := range slices.Sorted(maps.Keys(residuals)) {
		means = append(means, stat.Mean(residuals[span], nil))
	}
	return levels, stat.StdDev(means, nil), nil
}

// printPaces prints by how much one span of one start differs from a span of another in what T11 has
// recorded: the standard deviation of the logarithm of the ratio.
func printPaces(out io.Writer) error {
	all, err := readPaces("learn", "scored")
	if err != nil {
		_, err = fmt.Fprintf(out, "BAR T6.starts.windows skipped reason=%q\n", err)
		return err
	}
	levels, spans, err := startEffects(all)
	if err != nil {
		return err
	}
	var logs []float64
	for _, name := range slices.Sorted(maps.Keys(levels)) {
		fmt.Fprintf(os.Stderr, "%-24s %6.2f ms\n", name, 1e3*math.Exp(levels[name]))
		logs = append(logs, levels[name])
	}
	starts := stat.StdDev(logs, nil)
	_, err = fmt.Fprintf(out, "BAR T6.starts.windows value=%.3f unit=log_ratio of=time_between_tokens starts_sd=%.3f spans_sd=%.3f starts=%d windows=%d real=vllm\n",
		math.Sqrt(2*(starts*starts+spans*spans)), starts, spans, len(levels), len(all))
	return err
}
