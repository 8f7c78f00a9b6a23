package scrape

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
)

// values lists the plain samples of a page and, of histograms, count, sum and number of buckets.
func values(families map[string]*dto.MetricFamily) map[string][]float64 {
	out := map[string][]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			switch {
			case m.Histogram != nil:
				out[name] = append(out[name], float64(m.Histogram.GetSampleCount()), m.Histogram.GetSampleSum(), float64(len(m.Histogram.Bucket)))
			case m.Counter != nil:
				out[name] = append(out[name], m.Counter.GetValue())
			case m.Gauge != nil:
				out[name] = append(out[name], m.Gauge.GetValue())
			case m.Untyped != nil:
				out[name] = append(out[name], m.Untyped.GetValue())
			}
		}
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name    string
		wanted  []string
		page    []string
		want    map[string][]float64
		dropped int
	}{
		{name: "empty", want: map[string][]float64{}},
		{
			name:   "only what is wanted",
			wanted: []string{"vllm:num_requests_running", "vllm:iteration_tokens_total"},
			page: []string{
				"# HELP vllm:num_requests_running Running.", "# TYPE vllm:num_requests_running gauge",
				`vllm:num_requests_running{engine="0",model_name="m"} 3.0`,
				"# TYPE vllm:num_requests_waiting gauge", `vllm:num_requests_waiting{engine="0"} 9.0`,
				"# TYPE vllm:iteration_tokens_total histogram",
				`vllm:iteration_tokens_total_bucket{le="1.0"} 1.0`, `vllm:iteration_tokens_total_bucket{le="+Inf"} 4.0`,
				"vllm:iteration_tokens_total_count 4.0", "vllm:iteration_tokens_total_sum 40.0",
				"# TYPE vllm:iteration_tokens_total_created gauge", "vllm:iteration_tokens_total_created 1.79e+09",
			},
			want: map[string][]float64{"vllm:num_requests_running": {3}, "vllm:iteration_tokens_total": {4, 40, 2}},
		},
		{
			name: "openmetrics: suffix in the sample only, exemplar, end mark",
			page: []string{
				"# TYPE vllm:prompt_tokens counter", "# UNIT vllm:prompt_tokens tokens",
				`vllm:prompt_tokens_total{engine="0"} 17 # {trace_id="a"} 1.0 1700000000.0`,
				"# TYPE vllm:info info", `vllm:info{version="1"} 1`, "# EOF",
			},
			want: map[string][]float64{"vllm:prompt_tokens_total": {17}, "vllm:info": {1}},
		},
		{
			name: "no types",
			page: []string{"tgi_queue_size 4", "tgi_request_count 12"},
			want: map[string][]float64{"tgi_queue_size": {4}, "tgi_request_count": {12}},
		},
		{
			name: "what cannot be used is dropped and counted",
			page: []string{
				"# TYPE g gauge", `g{a="1"} NaN`, `g{a="2"} 5`, `g{a="3"} +Inf`, `g{a="2"} 6`,
				"# TYPE c counter", `c{a="1"} -4`, `c{a="2"} 4`,
				"# TYPE broken gauge", "broken{ 1", "broken 2",
				"# TYPE h histogram", `h_bucket{le="1"} 5`, `h_bucket{le="2"} 3`, `h_bucket{le="+Inf"} 6`, "h_sum 1", "h_count 6",
			},
			want:    map[string][]float64{"g": {5}, "c": {4}},
			dropped: 6,
		},
		{
			name: "two types for one family: the first counts",
			page: []string{"# TYPE x counter", "# TYPE x gauge", "x 1"},
			want: map[string][]float64{"x": {1}},
		},
		{
			name: "windows line ends and blank lines",
			page: []string{"# TYPE x counter\r", "", "x 1\r", "  "},
			want: map[string][]float64{"x": {1}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewParser(c.wanted)
			for range 2 { // buffers are used again
				families, dropped := p.Parse([]byte(strings.Join(c.page, "\n")))
				if diff := cmp.Diff(c.want, values(families)); diff != "" {
					t.Errorf("families (-want +got):\n%s", diff)
				}
				if dropped != c.dropped {
					t.Errorf("dropped %d, want %d", dropped, c.dropped)
				}
			}
		})
	}
}

func TestParseForgetsTheLastPage(t *testing.T) {
	p := NewParser(nil)
	p.Parse([]byte("a 1\nb 2\n"))
	families, _ := p.Parse([]byte("b 3\n"))
	if got := slices.Collect(maps.Keys(families)); len(got) != 1 || got[0] != "b" {
		t.Errorf("families %v, want only b", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "# TYPE", "# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum NaN\na_count 1\n",
		"a{b=\"c\\\"d\\n\"} 1 1700000000\n", "a{b=\"c\"} 1e999\n", "{a=\"b\"} 1\n", "a{le=\"x\"} 1 # {y=\"z\"} 1\n",
		"# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 2\ns_count 1\n", "a_bucket{le=\"1\"} 18446744073709551616\n",
		"# TYPE a counter\na 1\na 1\na{} 2\n", "\x00\xff{} 1\n",
	} {
		f.Add([]byte(seed))
	}
	p := NewParser(nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		families, dropped := p.Parse(body)
		if dropped < 0 {
			t.Errorf("dropped %d samples", dropped)
		}
		for name, family := range families {
			if len(family.Metric) == 0 {
				t.Errorf("family %q has no samples", name)
			}
			for _, m := range family.Metric {
				if !usable(m) {
					t.Errorf("unusable sample of %q: %v", name, m)
				}
			}
		}
	})
}

func TestParseLoad(t *testing.T) {
	two, three := 2.0, 3.0
	for _, c := range []struct {
		name, body string
		at         LoadPointers
		want       *Load
	}{
		{"by index", `{"loads":[{"run":2,"wait":3}]}`, LoadPointers{"/loads/0/run", "/loads/0/wait"}, &Load{&two, &three}},
		{"over all ranks", `{"loads":[{"run":1},{"run":1}]}`, LoadPointers{Running: "/loads/*/run"}, &Load{Running: &two}},
		{"escaped names", `{"a/b":{"c~d":3}}`, LoadPointers{Waiting: "/a~1b/c~0d"}, &Load{Waiting: &three}},
		{"not there", `{"loads":[]}`, LoadPointers{"/loads/0/run", "/loads/*/wait"}, &Load{}},
		{"not a number", `{"run":"2","wait":-1}`, LoadPointers{"/run", "/wait"}, &Load{}},
		{"no pointers", `[]`, LoadPointers{}, &Load{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseLoad([]byte(c.body), c.at)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("load (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := ParseLoad([]byte("<html>"), LoadPointers{}); err == nil {
		t.Error("a page that is no JSON was accepted")
	}
}

func FuzzParseLoad(f *testing.F) {
	f.Add([]byte(`{"loads":[{"run":1e308},{"run":1e308}]}`), "/loads/*/run")
	f.Add([]byte(`{"":{"":1}}`), "//")
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		l, err := ParseLoad(body, LoadPointers{Running: pointer})
		if err == nil && l.Running != nil && (math.IsNaN(*l.Running) || math.IsInf(*l.Running, 0) || *l.Running < 0) {
			t.Errorf("load %v", *l.Running)
		}
	})
}
