package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestPrintDemo(t *testing.T) {
	var out bytes.Buffer
	raw := `{"goodput_factor":5.5,"e2e_p95_change":-0.4,"requests_lost":0,"seconds":190,"before":{"requests":60},"after":{"requests":70},"bad_proposal":{"state":"rolled_back","time_to_mitigate_seconds":9}}`
	if err := printDemo([]byte(raw), &out); err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^BAR M1[.a-z0-9_]* value=\S+ unit=\S+`)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, l := range lines {
		if !form.MatchString(l) {
			t.Errorf("not a bar line: %q", l)
		}
	}
	if !strings.HasPrefix(lines[0], "BAR M1 value=5.50 unit=factor target>=3") {
		t.Errorf("first line %q", lines[0])
	}
	if err := printDemo([]byte("{"), &out); err == nil {
		t.Error("a broken report must be an error")
	}
}
