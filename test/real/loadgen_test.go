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

	"gonum.org/v1/gonum/floats"

	"github.com/optiinfra/performance-agent/pkg/load"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// The comparison of load generators: both send the same trace to the same server in turn.
const (
	genRounds    = 6 // of each generator
	genRequests  = 60
	genWarm      = 60
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

// sameFigures lets the generators take turns, each first in half of the rounds.
func sameFigures(t *testing.T, p *engine.Process) {
	reference, err := engine.Find(engine.VLLM)
	if errors.Is(err, engine.ErrAbsent) {
		t.Skip("the reference client: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := generators{t: t, dir: t.TempDir(), reference: reference, server: p.URL}
	g.ours(g.trace("warm-up", genWarm))
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
	load.Result
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

// quantity is one time of a request, and the engine's own mean of it over a round.
type quantity struct {
	name   string
	of     func(r run, i int) float64 // seconds, of request i
	engine func(run) float64          // seconds
	said   func(run) [3]float64       // p50, p95, p99 that the client itself printed, ms
}

var quantities = []quantity{
	{"TTFT", func(r run, i int) float64 { return r.TTFTs[i] }, func(r run) float64 { return r.engineTTFT }, func(r run) [3]float64 { return [...]float64{r.P50TTFT, r.P95TTFT, r.P99TTFT} }},
	{"TPOT", func(r run, i int) float64 { return floats.Sum(r.ITLs[i]) / float64(r.OutputLens[i]-1) }, func(r run) float64 { return r.engineE2E - r.engineTTFT }, func(r run) [3]float64 { return [...]float64{r.P50TPOT, r.P95TPOT, r.P99TPOT} }},
	{"E2E", func(r run, i int) float64 { return r.TTFTs[i] + floats.Sum(r.ITLs[i]) }, func(r run) float64 { return r.engineE2E }, func(r run) [3]float64 { return [...]float64{r.P50E2EL, r.P95E2EL, r.P99E2EL} }},
}

var levels = [...]float64{.50, .95, .99}

// compare pools the requests of all rounds of either client and compares percentiles of the pools. On
// two cores the engine's own speed moves by some percent from one round to the next, so each time is
// divided by what the engine itself says of its round against the mean of all rounds: what is left is
// what the clients say differently. Beside it stand the figures as they were taken, and how far apart
// the two halves of the reference's rounds are from each other in the same way: less than that no
// comparison on this machine can tell.
func compare(t *testing.T, theirs, ours []run) {
	t.Helper()
	all := slices.Concat(theirs, ours)
	t.Logf("%-16s %10s %10s %8s %8s %8s", "all rounds", "vllm bench", "perf-agent", "apart", "as taken", "itself")
	for _, f := range []struct {
		name string
		of   func(run) float64
	}{
		{"requests/s", func(r run) float64 { return r.RequestThroughput }},
		{"output tokens/s", func(r run) float64 { return r.OutputThroughput }},
	} {
		a, b := mean(theirs, f.of), mean(ours, f.of)
		t.Logf("%-16s %10.2f %10.2f %+7.1f%%", f.name, a, b, apart(a, b))
		within(t, f.name, a, b)
	}
	for _, q := range quantities {
		honest(t, q, all)
		engine := mean(all, q.engine)
		pool := func(runs []run, level float64, asTaken bool) float64 {
			var v []float64
			for _, r := range runs {
				scale := 1000 * engine / q.engine(r)
				if asTaken {
					scale = 1000
				}
				for i := range r.TTFTs {
					v = append(v, scale*q.of(r, i))
				}
			}
			return percentile(v, level)
		}
		for _, level := range levels {
			name := fmt.Sprintf("%s p%.0f ms", q.name, 100*level)
			a, b := pool(theirs, level, false), pool(ours, level, false)
			t.Logf("%-16s %10.2f %10.2f %+7.1f%% %+7.1f%% %+7.1f%%", name, a, b, apart(a, b),
				apart(pool(theirs, level, true), pool(ours, level, true)),
				apart(pool(half(theirs, 0), level, false), pool(half(theirs, 1), level, false)))
			within(t, name, a, b)
		}
	}
}

func within(t *testing.T, name string, theirs, ours float64) {
	t.Helper()
	if d := apart(theirs, ours); !(max(d, -d) <= 100*genTolerance) {
		t.Errorf("%s: %.2f by vllm bench serve, %.2f by ours, %+.1f %% apart", name, theirs, ours, d)
	}
}

// honest checks that the times of single requests are those of which each client made its figures.
func honest(t *testing.T, q quantity, runs []run) {
	t.Helper()
	for n, r := range runs {
		v := make([]float64, len(r.TTFTs))
		for i := range v {
			v[i] = 1000 * q.of(r, i)
		}
		for i, said := range q.said(r) {
			if d := apart(said, percentile(v, levels[i])); !(max(d, -d) <= 1) {
				t.Errorf("run %d: its requests make %s p%.0f %.2f ms, it says %.2f", n, q.name, 100*levels[i], percentile(v, levels[i]), said)
			}
		}
	}
}

// explain says how far apart the two sent the same request, and how far either client's clock is from
// the engine's.
func explain(t *testing.T, theirs, ours []run) {
	t.Helper()
	t.Logf("requests sent later than by perf-agent's first round, ms p50 and p99: vllm bench %.1f, perf-agent %.1f", lateness(ours[0], theirs), lateness(ours[0], ours))
	for _, c := range []struct {
		name           string
		client, engine func(run) float64
	}{
		{"TTFT", func(r run) float64 { return r.MeanTTFT }, func(r run) float64 { return r.engineTTFT * 1000 }},
		{"E2E", func(r run) float64 { return r.MeanE2EL }, func(r run) float64 { return r.engineE2E * 1000 }},
	} {
		a, ea, b, eb := mean(theirs, c.client), mean(theirs, c.engine), mean(ours, c.client), mean(ours, c.engine)
		t.Logf("mean %s in ms: vllm bench %.1f where the engine says %.1f (%+.1f), perf-agent %.1f where the engine says %.1f (%+.1f)", c.name, a, ea, a-ea, b, eb, b-eb)
		t.Logf("mean %s in ms of each round, by the engine: during vllm bench %.0f, during perf-agent %.0f", c.name, each(theirs, c.engine), each(ours, c.engine))
	}
}

// lateness of each run's requests against those of one run, from the first request on, in ms.
func lateness(of run, runs []run) (late [][2]float64) {
	for _, r := range runs {
		v := make([]float64, len(r.StartTimes))
		for i := range v {
			v[i] = 1000 * (r.StartTimes[i] - r.StartTimes[0] - of.StartTimes[i] + of.StartTimes[0])
		}
		late = append(late, [2]float64{percentile(v, .50), percentile(v, .99)})
	}
	return late
}

func each(rs []run, of func(run) float64) (v []float64) {
	for _, r := range rs {
		v = append(v, of(r))
	}
	return v
}

func mean(rs []run, of func(run) float64) float64 { return floats.Sum(each(rs, of)) / float64(len(rs)) }

// half is every second run, from the first or the second on.
func half(runs []run, from int) (h []run) {
	for i := from; i < len(runs); i += 2 {
		h = append(h, runs[i])
	}
	return h
}

// apart in percent of theirs.
func apart(theirs, ours float64) float64 { return 100 * (ours/theirs - 1) }

// percentile as numpy computes it, and with it the reference client.
func percentile(v []float64, level float64) float64 {
	s := slices.Sorted(slices.Values(v))
	at := level * float64(len(s)-1)
	i := int(at)
	return s[i] + (at-float64(i))*(s[min(i+1, len(s)-1)]-s[i])
}
