package gpu_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

func TestMIG(t *testing.T) {
	d := newMachine(t, allValues+`
mig 1
mig_most 7
mig_instances 2
nvmlGpmSampleGet 3
nvmlDeviceGetUtilizationRates 3
gpu_instance.100 3
gpu_instance.101 5
compute_instance.101 1
total.100 10000000000
total.101 20000000000
mig3_gpm2 33
mig5_gpm2 35
name.100 NVIDIA_H100_80GB_HBM3_MIG_1g.10gb
compute_instance0 3
`).second().Devices[0]
	if d.Values[gpu.MIGEnabled] != 1 || len(d.Instances) != 2 {
		t.Fatalf("MIG %v, instances %+v", d.Values[gpu.MIGEnabled], d.Instances)
	}
	if !strings.Contains(d.Unavailable[gpu.GPMSMActive], "NOT_SUPPORTED") || !strings.Contains(d.Unavailable[gpu.UtilizationRatio], "NOT_SUPPORTED") {
		t.Errorf("of the whole device: %v", d.Unavailable)
	}
	var each []gpu.Metric
	for _, m := range gpu.Metrics() {
		if m.Instance {
			each = append(each, m)
		}
	}
	for i, w := range []struct {
		gpu, compute  int
		name          string
		total, active float64
	}{{3, 0, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10e9, .33}, {5, 1, "Fake 102", 20e9, .35}} {
		in := d.Instances[i]
		if in.GPUInstance != w.gpu || in.ComputeInstance != w.compute || in.Name != w.name || in.UUID == "" {
			t.Errorf("instance %d: %+v", i, in)
		}
		wantReading(t, in.Reading, map[string]any{gpu.MemoryTotalBytes: w.total, gpu.GPMSMActive: w.active}, nil, each)
	}
	if p := d.Processes[0]; p.GPUInstance == nil || *p.GPUInstance != 3 {
		t.Errorf("process %+v, want it in instance 3", p)
	}
}

// cut is a device in MIG mode with two instances.
const cut = allValues + `
mig 1
mig_most 7
mig_instances 2
gpu_instance.100 3
gpu_instance.101 5
compute_instance.101 1
compute.0 0
mps.0 0
compute.100 1
compute_pid0.100 41
mps.100 0
compute.101 2
compute_pid0.101 51
compute_pid1.101 52
mps.101 0
`

// TestMIGProcesses: the whole device tells of processes to privileged users alone; the instances tell
// of theirs.
func TestMIGProcesses(t *testing.T) {
	three, five, zero, one := 3, 5, 0, 1
	memory := 30e9
	instances := []gpu.Process{
		{PID: 41, Kind: "compute", MemoryBytes: &memory, GPUInstance: &three, ComputeInstance: &zero},
		{PID: 51, Kind: "compute", MemoryBytes: &memory, GPUInstance: &five, ComputeInstance: &one},
		{PID: 52, Kind: "compute", GPUInstance: &five, ComputeInstance: &one},
	}
	for name, c := range map[string]struct {
		more string
		want []gpu.Process
	}{
		"unprivileged": {"nvmlDeviceGetComputeRunningProcesses_v3.0 4\nnvmlDeviceGetProcessUtilization 3\n", instances},
		"privileged": {
			"compute.0 1\ncompute_pid0.0 51\nnvmlDeviceGetProcessUtilization 3\n",
			[]gpu.Process{instances[1], instances[0], instances[2]},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMachine(t, cut+c.more).second().Devices[0]
			if diff := cmp.Diff(c.want, d.Processes); diff != "" {
				t.Errorf("processes (-want +got):\n%s", diff)
			}
			if n := d.Values[gpu.Processes]; n != 3 {
				t.Errorf("%v processes", n)
			}
		})
	}
}

// TestMIGUnknownPlace: an instance whose number the driver does not tell has no activity, rather than
// that of number 0.
func TestMIGUnknownPlace(t *testing.T) {
	d := newMachine(t, cut+"mig0_gpm2 90\nnvmlDeviceGetGpuInstanceId 3\n").second().Devices[0]
	if len(d.Instances) != 2 {
		t.Fatalf("instances %+v", d.Instances)
	}
	for _, in := range d.Instances {
		if v, has := in.Values[gpu.GPMSMActive]; has || !strings.Contains(in.Unavailable[gpu.GPMSMActive], "NOT_SUPPORTED") || in.GPUInstance != -1 {
			t.Errorf("instance %d: active %v, %q", in.GPUInstance, v, in.Unavailable[gpu.GPMSMActive])
		}
	}
}

// TestMIGInstancesUnavailable: that instances may not be used is told apart from that there are none.
func TestMIGInstancesUnavailable(t *testing.T) {
	for name, c := range map[string]struct{ more, says string }{
		"none":            {"mig_instances 0\n", ""},
		"not permitted":   {"nvmlDeviceGetMigDeviceHandleByIndex 4\n", "NO_PERMISSION"},
		"cannot be asked": {"nvmlDeviceGetMaxMigDeviceCount 999\n", "UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMachine(t, cut+c.more).record(1).Devices[0]
			n, has := d.Values[gpu.MIGInstances]
			if why := d.Unavailable[gpu.MIGInstances]; n != 0 || has != (c.says == "") || !strings.Contains(why, c.says) || len(d.Instances) != 0 {
				t.Errorf("%v instances (%v), reason %q; want %q", n, has, why, c.says)
			}
		})
	}
}
