package fleet

import "strings"

// SourceMixed is what windows of different sources make.
const SourceMixed = "mixed"

// SourceOf tells who measured a metric of the aggregate: one of the Source constants, SourceMixed, or
// empty when it has no such metric.
func (a *Aggregate) SourceOf(metric string) string {
	if origin, ok := a.Origin[metric]; ok {
		return origin
	}
	_, counted := a.Counters[metric]
	if _, seen := a.Gauges[metric]; !counted && !seen {
		return ""
	}
	switch {
	case strings.HasPrefix(metric, "gpu_"):
		return SourceGPU
	case hostMetrics[metric]:
		return SourceHost
	case wireMetrics[metric]:
		return SourceProbe
	case outcomes[metric]:
		return a.outcomeSource()
	}
	return SourceEngine
}

// outcomeSource of requests' ends: the wire's, in windows of engines whose wire is seen, which are those
// that tell of open requests.
func (a *Aggregate) outcomeSource() string {
	switch n := a.Gauges[RequestsOpen].N; {
	case n == 0:
		return SourceEngine
	case n >= a.Windows:
		return SourceProbe
	}
	return SourceMixed
}

var (
	outcomes    = set(RequestsFinished, RequestsFailed, RequestsAborted)
	wireMetrics = set(RequestsOpen, RequestsOpenOver1s, RequestsOpenOver10s, RequestsOpenOver60s, OldestRequestSeconds, OldestSilentSeconds, StreamChunks)
	hostMetrics = set(EngineCPUSeconds, EngineFrontCPUSeconds, EngineRunWaitSeconds, EngineThrottledSeconds, EngineStoppedSeconds, HostCPUSeconds, HostStealSeconds,
		ClientSeconds, ClientBacklogSeconds, EngineAgeSeconds, HostCores)
)

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}
