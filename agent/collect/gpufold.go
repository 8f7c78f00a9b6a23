package collect

import (
	"math"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// gpuGauge makes one figure of several devices.
type gpuGauge struct {
	name string
	fold func(a, b float64) float64
	mean bool
	// metric, or the first of several that every device has.
	metrics []string
	// of is a metric that it is divided by on each device; empty: none.
	of string
}

func plus(a, b float64) float64    { return a + b }
func least(a, b float64) float64   { return min(a, b) }
func highest(a, b float64) float64 { return max(a, b) }

var gpuGauges = []gpuGauge{
	{name: fleet.GPUUtilizationRatio, fold: plus, mean: true, metrics: []string{gpu.UtilizationRatio}},
	{name: fleet.GPUMemoryUtilizationRatio, fold: plus, mean: true, metrics: []string{gpu.MemoryUtilizationRatio}},
	{name: fleet.GPUMemoryUsedBytes, fold: plus, metrics: []string{gpu.MemoryUsedBytes}},
	{name: fleet.GPUMemoryTotalBytes, fold: plus, metrics: []string{gpu.MemoryTotalBytes}},
	{name: fleet.GPUPowerWatts, fold: plus, metrics: []string{gpu.PowerWatts}},
	{name: fleet.GPUPowerLimitWatts, fold: plus, metrics: []string{gpu.PowerLimitWatts}},
	{name: fleet.GPUTemperatureCelsius, fold: highest, metrics: []string{gpu.TemperatureCelsius}},
	{name: fleet.GPUMemoryTemperatureCelsius, fold: highest, metrics: []string{gpu.MemoryTemperatureCelsius}},
	{name: fleet.GPUSMClockRatio, fold: least, metrics: []string{gpu.SMClockHertz}, of: gpu.SMClockMaxHertz},
	{name: fleet.GPUMemoryClockRatio, fold: least, metrics: []string{gpu.MemoryClockHertz}, of: gpu.MemoryClockMaxHertz},
	{name: fleet.GPUSMActiveRatio, fold: plus, mean: true, metrics: []string{gpu.GPMSMActive}},
	{name: fleet.GPUSMActiveRatioMin, fold: least, metrics: []string{gpu.GPMSMActive}},
	{name: fleet.GPUSMOccupancyRatio, fold: plus, mean: true, metrics: []string{gpu.GPMSMOccupancy}},
	{name: fleet.GPUTensorActiveRatio, fold: plus, mean: true, metrics: []string{gpu.GPMTensorActive}},
	{name: fleet.GPUDRAMActiveRatio, fold: plus, mean: true, metrics: []string{gpu.GPMDRAMActive}},
	{name: fleet.GPUPCIeSentBytesPerSecond, fold: plus, metrics: []string{gpu.GPMPCIeSentBytes, gpu.PCIeSentBytes}},
	{name: fleet.GPUPCIeReceivedBytesPerSecond, fold: plus, metrics: []string{gpu.GPMPCIeReceivedBytes, gpu.PCIeReceivedBytes}},
	{name: fleet.GPUNVLinkSentBytesPerSecond, fold: plus, metrics: []string{gpu.GPMNVLinkSentBytes}},
	{name: fleet.GPUNVLinkReceivedBytesPerSecond, fold: plus, metrics: []string{gpu.GPMNVLinkReceivedBytes}},
	{name: fleet.GPUPCIeGenerationRatio, fold: least, metrics: []string{gpu.PCIeLinkGeneration}, of: gpu.PCIeLinkGenerationMax},
	{name: fleet.GPUPCIeWidthRatio, fold: least, metrics: []string{gpu.PCIeLinkWidth}, of: gpu.PCIeLinkWidthMax},
	{name: fleet.GPUNVLinksActive, fold: plus, metrics: []string{gpu.NVLinksActive}},
	{name: fleet.GPUNVLinksDown, fold: plus, metrics: []string{gpu.NVLinksDown}},
	{name: fleet.GPURemapPending, fold: plus, metrics: []string{gpu.RemapPending}},
	{name: fleet.GPURemapFailed, fold: plus, metrics: []string{gpu.RemapFailed}},
}

// set the gauge where all devices have it.
func (f gpuGauge) set(gauges map[string]float64, devices []map[string]float64) {
	for _, m := range f.metrics {
		values := devices
		if f.of != "" {
			values = ratios(devices, m, f.of)
		}
		v, ok := folded(values, f.fold, m)
		if !ok {
			continue
		}
		if f.mean {
			v /= float64(len(values))
		}
		if finite(v) {
			gauges[f.name] = v
		}
		return
	}
}

// finite is asked of sums, which of numbers near the largest need not be.
func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// folded is a metric of all devices, where every one has it.
func folded(devices []map[string]float64, fold func(a, b float64) float64, metric string) (total float64, ok bool) {
	for i, d := range devices {
		v, has := d[metric]
		switch {
		case !has:
			return 0, false
		case i == 0:
			total = v
		default:
			total = fold(total, v)
		}
	}
	return total, len(devices) > 0
}

// ratios of a metric to another on each device.
func ratios(devices []map[string]float64, metric, of string) (out []map[string]float64) {
	for _, d := range devices {
		r := map[string]float64{}
		if v, ok := d[metric]; ok && d[of] > 0 {
			r[metric] = v / d[of]
		}
		out = append(out, r)
	}
	return out
}
