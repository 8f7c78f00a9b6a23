package telemetry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Unix(1_800_000_000, 0)

// clock is set by hand.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func newStore(cfg Config) (*Store, *clock) {
	c := &clock{noon}
	cfg.Now = c.read
	return New(cfg), c
}

// window of an instance, beginning at noon plus sec, with TTFT values in seconds.
func window(t testing.TB, instance string, sec int, values ...float64) *fleet.Window {
	t.Helper()
	w := fleet.NewWindow(instance, noon.Add(time.Duration(sec)*time.Second))
	s := stats.NewSketch()
	for _, v := range values {
		if err := s.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	w.Sketches[fleet.TTFT], w.Origin[fleet.TTFT] = s, fleet.SourceEngine
	w.Counters[fleet.RequestsFinished] = float64(len(values))
	w.Gauges[fleet.RequestsRunning] = float64(sec)
	return w
}

func TestAdd(t *testing.T) {
	s, c := newStore(Config{Seconds: 10, Instances: 2})
	for _, step := range []struct {
		name     string
		instance string
		sec      int
		want     error
	}{
		{"first", "a/1", 0, nil},
		{"same second", "a/1", 0, ErrDuplicate},
		{"late within the ring", "a/1", -9, nil},
		{"late and known", "a/1", -9, ErrDuplicate},
		{"before the ring", "a/1", -10, ErrTooOld},
		{"a little early", "a/1", 5, nil},
		{"in the future", "a/1", 6, ErrFuture},
		{"second instance", "b/1", 0, nil},
		{"one too many", "c/1", 0, ErrFull},
	} {
		if err := s.Add(window(t, step.instance, step.sec, 0.1)); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.name, err, step.want)
		}
	}
	want := Stats{Instances: 2, Windows: 4, Added: 4, Duplicate: 2, TooOld: 1, Future: 1, Full: 1}
	got := s.Stats()
	want.Bytes = got.Bytes
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c.now = noon.Add(4 * time.Second)
	if err := s.Add(window(t, "a/1", -5, 0.1)); err != nil {
		t.Errorf("the oldest second in reach: %v", err)
	}
	if err := s.Add(window(t, "a/1", -6, 0.1)); !errors.Is(err, ErrTooOld) {
		t.Errorf("a second out of reach: %v", err)
	}
}

