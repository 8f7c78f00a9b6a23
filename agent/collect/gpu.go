package collect

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// GPUStatus tells of the newest record; *gpu.Watcher does.
type GPUStatus interface {
	Status() gpu.Status
}

// gpuSilence is how old a record may be to belong to a window: one that came late, and one missed.
const gpuSilence = 3 * time.Second

// GPU is the source that tells what an engine's GPUs do. Which they are is told by the processes on
// them, where this process can see the engine's; they are remembered while it is restarted. Where no
// process is seen on any, as in a container of its own process namespace, all GPUs that the reader
// sees are the engine's if it is the only one here.
//
// A record that is missing or old leaves the window without GPU figures, not stale: the window is
// good without them.
type GPU struct {
	watcher GPUStatus
	port    uint16
	alone   bool
	root    string // of the proc file system

	mu     sync.Mutex // guards what follows
	engine processTree
	uuids  []string // of the GPUs that hold the engine's processes, as seen last
	before map[string]gpu.Device
}

// NewGPU returns the source for the engine that listens on a TCP port of this host. Alone says that
// the reader sees no other engine's GPUs, as far as is known.
func NewGPU(w GPUStatus, port uint16, alone bool) *GPU {
	return &GPU{watcher: w, port: port, alone: alone, root: "/proc", before: map[string]gpu.Device{}}
}

