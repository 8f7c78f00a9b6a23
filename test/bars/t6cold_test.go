package main

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/perfmodel"
	"github.com/optiinfra/performance-agent/pkg/perfmodel/silicon"
)

// coldSample is results of a planted error of each row, in per cent, of two groups.
func coldSample(errs ...float64) (results []coldResult) {
	for i, e := range errs {
		r := coldResult{Observation: silicon.Observation{Name: "m", Family: "dense"}}
		r.ID, r.Engine, r.GPU, r.Precision = string(rune('a'+i)), "vllm", []string{"h100-sxm", "h200-sxm"}[i%2], perfmodel.FP8
		r.Layout = perfmodel.Layout{TP: 1, PP: 1, DP: 1, EP: 1}
		r.OSL, r.TPOTSeconds, r.TTFTSeconds, r.Roofline, r.Priors = 11, 1, 10, .5, .8
		r.predicted = silicon.Prediction{TPOTSeconds: 1 + e/100, TTFTSeconds: 5}
		results = append(results, r)
	}
	return results
}

func TestPrintCold(t *testing.T) {
	results := coldSample(10, -20, 30, -40, 50)
	var out bytes.Buffer
	if err := printCold(&out, results); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	for i, want := range []string{
		"BAR T6.cold value=30.0 unit=percent target<=15 of=tpot_median", "BAR T6.cold.dense value=30.0", "BAR T6.cold.ttft value=50.0", "BAR T6.cold.e2e value=20.0",
		"BAR T7.cold value=0 ",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d should begin %q:\n%s", i, want, out.String())
		}
	}
	if !strings.Contains(lines[0], `worst_group=30.0 of_group="m fp8, h100-sxm"`) || !strings.Contains(lines[0], "mean=30.0") || !strings.Contains(lines[0], "groups=2") {
		t.Errorf("first line %q", lines[0])
	}
}

// TestColdIntervals: a group's interval comes of the others' errors, never of its own.
func TestColdIntervals(t *testing.T) {
	var all []silicon.Observation
	var predicted []silicon.Prediction
	for _, r := range coldSample(90, 5, 90, -5, 90, 5) { // the first group is far off, the second near
		all, predicted = append(all, r.Observation), append(predicted, r.predicted)
	}
	for i, r := range coldResults(all, predicted) {
		if want := i%2 == 1; r.covered != want {
			t.Errorf("row %d: covered is %v: the interval of the group that is far off comes of near ones, and the reverse", i, r.covered)
		}
	}
}

func TestColdTables(t *testing.T) {
	text := coldTables(coldSample(10, 80, 20, 80), map[string]int{"disaggregated": 3})
	for _, want := range []string{"| dense | 4 | 50.0 (50.0) | 20.0 (20.0) |", "| **m fp8, h200-sxm** | 2 | vllm | **80.0** |", "3 rows, disaggregated"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestReplaceSection(t *testing.T) {
	doc := "a\n<!-- begin X: by `cmd` -->\nold\n<!-- end X -->\nb\n"
	got, err := replaceSection(doc, "X", "\nnew\n\n")
	if want := "a\n<!-- begin X: by `cmd` -->\nnew\n<!-- end X -->\nb\n"; err != nil || got != want {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
	for _, broken := range []string{"a\n", "<!-- end X -->\n<!-- begin X: -->\n", "<!-- begin XY: -->\n<!-- end X -->\n"} {
		if _, err := replaceSection(broken, "X", "new"); err == nil {
			t.Errorf("%q has no section X", broken)
		}
	}
}

// TestColdBarWithoutData says so in place of a number.
func TestColdBarWithoutData(t *testing.T) {
	t.Setenv("DATA", t.TempDir())
	var out bytes.Buffer
	if err := coldBar(t.Context(), "", &out); err != nil || !strings.HasPrefix(out.String(), "BAR T6.cold skipped reason=") {
		t.Errorf("%q, %v", out.String(), err)
	}
	checkLines(t, out.String())
}

// TestTablesOfTheFolder are merged over the built-in ones.
func TestTablesOfTheFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "models.yaml"), []byte("models: {own: {layers: 3}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	tables, err := tablesWith(dir)
	if err != nil || tables.Models["own"].Layers != 3 || len(tables.GPUs) == 0 {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gpus.yaml"), []byte("gpus: 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tablesWith(dir); err == nil {
		t.Error("a broken table of the folder was taken")
	}
	if _, err := dataFiles(dir, "*.csv"); !errors.Is(err, errNoData) {
		t.Errorf("%v, want %v", err, errNoData)
	}
}

func TestMedianInterval(t *testing.T) {
	low, high := medianInterval(coldSample(10, 20, 10, 20), coldResult.tpot)
	if math.Abs(low-10) > 1e-9 || math.Abs(high-20) > 1e-9 {
		t.Errorf("%g … %g, want the two groups' medians", low, high)
	}
}
