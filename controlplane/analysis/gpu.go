package analysis

import (
	"fmt"
	"math"
	"strings"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// level is the mean of a gauge over the windows that have it; NaN when none has.
func (h host) level(gauge string) float64 {
	var sum, n float64
	for _, w := range h.windows {
		if v, ok := w.Gauges[gauge]; ok {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / n
}

// Thresholds of a GPU that runs below its clock (DCGM and NVML tell reasons for idle clocks too, so that
// a low clock without load says nothing).
const (
	throttledShare = 0.01 // of the time, or of the GPUs
	lowClock       = 0.9  // of the highest possible
	busyGPU        = 0.3  // SM activity from which a clock and a link are those of a GPU at work
	slowerByClock  = 1.05 // against the pace it had; a capped GPU that decodes may lose nothing
)

// thermalThrottle: heat, power or the board holds a GPU's clock down, and tokens come later for it.
// Without an earlier pace a clock below nine tenths under load stands for that.
func thermalThrottle(_ Input, s signals) verdict {
	h, known := worst(s.hosts, func(h host) float64 { return h.throttle() })
	if !known {
		return unknown("no source tells why a GPU's clock is held down")
	}
	clock := h.level(fleet.GPUSMClockRatio)
	if h.throttle() < throttledShare || !h.working() || h.slow < slowerByClock {
		return no
	}
	if math.IsNaN(h.slow) && !(clock < lowClock) {
		return no
	}
	relief := 0.1
	if !math.IsNaN(clock) && clock > 0 {
		relief = 1/clock - 1
	}
	if !math.IsNaN(h.slow) {
		relief = h.slow - 1
	}
	why := "its power limit"
	if h.heat() >= h.power() {
		why = "heat or the board"
	}
	return yes(relief, 0.8,
		fmt.Sprintf("%s holds down the clock of a GPU of %s in %.0f %% of the time", why, h.instance, 100*h.throttle()),
		fmt.Sprintf("its SM clock is at %.0f %% of the highest, it draws %.0f of %.0f W and is %.0f °C hot", 100*clock, h.level(fleet.GPUPowerWatts), h.level(fleet.GPUPowerLimitWatts), h.level(fleet.GPUTemperatureCelsius)),
		slowWords(h),
	)
}

// heat is the share of the time in which heat or the board held a clock down, power that of the limit.
func (h host) heat() float64 {
	return most(rate(h.windows, fleet.GPUThermalViolationSeconds), h.level(fleet.GPUThermalThrottledRatio), h.level(fleet.GPUHardwareSlowdownRatio))
}

func (h host) power() float64 {
	return most(rate(h.windows, fleet.GPUPowerViolationSeconds), h.level(fleet.GPUPowerThrottledRatio))
}

func (h host) throttle() float64 { return most(h.heat(), h.power()) }

// most is the largest that is a number; NaN when none is.
func most(vs ...float64) float64 {
	top := math.NaN()
	for _, v := range vs {
		if !math.IsNaN(v) && !(top >= v) {
			top = v
		}
	}
	return top
}

// working reports whether the GPU had something to do: by its SM activity, else by its requests.
func (h host) working() bool {
	if active := h.level(fleet.GPUSMActiveRatio); !math.IsNaN(active) {
		return active >= busyGPU
	}
	return h.load >= 1
}

// Thresholds of a degraded link.
const (
	leastReplays = 10.0 // PCIe packets a minute sent again
	leastErrors  = 10.0 // NVLink errors a minute
)

// linkDegraded: a link is narrower or slower than it can be, is down, or repeats what it sends. Idle GPUs
// lower their PCIe generation, so only that of a GPU at work counts.
func linkDegraded(_ Input, s signals) verdict {
	seen := false
	for _, h := range s.hosts {
		width, down := h.level(fleet.GPUPCIeWidthRatio), h.level(fleet.GPUNVLinksDown)
		replays, errors := 60*rate(h.windows, fleet.GPUPCIeReplays), 60*rate(h.windows, fleet.GPUNVLinkErrors)
		generation := h.level(fleet.GPUPCIeGenerationRatio)
		if math.IsNaN(width) && math.IsNaN(down) && math.IsNaN(replays) && math.IsNaN(errors) && math.IsNaN(generation) {
			continue
		}
		seen = true
		var found []string
		add := func(bad bool, format string, args ...any) {
			if bad {
				found = append(found, fmt.Sprintf(format, args...))
			}
		}
		add(down > 0, "%.0f NVLinks are down", math.Ceil(down))
		add(width < 1, "a PCIe link is %.0f %% as wide as it can be", 100*width)
		add(generation < 1 && h.working(), "a PCIe link under load runs at %.0f %% of its highest generation", 100*generation)
		add(replays > leastReplays, "PCIe sends %.0f packets a minute again", replays)
		add(errors > leastErrors, "NVLink has %.0f errors a minute", errors)
		if len(found) > 0 {
			relief := 0.1
			if !math.IsNaN(h.slow) {
				relief = max(relief, h.slow-1)
			}
			return yes(relief, 0.7, fmt.Sprintf("links of the GPUs of %s: %s", h.instance, strings.Join(found, "; ")), slowWords(h))
		}
	}
	if !seen {
		return unknown("no source tells the state of links")
	}
	return no
}

// Thresholds of communication, from DCGM's field experience: waiting in a collective keeps SMs active
// and leaves tensor cores and memory idle.
const (
	commSMActive = 0.6
	commIdle     = 0.4 // tensor and DRAM activity, of what they reach at best
	bestTensor   = 0.93
	bestDRAM     = 0.8
)

// communicationBound: several GPUs work on one model, their SMs are active, yet neither tensor cores nor
// memory have much to do.
func communicationBound(in Input, s signals) verdict {
	ranks := 1.
	for _, knob := range []string{"tensor_parallel", "expert_parallel"} {
		if n, ok := in.Config.Number(knob); ok {
			ranks = max(ranks, n)
		}
	}
	h, known := worst(s.hosts, func(h host) float64 { return h.level(fleet.GPUSMActiveRatio) })
	active, tensor, dram := h.level(fleet.GPUSMActiveRatio), h.level(fleet.GPUTensorActiveRatio)/bestTensor, h.level(fleet.GPUDRAMActiveRatio)/bestDRAM
	switch {
	case ranks < 2:
		return no
	case !known || math.IsNaN(tensor) || math.IsNaN(dram):
		return unknown("no source tells the activity of SMs, tensor cores and GPU memory")
	case active < commSMActive || tensor >= commIdle || dram >= commIdle || s.running < 1:
		return no
	}
	return yes(1-max(tensor, dram)/active, 0.6,
		fmt.Sprintf("over %.0f GPUs SMs are active in %.0f %% of the time, tensor cores reach %.0f %% and memory %.0f %% of their best: ranks wait for each other", ranks, 100*active, 100*tensor, 100*dram),
		fmt.Sprintf("NVLink carries %.1f GB/s, PCIe %.1f GB/s", 1e-9*orZero(h.level(fleet.GPUNVLinkSentBytesPerSecond)), 1e-9*orZero(h.level(fleet.GPUPCIeSentBytesPerSecond))),
	)
}
