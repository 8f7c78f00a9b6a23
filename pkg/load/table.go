package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const tableWidth = 50

// Table writes the summary in the form that users of `vllm bench serve` know.
func (s Summary) Table(w io.Writer) error {
	var b strings.Builder
	heading(&b, " Serving Benchmark Result ", '=')
	row(&b, "Successful requests:", "%d", s.Succeeded)
	row(&b, "Failed requests:", "%d", s.Failed)
	for _, class := range slices.Sorted(maps.Keys(s.FailedBy)) {
		row(&b, "  "+class+":", "%d", s.FailedBy[class])
	}
	row(&b, "Benchmark duration (s):", "%.2f", s.Seconds)
	row(&b, "Total input tokens:", "%d", s.PromptTokens)
	row(&b, "Total generated tokens:", "%d", s.OutputTokens)
	row(&b, "Request throughput (req/s):", "%.2f", s.RequestsPerSec)
	if s.Objectives != (Objectives{}) {
		row(&b, "Request goodput (req/s):", "%.2f", s.GoodputPerSec)
	}
	row(&b, "Output token throughput (tok/s):", "%.2f", s.OutputTokensPerSec)
	row(&b, "Peak output token throughput (tok/s):", "%d", s.PeakOutputTokens)
	row(&b, "Peak concurrent requests:", "%d", s.PeakInFlight)
	row(&b, "Total token throughput (tok/s):", "%.2f", s.TotalTokensPerSec)
	for _, l := range []struct {
		title, name string
		Spread
	}{
		{"Time to First Token", "TTFT", s.TTFT},
		{"Time per Output Token (excl. 1st token)", "TPOT", s.TPOT},
		{"Inter-token Latency", "ITL", s.ITL},
		{"End-to-end Latency", "E2EL", s.E2E},
		{"Lateness of Sending (within TTFT and E2EL)", "lateness", s.Lateness},
	} {
		heading(&b, l.title, '-')
		row(&b, "Mean "+l.name+" (ms):", "%.2f", l.Mean*1000)
		row(&b, "Median "+l.name+" (ms):", "%.2f", l.P50*1000)
		row(&b, "P95 "+l.name+" (ms):", "%.2f", l.P95*1000)
		row(&b, "P99 "+l.name+" (ms):", "%.2f", l.P99*1000)
	}
	heading(&b, "", '=')
	_, err := io.WriteString(w, b.String())
	return err
}

func row(b *strings.Builder, name, format string, value any) {
	fmt.Fprintf(b, "%-40s %-9s\n", name, fmt.Sprintf(format, value))
}

func heading(b *strings.Builder, title string, fill byte) {
	pad := max(tableWidth-len(title), 0)
	left := strings.Repeat(string(fill), pad/2)
	fmt.Fprintf(b, "%s%s%s\n", left, title, strings.Repeat(string(fill), pad-pad/2))
}
