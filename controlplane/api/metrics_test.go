package api

import (
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/fleet/series"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// measured stands for windows and history: engine chat-0 had one request a second, of .1 s, chat-1 one of
// .4 s, chat-2 told nothing.
type measured struct{}

func (m measured) Aggregate(ids []string, from, to time.Time) (*fleet.Aggregate, error) {
	a := fleet.NewAggregate()
	for _, id := range ids {
		v := map[string]float64{"agent-0/e": .1, "agent-1/e": .4}[id]
		if v == 0 {
			continue
		}
		for at := from; at.Before(to); at = at.Add(time.Second) {
			w := fleet.NewWindow(id, at)
			k := stats.NewSketch()
			if err := k.Add(v); err != nil {
				return nil, err
			}
			w.Sketches[fleet.TTFT], w.Origin[fleet.TTFT] = k, fleet.SourceProbe
			w.Counters[fleet.RequestsFinished], w.Counters[fleet.GenerationTokens], w.Counters[fleet.GPUEnergyJoules] = 1, 50, 100
			w.Gauges[fleet.GPUCount], w.Gauges[fleet.GPUSMActiveRatio], w.Gauges[fleet.KVUsage] = 2, v, .5
			if id == "agent-0/e" {
				w.Gauges[fleet.RequestsOpen] = 1
			}
			if err := a.Add(w); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

// Steps rise by .01 s a step.
func (m measured) Steps(ids, metrics []string, from, to time.Time, step time.Duration) ([]*fleet.Aggregate, error) {
	var all []*fleet.Aggregate
	for at := from; at.Before(to); at = at.Add(step) {
		a := fleet.NewAggregate()
		a.From, a.To = at, at.Add(step)
		if n := len(all); n != 3 {
			k := stats.NewSketch()
			if err := k.Add(.5 + .01*float64(n)); err != nil {
				return nil, err
			}
			if err := a.Sketch(fleet.TTFT, fleet.SourceEngine).Merge(k); err != nil {
				return nil, err
			}
			a.Counters[fleet.RequestsFinished] = 60
			a.Windows = 60
		}
		all = append(all, a)
	}
	return all, nil
}

func (measured) Find(metric string) (series.Info, bool) { return series.Find(metric) }

func (m measured) Latest(id string) *fleet.Window {
	if id != "agent-1/e" {
		return nil
	}
	w := fleet.NewWindow(id, time.Now().Add(-3*time.Second))
	w.Serving, w.Epoch = true, 7
	w.Sources = []*agentv1.Source{
		{Name: "engine", AgeMs: 1500, Stale: true, Error: "the page stalls"},
		{Name: "probe", AgeMs: 10, Warning: "TLS is not visible"},
	}
	return w
}

func measuredServer(t *testing.T) string {
	n := &fakeNode{machine: fsm.New(), leader: true}
	s := New(Config{Version: "test", NodeID: "cp1", Started: time.Now()}, Deps{
		Machine: n.machine, Log: n, Cluster: n, Telemetry: measured{}, History: measured{}, Advisor: n, Collector: n, Logger: slog.New(slog.DiscardHandler),
	})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	n.seed(t, 3)
	return srv.URL
}

// dig follows a path of keys into an answer.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				t.Fatalf("no element %d in %v", k, v)
			}
			v = l[k]
		}
	}
	return v
}

