package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

func TestPrintSpeed(t *testing.T) {
	var out bytes.Buffer
	r := des.Result{Elapsed: 4000 * time.Second, Stats: make([]des.Stats, 8), Outcomes: make([]des.Outcome, 10)}
	r.Stats[0].Steps = 500_000
	if err := printSpeed(&out, r, []float64{3, 1, 2}, []float64{1, 1, 1}); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	for i, want := range []string{
		"BAR T5 value=2.00 unit=s target<=1.5 of=median_wall runs=3 fastest=1.00 slowest=3.00", "BAR T5.realtime value=2000 ", "BAR T5.cpu value=1.00 unit=s of=median_processor_time per_step_us=2.00",
	} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %q should begin %q", lines[i], want)
		}
	}
}

func TestSpeedBarWithoutData(t *testing.T) {
	t.Setenv("DATA", t.TempDir())
	var out bytes.Buffer
	if err := speedBar(t.Context(), "", &out); err != nil || !strings.HasPrefix(out.String(), "BAR T5 skipped reason=") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestOwnProcessorTimeGrows(t *testing.T) {
	before := ownProcessorTime()
	for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
		_ = strings.Repeat("x", 100)
	}
	if ownProcessorTime() <= before {
		t.Error("work took no processor time")
	}
}
