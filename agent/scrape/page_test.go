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
			name:   "colons that became underscores, and Ray's names",
			wanted: []string{"vllm:num_requests_running", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total"},
			page: []string{
				"# TYPE vllm_prompt_tokens counter", `vllm_prompt_tokens_total{engine="0"} 7`,
				"# TYPE ray_vllm_num_requests_running gauge", `ray_vllm_num_requests_running{ReplicaId="a"} 3`,
				"# TYPE ray_vllm_iteration_tokens_total histogram",
				`ray_vllm_iteration_tokens_total_bucket{le="1.0"} 1.0`, `ray_vllm_iteration_tokens_total_bucket{le="+Inf"} 4.0`,
				"ray_vllm_iteration_tokens_total_count 4.0", "ray_vllm_iteration_tokens_total_sum 40.0",
				"ray_vllm_num_requests_waiting 3",
			},
			want: map[string][]float64{"vllm:prompt_tokens_total": {7}, "vllm:num_requests_running": {3}, "vllm:iteration_tokens_total": {4, 40, 2}},
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

func TestParseCountsOthers(t *testing.T) {
	p := NewParser([]string{"b"})
	for _, c := range []struct {
		page string
		want int
	}{{"# TYPE a gauge\na 1\nb 2\nc_bucket{le=\"1\"} 3\n", 2}, {"b 2\n", 0}} {
		p.Parse([]byte(c.page))
		if p.Others() != c.want {
			t.Errorf("%d others on %q, want %d", p.Others(), c.page, c.want)
		}
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
	two, three, half := 2.0, 3.0, 0.5
	for _, c := range []struct {
		name, body string
		at         LoadPointers
		want       *Load // nil: an error
	}{
		{"by index", `{"loads":[{"run":2,"wait":3}]}`, LoadPointers{Running: "/loads/0/run", Waiting: "/loads/0/wait"}, &Load{Running: &two, Waiting: &three}},
		{"over all ranks", `{"loads":[{"run":1,"use":0.2},{"run":1,"use":0.8}]}`, LoadPointers{Running: "/loads/*/run", KVUsage: "/loads/*/use"}, &Load{Running: &two, KVUsage: &half}},
		{"in one number", `{"server_load":3}`, LoadPointers{InFlight: "/server_load"}, &Load{InFlight: &three}},
		{"escaped names", `{"a/b":{"c~d":3}}`, LoadPointers{Waiting: "/a~1b/c~0d"}, &Load{Waiting: &three}},
		{"one of two", `{"loads":[{"run":2}]}`, LoadPointers{Running: "/loads/*/run", Waiting: "/loads/*/wait"}, &Load{Running: &two}},
		{"not in all ranks", `{"loads":[{"run":2},{}]}`, LoadPointers{Running: "/loads/*/run"}, nil},
		{"not there", `{"loads":[]}`, LoadPointers{Running: "/loads/0/run", Waiting: "/loads/*/wait"}, nil},
		{"not a number", `{"run":"2","wait":-1}`, LoadPointers{Running: "/run", Waiting: "/wait"}, nil},
		{"too large to add", `{"loads":[{"run":1e308},{"run":1e308}]}`, LoadPointers{Running: "/loads/*/run"}, nil},
		{"not JSON", `<html>`, LoadPointers{Running: "/run"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseLoad([]byte(c.body), c.at)
			if (err != nil) != (c.want == nil) {
				t.Fatalf("load %+v, error %v", got, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("load (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	two, nine := 2.0, 9.0
	for _, c := range []struct {
		load *Load
		want float64
		told bool
	}{
		{nil, 0, false},
		{&Load{KVUsage: &two}, 0, false},
		{&Load{Running: &two, Waiting: &two}, 4, true},
		{&Load{Running: &two, InFlight: &nine}, 9, true},
	} {
		if n, told := c.load.Requests(); n != c.want || told != c.told {
			t.Errorf("%+v: %v requests, told %v", c.load, n, told)
		}
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
