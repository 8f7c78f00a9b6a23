package analysis

import (
	"fmt"
	"math"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// faults come before bottlenecks: while one fires, what the windows show is not the engine's own
// pace, so that nothing should be predicted or proposed from it.
var faults = []rule{
	{class: ColdStart, falsified: "the engine is as slow minutes after its start", fires: coldStart},
	{class: NetworkOrClient, falsified: "clients that read at once see the same latency", fires: networkOrClient},
	{class: ThermalThrottle, falsified: "at its full clock the engine is as slow", fires: thermalThrottle},
	{class: LinkDegraded, falsified: "on a GPU with whole links the engine is as slow", fires: linkDegraded},
	{class: AdmissionLimited, falsified: "with a longer queue as many requests are refused", fires: admissionLimited},
	{class: FailSlow, falsified: "a restart on another host is as slow", fires: failSlow},
}

// Fault reports whether the class is a fault: while one is there, windows do not show the engine's
// own pace, and nothing should be proposed from them.
func (c Class) Fault() bool {
	return slices.ContainsFunc(faults, func(r rule) bool { return r.class == c })
}

// coldStart: the engine began to answer a moment ago, and its process is young, or its sidecar says
// that it did not serve before. Service is known to collapse when a start takes longer than 180 s;
// an engine older than that and some more was silent for another reason.
func coldStart(_ Input, s signals) verdict {
	const youngest, warm = 300.0, 30.0
	h, known := worst(s.hosts, func(h host) float64 { return -h.answering })
	if !known || h.answering > warm || h.age > youngest {
		return no
	}
	age := "of unknown age"
	if !math.IsNaN(h.age) {
		age = fmt.Sprintf("%.0f s old", h.age)
	}
	return yes(1, 0.9,
		fmt.Sprintf("the engine of %s is %s and has answered for %.0f s", h.instance, age, h.answering),
		"requests that came before it served have waited for its start",
	)
}

// networkOrClient: the engine has sent what its clients do not take. Less than a tenth of the
// connections, or less than half a one, is the odd client.
func networkOrClient(_ Input, s signals) verdict {
	const leastShare, leastClients = 0.1, 0.5
	h, known := worst(s.hosts, func(h host) float64 { return h.backlog })
	if !known {
		return unknown("no source sees the connections' send queues")
	}
	if h.backlog < leastShare || h.backlogged < leastClients {
		return no
	}
	return yes(h.backlog, min(1, 0.5+h.backlog),
		fmt.Sprintf("%.0f %% of the connections to %s (%.1f on average) have answers sent to them that the client or the network does not take", 100*h.backlog, h.instance, h.backlogged),
		fmt.Sprintf("the engine itself serves: %.1f requests running, %.1f waiting", s.running, s.waiting),
	)
}

// Thresholds of a slow replica, and of an excuse for it that the host shows.
const (
	slowAlone  = 1.30 // against the pace it had; learned on recordings of a CPU engine
	slowPeers  = 1.15 // against its peers' median
	stopsShare = 0.03
	hostExcuse = 0.15
)

// failSlow: processes are stopped, or tokens come later than load and host explain.
func failSlow(in Input, s signals) verdict {
	if h, known := worst(s.hosts, func(h host) float64 { return h.stopped }); known && h.stopped > stopsShare {
		return yes(h.stopped/(1-min(0.99, h.stopped)), 0.9,
			fmt.Sprintf("processes of %s stood still, stopped by a signal, in %.0f %% of the time", h.instance, 100*h.stopped), slowWords(h))
	}
	h, known := worst(s.hosts, func(h host) float64 {
		if h.throttled > hostExcuse || h.crowded() > hostExcuse {
			return math.NaN() // its host explains it
		}
		return h.slow
	})
	if !known {
		return unknown("neither an earlier pace nor peers to compare with")
	}
	limit, against := slowAlone, 1.0
	if peers := medianSlow(s.hosts); len(s.hosts) > 2 && peers > 0 {
		limit, against = slowPeers*peers, peers
	}
	if h.slow <= limit {
		return no
	}
	return yes(h.slow/against-1, 0.7,
		fmt.Sprintf("tokens of %s take %.2f times as long as the same work took before, and neither quota, stops nor a busy host explain it", h.instance, h.slow))
}

func slowWords(h host) string {
	if math.IsNaN(h.slow) {
		return "no earlier pace is known to compare with"
	}
	return fmt.Sprintf("tokens take %.2f times as long as the same work took before", h.slow)
}

func medianSlow(all []host) float64 {
	var xs []float64
	for _, h := range all {
		if !math.IsNaN(h.slow) {
			xs = append(xs, h.slow)
		}
	}
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// silent says in words that the engine answers but tells nothing of itself, or "".
func silent(in Input) string {
	var fresh, tell int
	for _, w := range in.Windows {
		if w.Stale() {
			continue
		}
		fresh++
		_, gauge := w.Gauges[fleet.RequestsRunning]
		if gauge || w.Counters[fleet.GenerationTokens] > 0 {
			tell++
		}
	}
	if fresh == 0 || tell > 0 {
		return ""
	}
	why := "the engine answers but exports no statistics of its own: start vLLM without --disable-log-stats, SGLang with --enable-metrics"
	for _, w := range in.Warnings {
		why += "; " + w
	}
	return why
}
