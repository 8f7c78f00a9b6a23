package collect

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// replicated are the signals of an engine of several replicas behind one page.
var replicated = []*engine.Signal{
	{Signal: "generation_tokens", Series: "live_tokens_total", Kind: engine.Counter},
	{Signal: "generation_tokens", Series: "tokens_total", Kind: engine.Counter},
	{Signal: "requests_rejected", Series: "rejected_total", Kind: engine.Counter},
	{Signal: "estimated_flops", Series: "flops_total", Kind: engine.Counter, Combine: engine.Mean},
	{Signal: "iterations", Series: "steps", Kind: engine.HistogramSeries, Part: engine.CountPart},
	{Signal: "ttft_seconds", Series: "first_seconds", Kind: engine.HistogramSeries},
}

// tokens of replicas, in order.
func tokens(perReplica ...float64) string {
	page := "# TYPE tokens_total counter\n"
	for i, n := range perReplica {
		page += fmt.Sprintf("tokens_total{engine=\"%d\"} %v\n", i, n)
	}
	return page
}

// first is a histogram of a replica: counts below 0.1 s, below a second bound, and above.
func first(replica int, second float64, below, between, above, sum float64) string {
	const series = "first_seconds"
	l := func(le string) string { return fmt.Sprintf(`%s_bucket{engine="%d",le="%s"}`, series, replica, le) }
	return fmt.Sprintf("%s %v\n%s %v\n%s %v\n%s_sum{engine=\"%d\"} %v\n%s_count{engine=\"%d\"} %v\n",
		l("0.1"), below, l(fmt.Sprint(second)), below+between, l("+Inf"), below+between+above, series, replica, sum, series, replica, below+between+above)
}

func firsts(parts ...string) string {
	return "# TYPE first_seconds histogram\n" + strings.Join(parts, "")
}

// step is a page and what it must add.
type step struct {
	page  string
	added map[string]float64
	ttft  float64 // observations
	sum   float64 // of them
	reset bool
}

