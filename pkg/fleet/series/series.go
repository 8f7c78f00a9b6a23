// Package series gives the measurements in windows the names by which the rest of the world reads them:
// Prometheus' form, OpenTelemetry's conventions for generative AI where these have a name.
package series

import (
	"regexp"
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// Kind of a series.
type Kind byte

// Kinds.
const (
	// Counter only grows.
	Counter Kind = iota + 1
	// Gauge goes up and down.
	Gauge
	// Histogram is a distribution whose counts only grow.
	Histogram
)

// String is Prometheus' name of the kind.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Gauge:
		return "gauge"
	case Histogram:
		return "histogram"
	}
	return "unknown"
}

// Labels of series.
const (
	LabelEngine = "engine"
	LabelGroup  = "group"
	// LabelModel stands on the series of the generative-AI conventions.
	LabelModel = "gen_ai_request_model"
	// LabelSource tells of a latency who measured it: engine, probe or mixed.
	LabelSource = "source"
)

// Info of a series.
type Info struct {
	// Metric is its name in windows.
	Metric string
	// Name follows OpenTelemetry's conventions for generative AI where they have one, in the form that
	// Prometheus gives it.
	Name string
	// OTel is the name in those conventions; empty where there is none.
	OTel string
	Kind Kind
	Help string
	Unit string
	// Bounds of the buckets that a page for Prometheus shows of a histogram, as the conventions advise.
	Bounds []float64
}

// Bounds advised by OpenTelemetry's conventions for generative AI, in seconds.
var (
	firstTokenBounds = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	perTokenBounds   = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}
	durationBounds   = []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
)

const prefix = "perf_engine_"

// All are the series there can be, in order of their names.
var All = allSeries()

