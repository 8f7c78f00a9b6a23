package engine

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

func families(t testing.TB, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	f, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestResolve(t *testing.T) {
	const page = `# TYPE running gauge
running{e="0"} 3
running{e="1"} 4
# TYPE usage gauge
usage{e="0"} 0.2
usage{e="1"} 0.6
# TYPE done_total counter
done_total{why="stop"} 5
done_total{why="length"} 6
done_total{why="abort"} 7
# TYPE odd gauge
odd NaN
# TYPE used gauge
used{e="0"} 30
used{e="1"} 10
# TYPE slots gauge
slots{e="0"} 100
slots{e="1"} 100
# TYPE none gauge
none 0
# TYPE info gauge
info{blocks="100",size="16",exact="None"} 1
info{blocks="50",size="16",exact="700"} 1
# TYPE step histogram
step_bucket{s="a",le="1"} 1
step_bucket{s="a",le="+Inf"} 3
step_sum{s="a"} 12.5
step_count{s="a"} 3
step_bucket{s="b",le="1"} 2
step_bucket{s="b",le="+Inf"} 4
step_sum{s="b"} 7.5
step_count{s="b"} 4
# TYPE openmetrics counter
openmetrics_total 9
bare_bucket{le="0.5"} 2
bare_bucket{le="+Inf"} 5
bare_sum 3.5
bare_count 5
# TYPE queue gauge
queue{dp="0",priority=""} 9
queue{dp="0",priority="1"} 4
queue{dp="1"} 2
# TYPE told gauge
told{dp="0",tp="1",pp="0"} 5
told{dp="0",tp="0",pp="0"} 6
told{dp="1",tp="10",pp="0"} 3
told{dp="1",tp="9",pp="0"} 2
# TYPE adapters gauge
adapters{run="old,older",max="4"} 100
adapters{run="a, b,c,",max="4"} 200
adapters{run="",max="4"} 150
# TYPE quick summary
quick{quantile="0.5"} 1
quick_sum 12
quick_count 5
# TYPE mixed histogram
mixed_bucket{e="0",le="1"} 2
mixed_bucket{e="0",le="4"} 6
mixed_bucket{e="0",le="+Inf"} 6
mixed_sum{e="0"} 8
mixed_count{e="0"} 6
mixed_bucket{e="1",le="2"} 3
mixed_bucket{e="1",le="+Inf"} 4
mixed_sum{e="1"} 9
mixed_count{e="1"} 4
twice_bucket{dp="0",tp="0",le="+Inf"} 7
twice_sum{dp="0",tp="0"} 1
twice_count{dp="0",tp="0"} 7
twice_bucket{dp="0",tp="1",le="+Inf"} 8
twice_sum{dp="0",tp="1"} 2
twice_count{dp="0",tp="1"} 8
`
	gauge := func(series string) *Signal { return &Signal{Signal: "requests_running", Series: series, Kind: Gauge} }
	for _, c := range []struct {
		name    string
		signals []*Signal
		want    float64
		buckets []Bucket
		sum     float64
		missing bool
	}{
		{name: "summed", signals: []*Signal{gauge("running")}, want: 7},
		{name: "a share is averaged", signals: []*Signal{{Signal: "kv_usage", Series: "usage", Kind: Gauge}}, want: 0.4},
		{name: "a quotient of sums", signals: []*Signal{{Signal: "kv_usage", Series: "used", Kind: Gauge, DivideBy: "slots"}}, want: 0.2},
		{name: "the first that is there", signals: []*Signal{gauge("gone"), gauge("running"), gauge("slots")}, want: 7},
		{name: "matched", signals: []*Signal{{Signal: "x", Series: "done_total", Kind: Counter, Match: map[string]string{"why": "stop|length"}}}, want: 11},
		{name: "nothing matches", signals: []*Signal{{Signal: "x", Series: "done_total", Kind: Counter, Match: map[string]string{"why": "error"}}}, missing: true},
		{name: "a label", signals: []*Signal{{Signal: "x", Series: "info", Kind: Gauge, Part: LabelPart, Label: "exact"}}, want: 700},
		{name: "two labels", signals: []*Signal{{Signal: "x", Series: "info", Kind: Gauge, Part: LabelPart, Label: "blocks*size"}}, want: 2400},
		{name: "a label that is not there", signals: []*Signal{{Signal: "x", Series: "info", Kind: Gauge, Part: LabelPart, Label: "no"}}, missing: true},
		{name: "sum", signals: []*Signal{{Signal: "x", Series: "step", Kind: HistogramSeries, Part: SumPart}}, want: 20},
		{name: "count", signals: []*Signal{{Signal: "x", Series: "step", Kind: HistogramSeries, Part: CountPart, Match: map[string]string{"s": "b"}}}, want: 4},
		{
			name: "histogram", signals: []*Signal{{Signal: "x", Series: "step", Kind: HistogramSeries}},
			want: 7, sum: 20, buckets: []Bucket{{1, 3}, {math.Inf(1), 7}},
		},
		{
			name: "histogram without TYPE", signals: []*Signal{{Signal: "x", Series: "bare", Kind: HistogramSeries}},
			want: 5, sum: 3.5, buckets: []Bucket{{0.5, 2}, {math.Inf(1), 5}},
		},
		{name: "a label that is not there or empty", signals: []*Signal{{Signal: "x", Series: "queue", Kind: Gauge, Match: map[string]string{"priority": ""}}}, want: 11},
		{name: "the lowest of ranks that repeat each other", signals: []*Signal{{Signal: "x", Series: "told", Kind: Gauge, Ranks: []string{"pp", "tp"}}}, want: 8},
		{name: "the largest", signals: []*Signal{{Signal: "kv_usage", Series: "usage", Kind: Gauge, Combine: Max}}, want: 0.6},
		{name: "the mean", signals: []*Signal{{Signal: "x", Series: "running", Kind: Gauge, Combine: Mean}}, want: 3.5},
		{name: "a share that is to be summed", signals: []*Signal{{Signal: "kv_usage", Series: "usage", Kind: Gauge, Combine: Sum}}, want: 0.8},
		{name: "the names in the newest label", signals: []*Signal{{Signal: "x", Series: "adapters", Kind: Gauge, Part: LabelItemsPart, Label: "run"}}, want: 3},
		{name: "no list", signals: []*Signal{{Signal: "x", Series: "adapters", Kind: Gauge, Part: LabelItemsPart, Label: "wait"}}, missing: true},
		{name: "the largest of a label", signals: []*Signal{{Signal: "x", Series: "adapters", Kind: Gauge, Part: LabelPart, Label: "max", Combine: Max}}, want: 4},
		{name: "one series and what is to be added", signals: []*Signal{{Signal: "x", Series: "running", Kind: Gauge, Plus: []*Signal{gauge("gone"), gauge("odd"), gauge("none"), gauge("told")}}}, want: 23},
		{name: "only what is to be added", signals: []*Signal{{Signal: "x", Series: "gone", Kind: Gauge, Plus: []*Signal{gauge("running")}}}, missing: true},
		{name: "sum of a summary", signals: []*Signal{{Signal: "x", Series: "quick", Kind: HistogramSeries, Part: SumPart}}, want: 12},
		{name: "a summary is no histogram", signals: []*Signal{{Signal: "x", Series: "quick", Kind: HistogramSeries}}, missing: true},
		{
			name: "histograms of other bounds", signals: []*Signal{{Signal: "x", Series: "mixed", Kind: HistogramSeries}},
			want: 10, sum: 17, buckets: []Bucket{{1, 2}, {2, 5}, {4, 9}, {math.Inf(1), 10}},
		},
		{
			name: "histograms without TYPE of ranks", signals: []*Signal{{Signal: "x", Series: "twice", Kind: HistogramSeries, Ranks: []string{"tp"}}},
			want: 7, sum: 1, buckets: []Bucket{{math.Inf(1), 7}},
		},
		{name: "OpenMetrics counter", signals: []*Signal{{Signal: "x", Series: "openmetrics_total", Kind: Counter}}, want: 9},
		{name: "not a number", signals: []*Signal{gauge("odd")}, missing: true},
		{name: "divided by nothing", signals: []*Signal{{Signal: "x", Series: "used", Kind: Gauge, DivideBy: "none"}}, missing: true},
		{name: "divided by what is not there", signals: []*Signal{{Signal: "x", Series: "used", Kind: Gauge, DivideBy: "gone"}}, missing: true},
		{name: "a gauge is no histogram", signals: []*Signal{{Signal: "x", Series: "running", Kind: HistogramSeries}}, missing: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, missing := Resolve(c.signals, families(t, page))
			name := c.signals[0].GetSignal()
			r, ok := found[name]
			if ok == c.missing || c.missing != (len(missing) == 1) {
				t.Fatalf("found %v, missing %v", found, missing)
			}
			if math.Abs(r.Value-c.want) > 1e-12 {
				t.Errorf("value %v, want %v", r.Value, c.want)
			}
			if (r.Histogram != nil) != (c.buckets != nil) {
				t.Fatalf("histogram %v", r.Histogram)
			}
			if r.Histogram != nil {
				if diff := cmp.Diff(&Histogram{Buckets: c.buckets, Sum: c.sum, Count: c.want}, r.Histogram); diff != "" {
					t.Errorf("histogram differs (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestSamples: each label set keeps its key, whatever order its labels come in, and says whose it is.
func TestSamples(t *testing.T) {
	counter := &Signal{Signal: "x", Series: "done_total", Kind: Counter, Ranks: []string{"tp_rank"}}
	read := func(page string) map[string]Sample {
		found, _ := Resolve([]*Signal{counter}, families(t, "# TYPE done_total counter\n"+page))
		by := map[string]Sample{}
		for _, s := range found["x"].Samples {
			by[s.Replica] = s
		}
		return by
	}
	first := read("done_total{engine=\"0\",why=\"stop\"} 5\ndone_total{engine=\"1\",why=\"stop\",tp_rank=\"0\"} 6\n")
	then := read("done_total{why=\"stop\",engine=\"1\",tp_rank=\"2\"} 8\ndone_total{why=\"stop\",engine=\"0\"} 7\n")
	for replica, want := range map[string]float64{"engine=0": 7, "engine=1": 8} {
		if first[replica].Key == 0 || first[replica].Key != then[replica].Key || then[replica].Value != want {
			t.Errorf("%s: %+v, then %+v", replica, first[replica], then[replica])
		}
	}
	if first["engine=0"].Key == first["engine=1"].Key {
		t.Error("two label sets have one key")
	}
}

func TestGaps(t *testing.T) {
	signal := func(name, series, since, gone string, when enginev1.Appearance) *Signal {
		return &Signal{Signal: name, Series: series, Kind: Gauge, Since: since, Gone: gone, Appears: when}
	}
	signals := []*Signal{
		signal("requests_running", "running", "", "", 0),
		signal("kv_usage", "usage", "0.9.2", "", 0),
		signal("kv_usage", "old_usage", "", "0.12", 0),
		signal("requests_finished", "done", "", "", AfterFirstRequest),
		signal("preemptions", "thrown", "0.7", "", AfterFirstEvent),
		signal("requests_failed", "errors", "", "0.5", AfterFirstEvent),
		signal("prefix_query_tokens", "asked", "", "", 0),
		signal("prefix_hit_tokens", "hit", "", "", 0),
		signal("itl_seconds", "gap", "", "", 0),
		signal("lora_slots", "slots", "", "", 0), // nothing rests on it
	}
	for _, c := range []struct {
		name, version, page string
		want                []string // the signals of each gap
	}{
		{name: "all there", version: "0.9.2", page: "running 1\nusage 0\ndone 4\nthrown 1\nerrors 1\nasked 1\nhit 1\ngap 1\n"},
		{name: "an old name", version: "0.8", page: "running 1\nold_usage 0\ndone 4\nasked 1\nhit 1\ngap 1\n", want: []string{"requests_failed"}},
		{name: "before the first request", version: "0.3", page: "running 1\nold_usage 0\nasked 1\nhit 1\ngap 1\n", want: []string{"preemptions"}},
		{name: "later", version: "0.3", page: "running 1\nold_usage 0\nasked 1\nhit 1\ngap 1\ne2e 1\n", want: []string{"requests_finished", "preemptions"}},
		{name: "another measure of the same", version: "0.9.2", page: "running 1\nusage 0\ndone 4\nasked 1\nhit 1\ntpot 1\n", want: []string{"requests_failed"}},
		{name: "renamed in a release that nobody knows", version: "0.99", page: "running 1\nkv 0\ndone 4\nhits 1\ngap 1\n", want: []string{"kv_usage", "requests_failed", "prefix_query_tokens prefix_hit_tokens"}},
		{name: "no version at all", page: "usage 0\ndone 4\nasked 1\nhit 1\ngap 1\n", want: []string{"requests_running", "requests_failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := append(signals, signal("e2e_seconds", "e2e", "", "", AfterFirstEvent), signal("tpot_seconds", "tpot", "0.11", "", AfterFirstEvent))
			found, _ := Resolve(all, families(t, c.page))
			var got []string
			gaps := Gaps(all, found, c.version)
			for _, g := range gaps {
				got = append(got, strings.Join(g.Signals, " "))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
			if words := GapWords(gaps); (words == "") != (len(gaps) == 0) {
				t.Errorf("words %q", words)
			}
		})
	}
	gaps := Gaps(signals, map[string]Reading{"requests_running": {}, "requests_finished": {Value: 1}, "itl_seconds": {}}, "0.99")
	const want = "the metrics page does not tell how full the KV cache is (no usage or old_usage); " +
		"how many requests fail, unless the wire shows it (no errors); how much the prefix cache spares (no asked or hit)"
	if got := GapWords(gaps); got != want {
		t.Errorf("words %q, want %q", got, want)
	}
}

// FuzzResolve: no page makes the resolver crash or give a value that is not a number.
func FuzzResolve(f *testing.F) {
	f.Add("# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 2\na_count 3\n", "a")
	f.Add("a_bucket{le=\"x\"} 1\na_count 3\na_sum NaN\n", "a")
	f.Add("a{n=\"1e400\"} 1\n", "a")
	f.Fuzz(func(t *testing.T, page, series string) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		parsed, err := parser.TextToMetricFamilies(strings.NewReader(page))
		if err != nil {
			return
		}
		found, _ := Resolve([]*Signal{
			{Signal: "g", Series: series, Kind: Gauge},
			{Signal: "l", Series: series, Kind: Gauge, Part: LabelPart, Label: "n"},
			{Signal: "h", Series: series, Kind: HistogramSeries},
			{Signal: "q", Series: series, Kind: Gauge, DivideBy: series},
			{Signal: "i", Series: series, Kind: Gauge, Part: LabelItemsPart, Label: "n"},
			{Signal: "r", Series: series, Kind: Counter, Ranks: []string{"n"}, Plus: []*Signal{{Series: series, Kind: Counter, Combine: Max}}},
		}, parsed)
		for name, r := range found {
			if math.IsNaN(r.Value) {
				t.Errorf("%s is not a number", name)
			}
		}
	})
}
