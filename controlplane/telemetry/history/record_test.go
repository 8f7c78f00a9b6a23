package history

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// windows is a Windows of one-second windows by engine.
type windows map[string][]*fleet.Window

func (w windows) Instances() (ids []string) {
	for id := range w {
		ids = append(ids, id)
	}
	return ids
}

func (w windows) Aggregate(ids []string, from, to time.Time) (*fleet.Aggregate, error) {
	a := fleet.NewAggregate()
	for _, id := range ids {
		for _, x := range w[id] {
			if !x.Start.Before(from) && x.Start.Before(to) {
				if err := a.Add(x); err != nil {
					return nil, err
				}
			}
		}
	}
	return a, nil
}

// add seconds [from, to) after noon: 2 requests a second, each of v seconds.
func (w windows) add(t *testing.T, id string, from, to int, v float64) {
	for sec := from; sec < to; sec++ {
		x := fleet.NewWindow(id, noon.Add(time.Duration(sec)*time.Second))
		k := stats.NewSketch()
		if err := k.AddN(v, 2); err != nil {
			t.Fatal(err)
		}
		x.Sketches[fleet.TTFT], x.Origin[fleet.TTFT] = k, fleet.SourceProbe
		x.Counters[fleet.RequestsFinished] = 2
		x.Gauges[fleet.RequestsRunning] = float64(sec % 10)
		w[id] = append(w[id], x)
	}
}

type rig struct {
	windows
	*Recorder
	*Head
	now   time.Time
	group string
}

func newRig(file string) *rig {
	r := &rig{windows: windows{}, Head: New(Config{}), now: noon, group: "g"}
	r.Recorder = NewRecorder(RecorderConfig{File: file, Now: func() time.Time { return r.now }}, r.Head, r.windows,
		func(string) (Identity, bool) { return Identity{Group: r.group, Model: "m"}, r.group != "" }, slog.New(slog.DiscardHandler))
	return r
}

func (r *rig) add(t *testing.T, id string, from, to int, v float64) {
	r.windows.add(t, id, from, to, v)
}

// until runs the recorder every ten seconds.
func (r *rig) until(sec int) {
	for end := noon.Add(time.Duration(sec) * time.Second); r.now.Before(end); {
		r.now = r.now.Add(10 * time.Second)
		r.Record()
	}
}

func (r *rig) series(t *testing.T, name string) []point {
	return points(t, r.Head, noon, noon.Add(time.Hour), equal(model.MetricNameLabel, name), equal(series.LabelGroup, r.group))
}

const (
	finished = "perf_engine_requests_finished_total"
	running  = "perf_engine_requests_running"
	ttft     = "gen_ai_server_time_to_first_token_seconds"
)

func at(sec int) int64 { return noon.Add(time.Duration(sec) * time.Second).UnixMilli() }

