package analysis

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// usual is steady telemetry that nothing limits.
var usual = load{seconds: 30, running: 3, kv: 0.2, ttft: 0.1, queue: 0.01, itl: 0.01, stepTokens: 10, steps: 90, requests: 2, out: 270, prompt: 2000}

// usualPace is what usual shows of its engine.
var usualPace = &Pace{StepSeconds: 0.0063, SecondsPerSequence: 0.001, SecondsPerPromptToken: 1e-4, HitRate: 0.6, HitsPerRequest: 600}

// observed is telemetry of one replica, changed second by second.
func observed(change func(i int, w *fleet.Window)) []*fleet.Window {
	ws := usual.windows("a/0")
	for i, w := range ws {
		w.Serving = true
		w.Counters[fleet.EngineCPUSeconds] = 0.7
		w.Counters[fleet.HostCPUSeconds] = 0.8
		w.Counters[fleet.ClientSeconds] = 3
		w.Gauges[fleet.EngineAgeSeconds] = 1000 + float64(i)
		change(i, w)
	}
	return ws
}

// TestCauses injects one cause at a time into the windows: just above its threshold it is named first,
// just below nothing is.
func TestCauses(t *testing.T) {
	every := func(counter string, v float64) func(int, *fleet.Window) {
		return func(_ int, w *fleet.Window) { w.Counters[counter] = v }
	}
	cached := func(hits float64) func(int, *fleet.Window) {
		return func(_ int, w *fleet.Window) {
			w.Counters[fleet.PrefixQueryTokens], w.Counters[fleet.PrefixHitTokens] = 2000, 2000*hits
		}
	}
	crowd := func(waiting, host float64) func(int, *fleet.Window) {
		return func(_ int, w *fleet.Window) {
			w.Counters[fleet.EngineRunWaitSeconds], w.Counters[fleet.HostCPUSeconds] = waiting, host
		}
	}
	longer := func(_ int, w *fleet.Window) {
		w.Counters[fleet.PrefixQueryTokens], w.Counters[fleet.PrefixHitTokens] = 6000, 1200
	}
	starting := func(age float64) func(int, *fleet.Window) {
		return func(i int, w *fleet.Window) {
			w.Serving = i >= 20
			w.Gauges[fleet.EngineAgeSeconds] = age + float64(i)
		}
	}
	// A window's median token takes 10 ms; in seconds with a long prompt some take longer.
	spiky := func(tokens float64) func(int, *fleet.Window) {
		return func(i int, w *fleet.Window) {
			if i%4 != 0 {
				return
			}
			w.Counters[fleet.IterationTokens] = w.Counters[fleet.GenerationTokens] + tokens
			if err := errors.Join(w.Sketches[fleet.ITL].AddN(0.01, 250), w.Sketches[fleet.ITL].AddN(0.04, 20)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(int, *fleet.Window)
		config Config
		want   Class
		says   string
	}{
		"nothing":                   {func(int, *fleet.Window) {}, nil, None, "no remedy"},
		"quota":                     {every(fleet.EngineThrottledSeconds, 0.2), nil, HostBound, "CPU quota"},
		"quota that hardly bites":   {every(fleet.EngineThrottledSeconds, 0.05), nil, None, "no remedy"},
		"no core":                   {crowd(0.4, 1.5), nil, HostBound, "has no core"},
		"its own threads crowd":     {crowd(0.4, 0.75), nil, None, "no remedy"},
		"longer prompts, hits stay": {longer, nil, None, "no remedy"},
		"stopped":                   {every(fleet.EngineStoppedSeconds, 0.2), nil, FailSlow, "stood still"},
		"slow for no reason":        {func(_ int, w *fleet.Window) { slow(t, w, 1.6) }, nil, FailSlow, "times as long"},
		"a little slow":             {func(_ int, w *fleet.Window) { slow(t, w, 1.15) }, nil, None, "no remedy"},
		"slow under a quota": {func(_ int, w *fleet.Window) {
			slow(t, w, 1.6)
			w.Counters[fleet.EngineThrottledSeconds] = 0.4
		}, nil, HostBound, "CPU quota"},
		"clients do not read":       {every(fleet.ClientBacklogSeconds, 1.5), nil, NetworkOrClient, "does not take"},
		"one odd client":            {every(fleet.ClientBacklogSeconds, 0.2), nil, None, "no remedy"},
		"cache lost its hits":       {cached(0.1), nil, PrefixMisses, "earlier it were 60 %"},
		"cache as before":           {cached(0.55), nil, None, "no remedy"},
		"prefix cache off":          {func(int, *fleet.Window) {}, Config{"prefix_caching": "false"}, PrefixMisses, "cache is off"},
		"long prompts now and then": {spiky(4000), nil, LongPromptInterference, "slowest hundredth"},
		"long prompts, cache off":   {spiky(4000), Config{"prefix_caching": "false"}, PrefixMisses, "cache is off"},
		"short prompts":             {spiky(300), nil, None, "no remedy"},
		"started just now":          {starting(10), nil, ColdStart, "has answered for 10 s"},
		"answers again, long up":    {starting(4000), nil, None, "no remedy"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{"max_num_seqs": "64", "max_num_batched_tokens": "8192"}
			for k, v := range c.config {
				config[k] = v
			}
			in := Input{Group: "chat", Replicas: 1, Windows: observed(c.change), Config: config, Pace: usualPace}
			got := Analyze(in, gains{"prefix_caching": 0.5})
			if got[0].GetClass() != string(c.want) || !strings.Contains(got[0].GetSummary(), c.says) {
				t.Fatalf("primary finding %s: %q; want %s that says %q", got[0].GetClass(), got[0].GetSummary(), c.want, c.says)
			}
		})
	}
}

// slow makes a window's tokens take so many times as long.
func slow(t *testing.T, w *fleet.Window, factor float64) {
	t.Helper()
	k := stats.NewSketch()
	if err := k.AddN(0.01*factor, 2); err != nil {
		t.Fatal(err)
	}
	w.Sketches[fleet.ITL] = k
}

// TestSilentEngineIsToldHowToSpeak: the answer names the flag and what the adapter warned of.
func TestSilentEngineIsToldHowToSpeak(t *testing.T) {
	ws := observed(func(_ int, w *fleet.Window) {
		clear(w.Counters)
		clear(w.Sketches)
		delete(w.Gauges, fleet.RequestsRunning)
	})
	got := Analyze(Input{Windows: ws, Warnings: []string{"vLLM runs without statistics"}}, nil)
	if s := got[0].GetSummary(); got[0].GetClass() != string(NotEnoughData) || !strings.Contains(s, "--disable-log-stats") || !strings.Contains(s, "without statistics") {
		t.Fatalf("%s: %q", got[0].GetClass(), s)
	}
}

// TestImbalance: one of three replicas has far more to do, for a minute.
func TestImbalance(t *testing.T) {
	fleetOf := func(busiest float64) []*fleet.Window {
		var all []*fleet.Window
		for i, running := range []float64{3, 3, busiest} {
			l := usual
			l.seconds, l.running = 90, running
			all = append(all, l.windows([]string{"a/0", "b/0", "c/0"}[i])...)
		}
		return all
	}
	fires := func(ws []*fleet.Window) bool {
		return slices.ContainsFunc(Examine(Input{Windows: ws, Replicas: 3}), func(a Answer) bool { return a.Class == ReplicaImbalance && a.Fires })
	}
	if !fires(fleetOf(9)) || fires(fleetOf(4)) {
		t.Errorf("nine against three: %v, four against three: %v; want true, false", fires(fleetOf(9)), fires(fleetOf(4)))
	}
}

// TestExamineSaysWhatIsMissing: a class without a source is never silently "no".
func TestExamineSaysWhatIsMissing(t *testing.T) {
	missing := map[Class]string{}
	for _, a := range Examine(Input{Windows: usual.windows("a/0")}) {
		missing[a.Class] = a.Missing
	}
	for _, class := range []Class{HostBound, NetworkOrClient, PrefixMisses, FailSlow, AdmissionLimited, ThermalThrottle} {
		if missing[class] == "" {
			t.Errorf("%s does not say which source it lacks", class)
		}
	}
}

// TestLearnPace: windows made by a law give the law back, and an engine of that pace is not slow.
func TestLearnPace(t *testing.T) {
	law := Pace{StepSeconds: 0.01, SecondsPerSequence: 0.002, SecondsPerPromptToken: 5e-5}
	var ws []*fleet.Window
	for i := range 60 {
		batch, prompt := float64(1+i%8), float64(100*(i%5))
		w := usual.windows("a/0")[0]
		w.Counters[fleet.Iterations] = 50
		w.Counters[fleet.GenerationTokens] = 50 * batch
		w.Counters[fleet.IterationTokens] = 50 * (batch + prompt)
		k := stats.NewSketch()
		if err := k.AddN(law.expected(batch, prompt), 50); err != nil {
			t.Fatal(err)
		}
		w.Sketches[fleet.ITL] = k
		ws = append(ws, w)
	}
	p := LearnPace(ws)
	if p == nil {
		t.Fatal("no pace")
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 0.05*b }
	if !near(p.StepSeconds, law.StepSeconds) || !near(p.SecondsPerSequence, law.SecondsPerSequence) || !near(p.SecondsPerPromptToken, law.SecondsPerPromptToken) {
		t.Errorf("learned %+v, want %+v", *p, law)
	}
	if s := p.slowness(ws); math.Abs(s-1) > 0.03 {
		t.Errorf("slowness %.3f of its own windows, want 1", s)
	}
	if LearnPace(ws[:10]) != nil {
		t.Error("ten windows taught a pace")
	}
}
