//go:build real

package real

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// The comparison of load generators: both send the same trace to the same server in turn.
const (
	genRounds    = 4 // of each generator
	genRequests  = 60
	genRate      = 3.0 // per second, about half of what the engine can do
	genTolerance = .05
)

// slow are flags with which the engine takes its time for a token, as large models do: on two cores a
// client that takes a tenth of a millisecond for a token would slow the tiny model by some percent.
// Nothing comes from a cache, since both sides send the same lengths with different tokens.
var slow = map[engine.Kind][]string{
	engine.VLLM:   {"--no-enable-prefix-caching", "--hf-overrides", `{"num_hidden_layers": 16}`},
	engine.SGLang: {"--disable-radix-cache", "--json-model-override-args", `{"num_hidden_layers": 16}`, "--max-total-tokens", "16384", "--max-running-requests", "16", "--max-queued-requests", "8"},
}

// clientCore is where both generators run; the engine's worker has the other one.
const clientCore = "1"

// TestLoadGenerator holds our generator's figures against those of `vllm bench serve`; then the engine
// fails inside streams whose status is 200.
func TestLoadGenerator(t *testing.T) {
	p := start(t, engine.Options{Core: 0, Flags: slow[kind(t)]})
	t.Run("figures", func(t *testing.T) { sameFigures(t, p) })
	t.Run("failures", func(t *testing.T) { streamedFailures(t, p) })
}

// sameFigures compares each round with the other generator's beside it, so that an engine that is slower
// for a minute slows both, and takes the median of those comparisons.
func sameFigures(t *testing.T, p *engine.Process) {
	reference, err := engine.Find(engine.VLLM)
	if errors.Is(err, engine.ErrAbsent) {
		t.Skip("the reference client: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := generators{t: t, dir: t.TempDir(), reference: reference, server: p.URL}
	g.ours(g.trace("warm-up", 20))
	trace := g.trace("trace", genRequests)
	var theirs, ours []run
	for i := range genRounds {
		if i%2 == 0 {
			theirs = append(theirs, g.theirs(trace))
			ours = append(ours, g.ours(trace))
		} else {
			ours = append(ours, g.ours(trace))
			theirs = append(theirs, g.theirs(trace))
		}
	}
	sameRequests(t, theirs, ours)
	explain(t, theirs, ours)
	compare(t, theirs, ours)
}

// generators runs either client against one server.
type generators struct {
	t         *testing.T
	dir       string
	reference engine.Recipe
	server    string
	runs      int
}

// trace writes requests in the form that both read: Poisson arrivals, lengths of a short chat.
func (g *generators) trace(name string, n int) string {
	g.t.Helper()
	rng := rand.New(rand.NewPCG(5, 3))
	var b strings.Builder
	at := 0.0
	for i := range n {
		fmt.Fprintf(&b, `{"timestamp":%.3f,"input_length":%d,"output_length":%d,"hash_ids":[%d]}`+"\n", at, 200+rng.IntN(101), 24+rng.IntN(17), i)
		at += rng.ExpFloat64() / genRate * 1000
	}
	file := filepath.Join(g.dir, name+".jsonl")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return file
}

// run is what a client saved, and what the engine's own histograms say about the same requests.
type run struct {
	loadtest.Result
	engineTTFT, engineE2E float64 // mean, seconds
}

// theirs is a run of `vllm bench serve`. The warm-up request keeps what Python does once out of it.
func (g *generators) theirs(trace string) run {
	g.t.Helper()
	host, port, _ := strings.Cut(strings.TrimPrefix(g.server, "http://"), ":")
	return g.run(g.reference.Env(0), "--result-filename",
		filepath.Join(g.reference.Cache, "vllm", "bin", "vllm"), "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions",
		"--host", host, "--port", port, "--model", engine.Model, "--tokenizer", g.reference.ModelPath(),
		"--dataset-name", "timed_trace", "--dataset-path", trace, "--timed-trace-sec-multiplier", "0.001", "--timed-trace-chunk-hash-size", "512",
		"--temperature", "0", "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99",
		"--num-warmups", "1", "--disable-tqdm", "--save-result", "--save-detailed")
}

// ours is a run of `perf-agent bench`.
func (g *generators) ours(trace string) run {
	g.t.Helper()
	return g.run(os.Environ(), "--save",
		filepath.Join(bin(g.t), "perf-agent"), "bench", "--target", g.server+",openai-completions", "--model", engine.Model,
		"--trace", trace, "--duration", "0", "--vocabulary", "4096")
}

// run carries out one client and reads the file that it saves.
func (g *generators) run(env []string, saveFlag string, argv ...string) (r run) {
	g.t.Helper()
	before := g.histograms()
	g.runs++
	file := filepath.Join(g.dir, fmt.Sprintf("result-%d.json", g.runs))
	cmd := exec.CommandContext(g.t.Context(), "taskset", append([]string{"-c", clientCore}, append(argv, saveFlag, file)...)...)
	cmd.Env = env
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r.Result); err != nil {
		g.t.Fatalf("%s: %v", file, err)
	}
	after := g.histograms()
	mean := func(name string) float64 {
		return (after[name+"_sum"] - before[name+"_sum"]) / (after[name+"_count"] - before[name+"_count"])
	}
	r.engineTTFT, r.engineE2E = mean("time_to_first_token_seconds"), mean("e2e_request_latency_seconds")
	return r
}

// histograms are the sums and counts on the engine's page, by their names without the engine's.
func (g *generators) histograms() map[string]float64 {
	g.t.Helper()
	resp, err := http.Get(g.server + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	got := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), "{")
		_, value, ok := strings.Cut(rest, "} ")
		_, name, named := strings.Cut(name, ":")
		if v, err := strconv.ParseFloat(value, 64); ok && named && err == nil && !strings.HasSuffix(name, "_bucket") {
			got[name] += v
		}
	}
	return got
}

