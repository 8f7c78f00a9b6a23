//go:build cgo

package main

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// reading gathers the metrics of one device or instance.
type reading struct {
	gpu.Reading
	lib  *library
	lost string // why nothing more is asked; empty: it answers
}

func newReading(lib *library, lost string) *reading {
	return &reading{lib: lib, lost: lost, Reading: gpu.Reading{Values: map[string]float64{}, Unavailable: map[string]string{}}}
}

// ask calls f where one of its symbols exists and the device answers, and says whether it did.
func (r *reading) ask(symbols []string, f func() nvml.Return) (why string) {
	if r.lost != "" {
		return r.lost
	}
	if why := r.lib.missing(symbols...); why != "" {
		return why
	}
	ret := f()
	if ret == nvml.SUCCESS {
		return ""
	}
	if gone(ret) {
		r.lost = words(ret)
	}
	return words(ret)
}

// set takes a value, or the reason why there is none.
func (r *reading) set(name string, v float64, why string) {
	if why == "" && (math.IsNaN(v) || math.IsInf(v, 0)) {
		why = "the driver's answer is not a number"
	}
	if why != "" {
		r.Unavailable[name] = why
		return
	}
	r.Values[name] = v
}

// one asks for one number.
func (r *reading) one(name, symbol string, scale float64, f func() (uint32, nvml.Return)) {
	var v uint32
	why := r.ask([]string{symbol}, func() (ret nvml.Return) { v, ret = f(); return ret })
	r.set(name, scale*float64(v), why)
}

// field is a number that is asked for by its identifier.
type field struct {
	name  string
	id    uint32
	scope uint32
	scale float64
}

// allLinks asks for a figure of all NVLinks together.
const allLinks = math.MaxUint32

var fields = []field{
	{gpu.MemoryTemperatureCelsius, nvml.FI_DEV_MEMORY_TEMP, 0, 1},
	{gpu.PowerViolationSeconds, nvml.FI_DEV_PERF_POLICY_POWER, 0, 1e-9},
	{gpu.ThermalViolationSeconds, nvml.FI_DEV_PERF_POLICY_THERMAL, 0, 1e-9},
	{gpu.BoardLimitViolationSeconds, nvml.FI_DEV_PERF_POLICY_BOARD_LIMIT, 0, 1e-9},
	{gpu.ReliabilityViolationSeconds, nvml.FI_DEV_PERF_POLICY_RELIABILITY, 0, 1e-9},
	{gpu.NVLinkFlitErrors, nvml.FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, 0, 1},
	{gpu.NVLinkDataErrors, nvml.FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, 0, 1},
	{gpu.NVLinkReplays, nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0, 1},
	{gpu.NVLinkRecoveries, nvml.FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 0, 1},
	{gpu.NVLinkSentBytes, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks, 1024},
	{gpu.NVLinkReceivedBytes, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, allLinks, 1024},
}

// fields asks for all of them in one call; each has a return code of its own.
func (r *reading) fields(d nvml.Device) {
	values := make([]nvml.FieldValue, len(fields))
	for i, f := range fields {
		values[i].FieldId, values[i].ScopeId = f.id, f.scope
	}
	why := r.ask([]string{"nvmlDeviceGetFieldValues"}, func() nvml.Return { return d.GetFieldValues(values) })
	for i, f := range fields {
		v, reason := 0.0, why
		if reason == "" {
			v, reason = fieldValue(&values[i])
		}
		r.set(f.name, f.scale*v, reason)
	}
}

// fieldValue reads the union.
func fieldValue(f *nvml.FieldValue) (float64, string) {
	if ret := nvml.Return(f.NvmlReturn); ret != nvml.SUCCESS {
		return 0, words(ret)
	}
	whole := binary.NativeEndian.Uint64(f.Value[:])
	half := binary.NativeEndian.Uint32(f.Value[:])
	switch nvml.ValueType(f.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		return math.Float64frombits(whole), ""
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return float64(half), ""
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		return float64(whole), ""
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return float64(int64(whole)), ""
	case nvml.VALUE_TYPE_SIGNED_INT:
		return float64(int32(half)), ""
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return float64(binary.NativeEndian.Uint16(f.Value[:])), ""
	}
	return 0, fmt.Sprintf("the driver's answer has type %d, which is not known", f.ValueType)
}

// memory of a device or instance. Where only the older question is answered, used includes reserved.
func (r *reading) memory(d nvml.Device) {
	var m nvml.Memory_v2
	why := r.ask([]string{"nvmlDeviceGetMemoryInfo_v2"}, func() (ret nvml.Return) { m, ret = d.GetMemoryInfo_v2(); return ret })
	r.set(gpu.MemoryReservedBytes, float64(m.Reserved), why)
	if why == "" {
		r.setMemory(m.Total, m.Used, m.Free, "")
		return
	}
	var former nvml.Memory
	why = r.ask([]string{"nvmlDeviceGetMemoryInfo"}, func() (ret nvml.Return) { former, ret = d.GetMemoryInfo(); return ret })
	r.setMemory(former.Total, former.Used, former.Free, why)
}

func (r *reading) setMemory(total, used, free uint64, why string) {
	r.set(gpu.MemoryTotalBytes, float64(total), why)
	r.set(gpu.MemoryUsedBytes, float64(used), why)
	r.set(gpu.MemoryFreeBytes, float64(free), why)
}
