package enginetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// pages describes an engine that serves each page of testdata and reads its signals.
func (s *suite) pages(t *testing.T) {
	for _, file := range glob(t, filepath.Join(s.Testdata, "*.prom")) {
		name := strings.TrimSuffix(filepath.Base(file), ".prom")
		if strings.HasSuffix(name, laterPage) {
			continue
		}
		version, _, _ := strings.Cut(name, "-")
		t.Run(name, func(t *testing.T) {
			page := mustRead(t, file)
			server := httptest.NewServer(s.Stub(version, page))
			t.Cleanup(server.Close)
			target := s.target("")
			target.BaseUrl = server.URL
			target.Argv = append(slices.Clone(target.Argv), s.PageArgv[name]...)
			d := s.mustDescribe(t, target)
			if d.GetVersion() != version {
				t.Errorf("version %q from %q, want %q", d.GetVersion(), d.GetVersionSource(), version)
			}
			golden(t, filepath.Join(s.Testdata, name+".golden"), s.pageSummary(t, d, page))
			if _, err := os.Stat(filepath.Join(s.Testdata, name+laterPage+".prom")); err == nil {
				golden(t, filepath.Join(s.Testdata, name+".signals.json"), signalsJSON(t, d))
			}
		})
	}
}

// laterPage ends the name of a page that the same engine shows later.
const laterPage = ".later"

// signalsJSON is the signal map for readers of other packages, one signal a line.
func signalsJSON(t *testing.T, d *engine.Description) string {
	var b strings.Builder
	for _, sig := range d.GetSignals() {
		raw, err := protojson.Marshal(sig)
		if err != nil {
			t.Fatal(err)
		}
		var line bytes.Buffer
		if err := json.Compact(&line, raw); err != nil { // protojson varies its spaces on purpose
			t.Fatal(err)
		}
		b.WriteString(line.String() + "\n")
	}
	return b.String()
}

func (s *suite) pageSummary(t *testing.T, d *engine.Description, page []byte) string {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		t.Fatalf("parse page: %v", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "model: %s\n", d.GetModel())
	for _, name := range sorted(d.GetEffective()) {
		fmt.Fprintf(&b, "effective: %s=%s\n", name, d.GetEffective()[name])
	}
	for _, warning := range d.GetWarnings() {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	found, _ := engine.Resolve(d.GetSignals(), families)
	if words := engine.GapWords(engine.Gaps(d.GetSignals(), found, d.GetVersion())); words != "" {
		fmt.Fprintf(&b, "warning: %s\n", words)
	}
	for _, name := range sorted(found) {
		r := found[name]
		fmt.Fprintf(&b, "%s = %s  from %s\n", name, readingWords(r), seriesWords(r.Signal))
	}
	return b.String()
}

// seriesWords says which samples of which series a signal is read from.
func seriesWords(s *engine.Signal) string {
	words := s.GetSeries()
	for _, label := range sorted(s.GetMatch()) {
		if value := s.GetMatch()[label]; value != "" {
			words += " where " + label + " is " + value
		} else {
			words += " without " + label
		}
	}
	for _, more := range s.GetPlus() {
		words += " + " + seriesWords(more)
	}
	return words
}

func readingWords(r engine.Reading) string {
	if r.Histogram == nil {
		return fmt.Sprintf("%.6g", r.Value)
	}
	words := fmt.Sprintf("%g observations, sum %.6g", r.Histogram.Count, r.Histogram.Sum)
	for _, b := range r.Histogram.Buckets {
		words += fmt.Sprintf(", %g≤%g", b.Count, b.UpperBound)
	}
	return words
}

// failures explains each log of testdata.
func (s *suite) failures(t *testing.T) {
	d := s.mustDescribe(t, s.target(s.newest()))
	m, err := engine.NewMatcher(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range glob(t, filepath.Join(s.Testdata, "failures", "*.log")) {
		name := strings.TrimSuffix(filepath.Base(file), ".log")
		t.Run(name, func(t *testing.T) {
			log := mustRead(t, file)
			var b strings.Builder
			explained := m.Failures(log)
			for _, e := range explained {
				kind := strings.ToLower(strings.TrimPrefix(e.Kind.String(), "FAILURE_KIND_"))
				fmt.Fprintf(&b, "%s%s: %s\n", kind, map[bool]string{true: ", fatal"}[e.Fatal], e.Words)
			}
			for _, step := range m.Progress(log) {
				fmt.Fprintf(&b, "step: %s\n", step)
			}
			if clean := strings.HasPrefix(name, "clean"); clean != (len(explained) == 0) {
				t.Errorf("explained as %v", explained)
			}
			golden(t, strings.TrimSuffix(file, ".log")+".golden", b.String())
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(mustRead(t, file)), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update writes it anew:\n%s", file, diff)
	}
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s (%v)", pattern, err)
	}
	return files
}
