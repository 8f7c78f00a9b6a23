package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/pkg/perfmodel"
)

// hardwareTables are the built-in ones. What a user adds to the control plane's is not known here.
var hardwareTables = sync.OnceValue(func() *perfmodel.Tables {
	t, err := perfmodel.Load()
	if err != nil {
		panic(fmt.Sprintf("built-in hardware tables: %v", err)) // they are compiled in
	}
	return t
})

// hardware is what an engine runs on.
type hardware struct {
	// Name of the hardware class, as the control plane is told: as the operator set it, else the
	// table's name for what NVML says, else NVML's own, for which a table entry can be written.
	Name string
	// Seen is what NVML says, in words; empty: nothing.
	Seen string
	// Warnings in words, where what is set, seen and tabled do not go together.
	Warnings []string
}

// nameHardware names accelerators; set is what the operator says.
func nameHardware(set string, all []collect.Accelerator, tables *perfmodel.Tables) hardware {
	h := hardware{Name: set}
	var names, seen []string
	for _, kind := range byProduct(all) {
		name, entry, err := tables.GPU(kind.Product)
		switch {
		case err != nil:
			name = kind.Product
		case differs(kind.MemoryBytes/gibi, entry.HBMGB):
			h.warn("NVML says that %s has %.0f GiB of memory, and the table has %.0f for %s: predictions rest on the latter", kind.Product, kind.MemoryBytes/gibi, entry.HBMGB, name)
		}
		names, seen = append(names, name), append(seen, kind.String())
		if kind.PowerLimitWatts > 0 && kind.PowerLimitWatts < .98*kind.PowerLimitDefaultWatts {
			h.warn("the power limit of %s is %.0f W where %.0f W are usual: it is slower than predicted, and than others of its class", kind.Product, kind.PowerLimitWatts, kind.PowerLimitDefaultWatts)
		}
		if used, _, known := tables.GPU(set); known == nil && used != name {
			h.warn("hardware is set to %q, and NVML says %s: predictions rest on what is set; remove or correct it", set, kind.Product)
		}
	}
	h.Seen = strings.Join(seen, " and ")
	if set == "" {
		slices.Sort(names)
		h.Name = strings.Join(names, " + ") // of several kinds, which is in no table
	}
	return h
}

func (h *hardware) warn(format string, args ...any) {
	h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...))
}

const gibi = 1 << 30

// differs reports whether memory is clearly another than the vendor's figure, which is in units of
// either kind and partly the driver's.
func differs(gib, tabled float64) bool {
	const much = .15
	return gib > 0 && tabled > 0 && math.Abs(gib/tabled-1) > much
}

// kind is a number of accelerators of one product. The lowest power limit stands for all.
type kind struct {
	collect.Accelerator
	count int
}

func (k kind) String() string {
	s := fmt.Sprintf("%d × %s", k.count, k.Product)
	if k.MemoryBytes > 0 {
		s += fmt.Sprintf(", %.1f GiB", k.MemoryBytes/gibi)
	}
	if k.PowerLimitWatts > 0 {
		s += fmt.Sprintf(", power limit %.0f W", k.PowerLimitWatts)
	}
	return s
}

func byProduct(all []collect.Accelerator) (kinds []kind) {
	for _, a := range all {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.Product == a.Product })
		if i < 0 {
			kinds = append(kinds, kind{a, 1})
			continue
		}
		kinds[i].count++
		if a.PowerLimitWatts > 0 {
			kinds[i].PowerLimitWatts = min(kinds[i].PowerLimitWatts, a.PowerLimitWatts)
		}
	}
	return kinds
}

// noticeHardware says what is new about it. A power limit that wanders is said once.
func (in *instance) noticeHardware(h hardware) {
	if h.Seen == "" || !in.said.first("hardware", fmt.Sprintf("%s, %d warnings", h.Name, len(h.Warnings))) {
		return
	}
	in.log.Info("hardware is seen", "hardware", h.Name, "nvml", h.Seen)
	for _, w := range h.Warnings {
		in.log.Warn(w)
	}
}

// hardware of the engine as it is known now. known is false while NVML may yet name it.
func (in *instance) hardware() (h hardware, known bool) {
	if in.gpu == nil {
		return hardware{Name: in.cfg.Hardware}, true
	}
	all, known := in.gpu.Hardware()
	return nameHardware(in.cfg.Hardware, all, hardwareTables()), known || in.cfg.Hardware != ""
}
