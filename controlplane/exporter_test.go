package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/telemetry"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// TestMetricsPassPromlint asks what promtool would of a node with an engine.
func TestMetricsPassPromlint(t *testing.T) {
	node := cluster.New(cluster.Config{
		NodeID: "n1", DataDir: t.TempDir(), RaftAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:8002", Heartbeat: 200 * time.Millisecond,
	}, fsm.New(), slog.New(slog.DiscardHandler))
	if err := node.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	for deadline := time.Now().Add(10 * time.Second); !node.IsLeader(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no leader")
		}
	}

	windows := telemetry.New(telemetry.Config{})
	now := time.Now()
	w := fleet.NewWindow("agent/0", now.Truncate(10*time.Second).Add(-10*time.Second))
	w.Counters[fleet.RequestsFinished], w.Gauges[fleet.GPUCount] = 3, 1
	if err := windows.Add(w); err != nil {
		t.Fatal(err)
	}
	past := history.New(history.Config{})
	recorder := history.NewRecorder(history.RecorderConfig{Now: func() time.Time { return now }}, past, windows,
		func(string) (history.Identity, bool) { return history.Identity{Group: "g"}, true }, slog.New(slog.DiscardHandler))
	recorder.Record()
	now = now.Add(35 * time.Second)
	recorder.Record()

	r := registry(node, windows, past)
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("promtool check metrics would say: %v, %v", problems, err)
	}
	for name, want := range map[string]int{
		"perf_controlplane_leader": 1, "perf_controlplane_history_series": 1, "perf_controlplane_telemetry_windows_turned_away_total": 5,
		"perf_engine_requests_finished_total": 1, "perf_engine_gpus": 1,
	} {
		if n, err := testutil.GatherAndCount(r, name); n != want || err != nil {
			t.Errorf("%s: %d series, %v; want %d", name, n, err, want)
		}
	}
}
