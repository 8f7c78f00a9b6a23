package gpu_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// cleanUp removes what built made.
var cleanUp = func() {}

// built is the reader and the stand-in for NVML, made once for all tests.
var built = sync.OnceValues(func() (dir string, err error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", errors.New("gcc is missing: the reader links C, and so does the stand-in for NVML")
	}
	if dir, err = os.MkdirTemp("", "perf-gpu-test-"); err != nil {
		return "", err
	}
	cleanUp = func() { os.RemoveAll(dir) }
	build := exec.Command("go", "build", "-tags", "nomsgpack", "-ldflags", "-extldflags=-Wl,-z,lazy", "-o", filepath.Join(dir, "perf-gpu"), "./reader")
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations") // as the Makefile builds it
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the reader: %w: %s", err, out)
	}
	compile := exec.Command("gcc", "-c", "-fPIC", "-Wall", "-o", filepath.Join(dir, "nvml.o"), "testdata/nvml/nvml.c")
	if out, err := compile.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the stand-in for NVML: %w: %s", err, out)
	}
	return dir, nil
})

// machine is a pretended machine with GPUs.
type machine struct {
	t       *testing.T
	reader  string
	library string
	values  string // file
}

// newMachine makes one whose NVML lacks the functions named.
func newMachine(t *testing.T, values string, lacks ...string) *machine {
	t.Helper()
	dir, err := built()
	if dir == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, reader: filepath.Join(dir, "perf-gpu"), library: filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), values: filepath.Join(t.TempDir(), "values")}
	script := filepath.Join(t.TempDir(), "exports")
	exports := "{ global: nvml*; local: *; };"
	if len(lacks) > 0 {
		exports = "{ global: nvml*; local: *; " + strings.Join(lacks, "; ") + "; };"
	}
	if err := os.WriteFile(script, []byte(exports), 0o600); err != nil {
		t.Fatal(err)
	}
	gcc := exec.Command("gcc", "-shared", "-Wl,-soname,libnvidia-ml.so.1", "-Wl,--version-script="+script, "-o", m.library, filepath.Join(dir, "nvml.o"))
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("link the stand-in for NVML: %v: %s", err, out)
	}
	m.set(values)
	t.Setenv("FAKE_NVML", m.values)
	return m
}

