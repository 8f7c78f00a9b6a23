package telemetry

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// ErrStep is returned for a series whose step is too small or that has too many points.
var ErrStep = errors.New("step must be whole seconds and give at most 10,000 points")

const maxPoints = 10_000

// Point of a series. At is the end of its step.
type Point struct {
	At time.Time
	// Value is NaN when nothing was observed in the step.
	Value float64
	// Count of observations behind a quantile, of windows behind a rate or a mean.
	Count float64
}

// Series of a metric over the instances taken together, one point per step in [from, to): the
// quantile q of a sketch, the rate per second of a counter, the mean over instances of a gauge.
// Steps without windows have a NaN point, so gaps show as gaps.
func (s *Store) Series(instances []string, metric string, q float64, from, to time.Time, step time.Duration) ([]Point, error) {
	if step < time.Second || step%time.Second != 0 || to.Sub(from)/step > maxPoints {
		return nil, ErrStep
	}
	from = from.Truncate(step)
	var points []Point
	for at := from; at.Before(to); at = at.Add(step) {
		a, err := s.Aggregate(instances, at, at.Add(step))
		if err != nil {
			return nil, fmt.Errorf("series of %s: %w", metric, err)
		}
		points = append(points, point(a, metric, q, at.Add(step), step))
	}
	return points, nil
}

func point(a *fleet.Aggregate, metric string, q float64, at time.Time, step time.Duration) Point {
	p := Point{At: at, Value: math.NaN()}
	if n := a.Count(metric); n > 0 {
		p.Value, p.Count = a.Quantile(metric, q), n
		return p
	}
	if increase, ok := a.Counters[metric]; ok {
		p.Value, p.Count = increase/step.Seconds(), float64(a.Windows)
		return p
	}
	if g, ok := a.Gauges[metric]; ok {
		p.Value, p.Count = g.Mean(), float64(g.N)
	}
	return p
}
