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

// GPUOf says whose GPUs a source tells of.
type GPUOf struct {
	// Port of TCP on which the engine listens on this host.
	Port uint16
	// Alone: the reader sees no other engine's GPUs, as far as is known.
	Alone bool
	// Launched: the reader was started by the engine's launcher, so that what descends from the same
	// process is the engine.
	Launched bool
	// HostProc is where the host's proc file system may be mounted.
	HostProc string
}

// GPU is the source that tells what an engine's GPUs do. Which they are is told by the processes on
// them; they are remembered while it is restarted. Where no process is known to be the engine's, as
// with a driver that names processes of a namespace that is not seen, all GPUs that the reader sees
// are the engine's if it is the only one here, and the only process on each is taken as its own.
//
// A record that is missing or old leaves the window without GPU figures, not stale: the window is
// good without them.
type GPU struct {
	watcher GPUStatus
	of      GPUOf
	view    pidView

	mu     sync.Mutex // guards what follows
	found  bool       // the engine's processes are seen
	kin    map[int]kin
	uuids  []string // of the GPUs that hold the engine's processes, as seen last
	before map[string]gpu.Device

	drained  bool // a record was taken
	hardware []Accelerator
}

// NewGPU returns the source of an engine.
func NewGPU(w GPUStatus, of GPUOf) *GPU {
	return &GPU{watcher: w, of: of, view: newPIDView("/proc", of.HostProc), before: map[string]gpu.Device{}}
}

// Run keeps the list of the engine's processes until ctx ends. It looks only while there are GPUs
// with processes.
func (g *GPU) Run(ctx context.Context) error {
	tick := time.NewTicker(hostTree)
	defer tick.Stop()
	for {
		g.look(g.watcher.Status().Record)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds out whose the processes of a record are.
func (g *GPU) look(r *gpu.Record) {
	if r == nil || !slices.ContainsFunc(r.Devices, func(d gpu.Device) bool { return len(d.Processes) > 0 }) {
		return
	}
	tree, err := findEngine(g.view.root, g.of.Port) // none: the GPUs known last stay
	known := g.view.kinOf(tree, r)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.found, g.kin = err == nil, known
}

// whose a process is.
func (g *GPU) whose(p gpu.Process) kin {
	if g.of.Launched && p.Launched != nil {
		if *p.Launched {
			return engines
		}
		return others
	}
	return g.kin[p.PID]
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
	g.drained = true
	age := max(0, now.Sub(status.Taken))
	s.AgeMs, s.AnsweredUnixMs = age.Milliseconds(), status.Taken.UnixMilli()
	if age > gpuSilence {
		if s.Error == "" {
			s.Error = fmt.Sprintf("the GPU reader has said nothing for %v", age.Round(time.Second))
		}
		return s
	}
	devices, own := g.attribute(status.Record)
	g.identify(devices, own)
	if len(devices) == 0 {
		s.Error = "which GPUs are this engine's is not known, and there are other engines: " + g.whyNone(status.Record)
		return s
	}
	w.Gauges[fleet.GPUAttributed] = float64(bit(own))
	held, known, why := g.held(devices, own)
	if known {
		w.Gauges[fleet.GPUEngineMemoryBytes] = held
	}
	if !own && s.Error == "" {
		s.Error = "all GPUs that are seen are taken as this engine's: " + g.whyNone(status.Record) + "; " + why
	}
	g.fold(w, devices)
	g.gain(w, devices, status.Record)
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
		if g.of.Alone {
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
		if g.whose(p) == engines {
			out = append(out, p)
		}
	}
	return out
}

// fold sets what the devices say together.
func (g *GPU) fold(w *fleet.Window, devices []gpu.Device) {
	var live []map[string]float64
	reasons := map[string]float64{}
	for i := range devices {
		d := &devices[i]
		if d.Lost != "" {
			continue
		}
		live = append(live, g.values(d))
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
	if _, ok := folded(live, plus, gpu.ClockEventReasons); ok {
		for name := range throttles {
			w.Gauges[name] = reasons[name] / float64(len(live))
		}
	}
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
// the driver, and its gain is not known. What others' devices gained is passed over too, should they
// become the engine's.
func (g *GPU) gain(w *fleet.Window, devices []gpu.Device, r *gpu.Record) {
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
	for i := range r.Devices {
		if d := r.Devices[i]; d.Lost == "" {
			g.before[d.UUID] = d
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
