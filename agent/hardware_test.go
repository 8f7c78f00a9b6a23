package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/collect"
	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// product is an accelerator with full power.
func product(name string, gib, watts float64) collect.Accelerator {
	return collect.Accelerator{Product: name, MemoryBytes: gib * gibi, PowerLimitWatts: watts, PowerLimitDefaultWatts: watts}
}

func TestNameHardware(t *testing.T) {
	const h100, l40s, slice = "NVIDIA H100 80GB HBM3", "NVIDIA L40S", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
	capped := product(h100, 79.6, 700)
	capped.PowerLimitWatts = 500
	for name, c := range map[string]struct {
		set  string
		all  []collect.Accelerator
		name string
		seen string
		says []string // of each warning
	}{
		"nothing seen":                {},
		"nothing seen, set":           {set: "h100-sxm", name: "h100-sxm"},
		"in the table":                {all: []collect.Accelerator{product(h100, 79.6, 700)}, name: "h100-sxm", seen: "1 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 700 W"},
		"several":                     {all: []collect.Accelerator{product(h100, 79.6, 700), product(h100, 79.6, 700)}, name: "h100-sxm", seen: "2 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 700 W"},
		"in no table":                 {all: []collect.Accelerator{product("NVIDIA H100 NVL", 93.6, 400)}, name: "NVIDIA H100 NVL", seen: "1 × NVIDIA H100 NVL, 93.6 GiB, power limit 400 W"},
		"nothing told but its name":   {all: []collect.Accelerator{{Product: "NVIDIA L4"}}, name: "l4", seen: "1 × NVIDIA L4"},
		"an instance":                 {all: []collect.Accelerator{product(slice, 9.6, 700)}, name: slice, seen: "1 × " + slice + ", 9.6 GiB, power limit 700 W"},
		"of two kinds":                {all: []collect.Accelerator{product(l40s, 45, 350), product(h100, 79.6, 700)}, name: "h100-sxm + l40s", seen: "1 × NVIDIA L40S, 45.0 GiB, power limit 350 W and 1 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 700 W"},
		"set alike":                   {set: "h100-sxm", all: []collect.Accelerator{product(h100, 79.6, 700)}, name: "h100-sxm", seen: "1 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 700 W"},
		"set by NVML's name":          {set: h100, all: []collect.Accelerator{product(h100, 79.6, 700)}, name: h100, seen: "1 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 700 W"},
		"set to a class of their own": {set: "pool-a", all: []collect.Accelerator{product(l40s, 45, 350)}, name: "pool-a", seen: "1 × NVIDIA L40S, 45.0 GiB, power limit 350 W"},
		"set otherwise": {
			set: "h100-sxm", all: []collect.Accelerator{product(l40s, 45, 350)}, name: "h100-sxm", seen: "1 × NVIDIA L40S, 45.0 GiB, power limit 350 W",
			says: []string{`hardware is set to "h100-sxm", and NVML says NVIDIA L40S`},
		},
		"set to the whole of an instance": {
			set: "h100-sxm", all: []collect.Accelerator{product(slice, 9.6, 700)}, name: "h100-sxm", seen: "1 × " + slice + ", 9.6 GiB, power limit 700 W",
			says: []string{`NVML says ` + slice},
		},
		"less power": {
			all: []collect.Accelerator{product(h100, 79.6, 700), capped}, name: "h100-sxm", seen: "2 × NVIDIA H100 80GB HBM3, 79.6 GiB, power limit 500 W",
			says: []string{"500 W where 700 W are usual"},
		},
		"other memory": {
			all: []collect.Accelerator{product(h100, 64, 700)}, name: "h100-sxm", seen: "1 × NVIDIA H100 80GB HBM3, 64.0 GiB, power limit 700 W",
			says: []string{"64 GiB of memory, and the table has 80 for h100-sxm"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := nameHardware(c.set, c.all, hardwareTables())
			if h.Name != c.name || h.Seen != c.seen {
				t.Errorf("named %q, seen %q; want %q, %q", h.Name, h.Seen, c.name, c.seen)
			}
			if len(h.Warnings) != len(c.says) {
				t.Fatalf("warnings %q, want %q", h.Warnings, c.says)
			}
			for i, says := range c.says {
				if !strings.Contains(h.Warnings[i], says) {
					t.Errorf("warning %q does not say %q", h.Warnings[i], says)
				}
			}
		})
	}
}

// TestEveryTabledGPUHasItsMemory: what NVML says of the memory of known GPUs is no reason to warn.
func TestEveryTabledGPUHasItsMemory(t *testing.T) {
	for name, mib := range map[string]float64{
		"Tesla T4": 15360, "NVIDIA A10G": 23028, "NVIDIA L4": 23034, "NVIDIA L40S": 46068, "NVIDIA GeForce RTX 4090": 24564,
		"NVIDIA A100-SXM4-40GB": 40960, "NVIDIA A100-SXM4-80GB": 81920, "NVIDIA H100 PCIe": 81559, "NVIDIA H100 80GB HBM3": 81559,
		"NVIDIA H200": 143771, "NVIDIA B200": 183359, "NVIDIA GB200": 189471,
	} {
		if h := nameHardware("", []collect.Accelerator{product(name, mib/1024, 0)}, hardwareTables()); len(h.Warnings) != 0 || h.Name == name {
			t.Errorf("%s is named %q, with warnings %q", name, h.Name, h.Warnings)
		}
	}
}

