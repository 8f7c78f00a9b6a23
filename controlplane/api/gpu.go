package api

import (
	"strings"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// GPUs of the engines in a span. A figure that the driver does not tell is null.
type GPUs struct {
	Span
	Count            *float64 `json:"gpus" doc:"mean per engine that has any"`
	Lost             *float64 `json:"gpus_lost" doc:"that no longer answer, of the engine with most"`
	SMActive         *float64 `json:"sm_active_ratio" doc:"share of time in which SMs had work"`
	TensorActive     *float64 `json:"tensor_active_ratio"`
	DRAMActive       *float64 `json:"dram_active_ratio"`
	SMOccupancy      *float64 `json:"sm_occupancy_ratio"`
	Utilization      *float64 `json:"utilization_ratio" doc:"share of time in which any kernel was resident; says nothing of load"`
	MemoryUsed       *float64 `json:"memory_used_bytes" doc:"mean per engine"`
	MemoryTotal      *float64 `json:"memory_total_bytes" doc:"mean per engine"`
	EngineMemory     *float64 `json:"engine_memory_bytes" doc:"of the engine's own processes, mean per engine"`
	PowerWatts       *float64 `json:"power_watts" doc:"mean per engine"`
	PowerLimitWatts  *float64 `json:"power_limit_watts" doc:"mean per engine"`
	EnergyJoules     *float64 `json:"energy_joules" doc:"used in the span, all engines together"`
	JoulesPerToken   *float64 `json:"joules_per_token" doc:"energy ÷ tokens generated"`
	Temperature      *float64 `json:"temperature_celsius_max"`
	PowerThrottled   *float64 `json:"power_throttled_ratio" doc:"share of GPUs and time in which the power limit held the clock down"`
	ThermalThrottled *float64 `json:"thermal_throttled_ratio"`
	SMClock          *float64 `json:"sm_clock_ratio" doc:"of the highest possible, mean of each engine's slowest"`
	PCIeSent         *float64 `json:"pcie_sent_bytes_per_second"`
	PCIeReceived     *float64 `json:"pcie_received_bytes_per_second"`
	NVLinkSent       *float64 `json:"nvlink_sent_bytes_per_second"`
	NVLinkReceived   *float64 `json:"nvlink_received_bytes_per_second"`
	ECCCorrected     *float64 `json:"ecc_corrected" doc:"in the span"`
	ECCUncorrected   *float64 `json:"ecc_uncorrected" doc:"in the span"`
	// Attributed is 1 where the engines' processes were found on these GPUs.
	Attributed *float64 `json:"attributed_ratio" doc:"share of engines whose processes were found on these GPUs; the others' are taken as theirs because no other engine is seen"`
	// Measured lists every GPU figure of the span, by its name in windows.
	Measured map[string]float64 `json:"measured" doc:"every gauge's mean and every counter's increase"`
}

func gpuOf(span Span, a *fleet.Aggregate) GPUs {
	mean := func(metric string) *float64 {
		g, there := a.Gauges[metric]
		if !there {
			return nil
		}
		return number(g.Mean())
	}
	total := func(metric string) *float64 {
		v, there := a.Counters[metric]
		if !there {
			return nil
		}
		return number(v)
	}
	g := GPUs{
		Span: span, Count: mean(fleet.GPUCount), SMActive: mean(fleet.GPUSMActiveRatio), TensorActive: mean(fleet.GPUTensorActiveRatio), DRAMActive: mean(fleet.GPUDRAMActiveRatio),
		SMOccupancy: mean(fleet.GPUSMOccupancyRatio), Utilization: mean(fleet.GPUUtilizationRatio), MemoryUsed: mean(fleet.GPUMemoryUsedBytes),
		MemoryTotal: mean(fleet.GPUMemoryTotalBytes), EngineMemory: mean(fleet.GPUEngineMemoryBytes), PowerWatts: mean(fleet.GPUPowerWatts),
		PowerLimitWatts: mean(fleet.GPUPowerLimitWatts), EnergyJoules: total(fleet.GPUEnergyJoules), PowerThrottled: mean(fleet.GPUPowerThrottledRatio),
		ThermalThrottled: mean(fleet.GPUThermalThrottledRatio), SMClock: mean(fleet.GPUSMClockRatio), PCIeSent: mean(fleet.GPUPCIeSentBytesPerSecond),
		PCIeReceived: mean(fleet.GPUPCIeReceivedBytesPerSecond), NVLinkSent: mean(fleet.GPUNVLinkSentBytesPerSecond),
		NVLinkReceived: mean(fleet.GPUNVLinkReceivedBytesPerSecond), ECCCorrected: total(fleet.GPUECCCorrected), ECCUncorrected: total(fleet.GPUECCUncorrected),
		Attributed: mean(fleet.GPUAttributed), Measured: map[string]float64{},
	}
	if lost, there := a.Gauges[fleet.GPULost]; there {
		g.Lost = number(lost.Max)
	}
	if hot, there := a.Gauges[fleet.GPUTemperatureCelsius]; there {
		g.Temperature = number(hot.Max)
	}
	if tokens := a.Counters[fleet.GenerationTokens]; g.EnergyJoules != nil && tokens > 0 {
		g.JoulesPerToken = number(*g.EnergyJoules / tokens)
	}
	for name, gauge := range a.Gauges {
		if strings.HasPrefix(name, "gpu_") && gauge.N > 0 {
			g.Measured[name] = gauge.Mean()
		}
	}
	for name, v := range a.Counters {
		if strings.HasPrefix(name, "gpu_") {
			g.Measured[name] = v
		}
	}
	g.Sources = map[string]string{}
	if len(g.Measured) > 0 {
		g.Sources["measured"] = fleet.SourceGPU
	}
	return g
}
