package workload

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// archive packs files as ServeGen publishes them.
func archive(tb testing.TB, files map[string]string) []byte {
	tb.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	members := tar.NewWriter(zipped)
	for _, name := range sortedKeys(files) {
		if err := members.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := members.Write([]byte(files[name])); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errors.Join(members.Close(), zipped.Close()); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

var twoClients = map[string]string{
	"data/chunk-0-trace.csv":    "0,2,1,Gamma,1,0.5\n600,0,0,,0,0\n1200,4,2,Weibull,1,1\n",
	"data/chunk-0-dataset.json": `{"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{10: 0.5, 20: 0.5}"}, "1200": {"input_tokens": "{300: 2}", "output_tokens": "{7: 1}"}}`,
	"data/chunk-1-trace.csv":    "0,0,0,,0,0\n600,1,6,Gamma,.02,7\n1200,0,0,,0,0\n",
	"data/chunk-1-dataset.json": `{"0": {"input_tokens": "{5: 1}", "output_tokens": "{6: 1}"}}`,
	"data/chunk-2-trace.csv":    "0,0,0,,0,0\n", // never sends
	"data/chunk-2-dataset.json": `{"0": {"input_tokens": "{5: 1}", "output_tokens": "{6: 1}"}}`,
	"data/chunk-3-trace.csv":    "0,1,1,Gamma,1,1\n", // no lengths
	"data/readme.txt":           "hello",
}

func TestReadServeGen(t *testing.T) {
	g, err := ReadServeGen(bytes.NewReader(archive(t, twoClients)))
	if err != nil {
		t.Fatal(err)
	}
	want := []ServeGenWindow{{0, 2, 1, GammaGaps}, {10 * time.Minute, 0, 0, GammaGaps}, {20 * time.Minute, 4, 2, WeibullGaps}}
	if len(g.Clients) != 2 || cmp.Diff(want, g.Clients[0].Windows) != "" {
		t.Fatalf("%d clients, windows (-want +got):\n%s", len(g.Clients), cmp.Diff(want, g.Clients[0].Windows))
	}
	trace, err := g.Generate(0, 30*time.Minute, 1, 5)
	if err != nil {
		t.Fatal(err)
	}
	checkTrace(t, append([]Request{{PromptTokens: 1, OutputTokens: 1}}, trace...))
	counts, short := map[string]int{}, 0
	for _, r := range trace {
		key := r.Client + r.Offset.Truncate(10*time.Minute).String()
		counts[key]++
		switch {
		case key == "chunk-00s" && (r.PromptTokens != 100 || r.OutputTokens != 10 && r.OutputTokens != 20),
			key == "chunk-020m0s" && (r.PromptTokens != 300 || r.OutputTokens != 7):
			t.Fatalf("lengths of another window: %+v", r)
		case key == "chunk-00s" && r.OutputTokens == 10:
			short++
		}
	}
	// Rates are exact in each window, whatever the burstiness.
	if diff := cmp.Diff(map[string]int{"chunk-00s": 1200, "chunk-020m0s": 2400, "chunk-110m0s": 600}, counts); diff != "" {
		t.Errorf("requests by client and window (-want +got):\n%s", diff)
	}
	if math.Abs(float64(short)-600) > 75 {
		t.Errorf("%d of 1200 answers have ten tokens, want half", short)
	}
	again, err := g.Generate(0, 30*time.Minute, 1, 5)
	if err != nil || cmp.Diff(trace, again) != "" {
		t.Errorf("same seed, other trace (%v)", err)
	}
	late, err := g.Generate(10*time.Minute, 5*time.Minute, 2, 5)
	if err != nil || len(late) != 600 || late[0].Client != "chunk-1" {
		t.Errorf("five minutes at twice the rate have %d requests (%v)", len(late), err)
	}
	if _, err := g.Generate(0, 0, 1, 1); !errors.Is(err, ErrSpec) {
		t.Errorf("no span: %v", err)
	}
}

func TestReadServeGenRefuses(t *testing.T) {
	with := func(name, text string) []byte {
		return archive(t, map[string]string{"chunk-0-trace.csv": "0,1,1,Gamma,1,1\n", "chunk-0-dataset.json": twoClients["data/chunk-1-dataset.json"], name: text})
	}
	for name, c := range map[string]struct {
		give []byte
		text string
	}{
		"not zipped":    {[]byte("hello"), "EOF"},
		"nobody":        {archive(t, nil), "no client"},
		"columns":       {with("chunk-0-trace.csv", "1,2\n"), "chunk-0-trace.csv"},
		"not a number":  {with("chunk-0-trace.csv", "0,1,1,Gamma,1,1\nx,1,1,Gamma,1,1\n"), "line 2"},
		"family":        {with("chunk-0-trace.csv", "0,1,1,Pareto,1,1\n"), "Pareto"},
		"variation":     {with("chunk-0-trace.csv", "0,1,-1,Gamma,1,1\n"), "variation"},
		"back in time":  {with("chunk-0-trace.csv", "600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n"), "line 2"},
		"negative rate": {with("chunk-0-trace.csv", "0,-1,1,Gamma,1,1\n"), "line 1"},
		"broken JSON":   {with("chunk-0-dataset.json", "{"), "chunk-0-dataset.json"},
		"window":        {with("chunk-0-dataset.json", `{"soon": {}}`), "soon"},
		"tokens":        {with("chunk-0-dataset.json", `{"0": {"input_tokens": "{a: 1}"}}`), "input_tokens"},
		"share":         {with("chunk-0-dataset.json", `{"0": {"input_tokens": "{1: 1}", "output_tokens": "{1: -1}"}}`), "output_tokens"},
	} {
		if _, err := ReadServeGen(bytes.NewReader(c.give)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzServeGen(f *testing.F) {
	f.Add("0,2,1,Gamma,1,0.5\n", `{"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{10: 0.5}"}}`)
	f.Add("0,1,0,Weibull,,\n", `{"0": {"input_tokens": "{1e9: 1e300}", "output_tokens": "{: }"}}`)
	f.Fuzz(func(t *testing.T, arrivals, lengths string) {
		windows, err := serveGenWindows(strings.NewReader(arrivals))
		if err != nil || len(windows) > 20 {
			return
		}
		held, err := serveGenLengths(strings.NewReader(lengths))
		if err != nil || len(held) == 0 {
			return
		}
		for i := range windows {
			windows[i].Rate = min(windows[i].Rate, 1)
		}
		g := &ServeGen{Clients: []ServeGenClient{{Windows: windows, Lengths: held}}}
		trace, err := g.Generate(0, time.Minute, 1, 1)
		if err != nil {
			t.Fatalf("what was read cannot be generated: %v", err)
		}
		for _, r := range trace {
			if r.PromptTokens <= 0 || r.OutputTokens <= 0 || r.Offset < 0 || r.Offset > time.Minute {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// TestServeGenData reads the public archive and finds what is published of it.
func TestServeGenData(t *testing.T) {
	f, err := os.Open(dataFile(t, "servegen_deepseek-r1.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := ReadServeGen(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Clients) < 60 || len(g.Clients) > 73 {
		t.Errorf("%d clients send, of 73", len(g.Clients))
	}
	total := map[time.Duration]float64{}
	for _, c := range g.Clients {
		for _, w := range c.Windows {
			total[w.From] += w.Rate
		}
	}
	low, high := math.Inf(1), 0.
	for _, rate := range total {
		low, high = min(low, rate), max(high, rate)
	}
	if !near(low, 4.3, .02) || !near(high, 42.5, .02) {
		t.Errorf("between %.1f and %.1f requests per second, published 4.3 to 42.5", low, high)
	}
	trace, err := g.Generate(12*time.Hour, time.Hour, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := 0.
	for from := 12 * time.Hour; from < 13*time.Hour; from += 10 * time.Minute {
		want += 600 * total[from]
	}
	if !near(float64(len(trace)), want, .01) {
		t.Errorf("%d requests in the hour, the windows' rates make %.0f", len(trace), want)
	}
}
