package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel/silicon"
)

// coldTables are the tables of accuracy for the document: by family and method, and by group.
func coldTables(results []coldResult, without map[string]int) string {
	var b strings.Builder
	b.WriteString("Time per token, absolute error in per cent, median (mean). *Cold*: the laws saw nothing of the model on that GPU in that precision.\n\n")
	b.WriteString("| Family | Rows | Data sheet alone | Prior efficiencies | Laws, fitted to all | **Cold** | Cold TTFT | Cold E2E |\n|---|---|---|---|---|---|---|---|\n")
	results = withFitted(results)
	for _, part := range coldParts {
		some := coldSelect(results, part.of)
		if len(some) == 0 {
			continue
		}
		cell := func(of func(coldResult) float64) string {
			e := coldErrors(some, of)
			return fmt.Sprintf("%.1f (%.1f)", median(e), mean(e))
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | **%s** | %s | %s |\n", partNames[part.name], len(some),
			cell(func(r coldResult) float64 { return off(r.Roofline, r.TPOTSeconds) }),
			cell(func(r coldResult) float64 { return off(r.Priors, r.TPOTSeconds) }),
			cell(func(r coldResult) float64 { return r.fitted }),
			cell(coldResult.tpot), cell(coldResult.ttft), cell(coldResult.e2e))
	}
	b.WriteString("\nCold, by what was left out:\n\n| Model, precision, GPU | Rows | Engines | Median | Mean | Worst row | Intervals that cover |\n|---|---|---|---|---|---|---|\n")
	for _, g := range coldGroups(results) {
		b.WriteString(groupRow(g, coldSelect(results, func(r coldResult) bool { return r.Group() == g })))
	}
	b.WriteString("\nBold rows miss the target by more than a factor of three. Left out:")
	for i, reason := range slices.Sorted(maps.Keys(without)) {
		if i > 0 {
			b.WriteString(";")
		}
		fmt.Fprintf(&b, " %d rows, %s", without[reason], reason)
	}
	b.WriteString(".\n")
	return b.String()
}

var partNames = map[string]string{".dense": "dense", ".moe": "mixture of experts", ".mla": "latent attention", ".dp": "data-parallel attention"}

// withFitted adds to each result what laws that saw everything are off, per cent.
func withFitted(results []coldResult) []coldResult {
	all := make([]silicon.Observation, len(results))
	for i, r := range results {
		all[i] = r.Observation
	}
	laws, out := silicon.FitLaws(all), slices.Clone(results)
	for i, o := range all {
		out[i].fitted = off(laws.For(o).TPOTSeconds(o.Mean), o.TPOTSeconds)
	}
	return out
}

func groupRow(g silicon.Group, some []coldResult) string {
	e := coldErrors(some, coldResult.tpot)
	var engines []string
	covered := 0
	for _, r := range some {
		if !slices.Contains(engines, r.Engine) {
			engines = append(engines, r.Engine)
		}
		covered += count(r.covered)
	}
	slices.Sort(engines)
	bold := ""
	if median(e) > 3*coldTarget {
		bold = "**"
	}
	return fmt.Sprintf("| %s%s%s | %d | %s | %s%.1f%s | %.1f | %.0f | %.0f %% |\n", bold, g, bold, len(some), strings.Join(engines, ", "),
		bold, median(e), bold, mean(e), e[len(e)-1], 100*float64(covered)/float64(len(some)))
}
