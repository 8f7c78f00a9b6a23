package experiment

import (
	"github.com/optiinfra/performance-agent/pkg/load"
)

// Names of metrics that are compared.
const (
	goodput    = "goodput"
	throughput = "throughput"
	ttft       = "ttft"
	tpot       = "tpot"
	e2e        = "e2e"
	success    = "success"
)

// metric is a figure of a run that is compared.
type metric struct {
	name, unit string
	higher     bool // is better
	// of a run; always above 0 unless there is nothing to tell.
	of func(*load.Report) float64
	// request gives the figure of single requests whose mean it is; nil where it is no such mean.
	request func(c load.Columns, k int, o load.Objectives) (float64, bool)
	// bound of a request by the objectives; 0 for none.
	bound func(load.Objectives) float64
}

// metrics in the order in which they are shown. What failed has no latency, so that a candidate that
// fails requests would look quick: success is always compared, too.
var metrics = []metric{
	{name: goodput, unit: "share of requests within the objectives", higher: true, of: smoothed(func(s load.Summary) int { return s.Good }), request: goodOf},
	{name: throughput, unit: "output tokens/s", higher: true, of: func(r *load.Report) float64 { return r.Summary.OutputTokensPerSec }},
	{name: ttft, unit: "s, mean", of: meanOf(load.Columns.TTFT), request: latency(load.Columns.TTFT), bound: func(o load.Objectives) float64 { return o.TTFT.Seconds() }},
	{name: tpot, unit: "s, mean", of: meanOf(load.Columns.TPOT), request: latency(load.Columns.TPOT), bound: func(o load.Objectives) float64 { return o.TPOT.Seconds() }},
	{name: e2e, unit: "s, mean", of: meanOf(load.Columns.E2E), request: latency(load.Columns.E2E), bound: func(o load.Objectives) float64 { return o.E2E.Seconds() }},
	{name: success, unit: "share of requests", higher: true, of: smoothed(func(s load.Summary) int { return s.Succeeded }), request: succeeded},
}

// smoothed is a share that is never 0, so that it has a logarithm: half a request is added on either
// side.
func smoothed(count func(load.Summary) int) func(*load.Report) float64 {
	return func(r *load.Report) float64 {
		return (float64(count(r.Summary)) + 0.5) / (float64(r.Summary.Requests) + 1)
	}
}

func meanOf(value func(load.Columns, int) (float64, bool)) func(*load.Report) float64 {
	return func(r *load.Report) float64 {
		var sum, n float64
		for k := range r.Requests.Len() {
			if v, ok := value(r.Requests, k); ok {
				sum, n = sum+v, n+1
			}
		}
		if n == 0 {
			return 0
		}
		return sum / n
	}
}

func latency(value func(load.Columns, int) (float64, bool)) func(load.Columns, int, load.Objectives) (float64, bool) {
	return func(c load.Columns, k int, _ load.Objectives) (float64, bool) { return value(c, k) }
}

func goodOf(c load.Columns, k int, o load.Objectives) (float64, bool) { return bit(c.Good(k, o)), true }

func succeeded(c load.Columns, k int, _ load.Objectives) (float64, bool) {
	return bit(c.Failed[k] == ""), true
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// requests lists a metric's figures of single requests, in the order in which they were due.
func (m metric) requests(r *load.Report) (v []float64) {
	for k := range r.Requests.Len() {
		if x, ok := m.request(r.Requests, k, r.Plan.Objectives); ok {
			v = append(v, x)
		}
	}
	return v
}
