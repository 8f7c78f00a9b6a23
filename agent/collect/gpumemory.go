package collect

import (
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// held is the memory that the engine holds on its devices; where it is not known, why says so. On
// devices that are taken as its own, it is that of the only process that computes on each.
func (g *GPU) held(devices []gpu.Device, own bool) (bytes float64, known bool, why string) {
	for i := range devices {
		d := &devices[i]
		mine := g.members(d)
		if !own {
			var ok bool
			if mine, ok = g.only(d); !ok {
				return 0, false, fmt.Sprintf("its memory is not known, because device %d holds others' processes or several", d.Index)
			}
		}
		for _, p := range mine {
			if p.MemoryBytes != nil {
				bytes, known = bytes+*p.MemoryBytes, true
			}
		}
	}
	if !known || !finite(bytes) {
		return 0, false, "its memory is not known"
	}
	return bytes, true, "its memory is that of the only process on each"
}

// only is the one process that computes on a device, if it may be the engine's; none is fine too.
func (g *GPU) only(d *gpu.Device) (out []gpu.Process, ok bool) {
	for _, p := range d.Processes {
		if p.Kind == "graphics" {
			continue
		}
		if g.whose(p) == others {
			return nil, false
		}
		out = append(out, p)
	}
	return out, len(out) <= 1
}

// whyNone says why no process in a record is known to be the engine's.
func (g *GPU) whyNone(r *gpu.Record) string {
	var unseen []string
	all := 0
	for i := range r.Devices {
		for _, p := range r.Devices[i].Processes {
			all++
			if g.whose(p) == stranger {
				unseen = append(unseen, fmt.Sprint(p.PID))
			}
		}
	}
	switch {
	case all == 0:
		return "no process is seen on any GPU"
	case len(unseen) == 0:
		return "the processes on them are others'"
	case !g.found && !g.of.Launched:
		return "the engine's processes cannot be seen from here"
	}
	const few = 8
	return fmt.Sprintf("the driver names processes that cannot be seen from here, by their ids on the host or in another namespace (%s)", strings.Join(unseen[:min(few, len(unseen))], ", "))
}
