package load

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// Result is a run in the keys of the file that `vllm bench serve --save-result --save-detailed`
// writes, so that one program can read both. Lists hold one entry per request in the order in which
// requests were due. Times are seconds from when a request was sent, as there; what was due but sent
// late shows in QueueTimes.
type Result struct {
	Date                  string      `json:"date"` // of the start, YYYYMMDD-hhmmss
	Model                 string      `json:"model_id,omitempty"`
	NumPrompts            int         `json:"num_prompts"`
	Duration              float64     `json:"duration"`
	Completed             int         `json:"completed"`
	Failed                int         `json:"failed"`
	TotalInputTokens      int         `json:"total_input_tokens"`
	TotalOutputTokens     int         `json:"total_output_tokens"`
	RequestThroughput     float64     `json:"request_throughput"`
	RequestGoodput        float64     `json:"request_goodput"`
	OutputThroughput      float64     `json:"output_throughput"`
	TotalTokenThroughput  float64     `json:"total_token_throughput"`
	MaxOutputTokensPerS   float64     `json:"max_output_tokens_per_s"`
	MaxConcurrentRequests int         `json:"max_concurrent_requests"`
	InputLens             []int       `json:"input_lens"`
	OutputLens            []int       `json:"output_lens"` // 0 for failures, as there
	TTFTs                 []float64   `json:"ttfts"`
	ITLs                  [][]float64 `json:"itls"`
	Latencies             []float64   `json:"latencies"`
	StartTimes            []float64   `json:"start_times"` // from the first that was due
	QueueTimes            []float64   `json:"queue_times"`
	Errors                []string    `json:"errors"`
	Milliseconds
}

// Milliseconds are the distributions of successes.
type Milliseconds struct {
	MeanTTFT   float64 `json:"mean_ttft_ms"`
	MedianTTFT float64 `json:"median_ttft_ms"`
	StdTTFT    float64 `json:"std_ttft_ms"`
	P50TTFT    float64 `json:"p50_ttft_ms"`
	P95TTFT    float64 `json:"p95_ttft_ms"`
	P99TTFT    float64 `json:"p99_ttft_ms"`
	MeanTPOT   float64 `json:"mean_tpot_ms"`
	MedianTPOT float64 `json:"median_tpot_ms"`
	StdTPOT    float64 `json:"std_tpot_ms"`
	P50TPOT    float64 `json:"p50_tpot_ms"`
	P95TPOT    float64 `json:"p95_tpot_ms"`
	P99TPOT    float64 `json:"p99_tpot_ms"`
	MeanITL    float64 `json:"mean_itl_ms"`
	MedianITL  float64 `json:"median_itl_ms"`
	StdITL     float64 `json:"std_itl_ms"`
	P50ITL     float64 `json:"p50_itl_ms"`
	P95ITL     float64 `json:"p95_itl_ms"`
	P99ITL     float64 `json:"p99_itl_ms"`
	MeanE2EL   float64 `json:"mean_e2el_ms"`
	MedianE2EL float64 `json:"median_e2el_ms"`
	StdE2EL    float64 `json:"std_e2el_ms"`
	P50E2EL    float64 `json:"p50_e2el_ms"`
	P95E2EL    float64 `json:"p95_e2el_ms"`
	P99E2EL    float64 `json:"p99_e2el_ms"`
}

// NewResult describes the requests of a summary.
func NewResult(records []Record, s Summary, model string) Result {
	r := Result{
		Date: s.From.Format("20060102-150405"), Model: model, Duration: s.Seconds,
		Completed: s.Succeeded, Failed: s.Failed, TotalInputTokens: s.PromptTokens, TotalOutputTokens: s.OutputTokens,
		RequestThroughput: s.RequestsPerSec, RequestGoodput: s.GoodputPerSec, OutputThroughput: s.OutputTokensPerSec,
		TotalTokenThroughput: s.TotalTokensPerSec, MaxOutputTokensPerS: float64(s.PeakOutputTokens),
		MaxConcurrentRequests: s.PeakInFlight, Milliseconds: milliseconds(s),
	}
	within := slices.DeleteFunc(slices.Clone(records), func(rec Record) bool { return rec.Intended.Before(s.From) || !rec.Intended.Before(s.To) })
	slices.SortFunc(within, func(a, b Record) int { return a.Number - b.Number })
	r.NumPrompts = len(within)
	for _, rec := range within {
		r.add(rec, s.From)
	}
	return r
}

func (r *Result) add(rec Record, from time.Time) {
	since := func(t, start time.Time) float64 {
		if t.IsZero() || start.IsZero() {
			return 0
		}
		return t.Sub(start).Seconds()
	}
	gaps := make([]float64, 0, len(rec.GapsUS))
	for _, us := range rec.GapsUS {
		gaps = append(gaps, float64(us)/1e6)
	}
	tokens, fault := rec.Tokens, ""
	if rec.Failed != "" {
		tokens, fault = 0, rec.Failed+": "+rec.Detail
	}
	r.InputLens, r.OutputLens = append(r.InputLens, rec.PromptTokens), append(r.OutputLens, tokens)
	r.TTFTs, r.ITLs = append(r.TTFTs, since(rec.FirstToken, rec.Sent)), append(r.ITLs, gaps)
	r.Latencies = append(r.Latencies, since(rec.LastToken, rec.Sent))
	r.StartTimes, r.QueueTimes = append(r.StartTimes, since(rec.Sent, from)), append(r.QueueTimes, since(rec.Sent, rec.Intended))
	r.Errors = append(r.Errors, fault)
}

func milliseconds(s Summary) Milliseconds {
	const ms = 1000
	t, p, i, e := s.TTFTFromSent, s.TPOT, s.ITL, s.E2EFromSent
	return Milliseconds{
		MeanTTFT: t.Mean * ms, MedianTTFT: t.P50 * ms, StdTTFT: t.Std * ms, P50TTFT: t.P50 * ms, P95TTFT: t.P95 * ms, P99TTFT: t.P99 * ms,
		MeanTPOT: p.Mean * ms, MedianTPOT: p.P50 * ms, StdTPOT: p.Std * ms, P50TPOT: p.P50 * ms, P95TPOT: p.P95 * ms, P99TPOT: p.P99 * ms,
		MeanITL: i.Mean * ms, MedianITL: i.P50 * ms, StdITL: i.Std * ms, P50ITL: i.P50 * ms, P95ITL: i.P95 * ms, P99ITL: i.P99 * ms,
		MeanE2EL: e.Mean * ms, MedianE2EL: e.P50 * ms, StdE2EL: e.Std * ms, P50E2EL: e.P50 * ms, P95E2EL: e.P95 * ms, P99E2EL: e.P99 * ms,
	}
}

// Write writes the result as JSON.
func (r Result) Write(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