// set replaces all values at once, as a reader may be reading.
func (m *machine) set(values string) {
	m.t.Helper()
	next := m.values + ".next"
	if err := os.WriteFile(next, []byte(values), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(next, m.values); err != nil {
		m.t.Fatal(err)
	}
}

// run starts the reader and calls each with its records until it says no; it returns the exit code,
// -1 where the reader was ended by us.
func (m *machine) run(each func(*gpu.Record) bool, flags ...string) int {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.reader, append([]string{"-interval", "20ms", "-library", m.library}, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, gpu.MaxRecordBytes)
	for lines.Scan() {
		r, err := gpu.Parse(lines.Bytes())
		if err != nil {
			m.t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if !each(r) {
			cancel()
			break
		}
	}
	_ = cmd.Wait() // the state is looked at
	return cmd.ProcessState.ExitCode()
}

// record returns the nth record of a new reader, from 1.
func (m *machine) record(n int) *gpu.Record {
	m.t.Helper()
	var got *gpu.Record
	m.run(func(r *gpu.Record) bool { got, n = r, n-1; return n > 0 })
	if n != 0 {
		m.t.Fatalf("the reader ended %d records early, last with %+v", n, got)
	}
	return got
}

// second is a record with all differences taken.
func (m *machine) second() *gpu.Record { return m.record(2) }

// allValues gives every metric a value of its own.
const allValues = `
utilization 41
memory_utilization 42
total 80000000000
used 50000000000
free 29000000000
reserved 1000000000
power 301000
power_limit 702000
power_limit_max 703000
power_limit_default 704000
energy 5000000
clock1 1410
clock_max1 1980
clock2 2601
clock_max2 2619
temperature0 61
threshold1 87
field82_0 71
field82_0.type 1
reasons 36
field74_0 1500000000
field75_0 2500000000
field77_0 3500000000
field79_0 4500000000
ecc 1
ecc_0_0 11
ecc_1_0 12
ecc_0_1 13
ecc_1_1 14
rows_corrected 15
rows_uncorrected 16
rows_pending 1
generation 4
generation_max 5
width 8
width_max 16
pcie_replays 17
pcie0 18
pcie1 19
links 18
links_down 2
field38_0 21
field45_0 22
field52_0 23
field59_0 24
field138_-1 25
field139_-1 26
compute 1
compute_pid0 4711
compute_memory0 30000000000
mps 1
mps_pid0 4712
samples 2
sample_pid0 4711
sample_sm0 60
sample_pid1 4712
sample_sm1 7
gpm2 51
gpm3 52
gpm5 53
gpm10 54
gpm20 55
gpm21 56
gpm61 57
gpm60 58
`

// want are the values of allValues.
func want() map[string]float64 {
	return map[string]float64{
		gpu.UtilizationRatio: .41, gpu.MemoryUtilizationRatio: .42,
		gpu.MemoryTotalBytes: 80e9, gpu.MemoryUsedBytes: 50e9, gpu.MemoryFreeBytes: 29e9, gpu.MemoryReservedBytes: 1e9,
		gpu.PowerWatts: 301, gpu.PowerLimitWatts: 702, gpu.PowerLimitMaxWatts: 703, gpu.PowerLimitDefaultWatts: 704, gpu.EnergyJoules: 5000,
		gpu.SMClockHertz: 1.41e9, gpu.SMClockMaxHertz: 1.98e9, gpu.MemoryClockHertz: 2.601e9, gpu.MemoryClockMaxHertz: 2.619e9,
		gpu.TemperatureCelsius: 61, gpu.TemperatureSlowdownCelsius: 87, gpu.MemoryTemperatureCelsius: 71,
		gpu.ClockEventReasons: 36, gpu.PowerViolationSeconds: 1.5, gpu.ThermalViolationSeconds: 2.5,
		gpu.BoardLimitViolationSeconds: 3.5, gpu.ReliabilityViolationSeconds: 4.5,
		gpu.ECCEnabled: 1, gpu.ECCCorrected: 11, gpu.ECCUncorrected: 12, gpu.ECCCorrectedLifetime: 13, gpu.ECCUncorrectedLifetime: 14,
		gpu.RemappedRowsCorrectable: 15, gpu.RemappedRowsUncorrectable: 16, gpu.RemapPending: 1, gpu.RemapFailed: 0,
		gpu.PCIeLinkGeneration: 4, gpu.PCIeLinkGenerationMax: 5, gpu.PCIeLinkWidth: 8, gpu.PCIeLinkWidthMax: 16, gpu.PCIeReplays: 17,
		gpu.NVLinksActive: 16, gpu.NVLinksDown: 2, gpu.NVLinkFlitErrors: 21, gpu.NVLinkDataErrors: 22, gpu.NVLinkReplays: 23,
		gpu.NVLinkRecoveries: 24, gpu.NVLinkSentBytes: 25 * 1024, gpu.NVLinkReceivedBytes: 26 * 1024,
		gpu.MIGEnabled: 0, gpu.Processes: 2, gpu.ProcessUtilizationRatio: .67,
		gpu.GPMSMActive: .51, gpu.GPMSMOccupancy: .52, gpu.GPMTensorActive: .53, gpu.GPMDRAMActive: .54,
		gpu.GPMPCIeSentBytes: 55 << 20, gpu.GPMPCIeReceivedBytes: 56 << 20,
		gpu.GPMNVLinkSentBytes: 57 << 20, gpu.GPMNVLinkReceivedBytes: 58 << 20,
	}
}

var nearly = cmpopts.EquateApprox(1e-9, 0)

// wantReading holds that each metric is in one place: with these values, or unavailable with these
// words in its reason.
func wantReading(t *testing.T, got gpu.Reading, values, unavailable map[string]any, all []gpu.Metric) {
	t.Helper()
	for _, m := range all {
		v, has := got.Values[m.Name]
		why, lacks := got.Unavailable[m.Name]
		if has == lacks {
			t.Errorf("%s: value %v and reason %q, want one of them", m.Name, v, why)
		}
		if says, ok := unavailable[m.Name]; ok && !strings.Contains(why, says.(string)) {
			t.Errorf("%s: reason %q does not say %q", m.Name, why, says)
		}
		if w, ok := values[m.Name]; ok && !cmp.Equal(v, w, nearly) {
			t.Errorf("%s: %v, want %v", m.Name, v, w)
		}
	}
	if n := len(got.Values) + len(got.Unavailable); n != len(all) {
		t.Errorf("%d metrics, want the %d that there are", n, len(all))
	}
}

func values(m map[string]float64) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func TestAllValues(t *testing.T) {
	r := newMachine(t, allValues).record(1)
	for _, m := range gpu.Metrics() {
		if why, has := r.Devices[0].Unavailable[m.Name]; strings.HasPrefix(m.Name, "gpm_") && (!has || !strings.Contains(why, "two samples")) {
			t.Errorf("%s in the first second: %q", m.Name, why)
		}
	}
	r = newMachine(t, allValues).second()
	if r.State != gpu.Sampling || r.Driver != "999.1" || r.NVML != "13.2" || r.Took <= 0 || time.Since(r.At) > time.Minute {
		t.Errorf("record %+v", r)
	}
	d := r.Devices[0]
	if d.Name != "Fake 1" || d.UUID != "GPU-0" || d.PCI != "0000:01" || d.Lost != "" {
		t.Errorf("device %+v", d)
	}
	if diff := cmp.Diff([]string{gpu.ReasonPowerCap, gpu.ReasonThermal}, d.Reasons); diff != "" {
		t.Error(diff)
	}
	// The sample of processes is of the first second; none since means that they did nothing.
	w := want()
	w[gpu.ProcessUtilizationRatio] = 0
	notAsked := map[string]any{gpu.PCIeSentBytes: "GPM has it", gpu.PCIeReceivedBytes: "GPM has it", gpu.MIGInstances: "not cut"}
	wantReading(t, d.Reading, values(w), notAsked, gpu.Metrics())
	if len(w)+len(notAsked) != len(gpu.Metrics()) {
		t.Errorf("%d metrics have an expected value, want all %d", len(w)+len(notAsked), len(gpu.Metrics()))
	}
}

func TestProcesses(t *testing.T) {
	d := newMachine(t, allValues).record(1).Devices[0]
	memory, busy, other := 30e9, .6, .07
	if diff := cmp.Diff([]gpu.Process{
		{PID: 4711, Kind: "compute", MemoryBytes: &memory, UtilizationRatio: &busy},
		{PID: 4712, Kind: "mps", UtilizationRatio: &other},
	}, d.Processes, nearly); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	if v := d.Values[gpu.ProcessUtilizationRatio]; !cmp.Equal(v, .67, nearly) {
		t.Errorf("together %v", v)
	}
}

func TestUnavailable(t *testing.T) {
	const old = "FUNCTION_NOT_FOUND"
	gpm := map[string]any{}
	for _, m := range gpu.Metrics() {
		if strings.HasPrefix(m.Name, "gpm_") {
			gpm[m.Name] = "NOT_SUPPORTED"
		}
	}
	for name, c := range map[string]struct {
		more  string
		lacks []string
		want  map[string]any // words of what is unavailable
		has   map[string]any // values that differ from allValues
	}{
		"one metric":       {more: "nvmlDeviceGetPowerUsage 3", want: map[string]any{gpu.PowerWatts: "NVML_ERROR_NOT_SUPPORTED, 3"}},
		"unknown code":     {more: "nvmlDeviceGetPowerUsage 77", want: map[string]any{gpu.PowerWatts: "return code 77"}},
		"one field":        {more: "field82_0.code 3", want: map[string]any{gpu.MemoryTemperatureCelsius: "NOT_SUPPORTED"}},
		"field's new type": {more: "field82_0.type 9", want: map[string]any{gpu.MemoryTemperatureCelsius: "type 9"}},
		"one GPM metric":   {more: "gpm5.code 21", want: map[string]any{gpu.GPMTensorActive: "NVML_ERROR_NO_DATA"}},
		"no number":        {more: "gpm5 nan", want: map[string]any{gpu.GPMTensorActive: "not a number"}},
		"no permission":    {more: "nvmlDeviceGetProcessUtilization 4", want: map[string]any{gpu.ProcessUtilizationRatio: "NO_PERMISSION"}},
		"a missing symbol": {lacks: []string{"nvmlDeviceGetEnforcedPowerLimit"}, want: map[string]any{gpu.PowerLimitWatts: old + ", 13); the driver's library has no nvmlDeviceGetEnforcedPowerLimit"}},
		"no GPM":           {more: "gpm 0", want: gpm, has: map[string]any{gpu.PCIeSentBytes: 18e3, gpu.PCIeReceivedBytes: 19e3}},
		"an older driver": {
			lacks: []string{"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses"},
			want:  map[string]any{gpu.MemoryReservedBytes: old, gpu.RemapPending: old},
			has:   map[string]any{gpu.MemoryUsedBytes: 51e9, gpu.Processes: 1.0}, // used with reserved
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMachine(t, allValues+c.more, c.lacks...).second().Devices[0]
			w := values(want())
			maps.Copy(w, c.has)
			for k := range c.want {
				delete(w, k)
			}
			for _, k := range []string{gpu.RemappedRowsCorrectable, gpu.RemappedRowsUncorrectable, gpu.RemapFailed} {
				if slices.Contains(c.lacks, "nvmlDeviceGetRemappedRows") {
					delete(w, k)
				}
			}
			delete(w, gpu.ProcessUtilizationRatio)
			wantReading(t, d.Reading, w, c.want, gpu.Metrics())
		})
	}
}

// functions of the stand-in, each with the symbols of its versions.
func (m *machine) functions() map[string][]string {
	m.t.Helper()
	out, err := exec.Command("nm", "-D", "--defined-only", m.library).Output()
	if err != nil {
		m.t.Skip("nm is missing: ", err)
	}
	versions := map[string][]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[1] == "T" {
			name := regexp.MustCompile(`_v\d$`).ReplaceAllString(f[2], "")
			versions[name] = append(versions[name], f[2])
		}
	}
	if len(versions) < 40 {
		m.t.Fatalf("%d functions are seen; the stand-in has more", len(versions))
	}
	return versions
}

