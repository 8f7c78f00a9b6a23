package openslo

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestRoundTrips: what is read and written again is the golden file, and reading that gives the same
// objectives.
func TestRoundTrips(t *testing.T) {
	for _, file := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			first, err := Read(content(t, file))
			if err != nil {
				t.Fatal(err)
			}
			written, err := Write(first.Objectives)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, file, string(written)+remarks(first.Remarks))
			again, err := Read(written)
			if err != nil {
				t.Fatalf("what was written cannot be read: %v", err)
			}
			if diff := cmp.Diff(first.Objectives, again.Objectives, protocmp.Transform()); diff != "" {
				t.Errorf("the way out and in again changed it: %s", diff)
			}
		})
	}
}

func remarks(texts []string) string {
	out := ""
	for _, text := range texts {
		out += "# remark: " + text + "\n"
	}
	return out
}

// TestRefusals: each fault is told, with its line, in the golden file.
func TestRefusals(t *testing.T) {
	for _, file := range files(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Read(content(t, file))
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("it was read: %v", err)
			}
			golden(t, file, problems.Error()+"\n")
		})
	}
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return found
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	name := strings.TrimSuffix(file, ".yaml") + ".golden"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(content(t, name)), got); diff != "" {
		t.Errorf("%s (-want +got): %s", name, diff)
	}
}

// TestEveryObjectiveHasAForm: whatever can be put by REST can be exported and imported.
func TestEveryObjectiveHasAForm(t *testing.T) {
	base := func(i commandv1.Indicator) *commandv1.Objective {
		return &commandv1.Objective{Name: "o", Service: "s", Group: "g", Indicator: i, Target: 0.95, PeriodMs: time.Hour.Milliseconds()}
	}
	var all []*commandv1.Objective
	for number := range commandv1.Indicator_name {
		o := base(commandv1.Indicator(number))
		switch o.GetIndicator() {
		case commandv1.Indicator_INDICATOR_UNSPECIFIED:
			continue
		case commandv1.Indicator_INDICATOR_QUERY:
			o.Query = &commandv1.Query{Threshold: "up", Op: "gte", Value: 1}
		case commandv1.Indicator_INDICATOR_GOODPUT:
			o.BoundSeconds, o.TpotBoundSeconds = 1, 0.1
		case commandv1.Indicator_INDICATOR_AVAILABILITY:
		default:
			o.BoundSeconds = 0.25
		}
		all = append(all, o)
	}
	sliced := base(commandv1.Indicator_INDICATOR_AVAILABILITY)
	sliced.SliceMs, sliced.SliceTarget = 10_000, 1
	alerting := base(commandv1.Indicator_INDICATOR_AVAILABILITY)
	alerting.Alerts = []*commandv1.BurnAlert{{Name: "a", Condition: "c", Severity: "sev1", LookbackMs: 5_400_000, AfterMs: 60_000, Threshold: 1.5, Targets: []string{"t"}}}
	for _, o := range append(all, sliced, alerting) {
		raw, err := Write([]*commandv1.Objective{o})
		if err != nil {
			t.Errorf("%v: %v", o, err)
			continue
		}
		again, err := Read(raw)
		if err != nil {
			t.Errorf("%v: %v\n%s", o, err, raw)
			continue
		}
		if diff := cmp.Diff([]*commandv1.Objective{o}, again.Objectives, protocmp.Transform()); diff != "" {
			t.Errorf("%v: %s", o.GetIndicator(), diff)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"0m": 0, "5m": 5 * time.Minute, "12h": 12 * time.Hour, "30d": 720 * time.Hour, "4w": 672 * time.Hour} {
		if d, err := parseDuration(text); err != nil || d != want {
			t.Errorf("%s is %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "m", "5", "5s", "-5m", "1.5h", "1M", "1Q", "1Y", "5 m", "99999999999999w"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q was read as %v", text, d)
		}
	}
}

// TestHugeInputs: texts made to keep a parser busy are turned away at once.
func TestHugeInputs(t *testing.T) {
	indented := ""
	for k := range 400 {
		indented += strings.Repeat(" ", k) + "a:\n"
	}
	for name, text := range map[string]string{
		"brackets": strings.Repeat("[", 64_000), "braces": strings.Repeat("{a: ", 64_000), "lists": strings.Repeat("- ", 64_000),
		"keys": strings.Repeat("? ", 64_000), "brackets, one a line": strings.Repeat("[\n", 64_000), "indented": indented, "long": strings.Repeat("a: b\n", 64_000),
	} {
		begin := time.Now()
		if _, err := Read([]byte(text)); err == nil || time.Since(begin) > time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(begin))
		}
	}
}

// FuzzRead: no bytes bring the reader down, and what it reads can be written and read again.
func FuzzRead(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range found {
			raw, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := Read(raw)
		if err != nil {
			return
		}
		written, err := Write(first.Objectives)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(written); err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
	})
}