func TestAggregateSpan(t *testing.T) {
	s, _ := newStore(Config{})
	for sec := -5; sec < 0; sec++ {
		for _, id := range []string{"a/1", "b/1"} {
			if err := s.Add(window(t, id, sec, 0.1, 0.2)); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(sec float64) time.Time { return noon.Add(time.Duration(sec * float64(time.Second))) }
	for _, c := range []struct {
		name      string
		instances []string
		from, to  float64
		windows   int
	}{
		{"all", []string{"a/1", "b/1"}, -5, 0, 10},
		{"one", []string{"a/1"}, -5, 0, 5},
		{"part", []string{"a/1"}, -4, -2, 2},
		{"windows that begin earlier or end later are left out", []string{"a/1"}, -4.5, -1.5, 2},
		{"nothing known", []string{"z/1"}, -5, 0, 0},
		{"nothing in the span", []string{"a/1"}, 10, 20, 0},
		{"empty span", []string{"a/1"}, -3, -3, 0},
		{"far before the ring", []string{"a/1"}, -1e6, 0, 5},
	} {
		a, err := s.Aggregate(c.instances, at(c.from), at(c.to))
		if err != nil || a.Windows != c.windows || a.Counters[fleet.RequestsFinished] != float64(2*c.windows) {
			t.Errorf("%s: %d windows (%v), want %d", c.name, a.Windows, err, c.windows)
		}
	}
}

// TestFleetQuantileIsExact is the idea of bar A4: a quantile of many instances' merged windows is
// that of all their requests, to the sketch's 1 %.
func TestFleetQuantileIsExact(t *testing.T) {
	s, _ := newStore(Config{})
	rng := rand.New(rand.NewPCG(1, 2))
	var all []float64
	var ids []string
	for i := range 20 {
		id := fmt.Sprintf("a%d/x", i)
		ids = append(ids, id)
		scale := 0.05 * math.Pow(1.3, float64(i)) // replicas are unequal, which defeats averages of quantiles
		for sec := -60; sec < 0; sec++ {
			var values []float64
			for range 1 + rng.IntN(20) {
				values = append(values, scale*math.Exp(rng.NormFloat64()))
			}
			all = append(all, values...)
			if err := s.Add(window(t, id, sec, values...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, err := s.Aggregate(ids, noon.Add(-time.Minute), noon)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	if n := a.Count(fleet.TTFT); n != float64(len(all)) {
		t.Fatalf("%v requests merged of %d", n, len(all))
	}
	for _, q := range []float64{0.5, 0.9, 0.95, 0.99} {
		exact := all[int(q*float64(len(all)-1))]
		if got := a.Quantile(fleet.TTFT, q); math.Abs(got-exact)/exact > 0.01 {
			t.Errorf("p%g = %v, exactly %v", 100*q, got, exact)
		}
	}
}

func TestSeries(t *testing.T) {
	s, _ := newStore(Config{})
	for _, sec := range []int{-10, -9, -2, -1} { // a gap in between
		if err := s.Add(window(t, "a/1", sec, 0.1, 0.1, 0.1)); err != nil {
			t.Fatal(err)
		}
	}
	series := func(metric string) []Point {
		t.Helper()
		p, err := s.Series([]string{"a/1"}, metric, 0.5, noon.Add(-10*time.Second), noon, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ttft := series(fleet.TTFT)
	if len(ttft) != 2 || math.Abs(ttft[0].Value-0.1) > 0.001 || ttft[0].Count != 6 || !ttft[1].At.Equal(noon) {
		t.Errorf("quantile: %+v", ttft)
	}
	if r := series(fleet.RequestsFinished); r[0].Value != 6.0/5 {
		t.Errorf("rate: %+v", r)
	}
	if g := series(fleet.RequestsRunning); g[1].Value != -1.5 {
		t.Errorf("gauge: %+v", g)
	}
	if none := series("unheard_of"); !math.IsNaN(none[0].Value) || none[0].Count != 0 {
		t.Errorf("unknown metric: %+v", none)
	}
	fine, err := s.Series([]string{"a/1"}, fleet.TTFT, 0.5, noon.Add(-8*time.Second), noon.Add(-2*time.Second), time.Second)
	if err != nil || len(fine) != 6 || !math.IsNaN(fine[0].Value) {
		t.Errorf("a gap must show as one: %+v, %v", fine, err)
	}
	for _, step := range []time.Duration{0, time.Millisecond, 1500 * time.Millisecond} {
		if _, err := s.Series(nil, fleet.TTFT, 0.5, noon, noon, step); !errors.Is(err, ErrStep) {
			t.Errorf("step %v: %v", step, err)
		}
	}
	if _, err := s.Series(nil, fleet.TTFT, 0.5, noon.Add(-24*time.Hour), noon, time.Second); !errors.Is(err, ErrStep) {
		t.Errorf("a day of seconds: %v", err)
	}
}

func TestFreshnessAndLatest(t *testing.T) {
	s, c := newStore(Config{})
	if _, ok := s.Freshness("a/1"); ok || s.Latest("a/1") != nil {
		t.Error("knows what it has not heard")
	}
	w := window(t, "a/1", -3, 0.1)
	w.Sources = []*agentv1.Source{{Name: "engine", Stale: true, Error: "refused"}, {Name: "probe"}}
	for _, w := range []*fleet.Window{w, window(t, "a/1", -7, 0.1)} { // an older one afterwards
		if err := s.Add(w); err != nil {
			t.Fatal(err)
		}
	}
	c.now = noon.Add(time.Second)
	got, ok := s.Freshness("a/1")
	want := Freshness{Age: 3 * time.Second, Received: time.Second, StaleSources: map[string]string{"engine": "refused"}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Error(diff)
	}
	if l := s.Latest("a/1"); l == nil || !l.Start.Equal(w.Start) {
		t.Errorf("latest: %+v", l)
	}
}

func TestPruneAndForget(t *testing.T) {
	s, c := newStore(Config{Seconds: 60, Gone: 2 * time.Minute})
	for _, id := range []string{"a/1", "b/1"} {
		if err := s.Add(window(t, id, 0, 0.1)); err != nil {
			t.Fatal(err)
		}
	}
	c.now = noon.Add(100 * time.Second)
	if n := s.Prune(); n != 0 || s.Stats().Windows != 0 || s.Stats().Bytes != 0 {
		t.Errorf("%d gone, stats %+v: windows should have expired, instances not", n, s.Stats())
	}
	if err := s.Add(window(t, "b/1", 100, 0.1)); err != nil {
		t.Fatal(err)
	}
	c.now = noon.Add(3 * time.Minute)
	if n := s.Prune(); n != 1 {
		t.Errorf("%d gone, want a/1", n)
	}
	if diff := cmp.Diff([]string{"b/1"}, s.Instances()); diff != "" {
		t.Error(diff)
	}
	s.Forget("b/1")
	s.Forget("b/1")
	if st := s.Stats(); st.Instances != 0 || st.Bytes != 0 {
		t.Errorf("after Forget: %+v", st)
	}
}

func TestBytesAreBounded(t *testing.T) {
	s, _ := newStore(Config{BytesPerInstance: 5_000, Bytes: 8_000})
	add := func(id string) {
		for sec := -300; sec < 0; sec++ {
			if err := s.Add(window(t, id, sec, 0.1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("a/1")
	one := s.Stats()
	if one.Bytes > 5_000 || one.Evicted == 0 || one.Windows+int(one.Evicted) != 300 {
		t.Errorf("one instance: %+v", one)
	}
	add("b/1")
	if err := s.Add(window(t, "a/1", 0, 0.1)); err != nil {
		t.Fatal(err)
	}
	two := s.Stats()
	if two.Bytes > 8_000 {
		t.Errorf("two instances: %+v", two)
	}
	if l := s.Latest("a/1"); !l.Start.Equal(noon) {
		t.Error("eviction must spare the newest")
	}
}

func TestRunPrunesUntilItsContextEnds(t *testing.T) {
	s, c := newStore(Config{Gone: time.Second, PruneEvery: time.Millisecond})
	if err := s.Add(window(t, "a/1", 0, 0.1)); err != nil {
		t.Fatal(err)
	}
	c.now = noon.Add(time.Minute)
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(5 * time.Second); len(s.Instances()) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("not pruned")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkAggregate(b *testing.B) {
	s, _ := newStore(Config{})
	var ids []string
	for i := range 12 {
		ids = append(ids, fmt.Sprintf("a%d/x", i))
		for sec := -60; sec < 0; sec++ {
			if err := s.Add(window(b, ids[i], sec, 0.1, 0.2, 0.3, 0.5, 1, 2)); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if _, err := s.Aggregate(ids, noon.Add(-time.Minute), noon); err != nil {
			b.Fatal(err)
		}
	}
}

// TestEstimatedBytesAreHonest compares the estimate that bounds memory with what the heap says.
func TestEstimatedBytesAreHonest(t *testing.T) {
	s, _ := newStore(Config{})
	rng := rand.New(rand.NewPCG(3, 4))
	realistic := func(sec int) *fleet.Window {
		w := window(t, "a/1", sec)
		for _, metric := range []string{fleet.TTFT, fleet.TPOT, fleet.ITL, fleet.E2E, fleet.Queue} {
			sk := stats.NewSketch()
			for range 100 {
				if err := sk.Add(0.05 * math.Exp(rng.NormFloat64())); err != nil {
					t.Fatal(err)
				}
			}
			w.Sketches[metric], w.Origin[metric] = sk, fleet.SourceEngine
		}
		for i := range 10 {
			w.Counters[fmt.Sprint("c", i)], w.Gauges[fmt.Sprint("g", i)] = 1, 1
		}
		return w
	}
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	for sec := -500; sec < 0; sec++ {
		if err := s.Add(realistic(sec)); err != nil {
			t.Fatal(err)
		}
	}
	really, estimated := heap()-before, s.Stats().Bytes
	t.Logf("%d bytes a window, estimated %d", really/500, estimated/500)
	if ratio := float64(estimated) / float64(really); ratio < 0.6 || ratio > 1.7 {
		t.Errorf("estimate is %.2f of the heap's growth", ratio)
	}
	runtime.KeepAlive(s)
}

// TestPackedWindowsAreWhole: what is kept at rest, compressed or not, comes back as it was, in any order
// of arrival.
func TestPackedWindowsAreWhole(t *testing.T) {
	s, _ := newStore(Config{})
	rng := rand.New(rand.NewPCG(5, 6))
	want := map[int64]*agentv1.Window{}
	for _, i := range rng.Perm(200) {
		w := window(t, "a/1", i-200, rng.ExpFloat64(), 0, rng.ExpFloat64()*100)
		w.Epoch, w.Phase, w.Serving = rng.Uint64N(1000), agentv1.Phase_PHASE_PROBATION, i%2 == 0
		w.Sources = []*agentv1.Source{{Name: "engine", AgeMs: rng.Int64N(5000), Stale: i%3 == 0, Error: "refused", Warning: "no queue", AnsweredUnixMs: rng.Int64N(1 << 40), LagMs: rng.Int64N(90_000)}, {Name: "probe"}}
		w.Gauges["g"], w.Counters["c"] = -rng.ExpFloat64(), rng.ExpFloat64()
		if i%5 == 0 {
			w.StartSteps = []string{"weights loaded", "warming up"}
		}
		pb, err := w.Proto()
		if err != nil {
			t.Fatal(err)
		}
		want[w.Start.Unix()] = pb
		if err := s.Add(w); err != nil {
			t.Fatal(err)
		}
	}
	got := s.Windows([]string{"a/1"}, noon.Add(-time.Hour), noon)
	if len(got) != len(want) {
		t.Fatalf("%d windows of %d", len(got), len(want))
	}
	for _, w := range got {
		pb, err := w.Proto()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[w.Start.Unix()], pb, protocmp.Transform()); diff != "" {
			t.Fatalf("%v (-added +kept):\n%s", w.Start, diff)
		}
	}
}

// TestNamesAreBounded: an agent that sends ever new names does not fill the memory with them.
func TestNamesAreBounded(t *testing.T) {
	s, _ := newStore(Config{})
	for i := range mostNames + 10 {
		w := window(t, "a/1", i%599-599)
		w.Instance = fmt.Sprint("a/", i/599)
		w.Counters = map[string]float64{fmt.Sprint("c", i): float64(i)}
		if err := s.Add(w); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.names.all); n != mostNames {
		t.Errorf("%d names are numbered, want %d", n, mostNames)
	}
	last := mostNames + 9
	found := s.Windows([]string{fmt.Sprint("a/", last/599)}, noon.Add(-time.Hour), noon)
	if c := found[len(found)-1].Counters; c[fmt.Sprint("c", last)] != float64(last) {
		t.Errorf("a name that is written out: %v", c)
	}
}