func TestRecord(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 60, .2)
	r.until(80)
	var counter, gauge, histogram []point
	for sec := 10; sec <= 60; sec += 10 {
		counter = append(counter, point{at(sec), float64(2 * sec)})
		gauge = append(gauge, point{at(sec), 4.5})
		histogram = append(histogram, point{at(sec), float64(2 * sec)})
	}
	for name, want := range map[string][]point{finished: counter, running: gauge, ttft: histogram} {
		if diff := cmp.Diff(want, r.series(t, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	l := labels.FromStrings("__name__", ttft, "engine", "e", "gen_ai_request_model", "m", "group", "g", "source", "probe")
	if _, h := r.LastHistogram(l); h == nil || math.Abs(h.Sum-24) > 1e-9 {
		t.Errorf("%s is %v, want a sum of 24 s", l, h)
	}
}

// TestCutOff: an agent that could not send for four minutes sends what it has; the gap fills at its own
// times, and nothing is counted twice.
func TestCutOff(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 100, .2)
	r.until(300)
	r.add(t, "e", 100, 300, .2)
	r.until(330)
	got := r.series(t, finished)
	var want []point
	for sec := 10; sec <= 300; sec += 10 {
		want = append(want, point{at(sec), float64(2 * sec)})
	}
	// The series had ended a second after its last sample, when a minute had passed.
	want = slices.Insert(want, 10, point{at(101), -1})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestNewEngine: a new leader hears of an engine's past newest first; recording waits for it.
func TestNewEngine(t *testing.T) {
	r := newRig("")
	r.group = ""
	r.add(t, "e", 50, 60, .2)
	r.until(60)
	r.add(t, "e", 20, 50, .2)
	r.until(90)
	if s := r.Stats(); s.Series != 0 {
		t.Fatalf("%d series of an engine that is not registered", s.Series)
	}
	r.group = "g"
	r.until(100)
	if got := r.series(t, finished); len(got) == 0 || got[0].T != at(30) {
		t.Errorf("recorded %v, want it from second 30", got)
	}
	// In another group it is another series, and the first ends.
	r.add(t, "e", 60, 120, .2)
	r.until(100)
	first := r.series(t, finished)
	r.group = "h"
	r.until(130)
	if got := r.series(t, finished); len(got) == 0 || got[0].V != 20 {
		t.Errorf("in its new group %v, want it from zero on", got)
	}
	r.group = "g"
	if got := r.series(t, finished); len(got) != len(first)+1 || got[len(got)-1].V != -1 {
		t.Errorf("in its old group %v, want an end after %v", got, first)
	}
}

// TestRestart: totals go on where the snapshot left them.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history.snap")
	r := newRig(file)
	r.add(t, "e", 0, 100, .2)
	r.until(110)
	r.save()
	again := newRig(file)
	again.now = r.now
	again.load()
	again.add(t, "e", 110, 200, .3)
	again.until(210)
	got := again.series(t, finished)
	if last := got[len(got)-1]; last.V != 2*190 {
		t.Errorf("total after the restart is %v, want %v", last, 2*190)
	}
	if got := again.series(t, ttft); got[len(got)-1].V != 2*190 {
		t.Errorf("histogram after the restart counts %v", got[len(got)-1])
	}
}

// TestAllMeasurementsAreNamed: whatever a window may carry has a series.
func TestAllMeasurementsAreNamed(t *testing.T) {
	files, err := filepath.Glob("../../../pkg/fleet/*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	inspect := func(node ast.Node) bool {
		c, ok := node.(*ast.ValueSpec)
		if !ok || len(c.Values) == 0 || strings.HasPrefix(c.Names[0].Name, "Source") {
			return true
		}
		lit, ok := c.Values[0].(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		metric, _ := strconv.Unquote(lit.Value)
		if _, ok := series.Find(metric); !ok {
			t.Errorf("%s (%s) is not in the table of series", c.Names[0].Name, metric)
		}
		n++
		return true
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, inspect)
	}
	if n < 60 {
		t.Errorf("only %d names found: the walk is broken", n)
	}
}

// TestSignalsOfAdapters: a signal that no table knows has a history too, unless its name is none.
func TestSignalsOfAdapters(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 60, .2)
	for _, w := range r.windows["e"] {
		w.Counters["tokens_dreamt"], w.Gauges["mood"], w.Gauges["No Name"], w.Counters["mood"] = 2, .5, 1, 1
	}
	r.until(80)
	for metric, want := range map[string]string{"tokens_dreamt": "perf_engine_tokens_dreamt_total", "mood": "perf_engine_mood_total"} {
		if info, ok := r.Find(metric); !ok || info.Name != want {
			t.Errorf("%s is %v, %v", metric, info, ok)
		}
	}
	if _, ok := r.Find("No Name"); ok {
		t.Error("a name that Prometheus does not allow is kept")
	}
	if got := r.series(t, "perf_engine_tokens_dreamt_total"); len(got) != 6 || got[5].V != 120 {
		t.Errorf("recorded %v", got)
	}
	a, err := r.Head.Aggregate([]string{"e"}, noon, noon.Add(2*time.Minute))
	if err != nil || a.Counters["tokens_dreamt"] != 100 || a.Gauges["mood"].Mean() != .5 {
		t.Errorf("read back %v, %v, %v", a.Counters, a.Gauges, err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewExporter(r.Head, func() bool { return true }))
	if n, err := testutil.GatherAndCount(registry, "perf_engine_tokens_dreamt_total", "perf_engine_mood"); n != 2 || err != nil {
		t.Errorf("%d series shown, %v", n, err)
	}
}

func TestExporter(t *testing.T) {
	r := newRig("")
	r.add(t, "e", 0, 60, .125)
	r.until(80)
	shows := true
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewExporter(r.Head, func() bool { return shows }))
	want := `# HELP perf_engine_requests_finished_total Requests that ended well.
# TYPE perf_engine_requests_finished_total counter
perf_engine_requests_finished_total{engine="e",group="g"} 120
# HELP gen_ai_server_time_to_first_token_seconds Time to the first token.
# TYPE gen_ai_server_time_to_first_token_seconds histogram
`
	first, _ := series.Find(fleet.TTFT)
	for _, b := range first.Bounds {
		n := 0
		if b > .125 {
			n = 120
		}
		want += fmt.Sprintf("gen_ai_server_time_to_first_token_seconds_bucket{engine=\"e\",gen_ai_request_model=\"m\",group=\"g\",source=\"probe\",le=\"%v\"} %d\n", b, n)
	}
	want += `gen_ai_server_time_to_first_token_seconds_bucket{engine="e",gen_ai_request_model="m",group="g",source="probe",le="+Inf"} 120
gen_ai_server_time_to_first_token_seconds_sum{engine="e",gen_ai_request_model="m",group="g",source="probe"} 15
gen_ai_server_time_to_first_token_seconds_count{engine="e",gen_ai_request_model="m",group="g",source="probe"} 120
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), finished, ttft); err != nil {
		t.Error(err)
	}
	shows = false
	if n, err := testutil.GatherAndCount(registry); n != 0 || err != nil {
		t.Errorf("a node that shows no engines shows %d series, %v", n, err)
	}
}

// TestNamesPassPromlint gives every series a sample and asks what promtool would.
func TestNamesPassPromlint(t *testing.T) {
	h := New(Config{})
	for _, s := range series.All {
		l := seriesLabels(s, "e", Identity{"g", "m"}, "")
		if s.Kind == series.Histogram {
			_ = h.AppendHistogram(l, noon, state(0, 1))
			continue
		}
		_ = h.Append(l, s.Kind, noon, 1)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewExporter(h, func() bool { return true }))
	if n, _ := testutil.GatherAndCount(registry); n != len(series.All) {
		t.Fatalf("%d series shown of %d", n, len(series.All))
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestNative: every quantile of the native form is within its buckets' width of the sketch's.
func TestNative(t *testing.T) {
	k := stats.NewSketch()
	for i := range 20_000 {
		_ = k.AddN(math.Exp(float64(i%977)/100-6), float64(1+i%3)/2)
	}
	_ = k.AddN(0, 5)
	h := native(k)
	if err := h.Validate(); err != nil {
		t.Fatal(err)
	}
	if h.Count != k.Count() || h.Sum != k.Sum() {
		t.Errorf("count %v and sum %v, want %v and %v", h.Count, h.Sum, k.Count(), k.Sum())
	}
	for _, bound := range []float64{.01, .1, 1, 10} {
		got, want := atMost(h, bound), k.Count()-k.CountAbove(bound)
		if math.Abs(got-want) > .01*k.Count() {
			t.Errorf("up to %v: %v, want about %v", bound, got, want)
		}
	}
}
