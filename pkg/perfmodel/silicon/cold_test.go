package silicon

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// planted is a set of observations of dense models that follow one law, under two engines, with one group
// that takes odd times as long as the law says.
func planted(t *testing.T, odd float64) []Observation {
	t.Helper()
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	for _, gpu := range []string{"h100-sxm", "h200-sxm", "b200-sxm"} {
		for _, model := range []string{"x/Llama-3.1-8B", "x/Llama-3.1-70B"} {
			for _, clients := range []int{4, 16, 64, 128} {
				for _, isl := range []int{512, 4096} {
					for _, tp := range []int{2, 4, 8} {
						rows = append(rows, Row{
							Model: model, GPU: gpu, Engine: "vllm", Precision: perfmodel.FP8, Aggregated: true, ISL: isl, OSL: 512, Concurrency: clients,
							Layout: perfmodel.Layout{TP: tp, PP: 1, DP: 1, EP: 1}, TTFTSeconds: .1, TPOTSeconds: 1,
						})
					}
				}
			}
		}
	}
	all, without := Observe(rows, tables)
	if len(without) > 0 || len(all) != len(rows) {
		t.Fatalf("left out: %v", without)
	}
	law := perfmodel.Law{Theta: perfmodel.Features{1.1, .9, 0, 1.6, 1.2, 3, 30, 20, .4, 0}}
	for i := range all {
		all[i].TPOTSeconds = law.TPOTSeconds(all[i].Mean)
		if all[i].Name == "llama-3.1-8b" && all[i].GPU == "b200-sxm" {
			all[i].TPOTSeconds *= odd
		}
	}
	return all
}

// TestColdSawNothing: what a group's own figures are does not change what is predicted of it, and the
// others are predicted well.
func TestColdSawNothing(t *testing.T) {
	plain, odd := planted(t, 1), planted(t, 3)
	a, b := Cold(plain, plain), Cold(odd, odd)
	for i, o := range plain {
		if o.Name == "llama-3.1-8b" && o.GPU == "b200-sxm" {
			if a[i] != b[i] {
				t.Errorf("%s: predicted %g s, and %g s when its own figures are others", o.Group(), a[i].TPOTSeconds, b[i].TPOTSeconds)
			}
		}
		if err := math.Abs(a[i].TPOTSeconds/o.TPOTSeconds - 1); err > .05 {
			t.Errorf("%s, %d clients: off by %.0f %%", o.Group(), o.Concurrency, 100*err)
		}
	}
}

// TestEnginesNeedGroups: an engine has a law of its own from three groups on.
func TestEnginesNeedGroups(t *testing.T) {
	all := planted(t, 1)
	for i := range all {
		if all[i].GPU == "h100-sxm" {
			all[i].Engine = "sglang" // two groups
		}
	}
	laws := FitLaws(all)
	if _, ok := laws["dense-vllm"]; !ok {
		t.Error("four groups make a law")
	}
	if _, ok := laws["dense-sglang"]; ok {
		t.Error("two groups make no law")
	}
	if laws.For(all[0]) != laws["dense"] {
		t.Error("an engine without a law goes by its family's")
	}
}

func TestObserveLeavesOut(t *testing.T) {
	tables, err := perfmodel.Load()
	if err != nil {
		t.Fatal(err)
	}
	good := planted(t, 1)[0].Row
	for reason, change := range map[string]func(*Row){
		"disaggregated":   func(r *Row) { r.Aggregated = false },
		"layout in doubt": func(r *Row) { r.Doubt = unproven },
		"model x in no":   func(r *Row) { r.Model = "x" },
		"GPU x in no":     func(r *Row) { r.GPU = "x" },
		"does not divide": func(r *Row) { r.Layout.TP = 72 },
		"cannot run":      func(r *Row) { r.Precision = perfmodel.NVFP4 },
		"do not fit":      func(r *Row) { r.Model, r.Layout.TP = "x/DeepSeek-R1", 1 },
	} {
		r := good
		change(&r)
		all, without := Observe([]Row{r}, tables)
		i := slices.IndexFunc(slices.Collect(maps.Keys(without)), func(s string) bool { return strings.Contains(s, reason) })
		if len(all) != 0 || i < 0 {
			t.Errorf("%s: observed %d, left out %v", reason, len(all), without)
		}
	}
}

func TestSpread(t *testing.T) {
	var ratios []float64
	for i := range 1001 {
		ratios = append(ratios, math.Exp(.2*float64(i-500)/500*1.6449/.9)) // 90 % within 1.645 × .2
	}
	if got := Spread(ratios); math.Abs(got-.2) > .01 {
		t.Errorf("spread %.3f, want .2", got)
	}
}