func allSeries() []Info {
	all := []Info{
		latency(fleet.TTFT, "gen_ai.server.time_to_first_token", "gen_ai_server_time_to_first_token_seconds", "Time to the first token.", firstTokenBounds),
		latency(fleet.TPOT, "gen_ai.server.time_per_output_token", "gen_ai_server_time_per_output_token_seconds", "Time per output token after the first, by request.", perTokenBounds),
		latency(fleet.E2E, "gen_ai.server.request.duration", "gen_ai_server_request_duration_seconds", "Time from a request's arrival to the end of its answer.", durationBounds),
		latency(fleet.ITL, "", prefix+"inter_token_latency_seconds", "Time between two outputs of one request.", perTokenBounds),
		latency(fleet.Queue, "", prefix+"queue_time_seconds", "Time that requests waited in the engine before they ran.", durationBounds),
	}
	for metric, help := range counters {
		all = append(all, Info{Metric: metric, Name: nameOf(metric) + "_total", Kind: Counter, Help: help})
	}
	for metric, help := range gauges {
		all = append(all, Info{Metric: metric, Name: nameOf(metric), Kind: Gauge, Help: help})
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func latency(metric, otel, name, help string, bounds []float64) Info {
	return Info{Metric: metric, Name: name, OTel: otel, Kind: Histogram, Help: help, Unit: "s", Bounds: bounds}
}

func nameOf(metric string) string {
	if metric == fleet.GPUCount {
		return prefix + "gpus" // a name that ends in _count is a histogram's
	}
	return prefix + strings.TrimPrefix(metric, "engine_")
}

// Labels of the series, beside its name.
func (i Info) Labels() []string {
	names := []string{LabelEngine, LabelGroup}
	if i.Kind == Histogram {
		names = append(names, LabelSource)
	}
	if i.OTel != "" {
		names = append(names, LabelModel)
	}
	return names
}

// Of returns the series of a counter or gauge: the one in All, or one made for a signal that an engine's
// adapter brings along. False: its name cannot stand in Prometheus.
func Of(metric string, kind Kind) (Info, bool) {
	if info, known := Find(metric); known {
		return info, info.Kind == kind
	}
	if !spelled.MatchString(metric) || kind == Histogram {
		return Info{}, false
	}
	info := Info{Metric: metric, Name: nameOf(metric), Kind: kind, Help: "The adapter's signal " + metric + "; docs/METRICS.md tells what it means."}
	if kind == Counter {
		info.Name += "_total"
	}
	return info, true
}

// Named returns the series that has a name for Prometheus; false when no series of ours has it.
func Named(name string, kind Kind) (Info, bool) {
	if i := slices.IndexFunc(All, func(s Info) bool { return s.Name == name }); i >= 0 {
		return All[i], All[i].Kind == kind
	}
	metric, ours := strings.CutPrefix(name, prefix)
	if kind == Counter {
		metric = strings.TrimSuffix(metric, "_total")
	}
	info, can := Of(metric, kind)
	return info, ours && can && info.Name == name
}

var spelled = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// Find a series of All by its name in windows.
func Find(metric string) (Info, bool) {
	i := slices.IndexFunc(All, func(s Info) bool { return s.Metric == metric })
	if i < 0 {
		return Info{}, false
	}
	return All[i], true
}

var counters = map[string]string{
	fleet.RequestsFinished:  "Requests that ended well.",
	fleet.RequestsFailed:    "Requests that ended with an error.",
	fleet.RequestsAborted:   "Requests that their client gave up.",
	fleet.PromptTokens:      "Prompt tokens processed.",
	fleet.GenerationTokens:  "Tokens generated.",
	fleet.Preemptions:       "Requests that lost their KV blocks to others.",
	fleet.PrefixQueryTokens: "Prompt tokens looked up in the prefix cache.",
	fleet.PrefixHitTokens:   "Prompt tokens found in the prefix cache.",
	fleet.IterationTokens:   "Tokens of all engine steps, prefill and decode.",
	fleet.Iterations:        "Engine steps.",

	fleet.EngineCPUSeconds:       "CPU time of the engine's processes.",
	fleet.EngineFrontCPUSeconds:  "CPU time of the engine's process that listens on its port.",
	fleet.EngineRunWaitSeconds:   "Time for which the engine's busiest thread could run and had no core.",
	fleet.EngineThrottledSeconds: "Time for which a CPU quota held the engine back.",
	fleet.EngineStoppedSeconds:   "Time for which a signal had stopped a process of the engine.",
	fleet.HostCPUSeconds:         "CPU time of everybody on the host.",
	fleet.HostStealSeconds:       "CPU time that the hypervisor took from the host.",
	fleet.ClientSeconds:          "Open connections to the engine × time.",
	fleet.ClientBacklogSeconds:   "The same, of connections whose client does not take what is sent.",

	fleet.StreamChunks: "Parts of streamed answers that carry text, as the wire shows them.",

	fleet.GPUEnergyJoules:            "Energy used by the engine's GPUs.",
	fleet.GPUPowerViolationSeconds:   "Time for which the power limit held down a GPU's clock.",
	fleet.GPUThermalViolationSeconds: "Time for which heat held down a GPU's clock.",
	fleet.GPUECCCorrected:            "Memory errors corrected.",
	fleet.GPUECCUncorrected:          "Memory errors not corrected.",
	fleet.GPUPCIeReplays:             "PCIe packets sent again.",
	fleet.GPUNVLinkErrors:            "NVLink checksum errors, replays and recoveries.",
	fleet.GPUNVLinkSentBytes:         "Bytes sent over NVLink.",
	fleet.GPUNVLinkReceivedBytes:     "Bytes received over NVLink.",
}

var gauges = map[string]string{
	fleet.RequestsRunning:  "Requests in the running batch.",
	fleet.RequestsWaiting:  "Requests that wait for it.",
	fleet.KVUsage:          "Share of the KV cache in use, 0 to 1.",
	fleet.KVCapacityTokens: "Tokens that the KV cache holds.",
	fleet.EngineAgeSeconds: "Since the engine's first process was started.",
	fleet.HostCores:        "Cores of the host.",

	fleet.RequestsOpen:         "Requests that are open on the wire.",
	fleet.RequestsOpenOver1s:   "The same, open for more than a second.",
	fleet.RequestsOpenOver10s:  "The same, open for more than ten seconds.",
	fleet.RequestsOpenOver60s:  "The same, open for more than a minute.",
	fleet.OldestRequestSeconds: "Age of the oldest open request.",
	fleet.OldestSilentSeconds:  "Age of the oldest open request without a first part of its answer.",

	fleet.GPUCount:                        "GPUs that the engine uses.",
	fleet.GPULost:                         "GPUs that no longer answer.",
	fleet.GPUAttributed:                   "1: these GPUs hold the engine's processes; 0: they are taken as its own because no other is seen.",
	fleet.GPUUtilizationRatio:             "Share of time in which any kernel was resident; says nothing of load.",
	fleet.GPUMemoryUtilizationRatio:       "Share of time in which GPU memory was accessed.",
	fleet.GPUMemoryUsedBytes:              "GPU memory in use.",
	fleet.GPUMemoryTotalBytes:             "GPU memory there is.",
	fleet.GPUEngineMemoryBytes:            "GPU memory of the engine's own processes.",
	fleet.GPUPowerWatts:                   "Power drawn.",
	fleet.GPUPowerLimitWatts:              "Power limit.",
	fleet.GPUTemperatureCelsius:           "Temperature of the hottest GPU.",
	fleet.GPUMemoryTemperatureCelsius:     "Temperature of the hottest GPU memory.",
	fleet.GPUSMClockRatio:                 "Lowest SM clock, as a share of the highest possible.",
	fleet.GPUMemoryClockRatio:             "Lowest memory clock, as a share of the highest possible.",
	fleet.GPUPowerThrottledRatio:          "Share of GPUs whose clock the power limit holds down now.",
	fleet.GPUThermalThrottledRatio:        "Share of GPUs whose clock heat holds down now.",
	fleet.GPUHardwareSlowdownRatio:        "Share of GPUs in hardware slowdown now.",
	fleet.GPUSMActiveRatio:                "Share of time in which SMs had work.",
	fleet.GPUSMActiveRatioMin:             "The same, of the least active GPU.",
	fleet.GPUSMOccupancyRatio:             "Warps resident, as a share of those possible.",
	fleet.GPUTensorActiveRatio:            "Share of time in which tensor cores worked.",
	fleet.GPUDRAMActiveRatio:              "Share of time in which GPU memory moved data.",
	fleet.GPUPCIeSentBytesPerSecond:       "Bytes per second sent over PCIe.",
	fleet.GPUPCIeReceivedBytesPerSecond:   "Bytes per second received over PCIe.",
	fleet.GPUNVLinkSentBytesPerSecond:     "Bytes per second sent over NVLink.",
	fleet.GPUNVLinkReceivedBytesPerSecond: "Bytes per second received over NVLink.",
	fleet.GPUPCIeGenerationRatio:          "Lowest PCIe generation, as a share of the highest possible; idle GPUs lower it.",
	fleet.GPUPCIeWidthRatio:               "Narrowest PCIe link, as a share of the widest possible.",
	fleet.GPUNVLinksActive:                "NVLinks that are up.",
	fleet.GPUNVLinksDown:                  "NVLinks that are down.",
	fleet.GPURemapPending:                 "GPUs whose memory waits for a reset to be repaired.",
	fleet.GPURemapFailed:                  "GPUs whose memory cannot be repaired.",
}
