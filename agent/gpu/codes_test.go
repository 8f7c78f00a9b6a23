package gpu_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// failing makes every function that a device is asked by answer with a code.
func (m *machine) failing(code int) (values string) {
	for name, versions := range m.functions() {
		switch name {
		case "nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex":
			continue
		}
		for _, symbol := range versions {
			values += fmt.Sprintf("%s %d\n", symbol, code)
		}
	}
	return values
}

// lostCodes are those after which a device answers nothing any more.
var lostCodes = map[int]bool{1: true, 9: true, 15: true, 16: true}

// TestEveryReturnCode: whatever code every question to a device ends with, the reader goes on, and
// each metric is unavailable with that code.
func TestEveryReturnCode(t *testing.T) {
	codes := []int{77, 999}
	for code := 1; code <= 30; code++ {
		codes = append(codes, code)
	}
	for _, code := range codes {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			m := newMachine(t, allValues+"mig 1\nmig_most 7\nmig_instances 1\n")
			m.set(allValues + m.failing(code))
			if lostCodes[code] {
				last := m.record(2)
				if last.State != gpu.Lost || !strings.Contains(last.Problem, fmt.Sprintf("%d)", code)) {
					t.Errorf("last record %+v", last)
				}
				return
			}
			d := m.second().Devices[0]
			for _, metric := range gpu.Metrics() {
				v, has := d.Values[metric.Name]
				why := d.Unavailable[metric.Name]
				if metric.Name == gpu.ProcessUtilizationRatio && code == 6 { // no process did anything
					continue
				}
				if has || !strings.Contains(why, fmt.Sprint(code)) {
					t.Errorf("%s: value %v (%v), reason %q; want the code %d", metric.Name, v, has, why, code)
				}
			}
		})
	}
}

// TestListsAreBounded: a driver that asks for ever more room, or claims to have written more than
// there was, costs that metric alone.
func TestListsAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ values, metric string }{
		"processes that need all memory": {"compute 4000000000", gpu.Processes},
		"never enough for processes":     {"nvmlDeviceGetComputeRunningProcesses_v3 7", gpu.Processes},
		"more processes than fit":        {"claims 1000000", gpu.Processes},
		"samples that need all memory":   {"samples 4000000000\nsample_at 1e15", gpu.ProcessUtilizationRatio},
		"never enough for samples":       {"nvmlDeviceGetProcessUtilization 7", gpu.ProcessUtilizationRatio},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMachine(t, allValues+c.values).record(1).Devices[0]
			if why := d.Unavailable[c.metric]; d.Values[gpu.PowerWatts] != 301 || !strings.Contains(why, "INSUFFICIENT_SIZE") {
				t.Errorf("power %v, %s: %v, %q", d.Values[gpu.PowerWatts], c.metric, d.Values[c.metric], why)
			}
		})
	}
}

// TestManyProcesses: a list that does not fit at first is asked for again.
func TestManyProcesses(t *testing.T) {
	const n = 300
	values := fmt.Sprintf("compute %d\nsamples %d\n", n, n)
	for i := range n {
		values += fmt.Sprintf("compute_pid%d %d\nsample_pid%d %d\nsample_sm%d 1\n", i, 1000+i, i, 1000+i, i)
	}
	d := newMachine(t, values).record(1).Devices[0]
	if len(d.Processes) != n || d.Processes[n-1].PID != 1000+n-1 || d.Processes[n-1].UtilizationRatio == nil {
		t.Errorf("%d processes, want %d", len(d.Processes), n)
	}
}

// TestMuchOlderDriver: functions under the names they had before they got versions.
func TestMuchOlderDriver(t *testing.T) {
	var newer []string
	all := newMachine(t, allValues)
	for name, versions := range all.functions() {
		if len(versions) > 1 {
			for _, v := range versions {
				if v != name {
					newer = append(newer, v)
				}
			}
		}
	}
	d := newMachine(t, allValues, newer...).second().Devices[0]
	if d.PCI != "0000:01" || d.UUID != "GPU-0" || d.Values[gpu.MemoryUsedBytes] != 51e9 || d.Values[gpu.PowerWatts] != 301 {
		t.Errorf("device %+v", d)
	}
	if len(d.Processes) != 2 || d.Processes[0].PID != 4711 || d.Processes[0].MemoryBytes == nil || *d.Processes[0].MemoryBytes != 30e9 || d.Processes[1].PID != 4712 {
		t.Errorf("processes %+v", d.Processes)
	}
}

func TestParseRefuses(t *testing.T) {
	for line, says := range map[string]string{
		`hello`:                                     "invalid character",
		`{"version":2,"state":"sampling"}`:          "different builds",
		`{"version":1,"state":"asleep"}`:            "asleep",
		`{"version":1,"state":"sampling"}`:          "0 devices",
		`{"version":1,"state":"lost","took_ns":-1}`: "less than no time",
		`{"version":1,"state":"sampling","devices":[{"index":3},{"index":3}]}`: "device 3 is there twice",
	} {
		if r, err := gpu.Parse([]byte(line)); r != nil || !errors.Is(err, gpu.ErrRecord) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", line, err, says)
		}
	}
}
