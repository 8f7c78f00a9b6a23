package collect

import (
	"slices"
	"strings"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// Accelerator is one GPU, or one MIG instance, that an engine runs on, as NVML describes it.
type Accelerator struct {
	// Product is its name; of an instance with " MIG " and the profile, as far as it is told.
	Product string
	// MemoryBytes that it has; 0: not told.
	MemoryBytes float64
	// PowerLimitWatts in force and as delivered, of the whole device; 0: not told.
	PowerLimitWatts, PowerLimitDefaultWatts float64
}

// Hardware of the engine, as the newest record that tells it in full described it; none where that
// is not told. known is false for the first seconds, until there is a record or a reason why not. Any
// goroutine may ask.
func (g *GPU) Hardware() (all []Accelerator, known bool) {
	s := g.watcher.Status()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hardware, s.Looked && (s.Record == nil || g.drained)
}

// identify keeps what the devices are. Those that do not answer now are what they were. While it is
// not known which of several kinds are the engine's, nothing is.
func (g *GPU) identify(devices []gpu.Device, own bool) {
	var all []Accelerator
	for i := range devices {
		d := &devices[i]
		switch {
		case d.Lost != "" && g.hardware != nil:
			return
		case d.Lost != "":
			continue
		case d.Name == "":
			return
		}
		all = append(all, accelerators(d, g.instance(d))...)
	}
	other := func(a Accelerator) bool { return a.Product != all[0].Product }
	if len(all) > 0 && (own || !slices.ContainsFunc(all, other)) {
		g.hardware = all
	}
}

// mig is how names of instances go on after the device's.
const (
	mig            = " MIG "
	unknownProfile = mig + "of a profile that is not told"
)

// Accelerators are all that a record tells of, whoever uses them.
func Accelerators(r *gpu.Record) (all []Accelerator) {
	for i := range r.Devices {
		all = append(all, accelerators(&r.Devices[i], nil)...)
	}
	return all
}

// accelerators of a device: itself, or the instance that the engine runs in, or all that it may.
func accelerators(d *gpu.Device, in *gpu.Instance) (out []Accelerator) {
	whole := Accelerator{
		Product: d.Name, MemoryBytes: d.Values[gpu.MemoryTotalBytes],
		PowerLimitWatts: d.Values[gpu.PowerLimitWatts], PowerLimitDefaultWatts: d.Values[gpu.PowerLimitDefaultWatts],
	}
	if d.Values[gpu.MIGEnabled] == 0 {
		return []Accelerator{whole}
	}
	instances := d.Instances
	if in != nil {
		instances = []gpu.Instance{*in}
	}
	for i := range instances {
		part := whole
		part.Product, part.MemoryBytes = instances[i].Name, instances[i].Values[gpu.MemoryTotalBytes]
		if !strings.Contains(part.Product, mig) {
			part.Product = d.Name + unknownProfile
		}
		out = append(out, part)
	}
	if len(out) == 0 {
		whole.Product += unknownProfile
		return []Accelerator{whole}
	}
	return out
}