// TestEverySymbolMayBeMissing: without any one function, in all its versions, the reader goes on, and
// says which metrics it cannot have.
func TestEverySymbolMayBeMissing(t *testing.T) {
	functions := newMachine(t, allValues).functions()
	needed := map[string]gpu.State{"nvmlInit": gpu.Unusable, "nvmlDeviceGetCount": gpu.Unusable, "nvmlDeviceGetHandleByIndex": gpu.Lost}
	for name, versions := range functions {
		t.Run(name, func(t *testing.T) {
			last := &gpu.Record{}
			samples := 0
			code := newMachine(t, allValues, versions...).run(func(r *gpu.Record) bool {
				last = r
				samples++
				return samples < 2
			})
			switch state, ends := needed[name]; {
			case ends && (last.State != state || !strings.Contains(last.Problem, name)):
				t.Errorf("last record %+v, exit code %d", last, code)
			case !ends && (last.State != gpu.Sampling || samples != 2):
				t.Errorf("%d samples, last %+v, exit code %d", samples, last, code)
			}
		})
	}
}

func TestTwoDevices(t *testing.T) {
	r := newMachine(t, allValues+"devices 2\npower.1 99000\nrows_pending.1 0\nrows_failed.1 1\ncompute.1 0\nmps.1 0\ngpm2.1 12\nnvmlDeviceGetTemperature.1 3").second()
	if len(r.Devices) != 2 || r.Devices[1].UUID != "GPU-1" || r.Devices[1].Index != 1 {
		t.Fatalf("devices %+v", r.Devices)
	}
	a, b := r.Devices[0].Values, r.Devices[1].Values
	if a[gpu.PowerWatts] != 301 || b[gpu.PowerWatts] != 99 || !cmp.Equal(a[gpu.GPMSMActive], .51, nearly) || !cmp.Equal(b[gpu.GPMSMActive], .12, nearly) {
		t.Errorf("values are mixed up: %v %v", a, b)
	}
	if b[gpu.RemapPending] != 0 || b[gpu.RemapFailed] != 1 || b[gpu.Processes] != 0 || len(r.Devices[1].Processes) != 0 {
		t.Errorf("device 1: %v", b)
	}
	if r.Devices[1].Unavailable[gpu.TemperatureCelsius] == "" || a[gpu.TemperatureCelsius] != 61 {
		t.Error("what one device does not tell, the other does")
	}
}

