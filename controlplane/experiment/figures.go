package experiment

import (
	"github.com/optiinfra/performance-agent/pkg/load"
)

// Figures of a run that its record keeps; seconds, per second, shares.
const (
	figureAsked      = "asked" // rate or clients
	figureGoodShare  = "good_share"
	figureGoodput    = "goodput"
	figureThroughput = "tokens_per_second"
	figureFailed     = "failed"
	figureRequests   = "requests"
	figureTTFT       = "ttft_p95"
	figureTPOT       = "tpot_p95"
	figureE2E        = "e2e_p95"
)

// figures of a report for its record.
func figures(r *load.Report) map[string]float64 {
	s := r.Summary
	asked := r.Plan.Rate
	if r.Plan.Arrivals == load.Closed {
		asked = float64(r.Plan.Concurrency)
	}
	return map[string]float64{
		figureAsked: asked, figureGoodShare: s.GoodFraction, figureGoodput: s.GoodputPerSec, figureThroughput: s.OutputTokensPerSec,
		figureFailed: float64(s.Failed), figureRequests: float64(s.Requests), figureTTFT: s.TTFT.P95, figureTPOT: s.TPOT.P95, figureE2E: s.E2E.P95,
	}
}
