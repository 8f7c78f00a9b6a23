//go:build cgo

package main

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

// find is the function of that name in what was loaded.
static void *find(const char *symbol) { return dlsym(RTLD_DEFAULT, symbol); }

static int processes(void *f, void *device, unsigned *n, void *to) {
	return ((int (*)(void *, unsigned *, void *))f)(device, n, to);
}

static int samples(void *f, void *device, void *to, unsigned *n, unsigned long long since) {
	return ((int (*)(void *, void *, unsigned *, unsigned long long))f)(device, to, n, since);
}
*/
import "C"

import (
	"reflect"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Functions that fill lists are called here and not through the binding, whose own loops double the
// room for as long as the driver asks for more, and believe whatever number it claims to have
// written: a driver that is wrong would cost the engine's container its memory.

// Room for a list, in entries: at first, and the most that a driver may ask for.
const (
	usualRoom = 128
	mostRoom  = 1 << 14
)

// fill calls a function that writes a list, and once more where it asks for more room.
func fill[T any](call func(to *T, n *C.uint) C.int) ([]T, nvml.Return) {
	room := C.uint(usualRoom)
	for {
		list := make([]T, room)
		n := room
		ret := nvml.Return(call(&list[0], &n))
		switch {
		case ret == nvml.SUCCESS && n <= room:
			return list[:n], ret
		case ret == nvml.SUCCESS: // what it claims to have written did not fit
			return nil, nvml.ERROR_INSUFFICIENT_SIZE
		case ret == nvml.ERROR_INSUFFICIENT_SIZE && n > room && n <= mostRoom && room == usualRoom:
			room = 2 * n // more may come meanwhile
		default:
			return nil, ret
		}
	}
}

// address of a function that the library has.
func address(symbol string) unsafe.Pointer {
	name := C.CString(symbol)
	defer C.free(unsafe.Pointer(name))
	return C.find(name)
}

// handle is what the binding's device wraps.
func handle(d nvml.Device) unsafe.Pointer {
	return reflect.ValueOf(d).FieldByName("Handle").UnsafePointer()
}

// runningProcesses asks the newest version of a function that the library has. The oldest does not
// tell instances.
func (l *library) runningProcesses(of nvml.Device, function string) ([]nvml.ProcessInfo, nvml.Return) {
	for _, version := range []string{"_v3", "_v2"} {
		if symbol := function + version; l.missing(symbol) == "" {
			f := address(symbol)
			return fill(func(to *nvml.ProcessInfo, n *C.uint) C.int { return C.processes(f, handle(of), n, unsafe.Pointer(to)) })
		}
	}
	f := address(function)
	list, ret := fill(func(to *nvml.ProcessInfo_v1, n *C.uint) C.int {
		return C.processes(f, handle(of), n, unsafe.Pointer(to))
	})
	return nvml.ProcessInfo_v1Slice(list).ToProcessInfoSlice(), ret
}

const processUtilization = "nvmlDeviceGetProcessUtilization"

// utilizationSamples of processes that did something since.
func utilizationSamples(of nvml.Device, since uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) {
	f := address(processUtilization)
	list, ret := fill(func(to *nvml.ProcessUtilizationSample, n *C.uint) C.int {
		return C.samples(f, handle(of), unsafe.Pointer(to), n, C.ulonglong(since))
	})
	if ret == nvml.ERROR_NOT_FOUND {
		return nil, nvml.SUCCESS // none did
	}
	return list, ret
}