func TestReaderEnds(t *testing.T) {
	for name, c := range map[string]struct {
		values, then string
		lacks        []string
		noLibrary    bool
		state        gpu.State
		code         int
		says         string
	}{
		"no library":           {noLibrary: true, state: gpu.NoLibrary, code: gpu.ExitNoLibrary, says: "NVML_ERROR_LIBRARY_NOT_FOUND"},
		"no device":            {values: "devices 0", state: gpu.NoDevice, code: gpu.ExitNoDevice, says: "no device"},
		"no driver":            {values: "nvmlInit_v2 9", state: gpu.Unusable, code: gpu.ExitUnusable, says: "kernel module is not loaded"},
		"another version":      {values: "nvmlInit_v2 18", state: gpu.Unusable, code: gpu.ExitUnusable, says: "LIB_RM_VERSION_MISMATCH"},
		"the only one is lost": {values: allValues, then: allValues + "nvmlDeviceGetPowerUsage 15", state: gpu.Lost, code: gpu.ExitLost, says: "GPU_IS_LOST"},
		"the driver reloads":   {values: allValues, then: allValues + "nvmlDeviceGetCount_v2 1", state: gpu.Lost, code: gpu.ExitLost, says: "driver was unloaded or reloaded"},
		"a device comes":       {values: allValues, then: allValues + "devices 2", state: gpu.Lost, code: gpu.ExitLost, says: "shows 2 devices where it showed 1"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, c.values, c.lacks...)
			if c.noLibrary {
				m.library = "libno-such-library.so.1"
			}
			last := &gpu.Record{}
			samples := 0
			code := m.run(func(r *gpu.Record) bool {
				last = r
				if r.State == gpu.Sampling {
					if samples++; samples == 2 {
						m.set(c.then)
					}
				}
				return true
			})
			if last.State != c.state || !strings.Contains(last.Problem, c.says) || code != c.code {
				t.Errorf("state %s, problem %q, exit code %d; want %s, %q, %d", last.State, last.Problem, code, c.state, c.says, c.code)
			}
		})
	}
}

