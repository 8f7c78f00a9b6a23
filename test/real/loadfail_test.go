//go:build real

package real

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// streamedFailures makes the engine fail inside streams of status 200: SGLang refuses what its queue
// does not take, vLLM loses its engine core. None of those requests may count as a success.
func streamedFailures(t *testing.T, p *engine.Process) {
	if kind(t) == engine.SGLang {
		for _, api := range []loadtest.API{loadtest.OpenAICompletions, loadtest.OpenAIChat, loadtest.SGLangGenerate} {
			overflow(t, p, api)
		}
		return
	}
	loseCore(t, p)
}

// overflow sends more at once than SGLang runs and queues.
func overflow(t *testing.T, p *engine.Process, api loadtest.API) {
	t.Helper()
	const n = 60
	by := map[string]int{}
	for _, r := range burst(t, p, api, n, 8, nil) {
		by[r.Failed]++
		if r.Failed != "" && (r.Failed != loadtest.FailedStream || r.Status != 200 || r.Tokens != 0 || !strings.Contains(r.Detail, "queue")) {
			t.Errorf("%s: %+v", api, r)
		}
		if r.Failed == "" && r.Tokens != 8 {
			t.Errorf("%s: a success with %d of 8 tokens: %+v", api, r.Tokens, r)
		}
	}
	t.Logf("%s: of %d requests at once %d were answered, %d got an error inside a stream of status 200", api, n, by[""], by[loadtest.FailedStream])
	if by[""] == 0 || by[loadtest.FailedStream] == 0 || by[""]+by[loadtest.FailedStream] != n {
		t.Errorf("%s: outcomes %v, want answers and errors", api, by)
	}
}

// loseCore kills vLLM's engine core while all streams are under way.
func loseCore(t *testing.T, p *engine.Process) {
	t.Helper()
	const n = 8
	core := member(t, p, "VLLM::EngineCor")
	by := map[string]int{}
	for _, r := range burst(t, p, loadtest.OpenAICompletions, n, 400, func() {
		if err := syscall.Kill(core, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}) {
		by[r.Failed]++
		if r.Status != 200 || r.FirstToken.IsZero() || r.Tokens >= 400 {
			t.Errorf("not cut amid a stream: %+v", r)
		}
		t.Logf("%s: %.150s", r.Failed, r.Detail)
	}
	if by[loadtest.FailedStream]+by[loadtest.FailedCut] != n {
		t.Errorf("outcomes %v, want %d failures", by, n)
	}
}

// atOnce is n requests, all due at the start.
type atOnce struct{ left, tokens int }

// Next implements loadtest.Source.
func (a *atOnce) Next() (loadtest.Request, bool) {
	a.left--
	return loadtest.Request{PromptTokens: 20, OutputTokens: a.tokens}, a.left >= 0
}

// burst sends n requests at once. amid runs about when all of them have their first tokens.
func burst(t *testing.T, p *engine.Process, api loadtest.API, n, tokens int, amid func()) (records []loadtest.Record) {
	t.Helper()
	r, err := loadtest.New(loadtest.Config{
		Targets: []loadtest.Target{{URL: p.URL, API: api}}, Source: &atOnce{n, tokens}, Model: engine.Model,
		Timeout: 2 * time.Minute, DrainWait: 2 * time.Minute, OnRecord: func(r loadtest.Record) { records = append(records, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { err = r.Run(t.Context()) })
	if amid != nil {
		underWay(t, p, n)
		amid()
	}
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != n {
		t.Errorf("%d records of %d requests", len(records), n)
	}
	return records
}

// underWay waits until the engine has counted n first tokens more than at the call.
func underWay(t *testing.T, p *engine.Process, n int) {
	t.Helper()
	g := generators{t: t, server: p.URL}
	const first = "time_to_first_token_seconds_count"
	for before, limit := g.histograms()[first], time.Now().Add(time.Minute); g.histograms()[first] < before+float64(n); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("the streams did not begin within a minute")
		}
	}
}

// member is the process of the engine that has the name.
func member(t *testing.T, p *engine.Process, name string) int {
	t.Helper()
	for _, pid := range p.Members() {
		comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return pid
		}
	}
	t.Fatalf("%s has no process called %s", p.Recipe.Kind, name)
	return 0
}