func TestSpans(t *testing.T) {
	base := measuredServer(t)
	ask := func(path string) map[string]any {
		t.Helper()
		status, out := call(t, "GET", base+path, "")
		if status != 200 {
			t.Fatalf("%s: %d %v", path, status, out)
		}
		return out
	}
	near := func(what string, got any, want float64) {
		t.Helper()
		if v, ok := got.(float64); !ok || math.Abs(v-want) > .02*math.Abs(want)+1e-9 {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}

	fleetWide := ask("/metrics/latency?window_seconds=100&percentiles=25,%2099.9")
	near("p25", dig(t, fleetWide, "distributions", 0, "percentiles_seconds", "p25"), .1)
	near("p99.9", dig(t, fleetWide, "distributions", 0, "percentiles_seconds", "p99.9"), .4)
	near("count", dig(t, fleetWide, "distributions", 0, "count"), 200)
	if s := dig(t, fleetWide, "silent_engines", 0); s != "agent-2/e" || fleetWide["basis"] != "windows" {
		t.Errorf("silent %v, basis %v", s, fleetWide["basis"])
	}
	near("freshness", dig(t, fleetWide, "freshness", "engine", "age_seconds"), 3.5)
	near("stale engines", dig(t, fleetWide, "freshness", "engine", "stale_engines"), 1)
	near("fresh engines", dig(t, fleetWide, "freshness", "probe", "stale_engines"), 0)
	if why := dig(t, fleetWide, "freshness", "engine", "reason"); why != "the page stalls" {
		t.Errorf("reason %v", why)
	}

	near("one agent's", dig(t, ask("/metrics/latency?agent=agent-1"), "distributions", 0, "p50_seconds"), .4)
	load := ask("/metrics/throughput?group=chat")
	near("rate", load["requests_per_second"], 2)
	near("open", load["requests_open"], 1)
	if dig(t, load, "sources", "requests_per_second") != "mixed" || dig(t, load, "sources", "generation_tokens_per_second") != "engine" {
		t.Errorf("sources %v", load["sources"])
	}
	gpu := ask("/metrics/gpu")
	near("GPUs", gpu["gpus"], 2)
	near("SM active", gpu["sm_active_ratio"], .25)
	near("energy", gpu["joules_per_token"], 2)
	near("measured", dig(t, gpu, "measured", "gpu_energy_joules"), 100*2*60)
	if gpu["tensor_active_ratio"] != nil || gpu["tensor_active_ratio"] == 0. {
		t.Errorf("a figure that nobody tells is %v", gpu["tensor_active_ratio"])
	}

	from, to := time.Now().Add(-3*time.Hour).UTC(), time.Now().Add(-2*time.Hour).UTC()
	old := ask(fmt.Sprintf("/metrics/tokens?from=%s&to=%s", url.QueryEscape(from.Format(time.RFC3339)), url.QueryEscape(to.Format(time.RFC3339))))
	near("tokens of an hour", old["generation_tokens"], 2*50*3600)
	if old["basis"] != "history" {
		t.Errorf("basis %v of two hours ago", old["basis"])
	}

	one := ask("/metrics/engines/agent-1%2Fe?percentiles=10")
	near("epoch", dig(t, one, "latest", "epoch"), 7)
	near("gauge", dig(t, one, "gauges", "gpu_sm_active_ratio", "mean"), .4)
	near("counter", dig(t, one, "counters", "generation_tokens", "per_second"), 50)
	near("p10", dig(t, one, "distributions", 0, "percentiles_seconds", "p10"), .4)
	if dig(t, one, "latest", "sources", 1, "warning") != "TLS is not visible" || dig(t, one, "gauges", "gpu_sm_active_ratio", "source") != "gpu" {
		t.Errorf("engine %v", one)
	}
	if quiet := ask("/metrics/engines/agent-2%2Fe"); quiet["latest"] != nil {
		t.Errorf("an engine without windows has %v", quiet["latest"])
	}
}

func TestPast(t *testing.T) {
	base := measuredServer(t)
	status, out := call(t, "GET", base+"/metrics/history?percentile=50", "")
	if status != 200 {
		t.Fatal(status, out)
	}
	points, _ := out["points"].([]any)
	if len(points) < 100 || len(points) > 200 || dig(t, points, 3, "value") != nil || dig(t, points, 2, "value") == nil || out["kind"] != "histogram" || out["source"] != "engine" {
		t.Errorf("%d points of %v: %v", len(points), out["kind"], points[:5])
	}
	slope, low, high := dig(t, out, "trend", "per_hour").(float64), dig(t, out, "trend", "low_per_hour").(float64), dig(t, out, "trend", "high_per_hour").(float64)
	want := .01 * 3600 / out["step_seconds"].(float64)
	if math.Abs(slope/want-1) > .05 || low >= slope || high <= slope || dig(t, out, "trend", "direction") != "rising" {
		t.Errorf("trend %v in %v…%v, want %v", slope, low, high, want)
	}
	status, out = call(t, "GET", base+"/metrics/history?metric=requests_finished&step_seconds=60", "")
	if status != 200 || dig(t, out, "points", 0, "value") != 1. || dig(t, out, "trend", "direction") != "none" {
		t.Errorf("%d %v", status, out)
	}
	for path, want := range map[string]int{
		"?metric=nonsense": 422, "?group=none": 404, "?percentile=101": 422, "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": 422, "?agent=none": 404,
	} {
		if status, out := call(t, "GET", base+"/metrics/history"+path, ""); status != want {
			t.Errorf("%s: %d %v", path, status, out)
		}
	}
	for _, path := range []string{"/metrics/latency?percentiles=0", "/metrics/latency?percentiles=a", "/metrics/engines/agent-1%2Fe?percentiles=100"} {
		if status, _ := call(t, "GET", base+path, ""); status != 422 {
			t.Errorf("%s: %d", path, status)
		}
	}
}
