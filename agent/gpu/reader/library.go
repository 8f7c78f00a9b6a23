//go:build cgo

package main

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// defaultLibrary is what the driver installs.
const defaultLibrary = "libnvidia-ml.so.1"

// failure is why a reader cannot go on, as its last record.
type failure struct {
	state gpu.State
	words string
}

func (f *failure) Error() string { return f.words }

func (f *failure) exitCode() int {
	switch f.state {
	case gpu.NoLibrary:
		return gpu.ExitNoLibrary
	case gpu.NoDevice:
		return gpu.ExitNoDevice
	case gpu.Lost:
		return gpu.ExitLost
	}
	return gpu.ExitUnusable
}

// library is NVML, loaded.
type library struct {
	api    nvml.Interface
	loaded *dl.DynamicLibrary
	known  map[string]bool // by symbol
}

// openLibrary loads and initialises NVML. It is never closed: the process ends instead.
func openLibrary(path string) (*library, error) {
	l := &library{
		api: nvml.New(nvml.WithLibraryPath(path)), known: map[string]bool{},
		// Lazily, so that what is missing matters only when it is called, which it never is.
		loaded: dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL),
	}
	if err := l.loaded.Open(); err != nil {
		return nil, &failure{gpu.NoLibrary, fmt.Sprintf("NVML cannot be loaded, so there is no NVIDIA driver here, or this container was not given it: %v (%s)", err, words(nvml.ERROR_LIBRARY_NOT_FOUND))}
	}
	if why := l.missing("nvmlInit_v2", "nvmlInit"); why != "" {
		return nil, &failure{gpu.Unusable, "NVML cannot be initialised: " + why}
	}
	if ret := l.api.Init(); ret != nvml.SUCCESS {
		return nil, &failure{gpu.Unusable, "NVML cannot be initialised: " + words(ret)}
	}
	return l, nil
}

// missing says in words that the library has none of the symbols; empty: it has one.
func (l *library) missing(symbols ...string) string {
	for _, s := range symbols {
		has, asked := l.known[s]
		if !asked {
			has = l.loaded.Lookup(s) == nil
			l.known[s] = has
		}
		if has {
			return ""
		}
	}
	return fmt.Sprintf("%s; the driver's library has no %s", words(nvml.ERROR_FUNCTION_NOT_FOUND), symbols[0])
}

// version is what a function says, or nothing where it is missing.
func (l *library) version(symbol string, f func() (string, nvml.Return)) string {
	if l.missing(symbol) != "" {
		return ""
	}
	v, _ := f() // empty when it fails
	return v
}

var errNoCount = errors.New("devices cannot be counted")

func (l *library) count() (int, error) {
	if why := l.missing("nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"); why != "" {
		return 0, fmt.Errorf("%w: %s", errNoCount, why)
	}
	n, ret := l.api.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return 0, fmt.Errorf("%w: %s", errNoCount, words(ret))
	}
	return n, nil
}

// returns are NVML's codes as its header names them, and in words. The library's own words are not
// asked for: they are a symbol that may be missing.
var returns = map[nvml.Return][2]string{
	nvml.ERROR_UNINITIALIZED:             {"UNINITIALIZED", "the driver was unloaded or reloaded"},
	nvml.ERROR_INVALID_ARGUMENT:          {"INVALID_ARGUMENT", "this device does not take the question"},
	nvml.ERROR_NOT_SUPPORTED:             {"NOT_SUPPORTED", "not supported by this device or driver"},
	nvml.ERROR_NO_PERMISSION:             {"NO_PERMISSION", "not permitted to this user"},
	nvml.ERROR_ALREADY_INITIALIZED:       {"ALREADY_INITIALIZED", "already initialised"},
	nvml.ERROR_NOT_FOUND:                 {"NOT_FOUND", "nothing was found"},
	nvml.ERROR_INSUFFICIENT_SIZE:         {"INSUFFICIENT_SIZE", "the answer did not fit"},
	nvml.ERROR_INSUFFICIENT_POWER:        {"INSUFFICIENT_POWER", "power cables are not attached"},
	nvml.ERROR_DRIVER_NOT_LOADED:         {"DRIVER_NOT_LOADED", "the kernel module is not loaded"},
	nvml.ERROR_TIMEOUT:                   {"TIMEOUT", "the driver did not answer in time"},
	nvml.ERROR_IRQ_ISSUE:                 {"IRQ_ISSUE", "the kernel has trouble with the device's interrupt"},
	nvml.ERROR_LIBRARY_NOT_FOUND:         {"LIBRARY_NOT_FOUND", "the library is not there"},
	nvml.ERROR_FUNCTION_NOT_FOUND:        {"FUNCTION_NOT_FOUND", "this driver is too old or too new for it"},
	nvml.ERROR_CORRUPTED_INFOROM:         {"CORRUPTED_INFOROM", "the device's information memory is corrupted"},
	nvml.ERROR_GPU_IS_LOST:               {"GPU_IS_LOST", "the device fell off the bus or is inaccessible"},
	nvml.ERROR_RESET_REQUIRED:            {"RESET_REQUIRED", "the device has to be reset"},
	nvml.ERROR_OPERATING_SYSTEM:          {"OPERATING_SYSTEM", "the operating system or a container's control group refuses"},
	nvml.ERROR_LIB_RM_VERSION_MISMATCH:   {"LIB_RM_VERSION_MISMATCH", "library and kernel module are of different versions"},
	nvml.ERROR_IN_USE:                    {"IN_USE", "the device is in use"},
	nvml.ERROR_MEMORY:                    {"MEMORY", "not enough memory"},
	nvml.ERROR_NO_DATA:                   {"NO_DATA", "there is no data"},
	nvml.ERROR_VGPU_ECC_NOT_SUPPORTED:    {"VGPU_ECC_NOT_SUPPORTED", "not possible with ECC on"},
	nvml.ERROR_INSUFFICIENT_RESOURCES:    {"INSUFFICIENT_RESOURCES", "not enough resources"},
	nvml.ERROR_FREQ_NOT_SUPPORTED:        {"FREQ_NOT_SUPPORTED", "the frequency is not supported"},
	nvml.ERROR_ARGUMENT_VERSION_MISMATCH: {"ARGUMENT_VERSION_MISMATCH", "this driver knows another version of the question"},
	nvml.ERROR_DEPRECATED:                {"DEPRECATED", "this driver no longer answers the question"},
	nvml.ERROR_NOT_READY:                 {"NOT_READY", "the system is not ready for it"},
	nvml.ERROR_GPU_NOT_FOUND:             {"GPU_NOT_FOUND", "no device was found"},
	nvml.ERROR_INVALID_STATE:             {"INVALID_STATE", "the state does not allow it"},
	nvml.ERROR_UNKNOWN:                   {"UNKNOWN", "the driver does not say why"},
}

func words(r nvml.Return) string {
	if w, ok := returns[r]; ok {
		return fmt.Sprintf("%s (NVML_ERROR_%s, %d)", w[1], w[0], int(r))
	}
	return fmt.Sprintf("NVML's return code %d", int(r))
}

// gone reports codes after which a device or the driver answers nothing any more.
func gone(r nvml.Return) bool {
	switch r {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED:
		return true
	}
	return false
}
