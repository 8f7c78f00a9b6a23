package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel/silicon"
)

// Targets of the bar, per cent. Cells whose median is beyond three times the target are named.
const (
	coldTarget = 15.
	coldSeed   = 6
)

// coldBar predicts measured engines that nothing was learned of: the laws of pkg/perfmodel/silicon, fitted
// without the model on that GPU in that precision, against the published time per token. DATA and FIT name
// the folders to predict and to learn from, DOC a document whose tables of this bar to renew.
func coldBar(_ context.Context, _ string, out io.Writer) error {
	predict, without, err := readSilicon(dataDir())
	if errors.Is(err, errNoData) {
		_, err = fmt.Fprintf(out, "BAR T6.cold skipped reason=%q\n", err)
		return err
	}
	if err != nil {
		return err
	}
	learn := predict
	if learnDir() != dataDir() {
		if learn, _, err = readSilicon(learnDir()); err != nil {
			return err
		}
	}
	results := coldResults(predict, silicon.Cold(predict, learn))
	for _, reason := range slices.Sorted(maps.Keys(without)) {
		fmt.Fprintf(os.Stderr, "left out: %4d rows, %s\n", without[reason], reason)
	}
	if err := printCold(out, results); err != nil {
		return err
	}
	return writeDoc("T6cold", coldTables(results, without))
}

// readSilicon observes every measurement that the tables cover.
func readSilicon(dir string) (all []silicon.Observation, without map[string]int, err error) {
	files, err := dataFiles(dir, "aic_silicon_sample*.csv")
	if err != nil {
		return nil, nil, err
	}
	tables, err := tablesWith(dir)
	if err != nil {
		return nil, nil, err
	}
	var rows []silicon.Row
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, err
		}
		some, _, err := silicon.Read(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		rows = append(rows, some...)
	}
	all, without = silicon.Observe(rows, tables)
	return all, without, nil
}

// coldResult is one observation and what was predicted of it.
type coldResult struct {
	silicon.Observation
	predicted silicon.Prediction
	fitted    float64 // what laws that saw everything are off, per cent; for the document
	covered   bool    // the 90 % interval of the time per token holds the measured one
}

func (r coldResult) tpot() float64 { return off(r.predicted.TPOTSeconds, r.TPOTSeconds) }
func (r coldResult) ttft() float64 { return off(r.predicted.TTFTSeconds, r.TTFTSeconds) }

// e2e is the error of the time to the last token.
func (r coldResult) e2e() float64 {
	predicted := r.Row
	predicted.TPOTSeconds, predicted.TTFTSeconds = r.predicted.TPOTSeconds, r.predicted.TTFTSeconds
	return off(predicted.E2ESeconds(), r.E2ESeconds())
}

// off is an absolute relative error in per cent.
func off(predicted, seen float64) float64 { return 100 * math.Abs(predicted/seen-1) }

// coldResults pairs observations with predictions. The interval of each is as wide as the cold errors of
// the other groups of its family say.
func coldResults(all []silicon.Observation, predicted []silicon.Prediction) []coldResult {
	results := make([]coldResult, len(all))
	for i, o := range all {
		results[i] = coldResult{Observation: o, predicted: predicted[i]}
	}
	for _, g := range silicon.Groups(all) {
		var ratios []float64
		family := ""
		for _, r := range results {
			if r.Group() == g {
				family = r.Family
			}
		}
		for _, r := range results {
			if r.Family == family && r.Group() != g {
				ratios = append(ratios, r.predicted.TPOTSeconds/r.TPOTSeconds)
			}
		}
		if len(ratios) == 0 {
			continue
		}
		spread := silicon.Spread(ratios)
		for i, r := range results {
			if r.Group() == g {
				results[i].covered = math.Abs(math.Log(r.predicted.TPOTSeconds/r.TPOTSeconds)) <= 1.6449*spread
			}
		}
	}
	return results
}

// coldPart is a subset of the results that has a line of its own.
type coldPart struct {
	name string // of the line, after T6.cold
	of   func(coldResult) bool
}