func TestIncreases(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"replicas are added up", []step{
			{page: tokens(1000, 50)},
			{page: tokens(1010, 55), added: map[string]float64{"generation_tokens": 15}},
			{page: tokens(1010, 55), added: map[string]float64{"generation_tokens": 0}},
		}},
		{"one of two replicas restarts", []step{
			{page: tokens(1000, 5000) + firsts(first(0, 1, 10, 0, 0, .5), first(1, 1, 90, 0, 0, 4.5))},
			{
				page:  tokens(30, 5020) + firsts(first(0, 1, 1, 1, 0, .6), first(1, 1, 92, 0, 0, 4.6)),
				added: map[string]float64{"generation_tokens": 50}, ttft: 4, sum: .7, reset: true,
			},
			{
				page:  tokens(40, 5030) + firsts(first(0, 1, 1, 2, 0, .9), first(1, 1, 92, 0, 0, 4.6)),
				added: map[string]float64{"generation_tokens": 20}, ttft: 1, sum: .3,
			},
		}},
		{"its other totals count from nothing, those of the other do not", []step{
			{page: tokens(1000, 5000) + "flops_total{engine=\"0\"} 10\nflops_total{engine=\"1\"} 10\n"},
			{
				page:  tokens(30, 5020) + "flops_total{engine=\"0\"} 12\nflops_total{engine=\"1\"} 14\n",
				added: map[string]float64{"generation_tokens": 50, "estimated_flops": 8}, reset: true,
			},
		}},
		{"the front end restarts and takes all replicas with it", []step{
			{page: tokens(10, 20) + "rejected_total 4\n"},
			{page: tokens(11, 22) + "rejected_total 1\n", added: map[string]float64{"generation_tokens": 33, "requests_rejected": 1}, reset: true},
		}},
		{"a single engine restarts and one of its totals is past its mark", []step{
			{page: tokens(10) + "rejected_total 4\n"},
			{page: tokens(5) + "rejected_total 6\n", added: map[string]float64{"generation_tokens": 5, "requests_rejected": 6}, reset: true},
		}},
		{"a replica joins", []step{
			{page: tokens(1000)},
			{page: tokens(1001, 7), added: map[string]float64{"generation_tokens": 8}},
		}},
		{"a series appears with its first event", []step{
			{page: tokens(1000)},
			{page: tokens(1000) + "rejected_total 2\n", added: map[string]float64{"generation_tokens": 0, "requests_rejected": 2}},
		}},
		{"a series vanishes and comes back", []step{
			{page: tokens(1000, 50) + firsts(first(0, 1, 10, 0, 0, .5))},
			{page: tokens(1010), added: map[string]float64{"generation_tokens": 10}},
			{page: "", added: map[string]float64{}},
			{page: tokens(1015, 58) + firsts(first(0, 1, 12, 0, 0, .6)), added: map[string]float64{"generation_tokens": 13}, ttft: 2, sum: .1},
		}},
		{"it comes back lower: that replica restarted while it was away", []step{
			{page: tokens(1000, 50)},
			{page: tokens(1010), added: map[string]float64{"generation_tokens": 10}},
			{page: tokens(1015, 8), added: map[string]float64{"generation_tokens": 13}, reset: true},
		}},
		{"an upgrade changes the bounds, and the count is past its mark", []step{
			{page: tokens(100) + firsts(first(0, 1, 4, 0, 0, .2))},
			{page: tokens(140) + firsts(first(0, 2, 3, 2, 0, 2.4)), added: map[string]float64{"generation_tokens": 140}, ttft: 5, sum: 2.4, reset: true},
			{page: tokens(150) + firsts(first(0, 2, 3, 3, 0, 3.4)), added: map[string]float64{"generation_tokens": 10}, ttft: 1, sum: 1},
		}},
		{"one of two replicas is upgraded", []step{
			{page: firsts(first(0, 1, 4, 0, 0, .2), first(1, 1, 6, 0, 0, .3))},
			{page: firsts(first(0, 2, 5, 1, 0, 1.7), first(1, 1, 7, 0, 0, .4)), ttft: 7, sum: 1.8, reset: true},
			{page: firsts(first(0, 2, 6, 1, 0, 1.8), first(1, 1, 8, 0, 0, .5)), ttft: 2, sum: .2},
		}},
		{"a bucket lost some, the count did not: a page that is no single picture", []step{
			{page: firsts(first(0, 1, 10, 5, 0, 3))},
			{page: firsts(first(0, 1, 9, 8, 0, 5)), ttft: 2, sum: 2},
		}},
		{"a better alternative appears: nothing counts twice", []step{
			{page: tokens(1000)},
			{page: tokens(1010), added: map[string]float64{"generation_tokens": 10}},
			{page: tokens(1020) + "live_tokens_total 1025\n", added: map[string]float64{}},
			{page: tokens(1020) + "live_tokens_total 1040\n", added: map[string]float64{"generation_tokens": 15}},
		}},
		{"the better alternative is away for a page: its return is waited for", []step{
			{page: tokens(1000) + "live_tokens_total 1000\n"},
			{page: tokens(1000) + "live_tokens_total 1010\n", added: map[string]float64{"generation_tokens": 10}},
			{page: tokens(1020), added: map[string]float64{}},
			{page: tokens(1020) + "live_tokens_total 1035\n", added: map[string]float64{"generation_tokens": 25}},
		}},
		{"it does not come back after a restart: the other one serves", []step{
			{page: tokens(1000) + "rejected_total 3\nlive_tokens_total 1000\n"},
			{page: tokens(20) + "rejected_total 1\n", added: map[string]float64{"requests_rejected": 1, "generation_tokens": 20}, reset: true},
		}},
		{"a part of a histogram is a counter", []step{
			{page: "# TYPE steps histogram\nsteps_bucket{le=\"+Inf\"} 4\nsteps_sum 40\nsteps_count 4\n"},
			{page: "# TYPE steps histogram\nsteps_bucket{le=\"+Inf\"} 9\nsteps_sum 60\nsteps_count 9\n", added: map[string]float64{"iterations": 5}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			marks, parser := newIncreases(), scrape.NewParser(Series(replicated))
			for i, s := range c.steps {
				families, dropped := parser.Parse([]byte(s.page))
				if dropped > 0 {
					t.Fatalf("step %d: %d samples of the test's own page were dropped", i, dropped)
				}
				readings, _ := engine.Resolve(replicated, families)
				added, sketches, reset := marks.of(readings, replicated)
				if diff := cmp.Diff(s.added, added, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("step %d: added (-want +got):\n%s", i, diff)
				}
				if reset != s.reset {
					t.Errorf("step %d: reset %v", i, reset)
				}
				var n, sum float64
				if sketch := sketches["ttft_seconds"]; sketch != nil {
					n, sum = sketch.Count(), sketch.Sum()
				}
				if math.Abs(n-s.ttft) > 1e-9 || math.Abs(sum-s.sum) > 1e-9 {
					t.Errorf("step %d: %v first tokens of sum %v, want %v of %v", i, n, sum, s.ttft, s.sum)
				}
			}
		})
	}
}

