package main

import (
	"bytes"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/telemetry"
)

// barLine is the form of every line that a bar prints.
var barLine = regexp.MustCompile(`^BAR [A-Z][0-9]+[a-z]?[.a-z0-9_]* (skipped reason="|value=\S+ unit=\S+)`)

// checkLines fails for what is no bar's line.
func checkLines(t *testing.T, text string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, l := range lines {
		if !barLine.MatchString(l) {
			t.Errorf("not a bar line: %q", l)
		}
	}
	return lines
}

func TestPrintDemo(t *testing.T) {
	var out bytes.Buffer
	raw := `{"goodput_factor":5.5,"e2e_p95_change":-0.4,"requests_lost":0,"seconds":190,"before":{"requests":60},"after":{"requests":70},"bad_proposal":{"state":"rolled_back","time_to_mitigate_seconds":9}}`
	if err := printDemo([]byte(raw), &out); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	if !strings.HasPrefix(lines[0], "BAR M1 value=5.50 unit=factor target>=3") {
		t.Errorf("first line %q", lines[0])
	}
	if err := printDemo([]byte("{"), &out); err == nil {
		t.Error("a broken report must be an error")
	}
}

func TestOrderStatistic(t *testing.T) {
	values := []float64{1, 2, 3, 4, 5}
	for q, want := range map[float64]float64{0: 1, .5: 3, .95: 4, .99: 4, 1: 5} {
		if got := orderStatistic(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := relativeError(99, 100); got != 1 {
		t.Errorf("99 for 100 is wrong by %v %%, want 1", got)
	}
}

// TestMergedErrors plants values that the store never saw, which the comparison must find.
func TestMergedErrors(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	f := &a4Fleet{
		ids: []string{"a/0", "b/0"}, start: start, values: [][][]float64{{{.1, .2}}, {{.3, .4}}},
		store: telemetry.New(telemetry.Config{Now: func() time.Time { return start.Add(time.Second) }}),
	}
	for engine, seconds := range f.values {
		if err := f.send(engine, 0, seconds[0]); err != nil {
			t.Fatal(err)
		}
	}
	everything := a4Scope{of: "fleet", engines: []int{0, 1}, to: 1}
	sound := newA4Errors()
	if err := f.compare(everything, sound); err != nil {
		t.Fatal(err)
	}
	if sound.figures != 3 || sound.unlike != 0 || sound.missing != 0 || sound.sketch["fleet"][2] > 1 {
		t.Errorf("a sound merge: %+v", sound)
	}
	f.values[1][0] = []float64{3, 4, 5}
	wrong := newA4Errors()
	if err := f.compare(everything, wrong); err != nil {
		t.Fatal(err)
	}
	if wrong.missing != 1 || wrong.unlike == 0 || wrong.sketch["fleet"][2] < 50 {
		t.Errorf("values that were never sent were not missed: %+v", wrong)
	}
	var out bytes.Buffer
	if err := wrong.print(&out, f); err != nil {
		t.Fatal(err)
	}
	if lines := checkLines(t, out.String()); len(lines) != 6 {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

func TestHistogramOfValues(t *testing.T) {
	s := a4Histogram([]float64{.001, .03, 3000})
	if s.Count() != 3 || math.Abs(s.Sum()-3000.031) > 1e-9 || s.Quantile(.5) < .02 || s.Quantile(.5) > .04 {
		t.Errorf("count %v, sum %v, median %v", s.Count(), s.Sum(), s.Quantile(.5))
	}
}
