package canary

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/stats"
)

// ErrUnequal means that replicas differ so much with nothing changed that no honest comparison between
// them is possible.
var ErrUnequal = errors.New("replicas are too unequal to compare")

// mostPlacebo is the ratio between unchanged replicas above which a wave is invalid.
const mostPlacebo = 2

// placeboShare is the percentile of the ratios between unchanged replicas that the margin must exceed.
const placeboShare = .99

// Placebo widens margins to what unchanged replicas differ by anyway. Each replica in turn plays the
// canary against all others: spans[t][r] holds the values of replica r in span t before the change. Spans
// should last a minute, and ten of them should be given: in simulation that keeps false alarms of the fast
// tests under 1 % on replicas that drift by 25 %, where two of them leave 4 %. A quantile's margin
// above 2 is ErrUnequal. An event margin may grow without end: rates in a tail differ far more than
// quantiles, and the test of quantiles still looks.
func Placebo(spans [][]*stats.Sketch, threshold float64, configured Margins) (Margins, error) {
	var quantiles, events []float64
	for _, replicas := range spans {
		for i, own := range replicas {
			others := stats.NewSketch()
			for k, s := range replicas {
				if k != i {
					if err := others.Merge(s); err != nil {
						return configured, err
					}
				}
			}
			if own == nil || own.Count() < leastPlacebo || others.Count() < leastPlacebo {
				continue
			}
			for _, q := range []float64{.5, .95} {
				quantiles = append(quantiles, own.Quantile(q)/others.Quantile(q))
			}
			// One event more on the others keeps the ratio finite.
			events = append(events, own.CountAbove(threshold)/own.Count()*(others.Count()+1)/(others.CountAbove(threshold)+1))
		}
	}
	if len(quantiles) == 0 {
		return configured, fmt.Errorf("%w: no traffic before the change", stats.ErrInput)
	}
	m := Margins{
		Quantile: max(configured.Quantile, percentile(quantiles, placeboShare)),
		Events:   max(configured.Events, percentile(events, placeboShare)),
	}
	if m.Quantile > mostPlacebo {
		return m, fmt.Errorf("%w: their quantiles differ by a factor of %.2f with nothing changed", ErrUnequal, m.Quantile)
	}
	return m, nil
}

// leastPlacebo is the fewest requests that a replica's span must hold to be compared.
const leastPlacebo = 20

func percentile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[min(int(math.Ceil(q*float64(len(v))))-1, len(v)-1)]
}
