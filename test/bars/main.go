// Command bars prints the project's bars, one line each, as "BAR ID value=… unit=… target…". A
// figure that is stated anywhere in this repository is printed by one of them.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// bar measures one thing and prints its lines to out.
type bar func(ctx context.Context, bin string, out io.Writer) error

var bars = map[string]bar{"A1": sidecarBar, "A2": costBar, "A3": observerBar, "A4": mergedBar, "M1": demoBar, "M1r": realBar, "P2": ingestBar, "T11": diagnosisBar, "T6": transferBar, "T6.starts": startsBar, "T6cold": coldBar, "T5": speedBar, "R9": falseRollbackBar, "T9": canaryBar, "T10": controlVariateBar}

func main() {
	id := flag.String("id", "", "bar to print")
	bin := flag.String("bin", "bin", "folder of the built programs")
	flag.Parse()
	run, ok := bars[*id]
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no bar %q; known: %s\n", *id, strings.Join(slices.Sorted(maps.Keys(bars)), ", "))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "bar %s: %v\n", *id, err)
		os.Exit(1)
	}
}

// demoBar runs the demo and reads its report. The demo's own story goes to standard error.
func demoBar(ctx context.Context, bin string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "bar-m1-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.json")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "perf-controlplane"), "demo", "--report", report)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	ran := cmd.Run() // the demo fails when it misses its bar; the line is printed all the same
	raw, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("the demo left no report: %w", err)
	}
	if err := printDemo(raw, out); err != nil {
		return err
	}
	return ran
}

// demoReport is the part of the demo's report that the bar needs.
type demoReport struct {
	GoodputFactor float64 `json:"goodput_factor"`
	E2EP95Change  float64 `json:"e2e_p95_change"`
	OverDefaults  float64 `json:"good_share_over_engine_defaults"`
	Lost          int     `json:"requests_lost"`
	Seconds       float64 `json:"seconds"`
	Before, After struct {
		Requests int `json:"requests"`
	}
	Bad struct {
		State    string  `json:"state"`
		Mitigate float64 `json:"time_to_mitigate_seconds"`
		Restore  float64 `json:"time_to_restore_seconds"`
	} `json:"bad_proposal"`
}

func printDemo(raw []byte, out io.Writer) error {
	var r demoReport
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the demo's report: %w", err)
	}
	_, err := fmt.Fprintf(out, `BAR M1 value=%.2f unit=factor target>=3 simulated=true before_requests=%d after_requests=%d
BAR M1.e2e value=%.1f unit=percent target<=-66 of=p95
BAR M1.over_defaults value=%.2f unit=factor
BAR M1.bad_proposal value=%d unit=rolled_back target=1 state=%s mitigate_s=%.1f restore_s=%.1f
BAR M1.lost value=%d unit=requests target=0
BAR M1.seconds value=%.0f unit=s target<240
`, r.GoodputFactor, r.Before.Requests, r.After.Requests, 100*r.E2EP95Change, r.OverDefaults,
		count(r.Bad.State == "rolled_back"), r.Bad.State, r.Bad.Mitigate, r.Bad.Restore, r.Lost, r.Seconds)
	return err
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
