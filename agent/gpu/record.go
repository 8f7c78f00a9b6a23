package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// FormatVersion of records. A reader of another version is not understood.
const FormatVersion = 1

// MaxRecordBytes bounds one line of a reader.
const MaxRecordBytes = 4 << 20

// Bounds of what a record may hold.
const (
	maxDevices   = 256
	maxProcesses = 1 << 14
	maxMetrics   = 512
)

// State says what a record brings.
type State string

// States of a reader. All but Sampling are its last word before it ends.
const (
	// Sampling: Devices holds what was read.
	Sampling State = "sampling"
	// NoLibrary: there is no NVML on this machine, so no NVIDIA driver.
	NoLibrary State = "no_library"
	// NoDevice: NVML works and shows no device.
	NoDevice State = "no_device"
	// Unusable: NVML is there and does not work; Problem says why.
	Unusable State = "unusable"
	// Lost: devices or the driver went away, or came; a new reader has to look anew.
	Lost State = "lost"
)

// Exit codes of a reader, beside 0 (it was told to end) and 1 (nobody takes its records).
const (
	ExitUsage     = 2
	ExitNoLibrary = 3
	ExitNoDevice  = 4
	ExitUnusable  = 5
	ExitLost      = 6
)

// Record is what a reader says in one line of JSON.
type Record struct {
	Version int   `json:"version"`
	State   State `json:"state"`
	// Problem in words unless Sampling.
	Problem string `json:"problem,omitempty"`
	// At is the reader's clock when it began to read; Took is how long reading took.
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took_ns"`
	Driver string        `json:"driver,omitempty"`
	NVML   string        `json:"nvml,omitempty"`
	// PIDNamespace of the reader, as /proc/self/ns/pid names it. Newer drivers tell process ids of it,
	// older ones those of the host.
	PIDNamespace string   `json:"pid_namespace,omitempty"`
	Devices      []Device `json:"devices,omitempty"`
}

// Reading holds every metric of a device or instance in one of two places.
type Reading struct {
	Values map[string]float64 `json:"values"`
	// Unavailable says in words, with NVML's return code, why there is no value.
	Unavailable map[string]string `json:"unavailable,omitempty"`
}

// Device is one GPU.
type Device struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid"`
	Name  string `json:"name"`
	PCI   string `json:"pci"`
	// Lost says in words that the device no longer answers.
	Lost string `json:"lost,omitempty"`
	// Reasons that hold the clocks down now.
	Reasons []string `json:"reasons,omitempty"`
	Reading
	Processes []Process  `json:"processes,omitempty"`
	Instances []Instance `json:"instances,omitempty"`
}

// Instance is a part of a device in MIG mode.
type Instance struct {
	UUID string `json:"uuid"`
	// Name of the device with the instance's profile.
	Name string `json:"name"`
	// GPUInstance and ComputeInstance are its place; -1 where the driver does not tell.
	GPUInstance     int `json:"gpu_instance"`
	ComputeInstance int `json:"compute_instance"`
	Reading
}

// Process that uses a device.
type Process struct {
	// PID in the reader's process namespace or the host's, which depends on the driver.
	PID  int    `json:"pid"`
	Kind string `json:"kind"` // compute, graphics or mps
	// MemoryBytes that it holds; nil where the driver does not tell.
	MemoryBytes *float64 `json:"memory_bytes,omitempty"`
	// UtilizationRatio is the share of time in which its kernels were resident; nil where the driver
	// does not tell or it did nothing.
	UtilizationRatio *float64 `json:"utilization_ratio,omitempty"`
	// GPUInstance and ComputeInstance it runs in, in MIG mode.
	GPUInstance     *int `json:"gpu_instance,omitempty"`
	ComputeInstance *int `json:"compute_instance,omitempty"`
	// Launched tells whether it descends from the process that started the reader; nil where the
	// reader cannot see it.
	Launched *bool `json:"launched,omitempty"`
}

// ErrRecord is a line that is no record of a reader.
var ErrRecord = errors.New("not a record of a GPU reader")

// Parse reads a line. JSON has no numbers that are not finite, so values are.
func Parse(line []byte) (*Record, error) {
	if len(line) > MaxRecordBytes {
		return nil, fmt.Errorf("%w: a line of %d bytes", ErrRecord, len(line))
	}
	r := &Record{}
	if err := json.Unmarshal(line, r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return r, nil
}

func (r *Record) check() error {
	switch {
	case r.Version != FormatVersion:
		return fmt.Errorf("version %d, want %d: perf-gpu and perf-agent are of different builds", r.Version, FormatVersion)
	case r.Took < 0:
		return errors.New("it took less than no time")
	case len(r.Devices) > maxDevices, r.State == Sampling && len(r.Devices) == 0:
		return fmt.Errorf("%d devices", len(r.Devices))
	}
	switch r.State {
	case Sampling, NoLibrary, NoDevice, Unusable, Lost:
	default:
		return fmt.Errorf("state %q", r.State)
	}
	known := map[int]bool{}
	for i := range r.Devices {
		d := &r.Devices[i]
		if err := d.check(); err != nil {
			return fmt.Errorf("device %d: %w", i, err)
		}
		if known[d.Index] {
			return fmt.Errorf("device %d is there twice", d.Index)
		}
		known[d.Index] = true
	}
	return nil
}

func (d *Device) check() error {
	if len(d.Processes) > maxProcesses || len(d.Instances) > maxDevices {
		return fmt.Errorf("%d processes and %d instances", len(d.Processes), len(d.Instances))
	}
	if err := d.Reading.check(); err != nil {
		return err
	}
	for i := range d.Instances {
		if err := d.Instances[i].check(); err != nil {
			return fmt.Errorf("instance %d: %w", i, err)
		}
	}
	return nil
}

func (r Reading) check() error {
	if len(r.Values)+len(r.Unavailable) > maxMetrics {
		return fmt.Errorf("%d metrics", len(r.Values)+len(r.Unavailable))
	}
	return nil
}

// Reasons that hold a device's clocks down.
const (
	ReasonIdle             = "idle"
	ReasonClocksSetting    = "clocks_setting"
	ReasonPowerCap         = "power_cap"
	ReasonHardwareSlowdown = "hardware_slowdown" // thermal, power brake or overcurrent, halving the clock
	ReasonSyncBoost        = "sync_boost"        // bound to a slower device's clock
	ReasonThermal          = "thermal"
	ReasonHardwareThermal  = "hardware_thermal"
	ReasonPowerBrake       = "power_brake" // by the power supply
	ReasonDisplayClocks    = "display_clocks"
	ReasonBoardLimit       = "board_limit"
	ReasonReliability      = "reliability"
)
