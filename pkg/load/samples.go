package load

import (
	"math"
	"slices"
	"time"
)

// samples are seconds, by what they time.
type samples struct{ late, ttft, ttftSent, tpot, itl, e2e, e2eSent []float64 }

func (a *samples) add(r Record) {
	put := func(to *[]float64, d time.Duration) { *to = append(*to, d.Seconds()) }
	put(&a.late, r.Sent.Sub(r.Intended))
	put(&a.ttft, r.TTFT())
	put(&a.ttftSent, r.FirstToken.Sub(r.Sent))
	put(&a.e2e, r.E2E())
	put(&a.e2eSent, r.LastToken.Sub(r.Sent))
	if d, ok := r.TPOT(); ok {
		put(&a.tpot, d)
	}
	for _, us := range r.GapsUS {
		put(&a.itl, time.Duration(us)*time.Microsecond)
	}
}

func (a *samples) into(s *Summary) {
	s.Lateness, s.TTFT, s.TTFTFromSent = latency(a.late), latency(a.ttft), latency(a.ttftSent)
	s.TPOT, s.ITL, s.E2E, s.E2EFromSent = latency(a.tpot), latency(a.itl), latency(a.e2e), latency(a.e2eSent)
}

// latency sorts v.
func latency(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	n := float64(len(v))
	var sum, squares float64
	for _, x := range v {
		sum += x
	}
	mean := sum / n
	for _, x := range v {
		squares += (x - mean) * (x - mean)
	}
	return Spread{Count: n, Mean: mean, Std: math.Sqrt(squares / n), P50: quantile(v, .5), P95: quantile(v, .95), P99: quantile(v, .99)}
}

// quantile of sorted values, linear between neighbours, as NumPy's percentile is by default.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// peakTokens counts events with tokens in each second from the first request on.
func peakTokens(records []Record) int {
	var start time.Time
	for _, r := range records {
		if start.IsZero() || r.Sent.Before(start) {
			start = r.Sent
		}
	}
	counts := map[time.Duration]int{}
	peak := 0
	for _, r := range records {
		at := r.FirstToken.Sub(start)
		for i := -1; i < len(r.GapsUS); i++ {
			if i >= 0 {
				at += time.Duration(r.GapsUS[i]) * time.Microsecond
			}
			counts[at/time.Second]++
			peak = max(peak, counts[at/time.Second])
		}
	}
	return peak
}

// peakInFlight is the most requests that were open at one moment.
func peakInFlight(records []Record) int {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	for _, r := range records {
		changes = append(changes, change{r.Sent, 1}, change{r.LastToken, -1})
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by // an end makes room first
	})
	open, peak := 0, 0
	for _, c := range changes {
		open += c.by
		peak = max(peak, open)
	}
	return peak
}
