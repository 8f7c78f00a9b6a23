package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// barLine is the form of every line that a bar prints.
var barLine = regexp.MustCompile(`^BAR [A-Z][0-9]+[a-z]?[.a-z0-9_]* (skipped reason="|value=\S+ unit=\S+)`)

// checkLines fails for what is no bar's line.
func checkLines(t *testing.T, text string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, l := range lines {
		if !barLine.MatchString(l) {
			t.Errorf("not a bar line: %q", l)
		}
	}
	return lines
}

func TestPrintDemo(t *testing.T) {
	var out bytes.Buffer
	raw := `{"goodput_factor":5.5,"e2e_p95_change":-0.4,"requests_lost":0,"seconds":190,"before":{"requests":60},"after":{"requests":70},"bad_proposal":{"state":"rolled_back","time_to_mitigate_seconds":9}}`
	if err := printDemo([]byte(raw), &out); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	if !strings.HasPrefix(lines[0], "BAR M1 value=5.50 unit=factor target>=3") {
		t.Errorf("first line %q", lines[0])
	}
	if err := printDemo([]byte("{"), &out); err == nil {
		t.Error("a broken report must be an error")
	}
}

func TestOrderStatistic(t *testing.T) {
	values := []float64{1, 2, 3, 4, 5}
	for q, want := range map[float64]float64{0: 1, .5: 3, .95: 4, .99: 4, 1: 5} {
		if got := orderStatistic(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := relativeError(99, 100); got != 1 {
		t.Errorf("99 for 100 is wrong by %v %%, want 1", got)
	}
}

// TestMergedErrors plants values that the store never saw, which the comparison must find.
func TestMergedErrors(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	f := &a4Fleet{
		ids: []string{"a/0", "b/0"}, start: start, values: [][][]float64{{{.1, .2}}, {{.3, .4}}},
		store: telemetry.New(telemetry.Config{Now: func() time.Time { return start.Add(time.Second) }}),
	}
	for engine, seconds := range f.values {
		if err := f.send(engine, 0, seconds[0]); err != nil {
			t.Fatal(err)
		}
	}
	everything := a4Scope{of: "fleet", engines: []int{0, 1}, to: 1}
	sound := newA4Errors()
	if err := f.compare(everything, sound); err != nil {
		t.Fatal(err)
	}
	if sound.figures != 3 || sound.unlike != 0 || sound.missing != 0 || sound.sketch["fleet"][2] > 1 {
		t.Errorf("a sound merge: %+v", sound)
	}
	f.values[1][0] = []float64{3, 4, 5}
	wrong := newA4Errors()
	if err := f.compare(everything, wrong); err != nil {
		t.Fatal(err)
	}
	if wrong.missing != 1 || wrong.unlike == 0 || wrong.sketch["fleet"][2] < 50 {
		t.Errorf("values that were never sent were not missed: %+v", wrong)
	}
	var out bytes.Buffer
	if err := wrong.print(&out, f); err != nil {
		t.Fatal(err)
	}
	if lines := checkLines(t, out.String()); len(lines) != 6 {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

func TestHistogramOfValues(t *testing.T) {
	s := a4Histogram([]float64{.001, .03, 3000})
	if s.Count() != 3 || math.Abs(s.Sum()-3000.031) > 1e-9 || s.Quantile(.5) < .02 || s.Quantile(.5) > .04 {
		t.Errorf("count %v, sum %v, median %v", s.Count(), s.Sum(), s.Quantile(.5))
	}
}

func TestProcessorTimeOfAProcess(t *testing.T) {
	const stat = "77 (a ) (b) S 12 77 77 0 -1 4194304 900 0 0 0 100 20 3 4 20 0 9 0 555 1000 2000"
	if got, err := cpuIn(stat); err != nil || got != 1270*time.Millisecond {
		t.Errorf("processor time %v, %v, want that of the process and of its children", got, err)
	}
	if pid, parent, name, ok := relation(stat); pid != 77 || parent != 12 || name != "a ) (b" || !ok {
		t.Errorf("process %d %q below %d, %v", pid, name, parent, ok)
	}
	for _, broken := range []string{"", "77 (a", "77 (a) S", "77 (a) Z 12", "x (a) S 12"} {
		if _, _, _, ok := relation(broken); ok {
			t.Errorf("%q is taken for a live process", broken)
		}
	}
	if _, err := cpuIn("77 (a) S 12"); err == nil {
		t.Error("a short line has processor time")
	}
	u, err := usageOf(os.Getpid())
	if err != nil || u.rss <= 1<<20 || u.peak < u.rss {
		t.Errorf("own usage %+v, %v", u, err)
	}
}

func TestSidecarFigures(t *testing.T) {
	var samples []sidecarSample
	for i := range 21 { // 8 ms a second of the agent, in its second half 16; 1 ms of a child
		used := 8 * i
		if i > 10 {
			used += 8 * (i - 10)
		}
		samples = append(samples, sidecarSample{
			at:       time.Unix(int64(i), 0),
			agent:    usage{cpu: time.Duration(used) * time.Millisecond, rss: int64(20+i) * megabyte, peak: 50 * megabyte},
			children: usage{cpu: time.Duration(i) * time.Millisecond, rss: 5 * megabyte, peak: 6 * megabyte}, programs: []string{"p"},
		})
	}
	f := figuresOf(samples)
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	near("processor time", f.cpu, 1.3)
	near("of the agent", f.agent, 1.2)
	near("of children", f.children, .1)
	near("quietest slice", f.low, .9)
	near("busiest slice", f.high, 1.7)
	near("steady memory", steady(samples, func(s sidecarSample) int64 { return s.agent.rss + s.children.rss }), 35)
	var out bytes.Buffer
	start := []sidecarSample{{agent: usage{peak: 48 * megabyte}, children: usage{peak: 22 * megabyte}}} // with more children
	if err := printSidecar(&out, start, samples, sidecarFacts{windows: 20, source: "probe", gpu: "absent"}); err != nil {
		t.Fatal(err)
	}
	lines := checkLines(t, out.String())
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "BAR A1 value=1.30 unit=percent target<=1 ") || !strings.HasPrefix(lines[1], "BAR A1.rss value=70.0 unit=MB target<=40 of=peak steady=35.0 agent_peak=50.0 ") {
		t.Errorf("lines:\n%s", out.String())
	}
}

// TestDrivenWindows reads what a driven sidecar sends as a control plane would.
func TestDrivenWindows(t *testing.T) {
	sent := &agentv1.Window{
		InstanceId: "recorded/0", StartUnixMs: 5000, Counters: map[string]float64{"a": 1}, Gauges: map[string]float64{"b": 2},
		Sources: []*agentv1.Source{{Name: fleet.SourceEngine}}, Serving: true,
	}
	r := &recording{engine: &agentv1.EngineInfo{InstanceId: "recorded/0"}, windows: []*agentv1.Window{sent}}
	if faults := finish([]*recording{r}); len(faults) != 1 || faults[0] != nil {
		t.Fatal(faults)
	}
	s := newDriven("", p2GroupSize+1, []*recording{{}, r}).sidecars[p2GroupSize]
	s.next = time.Unix(100, 0)
	var m agentv1.ConnectRequest
	if err := proto.Unmarshal(s.batch(3), &m); err != nil {
		t.Fatal(err)
	}
	windows := m.GetWindows().GetWindows()
	if len(windows) != 3 {
		t.Fatalf("%d windows in the message", len(windows))
	}
	for i, pb := range windows {
		w, err := fleet.FromProto(pb)
		if err != nil {
			t.Fatal(err)
		}
		if w.Instance != "driven-00100/0" || w.Start.Unix() != int64(100+i) || w.Counters["a"] != 1 || w.Gauges["b"] != 2 || w.Gauges[fleet.GPUCount] != 1 || !w.Serving || len(w.Sources) != 1 {
			t.Errorf("window %d came as %+v", i, w)
		}
	}
	if h := s.hello(); h.GetEngines()[0].GetInstanceId() != s.instance || h.GetStates()[0].GetInstanceId() != s.instance || h.GetIdentity().GetAgentId() != "driven-00100" {
		t.Errorf("hello %v", h)
	}
}

func TestGPUIsDrawnOnlyWhereThereIsNone(t *testing.T) {
	w := &agentv1.Window{Gauges: map[string]float64{fleet.GPUCount: 7}}
	addGPU(w, rand.New(rand.NewPCG(1, 1)))
	if len(w.GetGauges()) != 1 || len(w.GetCounters()) != 0 {
		t.Errorf("a window of a real GPU became %v", w)
	}
}

func TestKept(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for _, c := range []struct{ from, to, next, want int64 }{{0, 60, 60, 60}, {0, 60, 90, 60}, {0, 60, 45, 45}, {50, 60, 45, 0}} {
		if got := secondsBetween(at(c.from), at(c.to), at(c.next)); got != int(c.want) {
			t.Errorf("%v: %d seconds", c, got)
		}
	}
	m := ingested{span: time.Minute, cpu: 45 * time.Second, filled: time.Minute, sent: 300_000, want: 1000, have: 900, rss: p2Sidecars * 250_000, late: []time.Duration{time.Millisecond, 9 * time.Millisecond}}
	if m.taken() != p2Sidecars*9/10 || m.cores() != .75 {
		t.Errorf("%d sidecars on %v cores", m.taken(), m.cores())
	}
	var out bytes.Buffer
	if err := m.print(&out); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(checkLines(t, out.String()), "\n")
	for _, part := range []string{"BAR P2 value=4500 unit=sidecars target>=5000 ", "BAR P2.cpu value=75.0 unit=percent target<=100 of=one_core us_per_window=150\n", "BAR P2.memory value=250.0 unit=KB target<=100 "} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func TestLiveHeap(t *testing.T) {
	log := "gc 1 @0.01s 2%: 0.01+1+0.01 ms clock, 0.1+0/1/0+0 ms cpu, 4->4->2 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P\nother\ngc 12 @9s 2%: 0+1+0 ms clock, 0+0/1/0+0 ms cpu, 700->720->512 MB, 4 MB goal, 0 MB stacks\n"
	if got, err := liveHeap([]byte(log)); err != nil || got != 512<<20 {
		t.Errorf("live heap %d, %v", got, err)
	}
	if _, err := liveHeap([]byte("nothing")); err == nil {
		t.Error("a heap was read from nothing")
	}
}

func TestStored(t *testing.T) {
	r := &recording{rate: 1, engine: &agentv1.EngineInfo{}, windows: []*agentv1.Window{{Counters: map[string]float64{"a": 1}}}}
	if faults := finish([]*recording{r}); faults[0] != nil {
		t.Fatal(faults)
	}
	if bytes, err := stored(r, 20, 100); err != nil || bytes < 1000 || bytes > 200_000 {
		t.Errorf("%d bytes for 100 windows, %v", bytes, err)
	}
}