// TestOneOfTwoIsLost: the other is read on, until it is time for a new reader to look for the lost one.
func TestOneOfTwoIsLost(t *testing.T) {
	m := newMachine(t, allValues+"devices 2\n")
	on, last := 0, &gpu.Record{}
	code := m.run(func(r *gpu.Record) bool {
		last = r
		switch {
		case r.State != gpu.Sampling:
		case r.Devices[1].Lost == "":
			m.set(allValues + "devices 2\nnvmlDeviceGetClockInfo.1 15\n")
		default:
			on++
			if r.Devices[0].Lost != "" || r.Devices[0].Values[gpu.PowerWatts] != 301 {
				t.Errorf("the other device: %+v", r.Devices[0])
			}
			if on == 2 && (len(r.Devices[1].Values) != 0 || !strings.Contains(r.Devices[1].Unavailable[gpu.PowerWatts], "GPU_IS_LOST")) {
				t.Errorf("the lost device: %+v", r.Devices[1])
			}
		}
		return true
	}, "-reopen", "1s")
	if on < 2 || code != gpu.ExitLost || last.State != gpu.Lost || !strings.Contains(last.Problem, "1 of 2 devices are lost; device 1 (GPU-1)") {
		t.Errorf("%d records after the loss, exit code %d, last %+v", on, code, last)
	}
}

// TestReaderEndsWithItsParent also while the driver does not answer.
func TestReaderEndsWithItsParent(t *testing.T) {
	for name, values := range map[string]string{"sampling": allValues, "hanging": "hang nvmlDeviceGetPowerUsage", "hanging at first": "hang nvmlInit_v2"} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, values)
			cmd := exec.CommandContext(t.Context(), m.reader, append(gpu.ReaderArguments(), "-library", m.library)...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				t.Fatalf("the reader ended before its standard input: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
			stdin.Close()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the reader outlives its standard input")
				_ = cmd.Process.Kill()
			}
		})
	}
}

func TestCheckPrintsEveryMetric(t *testing.T) {
	m := newMachine(t, allValues+"devices 2\nnvmlDeviceGetPowerUsage.1 3")
	out, err := exec.CommandContext(t.Context(), m.reader, "-check", "-interval", "20ms", "-library", m.library).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range gpu.Metrics() {
		if n := strings.Count(string(out), "\n  "+metric.Name+" "); n != 2 {
			t.Errorf("%s is printed %d times for two devices", metric.Name, n)
		}
	}
	if !regexp.MustCompile(`power_watts +301 +power drawn`).Match(out) {
		t.Errorf("the value with its meaning is missing:\n%s", out)
	}
	for _, says := range []string{"driver 999.1", "power limit in force", "NVML_ERROR_NOT_SUPPORTED", "process 4711", "power_cap, thermal"} {
		if !strings.Contains(string(out), says) {
			t.Errorf("it does not say %q:\n%s", says, out)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"no_library","problem":"none"}`))
	f.Add([]byte(`{"version":1,"state":"sampling","at":"2026-01-02T03:04:05Z","took_ns":5,"devices":[{"index":0,"uuid":"GPU-0","values":{"power_watts":301},"unavailable":{"a":"b"},"processes":[{"pid":1,"kind":"compute","memory_bytes":5}],"instances":[{"uuid":"M","values":{}}]}]}`))
	f.Add([]byte(`{"version":1,"state":"sampling","devices":[{"values":{"a":1e999}}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := gpu.Parse(line)
		if err != nil {
			if !errors.Is(err, gpu.ErrRecord) || r != nil {
				t.Errorf("%v, %v", r, err)
			}
			return
		}
		if r.State == gpu.Sampling && len(r.Devices) == 0 {
			t.Error("a sample of nothing")
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if back, err := gpu.Parse(again); err != nil || !cmp.Equal(r, back, cmpopts.EquateEmpty()) {
			t.Errorf("%v: it comes back different: %s", err, cmp.Diff(r, back, cmpopts.EquateEmpty()))
		}
	})
}
