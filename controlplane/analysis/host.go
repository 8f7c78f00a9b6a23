package analysis

import (
	"cmp"
	"math"
	"slices"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// host is what the operating system shows of one replica, as shares of the span; NaN is unknown.
type host struct {
	instance   string
	slow       float64 // time between tokens ÷ the pace's
	throttled  float64 // held back by a CPU quota
	waiting    float64 // a thread that could run and had no core
	stopped    float64 // stopped by a signal
	engineCPU  float64 // cores the engine used
	others     float64 // cores that everybody else used
	stolen     float64 // cores that the hypervisor took
	backlog    float64 // share of open connections whose client does not read
	backlogged float64 // such connections, on average
	age        float64 // seconds, at the end
	answering  float64 // seconds since the engine began to serve; +Inf when it did all along
	load       float64 // requests in it, on average
	windows    []*fleet.Window
}

// crowded is the share of the time in which others keep the engine from a core, at most what they use:
// what its own threads take from each other is no fault of the host.
func (h host) crowded() float64 {
	if math.IsNaN(h.waiting) {
		return h.waiting
	}
	return math.Min(h.waiting, orZero(h.others)+orZero(h.stolen))
}

// hosts of the span, by replica, in the order of their names.
func hosts(in Input) []host {
	byInstance := map[string][]*fleet.Window{}
	for _, w := range in.Windows {
		byInstance[w.Instance] = append(byInstance[w.Instance], w)
	}
	var out []host
	for id, ws := range byInstance {
		slices.SortFunc(ws, func(a, b *fleet.Window) int { return a.Start.Compare(b.Start) })
		out = append(out, hostOf(id, ws, in.Pace))
	}
	slices.SortFunc(out, func(a, b host) int { return cmp.Compare(a.instance, b.instance) })
	return out
}

func hostOf(id string, ws []*fleet.Window, pace *Pace) host {
	h := host{instance: id, windows: ws, slow: pace.slowness(ws), age: math.NaN(), answering: math.Inf(1)}
	share := func(counter string) float64 { return rate(ws, counter) }
	h.throttled, h.waiting, h.stopped = share(fleet.EngineThrottledSeconds), share(fleet.EngineRunWaitSeconds), share(fleet.EngineStoppedSeconds)
	h.engineCPU, h.stolen = share(fleet.EngineCPUSeconds), share(fleet.HostStealSeconds)
	h.others = math.Max(0, share(fleet.HostCPUSeconds)-h.engineCPU)
	h.backlogged = share(fleet.ClientBacklogSeconds)
	switch open := share(fleet.ClientSeconds); {
	case open > 0:
		h.backlog = h.backlogged / open
	case math.IsNaN(open):
		h.backlog = open
	}
	for i, w := range ws {
		h.load += (w.Gauges[fleet.RequestsRunning] + w.Gauges[fleet.RequestsWaiting]) / float64(len(ws))
		if age, ok := w.Gauges[fleet.EngineAgeSeconds]; ok {
			h.age = age
		}
		if i > 0 && began(ws[i-1], w) {
			h.answering = ws[len(ws)-1].Start.Sub(w.Start).Seconds() + 1
		}
	}
	return h
}

// began reports whether the engine began to serve between two windows. Where the sidecar does not
// know, a page that tells something after one that did not is the sign, if the process's age is known.
func began(before, after *fleet.Window) bool {
	if after.Serving != before.Serving {
		return after.Serving
	}
	_, told := before.Gauges[fleet.RequestsRunning]
	_, tells := after.Gauges[fleet.RequestsRunning]
	_, aged := after.Gauges[fleet.EngineAgeSeconds]
	return tells && !told && aged
}

// rate of a counter per second of the windows that have it; NaN when none has.
func rate(ws []*fleet.Window, counter string) float64 {
	var sum, n float64
	for _, w := range ws {
		if v, ok := w.Counters[counter]; ok {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / n
}

// worst is the replica with the largest figure; ok is false where no replica has one.
func worst(all []host, figure func(host) float64) (h host, ok bool) {
	for _, one := range all {
		if v := figure(one); !math.IsNaN(v) && (!ok || v > figure(h)) {
			h, ok = one, true
		}
	}
	return h, ok
}
