package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// TestSignalNames: each name is there once, means something, and the document lists it.
func TestSignalNames(t *testing.T) {
	var seen []string
	var b strings.Builder
	b.WriteString("| signal | kind | meaning | without it is not known |\n|---|---|---|---|\n")
	for _, info := range engine.SignalNames() {
		if slices.Contains(seen, info.Name) || info.Kind == 0 || info.Means == "" {
			t.Errorf("%+v", info)
		}
		seen = append(seen, info.Name)
		kind := map[bool]string{info.Kind == engine.Gauge: "gauge", info.Kind == engine.Counter: "counter", info.Kind == engine.HistogramSeries: "distribution"}[true]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", info.Name, kind, info.Means, info.Without)
	}
	for _, info := range engine.SignalNames() {
		if info.Or != "" && !slices.Contains(seen, info.Or) {
			t.Errorf("%s may be replaced by %q, which there is not", info.Name, info.Or)
		}
	}
	enginetest.Section(t, "../../docs/METRICS.md", "signals", b.String())
}
