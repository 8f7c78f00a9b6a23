//go:build cgo

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// kinds of processes, with the function that lists them. A process that is of two is of the first.
var kinds = []struct{ name, function string }{
	{"compute", "nvmlDeviceGetComputeRunningProcesses"},
	{"mps", "nvmlDeviceGetMPSComputeRunningProcesses"},
	{"graphics", "nvmlDeviceGetGraphicsRunningProcesses"},
}

// listing gathers the processes of a device.
type listing struct {
	all []gpu.Process
	at  map[int]int // place in all, by process id
}

// processes that use the device. In MIG mode the whole device may tell of them to privileged users
// alone, and its instances tell of their own.
func (d *device) processes(r *reading, parts []part) []gpu.Process {
	l := &listing{at: map[int]int{}}
	why := l.list(r, d.handle, place{-1, -1})
	for _, p := range parts {
		if l.list(r, p.handle, p.place) == "" {
			why = ""
		}
	}
	r.set(gpu.Processes, float64(len(l.all)), why)
	d.processUtilization(r, l)
	for i := range l.all {
		l.all[i].Launched = launched(l.all[i].PID, d.by)
	}
	return l.all
}

// list adds those of a device or instance, and says why it may not be told of those that compute.
func (l *listing) list(r *reading, of nvml.Device, in place) (why string) {
	for _, kind := range kinds {
		var found []nvml.ProcessInfo
		symbols := []string{kind.function + "_v3", kind.function + "_v2", kind.function}
		reason := r.ask(symbols, func() (ret nvml.Return) { found, ret = r.lib.runningProcesses(of, kind.function); return ret })
		if kind.name == "compute" {
			why = reason
		}
		for _, p := range found {
			l.add(process(p, kind.name, in))
		}
	}
	return why
}

// add a process, or what is not known of it yet.
func (l *listing) add(p gpu.Process) {
	i, known := l.at[p.PID]
	if !known {
		l.at[p.PID] = len(l.all)
		l.all = append(l.all, p)
		return
	}
	if was := &l.all[i]; was.GPUInstance == nil {
		was.GPUInstance, was.ComputeInstance = p.GPUInstance, p.ComputeInstance
	}
}

// noInstance stands in a process's record for "none".
const noInstance = math.MaxUint32

func process(p nvml.ProcessInfo, kind string, in place) gpu.Process {
	out := gpu.Process{PID: int(p.Pid), Kind: kind, GPUInstance: known(p.GpuInstanceId, in[0]), ComputeInstance: known(p.ComputeInstanceId, in[1])}
	if p.UsedGpuMemory != math.MaxUint64 {
		held := float64(p.UsedGpuMemory)
		out.MemoryBytes = &held
	}
	return out
}

// known is an instance that the record or the place names.
func known(told uint32, place int) *int {
	if told != noInstance {
		place = int(told)
	}
	if place < 0 {
		return nil
	}
	return &place
}

// processUtilization takes the newest sample of each process since the last call. That there is
// none means that none of them did anything.
func (d *device) processUtilization(r *reading, l *listing) {
	var samples []nvml.ProcessUtilizationSample
	why := r.ask([]string{processUtilization}, func() (ret nvml.Return) { samples, ret = utilizationSamples(d.handle, d.seen); return ret })
	newest, sum := map[uint32]nvml.ProcessUtilizationSample{}, 0.0
	for _, s := range samples {
		d.seen = max(d.seen, s.TimeStamp)
		if s.TimeStamp >= newest[s.Pid].TimeStamp && s.SmUtil <= 100 {
			newest[s.Pid] = s
		}
	}
	for pid, s := range newest {
		share := percent * float64(s.SmUtil)
		sum += share
		if i, ok := l.at[int(pid)]; ok {
			l.all[i].UtilizationRatio = &share
		}
	}
	r.set(gpu.ProcessUtilizationRatio, sum, why)
}

// deepest line of descent that is followed.
const deepest = 256

// launched tells whether a process descends from the one that started this; nil where the process
// cannot be seen from here.
func launched(pid, by int) *bool {
	parent, seen := parentOf(pid)
	if !seen || by == 0 {
		return nil
	}
	descends := false
	for range deepest {
		if descends = parent == by; descends || !seen || parent <= 1 {
			break
		}
		parent, seen = parentOf(parent)
	}
	return &descends
}

func parentOf(pid int) (parent int, seen bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // the name before it may hold anything
	if len(f) < 2 {
		return 0, false
	}
	parent, err = strconv.Atoi(string(f[1]))
	return parent, err == nil
}