// sameRequests checks that every run sent the same work and that all of it was done.
func sameRequests(t *testing.T, theirs, ours []run) {
	t.Helper()
	want := theirs[0]
	for i, r := range slices.Concat(theirs, ours) {
		if r.Completed != genRequests || r.Failed != 0 {
			t.Errorf("run %d: %d of %d requests succeeded", i, r.Completed, genRequests)
		}
		if !slices.Equal(r.InputLens, want.InputLens) || !slices.Equal(r.OutputLens, want.OutputLens) {
			t.Errorf("run %d: the server counted other tokens: %v and %v, in the first run %v and %v", i, r.InputLens, r.OutputLens, want.InputLens, want.OutputLens)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// figures that are compared.
var figures = []struct {
	name string
	of   func(run) float64
	tail bool // of so few requests that it says little in a single round
}{
	{"requests/s", func(r run) float64 { return r.RequestThroughput }, false},
	{"output tokens/s", func(r run) float64 { return r.OutputThroughput }, false},
	{"TTFT p50 ms", func(r run) float64 { return r.P50TTFT }, false},
	{"TTFT p95 ms", func(r run) float64 { return r.P95TTFT }, false},
	{"TTFT p99 ms", func(r run) float64 { return r.P99TTFT }, true},
	{"TPOT p50 ms", func(r run) float64 { return r.P50TPOT }, false},
	{"TPOT p95 ms", func(r run) float64 { return r.P95TPOT }, false},
	{"TPOT p99 ms", func(r run) float64 { return r.P99TPOT }, true},
	{"E2E p50 ms", func(r run) float64 { return r.P50E2EL }, false},
	{"E2E p95 ms", func(r run) float64 { return r.P95E2EL }, false},
	{"E2E p99 ms", func(r run) float64 { return r.P99E2EL }, true},
}

// clocks are means by client and by engine: what a client adds of its own, and whether it slows the
// engine down, which has to share two cores with it.
var clocks = []struct {
	name           string
	client, engine func(run) float64
}{
	{"TTFT", func(r run) float64 { return r.MeanTTFT }, func(r run) float64 { return r.engineTTFT * 1000 }},
	{"E2E", func(r run) float64 { return r.MeanE2EL }, func(r run) float64 { return r.engineE2E * 1000 }},
}

// compare judges the median over pairs of adjacent rounds. A figure whose pairs scatter so much that
// they straddle the tolerance, as the 99th percentile of 60 requests may, is said to be undecided.
func compare(t *testing.T, theirs, ours []run) {
	t.Helper()
	t.Logf("%-16s %10s %10s %8s   each pair", "median of rounds", "vllm bench", "perf-agent", "apart")
	for _, f := range figures {
		a, b := each(theirs, f.of), each(ours, f.of)
		pairs := make([]float64, len(a))
		for i := range a {
			pairs[i] = 100 * (b[i]/a[i] - 1)
		}
		apart, least := median(pairs), slices.Min(pairs)
		if apart < 0 {
			least = slices.Max(pairs)
		}
		verdict := ""
		switch {
		case max(apart, -apart) <= 100*genTolerance:
		case f.tail && apart*least < 0:
			verdict = "  undecided: the pairs do not agree"
		default:
			t.Errorf("%s: %.2f by vllm bench serve, %.2f by ours, %+.1f %% apart beside each other", f.name, median(a), median(b), apart)
		}
		t.Logf("%-16s %10.2f %10.2f %+7.1f%%   %+.1f%s", f.name, median(a), median(b), apart, pairs, verdict)
	}
}

// explain says how far either client's clock is from the engine's.
func explain(t *testing.T, theirs, ours []run) {
	t.Helper()
	for _, c := range clocks {
		a, ea, b, eb := median(each(theirs, c.client)), median(each(theirs, c.engine)), median(each(ours, c.client)), median(each(ours, c.engine))
		t.Logf("mean %s in ms: vllm bench %.1f where the engine says %.1f (%+.1f), perf-agent %.1f where the engine says %.1f (%+.1f)", c.name, a, ea, a-ea, b, eb, b-eb)
	}
}

func each(rs []run, of func(run) float64) (v []float64) {
	for _, r := range rs {
		v = append(v, of(r))
	}
	return v
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
