package perfmodel

import (
	"errors"
	"fmt"
)

// ErrNoPrice means that no price of the GPU is known, so that no cost may be stated.
var ErrNoPrice = errors.New("no price")

// DollarsPerMillionTokens is what a million output tokens cost at so many of them per GPU and second:
// price/(3600 X)·1e6 (tuning.md §2), at both ends of the price range. Who states it names the price and
// where it comes from.
func (r Price) DollarsPerMillionTokens(tokensPerSecGPU float64) (low, high float64, err error) {
	if r.Low <= 0 || r.High < r.Low {
		return 0, 0, fmt.Errorf("%w: set price_usd_hour of the GPU", ErrNoPrice)
	}
	if tokensPerSecGPU <= 0 {
		return 0, 0, fmt.Errorf("%w without throughput", ErrNoPrice)
	}
	per := 1e6 / (3600 * tokensPerSecGPU)
	return r.Low * per, r.High * per, nil
}