// coldParts are dense models and mixtures of experts with their attention on one rank, as the reference
// figures are of (8.9 and 12.7 %), models with latent attention, and data-parallel attention.
var coldParts = []coldPart{
	{".dense", func(r coldResult) bool { return r.Family == "dense" && r.Layout.DP == 1 }},
	{".moe", func(r coldResult) bool { return r.Family == "moe" && r.Layout.DP == 1 }},
	{".mla", func(r coldResult) bool { return r.Family == "mla" && r.Layout.DP == 1 }},
	{".dp", func(r coldResult) bool { return r.Layout.DP > 1 }},
}

func printCold(out io.Writer, results []coldResult) error {
	var lines strings.Builder
	everything := coldPart{"", func(coldResult) bool { return true }}
	for _, part := range append([]coldPart{everything}, coldParts...) {
		some := coldSelect(results, part.of)
		if len(some) == 0 {
			continue
		}
		e := coldErrors(some, coldResult.tpot)
		low, high := medianInterval(some, coldResult.tpot)
		worst, at := worstGroup(some)
		fmt.Fprintf(&lines, "BAR T6.cold%s value=%.1f unit=percent target<=%.0f of=tpot_median interval95=%.1f..%.1f mean=%.1f p90=%.1f rows=%d groups=%d worst_group=%.1f of_group=%q seed=%d\n",
			part.name, median(e), coldTarget, low, high, mean(e), quantile(e, .9), len(some), len(coldGroups(some)), worst, at, coldSeed)
	}
	for _, f := range []struct {
		name string
		of   func(coldResult) float64
	}{{"ttft", coldResult.ttft}, {"e2e", coldResult.e2e}} {
		e := coldErrors(results, f.of)
		fmt.Fprintf(&lines, "BAR T6.cold.%s value=%.1f unit=percent of=%s_median mean=%.1f p90=%.1f rows=%d\n", f.name, median(e), f.name, mean(e), quantile(e, .9), len(e))
	}
	covered := coldSelect(results, func(r coldResult) bool { return r.covered })
	fmt.Fprintf(&lines, "BAR T7.cold value=%.0f unit=percent target=85..95 of=covered predictions=%d figure=tpot\n", 100*float64(len(covered))/float64(len(results)), len(results))
	_, err := io.WriteString(out, lines.String())
	return err
}

func coldSelect(results []coldResult, of func(coldResult) bool) (some []coldResult) {
	for _, r := range results {
		if of(r) {
			some = append(some, r)
		}
	}
	return some
}

func coldErrors(results []coldResult, of func(coldResult) float64) (e []float64) {
	for _, r := range results {
		e = append(e, of(r))
	}
	slices.Sort(e)
	return e
}

func mean(v []float64) (sum float64) {
	for _, x := range v {
		sum += x / float64(len(v))
	}
	return sum
}

func coldGroups(results []coldResult) []silicon.Group {
	var all []silicon.Observation
	for _, r := range results {
		all = append(all, r.Observation)
	}
	return silicon.Groups(all)
}

// worstGroup is the largest median of a group.
func worstGroup(results []coldResult) (worst float64, name string) {
	for _, g := range coldGroups(results) {
		e := coldErrors(coldSelect(results, func(r coldResult) bool { return r.Group() == g }), coldResult.tpot)
		if m := median(e); m > worst {
			worst, name = m, g.String()
		}
	}
	return worst, name
}

// medianInterval is the 95 % interval of the median by a bootstrap over groups: rows of a group are alike.
func medianInterval(results []coldResult, of func(coldResult) float64) (low, high float64) {
	var groups [][]float64
	for _, g := range coldGroups(results) {
		groups = append(groups, coldErrors(coldSelect(results, func(r coldResult) bool { return r.Group() == g }), of))
	}
	rng := rand.New(rand.NewPCG(coldSeed, 0))
	var medians []float64
	for range 1000 {
		var e []float64
		for range groups {
			e = append(e, groups[rng.IntN(len(groups))]...)
		}
		medians = append(medians, median(e))
	}
	slices.Sort(medians)
	return quantile(medians, .025), quantile(medians, .975)
}