// TestMarksAreBounded: label values that never come again are forgotten, those on the page are not.
func TestMarksAreBounded(t *testing.T) {
	marks := newIncreases()
	signal := &engine.Signal{Signal: "x", Series: "x_total", Kind: engine.Counter}
	sample := func(key uint64, v float64) engine.Sample { return engine.Sample{Key: key, Value: v} }
	var total float64
	for page := range uint64(50) {
		r := engine.Reading{Signal: signal, Samples: []engine.Sample{sample(1, float64(page))}}
		for i := range uint64(1000) {
			r.Samples = append(r.Samples, sample(2+page*1000+i, 0))
		}
		added, _, _ := marks.of(map[string]engine.Reading{"x": r}, []*engine.Signal{signal})
		total += added["x"]
	}
	if len(marks.marks) > mostMarks+1001 || total != 49 {
		t.Errorf("%d marks, %v added, want at most %d and 49", len(marks.marks), total, mostMarks+1001)
	}
}

// FuzzIncreases: whatever two pages say, no increase is negative or no number.
func FuzzIncreases(f *testing.F) {
	f.Add(tokens(1000, 5000)+firsts(first(0, 1, 10, 0, 0, .5)), tokens(30, 5020)+firsts(first(0, 2, 1, 1, 0, .6)))
	f.Add("tokens_total 0\ntokens_total{engine=\"1\"} 0\n", "tokens_total 1e308\ntokens_total{engine=\"1\"} 1e308\n")
	f.Add("tokens_total 1e308\ntokens_total{engine=\"1\"} 1e308\n", "tokens_total 0\n")
	f.Fuzz(func(t *testing.T, one, two string) {
		marks, parser := newIncreases(), scrape.NewParser(Series(replicated))
		for _, page := range []string{one, two, one} {
			families, _ := parser.Parse([]byte(page))
			readings, _ := engine.Resolve(replicated, families)
			added, sketches, _ := marks.of(readings, replicated)
			for signal, n := range added {
				if n < 0 || math.IsNaN(n) || math.IsInf(n, 0) {
					t.Errorf("%s: %v", signal, n)
				}
			}
			for signal, s := range sketches {
				if !(s.Count() >= 0) || !(s.Sum() >= 0) || math.IsInf(s.Sum(), 0) {
					t.Errorf("%s: %v values of sum %v", signal, s.Count(), s.Sum())
				}
			}
		}
	})
}

// TestSeries: all parts of a page that signals need are asked for.
func TestSeries(t *testing.T) {
	got := Series([]*engine.Signal{
		{Series: "a", Kind: engine.Gauge, DivideBy: "b", Plus: []*engine.Signal{{Series: "c", Kind: engine.Gauge}}},
		{Series: "h", Kind: engine.HistogramSeries},
	})
	want := []string{"a", "b", "c", "h", "h_bucket", "h_count", "h_sum", processStart}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}
