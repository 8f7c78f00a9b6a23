//go:build cgo

package main

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// gpmMetrics are asked for; per cent and MiB/s in the driver's answers.
var gpmMetrics = []struct {
	name  string
	id    nvml.GpmMetricId
	scale float64
}{
	{gpu.GPMSMActive, nvml.GPM_METRIC_SM_UTIL, percent},
	{gpu.GPMSMOccupancy, nvml.GPM_METRIC_SM_OCCUPANCY, percent},
	{gpu.GPMTensorActive, nvml.GPM_METRIC_ANY_TENSOR_UTIL, percent},
	{gpu.GPMDRAMActive, nvml.GPM_METRIC_DRAM_BW_UTIL, percent},
	{gpu.GPMPCIeSentBytes, nvml.GPM_METRIC_PCIE_TX_PER_SEC, mebi},
	{gpu.GPMPCIeReceivedBytes, nvml.GPM_METRIC_PCIE_RX_PER_SEC, mebi},
	{gpu.GPMNVLinkSentBytes, nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, mebi},
	{gpu.GPMNVLinkReceivedBytes, nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, mebi},
}

// counters are GPM's, of a device or MIG instance. A metric is the difference of two samples, so the
// first second has none.
type counters struct {
	lib           *library
	before, after nvml.GpmSample // nil until allocated
	never         string         // why there is no GPM here; empty: there is, or nobody asked yet
}

func newCounters(lib *library) *counters { return &counters{lib: lib} }

// read takes a sample and reports the time since the last.
func (c *counters) read(r *reading, take func(nvml.GpmSample) nvml.Return, symbol string, of nvml.Device) {
	why := c.never
	if why == "" {
		why = c.open(r, of)
	}
	if why == "" {
		why = r.ask([]string{symbol}, func() nvml.Return { return take(c.after) })
	}
	if why != "" {
		c.forget()
		refuse(r, why)
		return
	}
	if c.before == nil {
		refuse(r, "needs two samples: there is one so far")
	} else {
		c.compare(r)
	}
	c.before, c.after = c.after, c.before
}

// open asks whether there is GPM, and allocates the sample that is written next.
func (c *counters) open(r *reading, of nvml.Device) (why string) {
	if c.after != nil {
		return ""
	}
	if c.before == nil {
		if why, final := c.supported(r, of); why != "" {
			if final {
				c.never = why
			}
			return why
		}
	}
	return r.ask([]string{"nvmlGpmSampleAlloc"}, func() nvml.Return {
		s, ret := c.lib.api.GpmSampleAlloc()
		if ret == nvml.SUCCESS {
			c.after = s
		}
		return ret
	})
}

// supported asks the device. A plain no is final; a failure to answer is not.
func (c *counters) supported(r *reading, of nvml.Device) (why string, final bool) {
	for _, s := range []string{"nvmlGpmQueryDeviceSupport", "nvmlGpmMetricsGet", "nvmlGpmSampleFree"} {
		if why := c.lib.missing(s); why != "" {
			return why, true
		}
	}
	var s nvml.GpmSupport
	why = r.ask([]string{"nvmlGpmQueryDeviceSupport"}, func() (ret nvml.Return) { s, ret = of.GpmQueryDeviceSupport(); return ret })
	if why == "" && s.IsSupportedDevice == 0 {
		return "this device has no GPM (it needs compute capability 9.0): " + words(nvml.ERROR_NOT_SUPPORTED), true
	}
	return why, false
}

// compare reports each metric; it has a return code of its own.
func (c *counters) compare(r *reading) {
	get := &nvml.GpmMetricsGetType{NumMetrics: uint32(len(gpmMetrics)), Sample1: c.before, Sample2: c.after}
	for i, m := range gpmMetrics {
		get.Metrics[i].MetricId = uint32(m.id)
	}
	why := r.ask([]string{"nvmlGpmMetricsGet"}, func() nvml.Return { return c.lib.api.GpmMetricsGet(get) })
	for i, m := range gpmMetrics {
		reason := why
		if ret := nvml.Return(get.Metrics[i].NvmlReturn); reason == "" && ret != nvml.SUCCESS {
			reason = words(ret)
		}
		r.set(m.name, m.scale*get.Metrics[i].Value, reason)
	}
}

func refuse(r *reading, why string) {
	for _, m := range gpmMetrics {
		r.set(m.name, 0, why)
	}
}

// forget the last sample: after a gap a difference would be of an unknown time.
func (c *counters) forget() {
	if c.after == nil {
		c.before, c.after = nil, c.before
		return
	}
	if c.before != nil {
		_ = c.before.Free() // nothing can be done about it
		c.before = nil
	}
}

// free lets go of both samples.
func (c *counters) free() {
	for _, s := range []nvml.GpmSample{c.before, c.after} {
		if s != nil {
			_ = s.Free() // nothing can be done about it
		}
	}
	c.before, c.after = nil, nil
}
