package enginetest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// SignalTable holds a section of a document to the signal map of an adapter. Argv switches on what is
// read only with a setting; leftOut are the series that are not read, with the reasons.
func SignalTable(t *testing.T, a engine.Adapter, file, section string, argv []string, leftOut []Unmanaged) {
	t.Helper()
	d, err := a.Describe(t.Context(), &engine.Target{Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| signal | read from, best first | releases |\n|---|---|---|\n")
	for _, info := range engine.SignalNames() {
		var series, releases []string
		for _, s := range d.GetSignals() {
			if s.GetSignal() == info.Name {
				series = append(series, cell(s))
				releases = append(releases, span(s.GetSince(), s.GetGone()))
			}
		}
		if len(series) > 0 {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", info.Name, strings.Join(series, "<br>"), strings.Join(releases, "<br>"))
		}
	}
	b.WriteString("\n| not read | why |\n|---|---|\n")
	for _, u := range leftOut {
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(u.Pattern, "|", `\|`), u.Why)
	}
	Section(t, file, section, b.String())
}

// cell says what is read of a series, and how.
func cell(s *engine.Signal) string {
	words := "`" + s.GetSeries()
	var labels []string
	for _, name := range sorted(s.GetMatch()) {
		labels = append(labels, name+"="+strings.ReplaceAll(s.GetMatch()[name], "|", `\|`))
	}
	if len(labels) > 0 {
		words += "{" + strings.Join(labels, ", ") + "}"
	}
	words += "`"
	if by := s.GetDivideBy(); by != "" {
		words += " ÷ `" + by + "`"
	}
	for _, more := range s.GetPlus() {
		words += " + " + cell(more)
		if more.GetSince() != s.GetSince() || more.GetGone() != s.GetGone() {
			words += " (" + span(more.GetSince(), more.GetGone()) + ")"
		}
	}
	if how := notes(s); len(how) > 0 {
		words += ": " + strings.Join(how, ", ")
	}
	return words
}

// notes on how a signal is read.
func notes(s *engine.Signal) (how []string) {
	add := func(yes bool, words string) {
		if yes {
			how = append(how, words)
		}
	}
	add(s.GetPart() == engine.SumPart, "sum")
	add(s.GetPart() == engine.CountPart, "count")
	add(s.GetPart() == engine.LabelPart, "label `"+s.GetLabel()+"`")
	add(s.GetPart() == engine.LabelItemsPart, "names in label `"+s.GetLabel()+"` of the newest")
	add(s.GetCombine() == engine.Mean, "mean of replicas")
	add(s.GetCombine() == engine.Max, "largest")
	add(s.GetAtEnd(), "when a request ends")
	add(s.GetByInterval(), "by log interval")
	add(s.GetAppears() == engine.AfterFirstEvent, "once it happens")
	return how
}

// span of releases in words.
func span(since, gone string) string {
	switch {
	case since == "" && gone == "":
		return "all"
	case gone == "":
		return "≥ " + since
	case since == "":
		return "< " + gone
	}
	return since + " … < " + gone
}

// Section holds the lines of a document between <!-- name --> and <!-- end name --> to a text, and
// with -update writes them.
func Section(t *testing.T, file, name, body string) {
	t.Helper()
	text := string(mustRead(t, file))
	begin, end := "<!-- "+name+" -->\n", "<!-- end "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	was, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no section %s", file, name)
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+body+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(was, body); diff != "" {
		t.Errorf("section %s of %s differs (-there +should); go test -update writes it anew:\n%s", name, file, diff)
	}
}
