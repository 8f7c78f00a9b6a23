//go:build cgo

package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// printRecord writes a record for people.
func printRecord(r *gpu.Record) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if r.State != gpu.Sampling {
		fmt.Fprintf(w, "%s: %s\n", r.State, r.Problem)
		return w.Flush()
	}
	fmt.Fprintf(w, "driver %s, NVML %s, %d devices, read in %v\n", r.Driver, r.NVML, len(r.Devices), r.Took)
	for i := range r.Devices {
		d := &r.Devices[i]
		fmt.Fprintf(w, "\ndevice %d: %s, %s, %s\n", d.Index, d.Name, d.UUID, d.PCI)
		if d.Lost != "" {
			fmt.Fprintf(w, "LOST: %s\n", d.Lost)
		}
		fmt.Fprintf(w, "clocks held down by: %s\n", heldDownBy(d))
		printReading(w, d.Reading, false)
		for _, p := range d.Processes {
			fmt.Fprintf(w, "  process %d\t%s\tmemory %s, utilisation %s\n", p.PID, p.Kind, orUnknown(p.MemoryBytes), orUnknown(p.UtilizationRatio))
		}
		for _, in := range d.Instances {
			fmt.Fprintf(w, "\n  MIG instance %d/%d: %s, %s\n", in.GPUInstance, in.ComputeInstance, in.Name, in.UUID)
			printReading(w, in.Reading, true)
		}
	}
	return w.Flush()
}

func printReading(w *tabwriter.Writer, r gpu.Reading, instance bool) {
	for _, m := range gpu.Metrics() {
		if instance && !m.Instance {
			continue
		}
		v, ok := r.Values[m.Name]
		if !ok {
			fmt.Fprintf(w, "  %s\tunavailable\t%s\n", m.Name, r.Unavailable[m.Name])
			continue
		}
		fmt.Fprintf(w, "  %s\t%.6g\t%s\n", m.Name, v, m.Help)
	}
}

func heldDownBy(d *gpu.Device) string {
	if _, told := d.Values[gpu.ClockEventReasons]; !told {
		return "unknown"
	}
	return orElse(strings.Join(d.Reasons, ", "), "nothing")
}

func orUnknown(v *float64) string {
	if v == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.6g", *v)
}
