package collect

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/optiinfra/performance-agent/agent/scrape"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

var update = flag.Bool("update", false, "write the golden windows anew")

// TestWindowsOfPages: what a window makes of two pages that an engine shows one after the other, by the
// signal map that its adapter has for it. The adapters' tests write the maps.
func TestWindowsOfPages(t *testing.T) {
	later, err := filepath.Glob("../../plugins/*/testdata/*.later.prom")
	if err != nil || len(later) < 6 {
		t.Fatalf("%d pairs of pages: %v", len(later), err)
	}
	for _, second := range later {
		base := strings.TrimSuffix(second, ".later.prom")
		name := filepath.Base(filepath.Dir(filepath.Dir(base))) + "-" + filepath.Base(base)
		t.Run(name, func(t *testing.T) {
			signals := readSignals(t, base+".signals.json")
			e, at := told(signals, "", filePage(t, signals, base+".prom"))
			e.Drain(fleet.NewWindow("a/0", at), at)
			e.mu.Lock()
			p := filePage(t, signals, second)
			p.At = at.Add(time.Second)
			e.add(p)
			e.mu.Unlock()
			w := fleet.NewWindow("a/0", at)
			src := e.Drain(w, p.At)
			got := windowWords(w) + fmt.Sprintf("resets: %d\nwarning: %s\nlag: %d ms\n", e.Status().Resets, src.GetWarning(), src.GetLagMs())
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("window (-want +got); go test -update writes it anew:\n%s", diff)
			}
		})
	}
}

func readSignals(t *testing.T, file string) (signals []*engine.Signal) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		s := &engine.Signal{}
		if err := protojson.Unmarshal(lines.Bytes(), s); err != nil {
			t.Fatal(err)
		}
		signals = append(signals, s)
	}
	return signals
}

func filePage(t *testing.T, signals []*engine.Signal, file string) *scrape.Page {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := page(signals, string(raw))
	if p.Dropped > 0 {
		t.Errorf("%d samples of %s were dropped", p.Dropped, file)
	}
	return p
}

// windowWords prints a window for people to check.
func windowWords(w *fleet.Window) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(w.Counters)) {
		fmt.Fprintf(&b, "counter %s +%.6g\n", k, w.Counters[k])
	}
	for _, k := range slices.Sorted(maps.Keys(w.Gauges)) {
		fmt.Fprintf(&b, "gauge %s %.6g\n", k, w.Gauges[k])
	}
	for _, k := range slices.Sorted(maps.Keys(w.Sketches)) {
		fmt.Fprintf(&b, "sketch %s %.6g values, sum %.6g\n", k, w.Sketches[k].Count(), w.Sketches[k].Sum())
	}
	return b.String()
}
