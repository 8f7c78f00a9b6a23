package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/load"
)

// traffic is open-loop load that goes to ready replicas only, as a balancer would send it.
type traffic struct {
	w       *world
	process *process
	file    string
}

// baselineSeconds of traffic are a baseline also when the last second's windows have not arrived.
const baselineSeconds = 4

// send starts the load and waits until it flows.
func (w *world) send(rate float64, replicas ...*replica) *traffic {
	w.t.Helper()
	tr := &traffic{w: w, file: filepath.Join(w.dir, fmt.Sprintf("requests-%d.jsonl", len(w.all)))}
	args := []string{
		"bench", "--rate", strconv.FormatFloat(rate, 'g', -1, 64), "--prompt-tokens", "64", "--output-tokens", "16",
		"--duration", "10m", "--drain-wait", "10s", "--timeout", "30s", "--out", tr.file,
	}
	for _, r := range replicas {
		args = append(args, "--target", r.engineURL()+","+r.readyURL()+","+r.api)
	}
	tr.process = w.start("load-"+filepath.Base(tr.file), agentProgram, nil, args...)
	// Seconds of it, so that the control plane has a baseline to compare a rollout with.
	eventually(w.t, "traffic flows", 20*time.Second, func() (bool, string) {
		n := len(tr.records())
		return float64(n) >= max(3, baselineSeconds*rate), fmt.Sprintf("%d requests are answered\n%s", n, tr.process.text())
	})
	return tr
}

// goesOn waits until n requests that were sent from now on are answered.
func (tr *traffic) goesOn(n int) {
	tr.w.t.Helper()
	now := time.Now()
	eventually(tr.w.t, "traffic goes on", 30*time.Second, func() (bool, string) {
		fresh := 0
		for _, r := range tr.records() {
			if r.Sent.After(now) && r.Failed == "" {
				fresh++
			}
		}
		return fresh >= n, fmt.Sprintf("%d of %d requests", fresh, n)
	})
}

// end waits for open requests and returns all.
func (tr *traffic) end() []loadtest.Record {
	tr.w.t.Helper()
	tr.process.stop()
	return tr.records()
}

func (tr *traffic) records() []loadtest.Record {
	f, err := os.Open(tr.file)
	if err != nil {
		return nil // not yet made
	}
	defer f.Close()
	records, err := load.ReadRecords(f)
	if err != nil {
		tr.w.t.Fatal(err)
	}
	return records
}

// noneFailed fails the test for each request that was not answered in full.
func noneFailed(t *testing.T, records []loadtest.Record) {
	t.Helper()
	if len(records) == 0 {
		t.Error("no request was sent")
	}
	for _, r := range records {
		if r.Failed != "" {
			t.Errorf("request %d to %s due at %s failed: %s %s", r.Number, r.Target, r.Intended.Format("15:04:05.000"), r.Failed, r.Detail)
		}
	}
}
