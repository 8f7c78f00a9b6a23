package main

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
)

// latencyPage is a collector of one engine's latencies.
type latencyPage struct {
	*latencies
	descs map[string]*prometheus.Desc
}

func (p latencyPage) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(p, ch) }
func (p latencyPage) Collect(ch chan<- prometheus.Metric) {
	p.collect(ch, p.descs, "agent-1/e", "g", "m")
}

func TestLatencies(t *testing.T) {
	page := latencyPage{&latencies{}, latencyDescs()}
	for sec := range 3 {
		w := fleet.NewWindow("agent-1/e", time.Unix(int64(sec), 0))
		for metric, v := range map[string]float64{fleet.TPOT: .02, fleet.Queue: .125} {
			k := stats.NewSketch()
			if err := k.AddN(v, 2); err != nil {
				t.Fatal(err)
			}
			k.SetSum(2 * v)
			w.Sketches[metric], w.Origin[metric] = k, fleet.SourceEngine
		}
		w.Sketches["unheard_of_seconds"] = stats.NewSketch() // a newer agent's
		page.add(w)
	}
	want := `# HELP gen_ai_server_time_per_output_token_seconds Time per output token after the first, by request.
# TYPE gen_ai_server_time_per_output_token_seconds histogram
`
	labels := `engine="agent-1/e",gen_ai_request_model="m",group="g",source="engine"`
	for _, b := range []string{"0.01", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.75", "1", "2.5", "+Inf"} {
		n := "6"
		if b == "0.01" {
			n = "0"
		}
		want += "gen_ai_server_time_per_output_token_seconds_bucket{" + labels + `,le="` + b + `"} ` + n + "\n"
	}
	want += "gen_ai_server_time_per_output_token_seconds_sum{" + labels + "} 0.12\n" +
		"gen_ai_server_time_per_output_token_seconds_count{" + labels + "} 6\n"
	if err := testutil.CollectAndCompare(page, strings.NewReader(want), "gen_ai_server_time_per_output_token_seconds"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.CollectAndLint(page)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	if n := testutil.CollectAndCount(page); n != 2 {
		t.Errorf("%d histograms, want 2", n)
	}
}
