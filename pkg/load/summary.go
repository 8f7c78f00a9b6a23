package load

import (
	"time"
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

// Spread is a distribution in seconds; all zero when Count is. Percentiles are exact, linear between
// neighbours.
type Spread struct {
	Count float64 `json:"count"`
	Mean  float64 `json:"mean"`
	Std   float64 `json:"std"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
}

// Summary of a span of a run. Latencies are of successes and count from when a request was due; those
// called FromSent are what a client sees that does not count its own lateness and waiting.
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
	PromptTokens   int            `json:"prompt_tokens"` // of successes, as OutputTokens
	OutputTokens   int            `json:"output_tokens"`
	// OutputTokensPerSec counts tokens delivered within the span, also of requests due before it;
	// a request's tokens are taken as spread evenly from its first to its last.
	OutputTokensPerSec float64 `json:"output_tokens_per_second"`
	// TotalTokensPerSec adds the prompts of successes.
	TotalTokensPerSec float64 `json:"total_tokens_per_second"`
	// PeakOutputTokens is the most events with tokens within one second.
	PeakOutputTokens int    `json:"peak_output_tokens_per_second"`
	PeakInFlight     int    `json:"peak_in_flight"`   // most requests open at a moment
	Lateness         Spread `json:"lateness_seconds"` // from due to sent: the client's own, and waiting for readiness
	TTFT             Spread `json:"ttft_seconds"`
	TTFTFromSent     Spread `json:"ttft_from_sent_seconds"`
	TPOT             Spread `json:"tpot_seconds"`
	ITL              Spread `json:"itl_seconds"` // between events with tokens
	E2E              Spread `json:"e2e_seconds"`
	E2EFromSent      Spread `json:"e2e_from_sent_seconds"`
}

// Summarize describes the requests that were due in [from, to). A zero from or to stands for the
// first request due and the last event.
func Summarize(records []Record, from, to time.Time, o Objectives) Summary {
	from, to = bounds(records, from, to)
	s := Summary{From: from, To: to, Seconds: to.Sub(from).Seconds(), Objectives: o, FailedBy: map[string]int{}}
	var a samples
	var delivered float64
	var within []Record
	for _, r := range records {
		delivered += deliveredWithin(r, from, to)
		if !r.Intended.Before(from) && r.Intended.Before(to) {
			s.count(r)
			if r.Failed == "" {
				a.add(r)
				within = append(within, r)
			}
		}
	}
	a.into(&s)
	s.PeakOutputTokens, s.PeakInFlight = peakTokens(within), peakInFlight(within)
	if s.Requests > 0 {
		s.GoodFraction = float64(s.Good) / float64(s.Requests)
	}
	if s.Seconds > 0 {
		s.RequestsPerSec = float64(s.Succeeded) / s.Seconds
		s.GoodputPerSec = float64(s.Good) / s.Seconds
		s.OutputTokensPerSec = delivered / s.Seconds
		s.TotalTokensPerSec = s.OutputTokensPerSec + float64(s.PromptTokens)/s.Seconds
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
	if r.Failed != "" {
		s.Failed++
		s.FailedBy[r.Failed]++
		return
	}
	s.Succeeded++
	s.PromptTokens += r.PromptTokens
	s.OutputTokens += r.Tokens
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