// Run keeps the list of the engine's processes until ctx ends. It looks only while there are GPUs
// with processes.
func (g *GPU) Run(ctx context.Context) error {
	tick := time.NewTicker(hostTree)
	defer tick.Stop()
	for {
		if r := g.watcher.Status().Record; r != nil && slices.ContainsFunc(r.Devices, func(d gpu.Device) bool { return len(d.Processes) > 0 }) {
			tree, _ := findEngine(g.root, g.port) // none: the GPUs known last stay
			g.mu.Lock()
			g.engine = tree
			g.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Drain sets the figures of the newest record.
func (g *GPU) Drain(w *fleet.Window, now time.Time) *agentv1.Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	status := g.watcher.Status()
	s := &agentv1.Source{Name: fleet.SourceGPU, Error: status.Problem}
	if status.Record == nil {
		return s
	}
	age := max(0, now.Sub(status.Taken))
	s.AgeMs = age.Milliseconds()
	if age > gpuSilence {
		if s.Error == "" {
			s.Error = fmt.Sprintf("the GPU reader has said nothing for %v", age.Round(time.Second))
		}
		return s
	}
	devices, own := g.attribute(status.Record)
	if len(devices) == 0 {
		s.Error = "which GPUs are this engine's is not known: none holds a process of it, and there are other engines"
		return s
	}
	w.Gauges[fleet.GPUAttributed] = float64(bit(own))
	g.fold(w, devices)
	return s
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// attribute tells which devices are the engine's, and whether its processes say so.
func (g *GPU) attribute(r *gpu.Record) (devices []gpu.Device, own bool) {
	answering := map[string]*gpu.Device{}
	var uuids []string
	for i := range r.Devices {
		d := &r.Devices[i]
		if d.Lost == "" {
			answering[d.UUID] = d
		}
		if len(g.members(d)) > 0 {
			uuids = append(uuids, d.UUID)
		}
	}
	if len(uuids) > 0 { // those that no longer answer tell of no processes, and stay
		lost := slices.DeleteFunc(g.uuids, func(u string) bool { return answering[u] != nil })
		g.uuids = append(lost, uuids...)
	}
	if len(g.uuids) == 0 {
		if g.alone {
			return r.Devices, false
		}
		return nil, false
	}
	for _, u := range g.uuids {
		d := answering[u]
		if d == nil {
			d = &gpu.Device{UUID: u, Lost: "it no longer answers"}
		}
		devices = append(devices, *d)
	}
	return devices, true
}

// members are the engine's processes on a device.
func (g *GPU) members(d *gpu.Device) (out []gpu.Process) {
	for _, p := range d.Processes {
		if slices.Contains(g.engine.members, p.PID) {
			out = append(out, p)
		}
	}
	return out
}

// fold sets what the devices say together.
func (g *GPU) fold(w *fleet.Window, devices []gpu.Device) {
	var live []map[string]float64
	held, known := 0.0, false
	reasons := map[string]float64{}
	for i := range devices {
		d := &devices[i]
		if d.Lost != "" {
			continue
		}
		live = append(live, g.values(d))
		for _, p := range g.members(d) {
			if p.MemoryBytes != nil {
				held, known = held+*p.MemoryBytes, true
			}
		}
		for name, of := range throttles {
			if slices.ContainsFunc(d.Reasons, func(r string) bool { return slices.Contains(of, r) }) {
				reasons[name]++
			}
		}
	}
	w.Gauges[fleet.GPUCount], w.Gauges[fleet.GPULost] = float64(len(live)), float64(len(devices)-len(live))
	for _, f := range gpuGauges {
		f.set(w.Gauges, live)
	}
	if known && finite(held) {
		w.Gauges[fleet.GPUEngineMemoryBytes] = held
	}
	if _, ok := folded(live, plus, gpu.ClockEventReasons); ok {
		for name := range throttles {
			w.Gauges[name] = reasons[name] / float64(len(live))
		}
	}
	g.gain(w, devices)
}

// throttles are the reasons that make each gauge.
var throttles = map[string][]string{
	fleet.GPUPowerThrottledRatio:   {gpu.ReasonPowerCap, gpu.ReasonPowerBrake, gpu.ReasonBoardLimit},
	fleet.GPUThermalThrottledRatio: {gpu.ReasonThermal, gpu.ReasonHardwareThermal},
	fleet.GPUHardwareSlowdownRatio: {gpu.ReasonHardwareSlowdown},
}

// values of a device; where the engine runs in one of its MIG instances, memory and activity are
// that instance's.
func (g *GPU) values(d *gpu.Device) map[string]float64 {
	in := g.instance(d)
	if in == nil {
		return d.Values
	}
	out := map[string]float64{}
	for k, v := range d.Values {
		out[k] = v
	}
	for _, m := range gpu.Metrics() {
		if !m.Instance {
			continue
		}
		delete(out, m.Name) // the whole device's would be several engines'
		if v, ok := in.Values[m.Name]; ok {
			out[m.Name] = v
		}
	}
	return out
}

func (g *GPU) instance(d *gpu.Device) *gpu.Instance {
	if len(d.Instances) == 1 {
		return &d.Instances[0]
	}
	for _, p := range g.members(d) {
		for i := range d.Instances {
			if p.GPUInstance != nil && d.Instances[i].GPUInstance == *p.GPUInstance {
				return &d.Instances[i]
			}
		}
	}
	return nil
}

// gain adds what the devices' counters gained since the record before. One that fell was reset with
// the driver, and its gain is not known.
func (g *GPU) gain(w *fleet.Window, devices []gpu.Device) {
	for _, c := range gpuCounters {
		total, known := 0.0, false
		for i := range devices {
			d := &devices[i]
			for _, m := range c.metrics {
				was, had := g.before[d.UUID].Values[m]
				is, has := d.Values[m]
				if !had || !has {
					continue
				}
				known = true
				if gained := max(0, is-was); c.longest {
					total = max(total, gained)
				} else {
					total += gained
				}
			}
		}
		if known && finite(total) {
			w.Counters[c.name] = total
		}
	}
	for i := range devices {
		if devices[i].Lost == "" {
			g.before[devices[i].UUID] = devices[i]
		}
	}
}

var gpuCounters = []struct {
	name    string
	longest bool
	metrics []string
}{
	{fleet.GPUEnergyJoules, false, []string{gpu.EnergyJoules}},
	{fleet.GPUPowerViolationSeconds, true, []string{gpu.PowerViolationSeconds}},
	{fleet.GPUThermalViolationSeconds, true, []string{gpu.ThermalViolationSeconds}},
	{fleet.GPUECCCorrected, false, []string{gpu.ECCCorrected}},
	{fleet.GPUECCUncorrected, false, []string{gpu.ECCUncorrected}},
	{fleet.GPUPCIeReplays, false, []string{gpu.PCIeReplays}},
	{fleet.GPUNVLinkErrors, false, []string{gpu.NVLinkFlitErrors, gpu.NVLinkDataErrors, gpu.NVLinkReplays, gpu.NVLinkRecoveries}},
	{fleet.GPUNVLinkSentBytes, false, []string{gpu.NVLinkSentBytes}},
	{fleet.GPUNVLinkReceivedBytes, false, []string{gpu.NVLinkReceivedBytes}},
}