// TestHardwareIsTold: the control plane learns what NVML says, the first time with everything else;
// what the operator says goes before.
func TestHardwareIsTold(t *testing.T) {
	record := oneGPU()
	record.Devices[0].Name = "NVIDIA L4"
	for name, c := range map[string]struct {
		set, want string
		warned    bool
	}{"not set": {"", "l4", false}, "set": {"l40s", "l40s", true}} {
		t.Run(name, func(t *testing.T) {
			eng, node := &httpEngine{addr: freeAddr(t)}, &nodeServer{addr: freeAddr(t)}
			eng.start(t)
			node.start(t)
			cfg := oneEngine("http://"+eng.addr, node.addr)
			cfg.GPUReader, cfg.Engines[0].Hardware = gpuReader(t, record), c.set
			s := startSidecar(t, cfg, fakeAdapters{"fake": fakeAdapter{describe: describeFake}})
			eventually(t, "the engine is told", func() bool { return node.sees(func() bool { return node.engine != nil }) })
			node.sees(func() bool {
				if got := node.engine.GetHardware(); got != c.want {
					t.Errorf("hardware %q is told first, want %q", got, c.want)
				}
				return true
			})
			eventually(t, "status tells", func() bool { return len(s.agent.report().Engines[0].Accelerators) > 0 })
			e := s.agent.report().Engines[0]
			if e.Hardware != c.want || e.Accelerators != "1 × NVIDIA L4" || (len(e.Warnings) > 0) != c.warned {
				t.Errorf("status: hardware %q, %q, warnings %q", e.Hardware, e.Accelerators, e.Warnings)
			}
		})
	}
}

// TestHardwareIsNoticedOnce: a power limit that wanders fills no log.
func TestHardwareIsNoticedOnce(t *testing.T) {
	var log bytes.Buffer
	in := &instance{log: slog.New(slog.NewTextHandler(&log, nil))}
	for watts := range 100 {
		a := product("NVIDIA L4", 22.5, 700)
		a.PowerLimitWatts = float64(300 + watts)
		in.noticeHardware(nameHardware("", []collect.Accelerator{a}, hardwareTables()))
	}
	in.noticeHardware(hardware{Name: "set and nothing seen"})
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "300 W where 700 W are usual") || !strings.Contains(log.String(), "hardware=l4") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// toldEngines keeps what an instance tells.
type toldEngines struct{ engines []*agentv1.EngineInfo }

func (t *toldEngines) Engine(e *agentv1.EngineInfo) { t.engines = append(t.engines, e) }
func (*toldEngines) State(*agentv1.StateReport)     {}

// gpuAnswer says what a test says.
type gpuAnswer func() gpu.Status

func (f gpuAnswer) Status() gpu.Status { return f() }

// TestHardwareIsToldAgain: when it comes to be known, and when it is another; not because GPUs cannot
// be read for a while.
func TestHardwareIsToldAgain(t *testing.T) {
	var status gpu.Status
	source := collect.NewGPU(gpuAnswer(func() gpu.Status { return status }), collect.GPUOf{Alone: true})
	up := &toldEngines{}
	in := &instance{up: up, gpu: source, log: slog.New(slog.DiscardHandler)}
	next := func(s gpu.Status) {
		status = s
		source.Drain(fleet.NewWindow("", time.Now()), time.Now())
		in.send()
	}
	sampling := func(product string) gpu.Status {
		r := oneGPU()
		r.Devices[0].Name = product
		return gpu.Status{Looked: true, Record: &r, Taken: time.Now()}
	}
	next(gpu.Status{Looked: true, Problem: "no library"})
	in.tell(nil, nil)
	next(gpu.Status{Problem: "not looked yet"})
	next(gpu.Status{Looked: true, Problem: "no library"})
	next(gpu.Status{Looked: true, Problem: "no library"})
	next(sampling("NVIDIA L4"))
	next(sampling("NVIDIA L4"))
	lost := sampling("NVIDIA L4")
	lost.Record.Devices[0].Lost = "gone"
	next(lost)
	next(gpu.Status{Looked: true, Problem: "it was killed"})
	next(sampling("NVIDIA Quantum 9"))
	in.tell(nil, map[string]string{"seats": "8"})
	next(sampling("NVIDIA Quantum 9"))
	var got []string
	for _, e := range up.engines {
		got = append(got, e.GetHardware())
	}
	// Without a description an engine is told of once.
	if diff := cmp.Diff([]string{"", "l4", "NVIDIA Quantum 9"}, got); diff != "" {
		t.Errorf("hardware as it was told (-want +got):\n%s", diff)
	}
	in.tell(&engine.Description{Version: "2"}, nil)
	next(sampling("NVIDIA Quantum 9"))
	if last := up.engines[len(up.engines)-1]; len(up.engines) != 4 || last.GetHardware() != "NVIDIA Quantum 9" || last.GetDescription().GetVersion() != "2" {
		t.Errorf("told %d times, last %v", len(up.engines), last)
	}
}
