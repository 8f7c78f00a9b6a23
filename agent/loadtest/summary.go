package loadtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// Objectives that make a request good; those that are zero ask for nothing.
type Objectives struct {
	TTFT time.Duration `json:"ttft_ns,omitempty"`
	TPOT time.Duration `json:"tpot_ns,omitempty"`
	E2E  time.Duration `json:"e2e_ns,omitempty"`
}

// met reports whether a request is a success within all objectives.
func (o Objectives) met(r Record) bool {
	tpot, _ := r.TPOT()
	return r.Failed == "" && within(r.TTFT(), o.TTFT) && within(tpot, o.TPOT) && within(r.E2E(), o.E2E)
}

func within(d, limit time.Duration) bool { return limit == 0 || d <= limit }

// Latency is a distribution in seconds; all zero when Count is.
type Latency struct {
	Count float64 `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
}

// Summary of a span of a run. Latencies are of successes and count from when a request was due;
// TTFTFromSent tells what a client sees that does not count its own lateness and waiting.
type Summary struct {
	From           time.Time      `json:"from"`
	To             time.Time      `json:"to"`
	Seconds        float64        `json:"seconds"`
	Requests       int            `json:"requests"` // due within the span
	Succeeded      int            `json:"succeeded"`
	Failed         int            `json:"failed"`
	FailedBy       map[string]int `json:"failed_by,omitempty"`
	Good           int            `json:"good"` // successes within all objectives
	GoodFraction   float64        `json:"good_fraction"`
	Objectives     Objectives     `json:"objectives"`
	RequestsPerSec float64        `json:"requests_per_second"` // successes
	GoodputPerSec  float64        `json:"goodput_per_second"`
	PromptTokens   int            `json:"prompt_tokens"`
	OutputTokens   int            `json:"output_tokens"`
	// OutputTokensPerSec counts tokens delivered within the span, also of requests due before it;
	// a request's tokens are taken as spread evenly from its first to its last.
	OutputTokensPerSec float64 `json:"output_tokens_per_second"`
	TTFT               Latency `json:"ttft_seconds"`
	TTFTFromSent       Latency `json:"ttft_from_sent_seconds"`
	TPOT               Latency `json:"tpot_seconds"`
	ITL                Latency `json:"itl_seconds"` // between events with tokens
	E2E                Latency `json:"e2e_seconds"`
}

// Summarize describes the requests that were due in [from, to). A zero from or to stands for the
// first request due and the last event.
func Summarize(records []Record, from, to time.Time, o Objectives) Summary {
	from, to = bounds(records, from, to)
	s := Summary{From: from, To: to, Seconds: to.Sub(from).Seconds(), Objectives: o, FailedBy: map[string]int{}}
	a := newSketches()
	var delivered float64
	for _, r := range records {
		delivered += deliveredWithin(r, from, to)
		if !r.Intended.Before(from) && r.Intended.Before(to) {
			s.count(r)
			if r.Failed == "" {
				a.add(r)
			}
		}
	}
	a.into(&s)
	if s.Requests > 0 {
		s.GoodFraction = float64(s.Good) / float64(s.Requests)
	}
	if s.Seconds > 0 {
		s.RequestsPerSec = float64(s.Succeeded) / s.Seconds
		s.GoodputPerSec = float64(s.Good) / s.Seconds
		s.OutputTokensPerSec = delivered / s.Seconds
	}
	return s
}

func bounds(records []Record, from, to time.Time) (time.Time, time.Time) {
	first, last := from, to
	for _, r := range records {
		if from.IsZero() && (first.IsZero() || r.Intended.Before(first)) {
			first = r.Intended
		}
		if to.IsZero() {
			for _, t := range []time.Time{r.Intended.Add(1), r.Done} {
				if t.After(last) {
					last = t
				}
			}
		}
	}
	return first, last
}

func (s *Summary) count(r Record) {
	s.Requests++
	s.PromptTokens += r.PromptTokens
	s.OutputTokens += r.Tokens
	if r.Failed != "" {
		s.Failed++
		s.FailedBy[r.Failed]++
		return
	}
	s.Succeeded++
	if s.Objectives.met(r) {
		s.Good++
	}
}

// deliveredWithin is how many of a request's tokens fall into the span.
func deliveredWithin(r Record, from, to time.Time) float64 {
	if r.Tokens == 0 || r.LastToken.Before(from) || !r.FirstToken.Before(to) {
		return 0
	}
	whole := r.LastToken.Sub(r.FirstToken)
	if whole <= 0 {
		return float64(r.Tokens)
	}
	begin, end := r.FirstToken, r.LastToken
	if begin.Before(from) {
		begin = from
	}
	if end.After(to) {
		end = to
	}
	return float64(r.Tokens) * end.Sub(begin).Seconds() / whole.Seconds()
}

type sketches struct{ ttft, sent, tpot, itl, e2e *stats.Sketch }

func newSketches() sketches {
	return sketches{stats.NewSketch(), stats.NewSketch(), stats.NewSketch(), stats.NewSketch(), stats.NewSketch()}
}

func (a sketches) add(r Record) {
	observe(a.ttft, r.TTFT())
	observe(a.sent, r.FirstToken.Sub(r.Sent))
	observe(a.e2e, r.E2E())
	if d, ok := r.TPOT(); ok {
		observe(a.tpot, d)
	}
	for _, us := range r.GapsUS {
		observe(a.itl, time.Duration(us)*time.Microsecond)
	}
}

// observe cannot fail for the durations of a success; a clock that was set back counts as zero.
func observe(s *stats.Sketch, d time.Duration) { _ = s.Add(max(d, 0).Seconds()) }

func (a sketches) into(s *Summary) {
	s.TTFT, s.TTFTFromSent, s.TPOT, s.ITL, s.E2E = latency(a.ttft), latency(a.sent), latency(a.tpot), latency(a.itl), latency(a.e2e)
}

func latency(s *stats.Sketch) Latency {
	if s.Count() == 0 {
		return Latency{}
	}
	return Latency{Count: s.Count(), Mean: s.Mean(), P50: s.Quantile(.5), P95: s.Quantile(.95), P99: s.Quantile(.99)}
}

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
	for _, l := range []struct {
		title, name string
		Latency
	}{
		{"Time to First Token", "TTFT", s.TTFT},
		{"Time per Output Token (excl. 1st token)", "TPOT", s.TPOT},
		{"Inter-token Latency", "ITL", s.ITL},
		{"End-to-end Latency", "E2EL", s.E2E},
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
