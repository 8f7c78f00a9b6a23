//go:build cgo

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// options of the program.
type options struct {
	library  string
	interval time.Duration
	reopen   time.Duration
	child    bool
	check    bool
}

func main() {
	var o options
	f := flag.NewFlagSet("perf-gpu", flag.ContinueOnError)
	f.StringVar(&o.library, "library", defaultLibrary, "NVML library to load")
	f.DurationVar(&o.interval, "interval", time.Second, "time between two samples")
	f.DurationVar(&o.reopen, "reopen", 5*time.Minute, "age at which a reader that lost one of several devices ends, for a new one to look anew")
	f.BoolVar(&o.child, "child", false, "end when standard input ends")
	f.BoolVar(&o.check, "check", false, "print every metric once, with value or reason, and end")
	if err := f.Parse(os.Args[1:]); err != nil || f.NArg() > 0 || o.interval <= 0 {
		fmt.Fprintln(os.Stderr, "usage: perf-gpu [-check] [-interval 1s] [-library file] [-child]")
		os.Exit(gpu.ExitUsage)
	}
	if o.child {
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // the engine's memory is worth more
		go func() {                                                     // also while the driver keeps the other goroutine
			_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that matters
			os.Exit(0)
		}()
	}
	os.Exit(run(o))
}

// run reads until there is nothing more to read, and returns the exit code.
func run(o options) int {
	show := write
	if o.check {
		show = printRecord
	}
	by := 0
	if o.child {
		by = os.Getppid()
	}
	r, err := openReader(o.library, by)
	for n := 0; err == nil; n++ {
		began := time.Now()
		record := r.sample(began)
		if !o.check || n > 0 { // the first has no differences
			if show(record) != nil {
				return 1 // nobody takes it
			}
		}
		if o.check && n > 0 {
			return 0
		}
		if err = r.after(o.reopen); err == nil {
			time.Sleep(max(o.interval-time.Since(began), o.interval/10)) // a driver that is slow gets a rest
		}
	}
	f := &failure{state: gpu.Unusable, words: err.Error()}
	_ = errors.As(err, &f) // all are
	if show(&gpu.Record{Version: gpu.FormatVersion, State: f.state, Problem: f.words, At: time.Now()}) != nil {
		return 1
	}
	return f.exitCode()
}

func write(r *gpu.Record) error { return json.NewEncoder(os.Stdout).Encode(r) }

// reader is NVML with the devices it showed when it was opened.
type reader struct {
	lib          *library
	devices      []*device
	driver, nvml string
	namespace    string // of process ids
	opened       time.Time
}

// openReader opens the library at path. by is the process that started this one, if that matters.
func openReader(path string, by int) (*reader, error) {
	lib, err := openLibrary(path)
	if err != nil {
		return nil, err
	}
	n, err := lib.count()
	switch {
	case err != nil:
		return nil, &failure{gpu.Unusable, err.Error()}
	case n == 0:
		return nil, &failure{gpu.NoDevice, "NVML works and shows no device"}
	}
	r := &reader{
		lib: lib, opened: time.Now(),
		driver: lib.version("nvmlSystemGetDriverVersion", lib.api.SystemGetDriverVersion),
		nvml:   lib.version("nvmlSystemGetNVMLVersion", lib.api.SystemGetNVMLVersion),
	}
	for i := range n {
		r.devices = append(r.devices, openDevice(lib, i, by))
	}
	r.namespace, _ = os.Readlink("/proc/self/ns/pid") // empty: nobody can compare
	return r, nil
}

func (r *reader) sample(at time.Time) *gpu.Record {
	out := &gpu.Record{Version: gpu.FormatVersion, State: gpu.Sampling, At: at, Driver: r.driver, NVML: r.nvml, PIDNamespace: r.namespace}
	for _, d := range r.devices {
		out.Devices = append(out.Devices, d.sample())
	}
	out.Took = time.Since(at)
	return out
}

// after says why the reader cannot go on: the devices are not those it opened.
func (r *reader) after(reopen time.Duration) error {
	n, err := r.lib.count()
	if err != nil {
		return &failure{gpu.Lost, "the driver went away: " + err.Error()}
	}
	if n != len(r.devices) {
		return &failure{gpu.Lost, fmt.Sprintf("the driver shows %d devices where it showed %d", n, len(r.devices))}
	}
	lost, why := 0, ""
	for _, d := range r.devices {
		if d.Lost != "" {
			lost++
			why = fmt.Sprintf("device %d (%s): %s", d.Index, d.UUID, d.Lost)
		}
	}
	if lost == 0 || lost < n && time.Since(r.opened) < reopen {
		return nil
	}
	return &failure{gpu.Lost, fmt.Sprintf("%d of %d devices are lost; %s", lost, n, why)}
}
