//go:build cgo

package main

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

const (
	percent = 1e-2
	milli   = 1e-3
	mega    = 1e6
	kilo    = 1e3
	mebi    = 1 << 20
)

// device is one GPU and what has to be remembered of it between two seconds.
type device struct {
	lib    *library
	handle nvml.Device
	gpu.Device
	gpm  *counters           // of the whole device
	cuts map[place]*counters // of MIG instances
	seen uint64              // newest sample of processes' utilisation
	by   int                 // process that started this one; 0 where it does not matter
}

func openDevice(lib *library, index, by int) *device {
	d := &device{lib: lib, by: by, Device: gpu.Device{Index: index, UUID: fmt.Sprintf("unknown-%d", index)}, gpm: newCounters(lib), cuts: map[place]*counters{}}
	if why := lib.missing("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"); why != "" {
		d.Lost = why
		return d
	}
	var ret nvml.Return
	if d.handle, ret = lib.api.DeviceGetHandleByIndex(index); ret != nvml.SUCCESS {
		d.Lost = words(ret)
		return d
	}
	if uuid := lib.version("nvmlDeviceGetUUID", d.handle.GetUUID); uuid != "" {
		d.UUID = uuid
	}
	d.Name = lib.version("nvmlDeviceGetName", d.handle.GetName)
	if lib.missing("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo") == "" {
		if p, ret := d.handle.GetPciInfo(); ret == nvml.SUCCESS {
			d.PCI = orElse(text(p.BusId[:]), text(p.BusIdLegacy[:]))
		}
	}
	return d
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func text(c []int8) string {
	var b []byte
	for _, v := range c {
		if v == 0 {
			break
		}
		b = append(b, byte(v))
	}
	return string(b)
}

// sample reads everything. A device that is lost stays lost: its handle is of no more use.
func (d *device) sample() gpu.Device {
	r := newReading(d.lib, d.Lost)
	out := d.Device
	d.load(r)
	d.power(r)
	d.clocks(r)
	out.Reasons = d.reasons(r)
	d.errors(r)
	parts := d.parts(r)
	d.gpm.read(r, func(s nvml.GpmSample) nvml.Return { return d.handle.GpmSampleGet(s) }, "nvmlGpmSampleGet", d.handle)
	d.links(r)
	r.fields(d.handle)
	out.Processes = d.processes(r, parts)
	out.Instances = d.instances(r, parts)
	d.Lost = r.lost
	out.Lost, out.Reading = r.lost, r.Reading
	return out
}

func (d *device) load(r *reading) {
	var u nvml.Utilization
	why := r.ask([]string{"nvmlDeviceGetUtilizationRates"}, func() (ret nvml.Return) { u, ret = d.handle.GetUtilizationRates(); return ret })
	r.set(gpu.UtilizationRatio, percent*float64(u.Gpu), why)
	r.set(gpu.MemoryUtilizationRatio, percent*float64(u.Memory), why)
	r.memory(d.handle)
}

func (d *device) power(r *reading) {
	r.one(gpu.PowerWatts, "nvmlDeviceGetPowerUsage", milli, func() (uint32, nvml.Return) { return d.handle.GetPowerUsage() })
	r.one(gpu.PowerLimitWatts, "nvmlDeviceGetEnforcedPowerLimit", milli, func() (uint32, nvml.Return) { return d.handle.GetEnforcedPowerLimit() })
	r.one(gpu.PowerLimitDefaultWatts, "nvmlDeviceGetPowerManagementDefaultLimit", milli, func() (uint32, nvml.Return) { return d.handle.GetPowerManagementDefaultLimit() })
	r.one(gpu.PowerLimitMaxWatts, "nvmlDeviceGetPowerManagementLimitConstraints", milli, func() (uint32, nvml.Return) {
		_, most, ret := d.handle.GetPowerManagementLimitConstraints()
		return most, ret
	})
	var energy uint64
	why := r.ask([]string{"nvmlDeviceGetTotalEnergyConsumption"}, func() (ret nvml.Return) { energy, ret = d.handle.GetTotalEnergyConsumption(); return ret })
	r.set(gpu.EnergyJoules, milli*float64(energy), why)
}

func (d *device) clocks(r *reading) {
	for _, c := range []struct {
		kind      nvml.ClockType
		now, most string
	}{
		{nvml.CLOCK_SM, gpu.SMClockHertz, gpu.SMClockMaxHertz},
		{nvml.CLOCK_MEM, gpu.MemoryClockHertz, gpu.MemoryClockMaxHertz},
	} {
		r.one(c.now, "nvmlDeviceGetClockInfo", mega, func() (uint32, nvml.Return) { return d.handle.GetClockInfo(c.kind) })
		r.one(c.most, "nvmlDeviceGetMaxClockInfo", mega, func() (uint32, nvml.Return) { return d.handle.GetMaxClockInfo(c.kind) })
	}
	r.one(gpu.TemperatureCelsius, "nvmlDeviceGetTemperature", 1, func() (uint32, nvml.Return) { return d.handle.GetTemperature(nvml.TEMPERATURE_GPU) })
	r.one(gpu.TemperatureSlowdownCelsius, "nvmlDeviceGetTemperatureThreshold", 1, func() (uint32, nvml.Return) {
		return d.handle.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	})
}

// eventReasons name the bits, lowest first.
var eventReasons = []string{
	gpu.ReasonIdle, gpu.ReasonClocksSetting, gpu.ReasonPowerCap, gpu.ReasonHardwareSlowdown, gpu.ReasonSyncBoost,
	gpu.ReasonThermal, gpu.ReasonHardwareThermal, gpu.ReasonPowerBrake, gpu.ReasonDisplayClocks, gpu.ReasonBoardLimit, gpu.ReasonReliability,
}

// reasons that hold the clocks down. Older drivers know the question by its former name.
func (d *device) reasons(r *reading) (names []string) {
	const now, former = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
	var bits uint64
	why := r.ask([]string{now, former}, func() (ret nvml.Return) {
		if r.lib.missing(now) != "" {
			bits, ret = d.handle.GetCurrentClocksThrottleReasons()
			return ret
		}
		bits, ret = d.handle.GetCurrentClocksEventReasons()
		return ret
	})
	r.set(gpu.ClockEventReasons, float64(bits), why)
	for i := range 64 {
		switch {
		case bits&(1<<i) == 0:
		case i < len(eventReasons):
			names = append(names, eventReasons[i])
		default:
			names = append(names, fmt.Sprintf("bit %d", i))
		}
	}
	return names
}

func (d *device) errors(r *reading) {
	var on nvml.EnableState
	why := r.ask([]string{"nvmlDeviceGetEccMode"}, func() (ret nvml.Return) { on, _, ret = d.handle.GetEccMode(); return ret })
	r.set(gpu.ECCEnabled, float64(on), why)
	for _, e := range []struct {
		name string
		kind nvml.MemoryErrorType
		span nvml.EccCounterType
	}{
		{gpu.ECCCorrected, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC},
		{gpu.ECCUncorrected, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC},
		{gpu.ECCCorrectedLifetime, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.AGGREGATE_ECC},
		{gpu.ECCUncorrectedLifetime, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.AGGREGATE_ECC},
	} {
		var n uint64
		why := r.ask([]string{"nvmlDeviceGetTotalEccErrors"}, func() (ret nvml.Return) { n, ret = d.handle.GetTotalEccErrors(e.kind, e.span); return ret })
		r.set(e.name, float64(n), why)
	}
	var corrected, uncorrected int
	var pending, failed bool
	why = r.ask([]string{"nvmlDeviceGetRemappedRows"}, func() (ret nvml.Return) {
		corrected, uncorrected, pending, failed, ret = d.handle.GetRemappedRows()
		return ret
	})
	r.set(gpu.RemappedRowsCorrectable, float64(corrected), why)
	r.set(gpu.RemappedRowsUncorrectable, float64(uncorrected), why)
	r.set(gpu.RemapPending, bit(pending), why)
	r.set(gpu.RemapFailed, bit(failed), why)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (d *device) links(r *reading) {
	for _, n := range []struct {
		name, symbol string
		f            func() (int, nvml.Return)
	}{
		{gpu.PCIeLinkGeneration, "nvmlDeviceGetCurrPcieLinkGeneration", func() (int, nvml.Return) { return d.handle.GetCurrPcieLinkGeneration() }},
		{gpu.PCIeLinkGenerationMax, "nvmlDeviceGetMaxPcieLinkGeneration", func() (int, nvml.Return) { return d.handle.GetMaxPcieLinkGeneration() }},
		{gpu.PCIeLinkWidth, "nvmlDeviceGetCurrPcieLinkWidth", func() (int, nvml.Return) { return d.handle.GetCurrPcieLinkWidth() }},
		{gpu.PCIeLinkWidthMax, "nvmlDeviceGetMaxPcieLinkWidth", func() (int, nvml.Return) { return d.handle.GetMaxPcieLinkWidth() }},
		{gpu.PCIeReplays, "nvmlDeviceGetPcieReplayCounter", func() (int, nvml.Return) { return d.handle.GetPcieReplayCounter() }},
	} {
		r.one(n.name, n.symbol, 1, func() (uint32, nvml.Return) { v, ret := n.f(); return uint32(v), ret })
	}
	d.pcieThroughput(r)
	d.nvlinks(r)
}

// pcieThroughput asks for a sample that takes the driver 20 ms, so only where GPM has none.
func (d *device) pcieThroughput(r *reading) {
	if _, has := r.Values[gpu.GPMPCIeSentBytes]; has {
		r.set(gpu.PCIeSentBytes, 0, "not asked: GPM has it")
		r.set(gpu.PCIeReceivedBytes, 0, "not asked: GPM has it")
		return
	}
	const symbol = "nvmlDeviceGetPcieThroughput"
	r.one(gpu.PCIeSentBytes, symbol, kilo, func() (uint32, nvml.Return) { return d.handle.GetPcieThroughput(nvml.PCIE_UTIL_TX_BYTES) })
	r.one(gpu.PCIeReceivedBytes, symbol, kilo, func() (uint32, nvml.Return) { return d.handle.GetPcieThroughput(nvml.PCIE_UTIL_RX_BYTES) })
}

// nvlinks counts links up to the first that the device does not have.
func (d *device) nvlinks(r *reading) {
	active, down, why := 0, 0, ""
	for link := range nvml.NVLINK_MAX_LINKS {
		var state nvml.EnableState
		if why = r.ask([]string{"nvmlDeviceGetNvLinkState"}, func() (ret nvml.Return) { state, ret = d.handle.GetNvLinkState(link); return ret }); why != "" {
			break
		}
		if state == nvml.FEATURE_ENABLED {
			active++
		} else {
			down++
		}
	}
	if active+down > 0 && r.lost == "" {
		why = ""
	}
	r.set(gpu.NVLinksActive, float64(active), why)
	r.set(gpu.NVLinksDown, float64(down), why)
}
