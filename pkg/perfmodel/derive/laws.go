package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/perfmodel/silicon"
)

// deriveLaws fits the step-time laws to the public table of measurements and returns their YAML file.
// Spreads are of predictions by laws that never saw the cell's model, GPU and precision together.
func deriveLaws(data string) ([]byte, error) {
	all, err := observations(data)
	if err != nil {
		return nil, err
	}
	cold := silicon.Cold(all, all)
	laws := silicon.FitLaws(all)
	var out strings.Builder
	fmt.Fprintf(&out, "# Step-time laws per family of models and engine, fitted to the measurements of aiconfigurator (Apache-2.0).\n"+
		"# theta in the order of perfmodel.Features, ttft of TTFTFeatures; only their sums mean something.\n"+
		"# Written by `%s -data DIR`; do not edit.\nlaws:\n", command)
	for _, name := range slices.Sorted(maps.Keys(laws)) {
		family, engine, ofEngine := strings.Cut(name, "-")
		var tpot, ttft []float64
		for i, o := range all {
			if o.Family == family && (!ofEngine || o.Engine == engine) {
				tpot, ttft = append(tpot, cold[i].TPOTSeconds/o.TPOTSeconds), append(ttft, cold[i].TTFTSeconds/o.TTFTSeconds)
			}
		}
		law := laws[name]
		fmt.Fprintf(&out, "  %s:\n    theta: [%s]\n    ttft: [%s]\n    spread_tpot: %.2f\n    spread_ttft: %.2f\n    measurements: %d\n",
			name, list(law.Theta[:]), list(law.TTFT[:]), silicon.Spread(tpot), silicon.Spread(ttft), len(tpot))
	}
	return []byte(out.String()), nil
}

func list(v []float64) string {
	text := make([]string, len(v))
	for i, x := range v {
		text[i] = fmt.Sprintf("%.3g", x)
	}
	return strings.Join(text, ", ")
}

func observations(data string) ([]silicon.Observation, error) {
	f, err := os.Open(filepath.Join(data, "aic_silicon_sample.csv"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, _, err := silicon.Read(f)
	if err != nil {
		return nil, err
	}
	tables, err := perfmodel.Load()
	if err != nil {
		return nil, err
	}
	all, _ := silicon.Observe(rows, tables)
	return all, nil
}
