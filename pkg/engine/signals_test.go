package engine

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
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
		}, parsed)
		for name, r := range found {
			if math.IsNaN(r.Value) {
				t.Errorf("%s is not a number", name)
			}
		}
	})
}
