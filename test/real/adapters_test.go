//go:build real

package real

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/adapter"
	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/agent/scrape"
	pkgengine "github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/test/real/engine"
	"github.com/optiinfra/performance-agent/test/real/inject"
)

// pluginOf is the product's own adapter of the engine under test.
func pluginOf(t *testing.T) pkgengine.Adapter {
	t.Helper()
	host := adapter.New(adapter.Config{Dir: filepath.Join(bin(t), "plugins"), AllowUnsigned: true})
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	a, err := host.Adapter(t.Context(), string(kind(t)))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAdapter holds the adapter against a live server: the version it finds, the families on the
// page, the figures it reads there, and nothing that it misses.
func TestAdapter(t *testing.T) {
	p := start(t, engine.Options{Core: 0})
	const requests, tokens, least = 12, 16, 0.95 // SGLang's counter of tokens leaves a few out
	serve(t, p, requests, tokens)
	d, err := pluginOf(t).Describe(t.Context(), &pkgengine.Target{Argv: p.Recipe.Argv(p.Port()), BaseUrl: p.URL})
	if err != nil {
		t.Fatal(err)
	}
	if want := engine.Versions[kind(t)]; d.GetVersion() != want {
		t.Errorf("version %q, want %s", d.GetVersion(), want)
	}
	if len(d.GetWarnings()) > 0 {
		t.Errorf("warnings: %q", d.GetWarnings())
	}
	if d.GetModel() != engine.Model {
		t.Errorf("model %q, want %s", d.GetModel(), engine.Model)
	}
	startIsTold(t, p, d)
	page := pageOf(t, p)
	compareFamilies(t, page)
	found := readings(t, p, d)
	waitFor(t, "the page counts all requests", 10*time.Second, func() bool { // SGLang's counters follow some steps later
		found = readings(t, p, d)
		return found["requests_finished"].Value >= requests && found["generation_tokens"].Value >= least*requests*tokens
	})
	if words := pkgengine.GapWords(pkgengine.Gaps(d.GetSignals(), found, d.GetVersion())); words != "" {
		t.Error(words)
	}
	for signal, want := range map[string]float64{"requests_finished": requests, "generation_tokens": requests * tokens} {
		if got := found[signal].Value; got < least*want || got > want+10 { // probes of the engine's own add a few
			t.Errorf("%s is %g, want %g", signal, got, want)
		}
	}
	for _, signal := range []string{"ttft_seconds", "e2e_seconds", "queue_seconds"} {
		if h := found[signal].Histogram; h == nil || h.Count < requests {
			t.Errorf("%s counts too few requests: %+v", signal, h)
		}
	}
}

// startIsTold: the steps of the start can be read from the log, the last of them that it serves.
func startIsTold(t *testing.T, p *engine.Process, d *pkgengine.Description) {
	t.Helper()
	m, err := pkgengine.NewMatcher(d)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(p.Log)
	if err != nil {
		t.Fatal(err)
	}
	steps := m.Progress(log)
	t.Logf("start: %s", strings.Join(steps, "; "))
	if len(steps) < 3 || !slices.Contains(steps, "serving") {
		t.Errorf("the log shows %q of the start, want a few steps and that it serves", steps)
	}
	if found := m.Failures(log); len(found) > 0 {
		t.Errorf("a start that went well is taken for a failure: %+v", found)
	}
}

// serve sends streamed requests, a few at a time, and waits for their answers.
func serve(t *testing.T, p *engine.Process, n, tokens int) {
	t.Helper()
	var records []loadtest.Record
	shape := inject.Shape{Rate: 4, OwnTokens: 20, OutputTokens: tokens, Seed: 5}
	runner, err := loadtest.New(loadtest.Config{
		Targets: []loadtest.Target{{URL: p.URL, API: loadtest.OpenAICompletions}}, Source: first(shape.Source(time.Hour), n),
		Model: engine.Model, DrainWait: time.Minute, OnRecord: func(r loadtest.Record) { records = append(records, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Failed != "" {
			t.Fatalf("request %d: %s %s", r.Number, r.Failed, r.Detail)
		}
	}
}

// first takes n requests of a source.
func first(s loadtest.Source, n int) loadtest.Source { return &limited{s, n} }

type limited struct {
	loadtest.Source
	left int
}

func (l *limited) Next() (loadtest.Request, bool) {
	if l.left--; l.left < 0 {
		return loadtest.Request{}, false
	}
	return l.Source.Next()
}

func pageOf(t *testing.T, p *engine.Process) string {
	t.Helper()
	res, err := http.Get(p.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: status %d, %v", res.StatusCode, err)
	}
	return string(raw)
}

// compareFamilies holds the page's families against the list that the adapter's own test reads.
func compareFamilies(t *testing.T, page string) {
	t.Helper()
	var names []string
	for line := range strings.Lines(page) {
		// The page's other families are Python's and the web server's.
		if fields := strings.Fields(line); len(fields) == 4 && fields[1] == "TYPE" && strings.HasPrefix(fields[2], string(kind(t))+":") {
			names = append(names, fields[2])
		}
	}
	slices.Sort(names)
	got := strings.Join(slices.Compact(names), "\n") + "\n"
	file := filepath.Join("..", "..", "plugins", string(kind(t)), "testdata", fmt.Sprintf("families-%s.txt", engine.Versions[kind(t)]))
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the live page has other families than %s (-file +page); -update writes it anew:\n%s", file, diff)
	}
}

// readings resolves the page as the sidecar does.
func readings(t *testing.T, p *engine.Process, d *pkgengine.Description) map[string]pkgengine.Reading {
	t.Helper()
	client := scrape.New(scrape.Config{MetricsURL: p.URL + "/metrics", Timeout: 5 * time.Second, Series: collect.Series(d.GetSignals())}, http.DefaultTransport)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := client.Fetch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found, _ := pkgengine.Resolve(d.GetSignals(), got.Families)
	return found
}
