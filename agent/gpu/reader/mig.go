//go:build cgo

package main

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// part is a MIG instance of a device, as it is found anew each second: instances come and go.
type part struct {
	handle nvml.Device
	place
	unplaced string // why place is not known; empty: it is
}

// place of a MIG instance: GPU instance and compute instance; -1 where the driver does not tell.
type place [2]int

// parts of a device in MIG mode. Places without one answer that nothing was found.
func (d *device) parts(r *reading) (out []part) {
	var mode, most int
	why := r.ask([]string{"nvmlDeviceGetMigMode"}, func() (ret nvml.Return) { mode, _, ret = d.handle.GetMigMode(); return ret })
	r.set(gpu.MIGEnabled, float64(mode), why)
	switch {
	case why != "":
	case mode != nvml.DEVICE_MIG_ENABLE:
		why = "this device is not cut into MIG instances"
	default:
		why = r.ask([]string{"nvmlDeviceGetMaxMigDeviceCount"}, func() (ret nvml.Return) { most, ret = d.handle.GetMaxMigDeviceCount(); return ret })
	}
	for i := range most {
		var p part
		nothing := false
		refused := r.ask([]string{"nvmlDeviceGetMigDeviceHandleByIndex"}, func() (ret nvml.Return) {
			p.handle, ret = d.handle.GetMigDeviceHandleByIndex(i)
			nothing = ret == nvml.ERROR_NOT_FOUND
			return ret
		})
		switch {
		case refused == "":
			p.find(r)
			out = append(out, p)
		case !nothing:
			why = refused
		}
	}
	if len(out) > 0 {
		why = ""
	}
	r.set(gpu.MIGInstances, float64(len(out)), why)
	return out
}

// find asks where the part is.
func (p *part) find(r *reading) {
	p.unplaced = r.ask([]string{"nvmlDeviceGetGpuInstanceId"}, func() (ret nvml.Return) { p.place[0], ret = p.handle.GetGpuInstanceId(); return ret })
	if p.unplaced != "" {
		p.place[0] = -1
	}
	if r.ask([]string{"nvmlDeviceGetComputeInstanceId"}, func() (ret nvml.Return) { p.place[1], ret = p.handle.GetComputeInstanceId(); return ret }) != "" {
		p.place[1] = -1
	}
}

// instances reads the parts, and forgets the counters of those that are gone.
func (d *device) instances(whole *reading, parts []part) (out []gpu.Instance) {
	live := map[place]bool{}
	for _, p := range parts {
		live[p.place] = true
		out = append(out, d.instance(whole, p))
	}
	for at, c := range d.cuts {
		if !live[at] {
			c.free()
			delete(d.cuts, at)
		}
	}
	return out
}

func (d *device) instance(whole *reading, p part) gpu.Instance {
	r := newReading(d.lib, whole.lost)
	in := gpu.Instance{
		UUID: d.lib.version("nvmlDeviceGetUUID", p.handle.GetUUID), Name: d.lib.version("nvmlDeviceGetName", p.handle.GetName),
		GPUInstance: p.place[0], ComputeInstance: p.place[1],
	}
	r.memory(p.handle)
	if p.unplaced != "" {
		refuse(r, p.unplaced)
	} else {
		if d.cuts[p.place] == nil {
			d.cuts[p.place] = newCounters(d.lib)
		}
		take := func(s nvml.GpmSample) nvml.Return { return d.handle.GpmMigSampleGet(p.place[0], s) }
		d.cuts[p.place].read(r, take, "nvmlGpmMigSampleGet", d.handle)
	}
	in.Reading = r.Reading
	return in
}
