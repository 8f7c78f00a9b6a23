package collect

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// TestHardware: what an engine runs on is told once it is certain, and stays while it cannot be read.
func TestHardware(t *testing.T) {
	named := func(d gpu.Device, name string) gpu.Device {
		d.Name = name
		d.Values[gpu.PowerLimitDefaultWatts] = 750
		return d
	}
	cut := named(card("a", 1), "H")
	cut.Values[gpu.MIGEnabled] = 1
	part := func(id int, name string) gpu.Instance {
		return gpu.Instance{GPUInstance: id, Name: name, Reading: gpu.Reading{Values: map[string]float64{gpu.MemoryTotalBytes: 10e9}}}
	}
	with := func(d gpu.Device, pid, instance int, parts ...gpu.Instance) gpu.Device {
		d.Instances = parts
		if pid != 0 {
			d.Processes = []gpu.Process{{PID: pid, GPUInstance: &instance}}
		}
		return d
	}
	whole := func(product string) Accelerator { return Accelerator{product, 80e9, 700, 750} }
	slice := func(product string) Accelerator { return Accelerator{product, 10e9, 700, 750} }
	own := os.Getpid()
	for name, c := range map[string]struct {
		devices []gpu.Device
		want    []Accelerator
	}{
		"of one kind, nobody's":       {[]gpu.Device{named(card("a", 1), "H"), named(card("b", 1), "H")}, []Accelerator{whole("H"), whole("H")}},
		"of two kinds, nobody's":      {[]gpu.Device{named(card("a", 1), "H"), named(card("b", 1), "L")}, nil},
		"of two kinds, one its own":   {[]gpu.Device{named(card("a", 1), "H"), named(card("b", 1, own), "L")}, []Accelerator{whole("L")}},
		"of two kinds, both its own":  {[]gpu.Device{named(card("a", 1, own), "H"), named(card("b", 1, own), "L")}, []Accelerator{whole("H"), whole("L")}},
		"one is lost":                 {[]gpu.Device{named(card("a", 1), "H"), {UUID: "b", Name: "H", Lost: "gone"}}, []Accelerator{whole("H")}},
		"all are lost":                {[]gpu.Device{{UUID: "b", Name: "H", Lost: "gone"}}, nil},
		"without a name":              {[]gpu.Device{card("a", 1)}, nil},
		"the only instance":           {[]gpu.Device{with(cut, 0, 0, part(3, "H MIG 1g.10gb"))}, []Accelerator{slice("H MIG 1g.10gb")}},
		"its own instance":            {[]gpu.Device{with(cut, own, 5, part(3, "H MIG 1g.10gb"), part(5, "H MIG 2g.20gb"))}, []Accelerator{slice("H MIG 2g.20gb")}},
		"one of unlike instances":     {[]gpu.Device{with(cut, 0, 0, part(3, "H MIG 1g.10gb"), part(5, "H MIG 2g.20gb"))}, nil},
		"an instance without profile": {[]gpu.Device{with(cut, 0, 0, part(3, "H"))}, []Accelerator{slice("H MIG of a profile that is not told")}},
		"no instance that is told":    {[]gpu.Device{with(cut, 0, 0)}, []Accelerator{whole("H MIG of a profile that is not told")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, port := listen(t)
			f := &fakeGPUs{gpu.Status{Problem: "not looked at yet"}}
			g := NewGPU(f, GPUOf{Port: port, Alone: true})
			if all, known := g.Hardware(); known || all != nil {
				t.Errorf("before anybody looked: %v, %v", all, known)
			}
			f.status = newFakeGPUs(0, c.devices...).status
			f.status.Looked = true
			if _, known := g.Hardware(); known {
				t.Error("known before the record was taken")
			}
			g.look(f.status.Record)
			drainGPU(t, g)
			all, known := g.Hardware()
			if diff := cmp.Diff(c.want, all); diff != "" || !known {
				t.Errorf("known %v (-want +got):\n%s", known, diff)
			}
			if all != nil {
				f.status.Record = &gpu.Record{Devices: []gpu.Device{{UUID: "a", Lost: "gone"}, named(card("z", 1), "X")}}
				drainGPU(t, g)
			}
			f.status = gpu.Status{Looked: true, Problem: "it was killed"}
			if later, known := g.Hardware(); !known || !cmp.Equal(later, all) {
				t.Errorf("after the reader's end: %v, %v", later, known)
			}
		})
	}
}
