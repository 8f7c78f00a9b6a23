package calibrate

import (
	"slices"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
)

// An engine whose loop is overlapped looks at what a step gave when it has launched the next one. Where
// launching is running, as on a CPU, every token is shown a step late, except the last one before the
// engine has nothing to run.

// shows are the ways in which an engine may show tokens: at the end of their step, or a step late.
func shows(cfg des.Config) []bool {
	if cfg.Dialect == des.SGLang && cfg.AsyncScheduling {
		return []bool{false, true}
	}
	return []bool{false}
}

// quietSteps is after how many steps without a token nothing can have been running.
const quietSteps = 10

// computed are the requests of an engine that shows tokens a step late, with the times at which their
// tokens were computed: each at the moment before the one at which it was shown.
func computed(requests []Request) []Request {
	typical, _ := typicalGaps(requests)
	slack := typical / slackSteps
	shown := distinct(moments(requests), slack)
	out := slices.Clone(requests)
	for i, r := range requests {
		at := r.FirstToken
		times := []time.Duration{early(shown, at, slack, typical)}
		for _, g := range r.Gaps {
			at += g
			if g.Seconds() > slack { // else it was the last to run, and this is the end of its step
				times = append(times, early(shown, at, slack, typical))
			} else {
				times = append(times, at)
			}
		}
		out[i].FirstToken, out[i].End = times[0], times[len(times)-1]
		if len(r.Gaps) == 0 && r.OutputTokens > 1 {
			out[i].End = early(shown, r.End, slack, typical)
		}
		out[i].Gaps = nil
		for k := 1; k < len(times); k++ {
			out[i].Gaps = append(out[i].Gaps, times[k]-times[k-1])
		}
	}
	return out
}

// early is the moment before at, or a typical step before it where the engine was quiet.
func early(shown []float64, at time.Duration, slack, typical float64) time.Duration {
	t := at.Seconds()
	i, _ := slices.BinarySearch(shown, t-slack)
	if i > 0 && t-shown[i-1] < quietSteps*typical {
		return time.Duration(shown[i-1] * float64(time.Second))
	}
	return at - time.Duration(typical*float64(time.Second))
}
