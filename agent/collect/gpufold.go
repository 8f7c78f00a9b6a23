package collect

import (
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

func sum2(a, b float64) float64    { return a + b }
func least(a, b float64) float64   { return min(a, b) }
func highest(a, b float64) float64 { return max(a, b) }

var gpuGauges = []gpuGauge{
	{name: fleet.GPUUtilizationRatio, fold: sum2, mean: true, metrics: []string{gpu.UtilizationRatio}},
	{name: fleet.GPUMemoryUtilizationRatio, fold: sum2, mean: true, metrics: []string{gpu.MemoryUtilizationRatio}},
	{name: fleet.GPUMemoryUsedBytes, fold: sum2, metrics: []string{gpu.MemoryUsedBytes}},
	{name: fleet.GPUMemoryTotalBytes, fold: sum2, metrics: []string{gpu.MemoryTotalBytes}},
	{name: fleet.GPUPowerWatts, fold: sum2, metrics: []string{gpu.PowerWatts}},
	{name: fleet.GPUPowerLimitWatts, fold: sum2, metrics: []string{gpu.PowerLimitWatts}},
	{name: fleet.GPUTemperatureCelsius, fold: highest, metrics: []string{gpu.TemperatureCelsius}},
	{name: fleet.GPUMemoryTemperatureCelsius, fold: highest, metrics: []string{gpu.MemoryTemperatureCelsius}},
	{name: fleet.GPUSMClockRatio, fold: least, metrics: []string{gpu.SMClockHertz}, of: gpu.SMClockMaxHertz},
	{name: fleet.GPUMemoryClockRatio, fold: least, metrics: []string{gpu.MemoryClockHertz}, of: gpu.MemoryClockMaxHertz},
	{name: fleet.GPUSMActiveRatio, fold: sum2, mean: true, metrics: []string{gpu.GPMSMActive}},
	{name: fleet.GPUSMActiveRatioMin, fold: least, metrics: []string{gpu.GPMSMActive}},
	{name: fleet.GPUSMOccupancyRatio, fold: sum2, mean: true, metrics: []string{gpu.GPMSMOccupancy}},
	{name: fleet.GPUTensorActiveRatio, fold: sum2, mean: true, metrics: []string{gpu.GPMTensorActive}},
	{name: fleet.GPUDRAMActiveRatio, fold: sum2, mean: true, metrics: []string{gpu.GPMDRAMActive}},
	{name: fleet.GPUPCIeSentBytesPerSecond, fold: sum2, metrics: []string{gpu.GPMPCIeSentBytes, gpu.PCIeSentBytes}},
	{name: fleet.GPUPCIeReceivedBytesPerSecond, fold: sum2, metrics: []string{gpu.GPMPCIeReceivedBytes, gpu.PCIeReceivedBytes}},
	{name: fleet.GPUNVLinkSentBytesPerSecond, fold: sum2, metrics: []string{gpu.GPMNVLinkSentBytes}},
	{name: fleet.GPUNVLinkReceivedBytesPerSecond, fold: sum2, metrics: []string{gpu.GPMNVLinkReceivedBytes}},
	{name: fleet.GPUPCIeGenerationRatio, fold: least, metrics: []string{gpu.PCIeLinkGeneration}, of: gpu.PCIeLinkGenerationMax},
	{name: fleet.GPUPCIeWidthRatio, fold: least, metrics: []string{gpu.PCIeLinkWidth}, of: gpu.PCIeLinkWidthMax},
	{name: fleet.GPUNVLinksActive, fold: sum2, metrics: []string{gpu.NVLinksActive}},
	{name: fleet.GPUNVLinksDown, fold: sum2, metrics: []string{gpu.NVLinksDown}},
	{name: fleet.GPURemapPending, fold: sum2, metrics: []string{gpu.RemapPending}},
	{name: fleet.GPURemapFailed, fold: sum2, metrics: []string{gpu.RemapFailed}},
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
		gauges[f.name] = v
		return
	}
}

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
