package collect

import (
	"context"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// fakeGPUs says what a case says.
type fakeGPUs struct{ status gpu.Status }

func (f *fakeGPUs) Status() gpu.Status { return f.status }

var gpuNow = time.Unix(2000, 0)

// card is a GPU on which everything works; factor tells two of them apart.
func card(uuid string, factor float64, pids ...int) gpu.Device {
	d := gpu.Device{UUID: uuid, Reading: gpu.Reading{Values: map[string]float64{
		gpu.UtilizationRatio: .9, gpu.MemoryUsedBytes: 50e9 * factor, gpu.MemoryTotalBytes: 80e9, gpu.PowerWatts: 300 * factor, gpu.PowerLimitWatts: 700,
		gpu.TemperatureCelsius: 60 * factor, gpu.SMClockHertz: 1e9 * factor, gpu.SMClockMaxHertz: 2e9,
		gpu.ClockEventReasons: 1, gpu.GPMSMActive: .4 * factor, gpu.GPMTensorActive: .2 * factor, gpu.GPMDRAMActive: .5,
		gpu.GPMPCIeSentBytes: 1e6 * factor, gpu.PCIeLinkGeneration: 5, gpu.PCIeLinkGenerationMax: 5,
		gpu.PCIeLinkWidth: 16 / factor, gpu.PCIeLinkWidthMax: 16, gpu.NVLinksDown: factor - 1,
		gpu.EnergyJoules: 1000 * factor, gpu.ThermalViolationSeconds: 5 * factor, gpu.PCIeReplays: 3,
		gpu.NVLinkFlitErrors: 1, gpu.NVLinkReplays: 1,
	}}}
	for _, pid := range pids {
		held := 10e9 * factor
		d.Processes = append(d.Processes, gpu.Process{PID: pid, MemoryBytes: &held})
	}
	return d
}

func newFakeGPUs(age time.Duration, devices ...gpu.Device) *fakeGPUs {
	return &fakeGPUs{gpu.Status{Record: &gpu.Record{Devices: devices}, Taken: gpuNow.Add(-age)}}
}

// drain returns a window, the source's problem and its age.
func drainGPU(t *testing.T, g *GPU) (w *fleet.Window, problem string) {
	t.Helper()
	w = fleet.NewWindow("", gpuNow)
	s := g.Drain(w, gpuNow)
	if s.GetName() != fleet.SourceGPU || s.GetStale() {
		t.Errorf("source %v: windows without GPUs are good windows", s)
	}
	if _, err := w.Proto(); err != nil {
		t.Error(err)
	}
	return w, s.GetError()
}

func gauges(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for name, v := range want {
		g, ok := got[name]
		if !ok || !cmp.Equal(g, v, cmpopts.EquateApprox(1e-9, 0)) {
			t.Errorf("%s: %v (%v), want %v", name, g, ok, v)
		}
	}
}

func TestGPUFoldsTwo(t *testing.T) {
	hot := card("b", 1.25)
	hot.Reasons = []string{gpu.ReasonIdle, gpu.ReasonThermal, gpu.ReasonPowerCap}
	hot.Values[gpu.MemoryTemperatureCelsius] = 90 // the other does not tell
	w, problem := drainGPU(t, NewGPU(newFakeGPUs(time.Second, card("a", 1), hot), GPUOf{Alone: true}))
	if !strings.Contains(problem, "all GPUs that are seen are taken as this engine's: no process is seen") {
		t.Errorf("the source says %q of GPUs that it takes as the engine's", problem)
	}
	gauges(t, w.Gauges, map[string]float64{
		fleet.GPUCount: 2, fleet.GPULost: 0, fleet.GPUAttributed: 0, fleet.GPUUtilizationRatio: .9,
		fleet.GPUMemoryUsedBytes: 112.5e9, fleet.GPUMemoryTotalBytes: 160e9, fleet.GPUPowerWatts: 675, fleet.GPUPowerLimitWatts: 1400,
		fleet.GPUTemperatureCelsius: 75, fleet.GPUSMClockRatio: .5, fleet.GPUPowerThrottledRatio: .5, fleet.GPUThermalThrottledRatio: .5,
		fleet.GPUHardwareSlowdownRatio: 0, fleet.GPUSMActiveRatio: .45, fleet.GPUSMActiveRatioMin: .4, fleet.GPUTensorActiveRatio: .225,
		fleet.GPUDRAMActiveRatio: .5, fleet.GPUPCIeSentBytesPerSecond: 2.25e6, fleet.GPUPCIeGenerationRatio: 1, fleet.GPUPCIeWidthRatio: .8, fleet.GPUNVLinksDown: .25,
	})
	for _, absent := range []string{fleet.GPUMemoryTemperatureCelsius, fleet.GPUSMOccupancyRatio, fleet.GPUEngineMemoryBytes} {
		if v, ok := w.Gauges[absent]; ok {
			t.Errorf("%s is %v, though not every device tells it", absent, v)
		}
	}
	if len(w.Counters) != 0 {
		t.Errorf("increases %v of the first record", w.Counters)
	}
}

func TestGPUUnknownReasonsAreNoReasons(t *testing.T) {
	mute := card("a", 1)
	delete(mute.Values, gpu.ClockEventReasons)
	w, _ := drainGPU(t, NewGPU(newFakeGPUs(0, mute), GPUOf{Alone: true}))
	if v, ok := w.Gauges[fleet.GPUThermalThrottledRatio]; ok {
		t.Errorf("throttled %v, which the driver does not tell", v)
	}
}

func TestGPUSampledPCIeWithoutGPM(t *testing.T) {
	old := card("a", 1)
	delete(old.Values, gpu.GPMPCIeSentBytes)
	old.Values[gpu.PCIeSentBytes] = 7e6
	w, _ := drainGPU(t, NewGPU(newFakeGPUs(0, old), GPUOf{Alone: true}))
	gauges(t, w.Gauges, map[string]float64{fleet.GPUPCIeSentBytesPerSecond: 7e6})
}

func TestGPUCountsIncreases(t *testing.T) {
	f := newFakeGPUs(0, card("a", 1), card("b", 2))
	g := NewGPU(f, GPUOf{Alone: true})
	drainGPU(t, g)
	next := func(energy, heat, replays float64) gpu.Device {
		d := card("a", 1)
		d.Values[gpu.EnergyJoules] += energy
		d.Values[gpu.ThermalViolationSeconds] += heat
		d.Values[gpu.PCIeReplays] += replays
		d.Values[gpu.NVLinkFlitErrors] += 2
		d.Values[gpu.NVLinkReplays] += 3
		return d
	}
	other := card("b", 2)
	other.Values[gpu.EnergyJoules] += 200
	other.Values[gpu.ThermalViolationSeconds] += .75
	f.status.Record = &gpu.Record{Devices: []gpu.Device{next(100, .5, 4), other}}
	w, _ := drainGPU(t, g)
	want := map[string]float64{
		fleet.GPUEnergyJoules: 300, fleet.GPUThermalViolationSeconds: .75, fleet.GPUPCIeReplays: 4, fleet.GPUNVLinkErrors: 5,
	}
	if diff := cmp.Diff(want, w.Counters); diff != "" {
		t.Errorf("increases (-want +got):\n%s", diff)
	}
	w, _ = drainGPU(t, g)
	if w.Counters[fleet.GPUEnergyJoules] != 0 {
		t.Errorf("the same record counts twice: %v", w.Counters)
	}
	f.status.Record = &gpu.Record{Devices: []gpu.Device{card("a", .1), card("b", .1)}}
	w, _ = drainGPU(t, g)
	for name, v := range w.Counters {
		if v < 0 || name == fleet.GPUEnergyJoules && v != 0 {
			t.Errorf("%s gained %v when the driver began anew", name, v)
		}
	}
}

func TestGPULost(t *testing.T) {
	lost := gpu.Device{UUID: "b", Lost: "gone"}
	w, _ := drainGPU(t, NewGPU(newFakeGPUs(0, card("a", 1), lost), GPUOf{Alone: true}))
	gauges(t, w.Gauges, map[string]float64{fleet.GPUCount: 1, fleet.GPULost: 1, fleet.GPUPowerWatts: 300})
	w, _ = drainGPU(t, NewGPU(newFakeGPUs(0, lost), GPUOf{Alone: true}))
	if diff := cmp.Diff(map[string]float64{fleet.GPUAttributed: 0, fleet.GPUCount: 0, fleet.GPULost: 1}, w.Gauges); diff != "" {
		t.Error(diff)
	}
}

func TestGPUAbsentOrOld(t *testing.T) {
	hung := newFakeGPUs(gpuSilence+time.Second, card("a", 1))
	ended := newFakeGPUs(gpuSilence+time.Second, card("a", 1))
	ended.status.Problem = "it was killed"
	for name, c := range map[string]struct {
		f    *fakeGPUs
		says string
		age  int64
	}{
		"none": {&fakeGPUs{gpu.Status{Problem: "no library"}}, "no library", 0},
		"old":  {hung, "said nothing for 4s", 4000},
		"dead": {ended, "it was killed", 4000},
	} {
		t.Run(name, func(t *testing.T) {
			w := fleet.NewWindow("", gpuNow)
			s := NewGPU(c.f, GPUOf{Alone: true}).Drain(w, gpuNow)
			if !strings.Contains(s.GetError(), c.says) || s.GetAgeMs() != c.age || s.GetStale() {
				t.Errorf("source %v, want %q and %d ms", s, c.says, c.age)
			}
			if len(w.Gauges)+len(w.Counters) != 0 {
				t.Errorf("figures %v %v of a record that is not of this window", w.Gauges, w.Counters)
			}
		})
	}
}

// TestGPUOfEngine: this process and its child are the engine; a stranger is on another GPU.
func TestGPUOfEngine(t *testing.T) {
	l, port := listen(t)
	worker := child(t, "exec sleep 60")
	f := newFakeGPUs(0, card("strange", 4, 1), card("front", 1, os.Getpid()), card("worker", 2, worker, 1))
	g := NewGPU(f, GPUOf{Port: port})
	w, problem := drainGPU(t, g)
	if len(w.Gauges) != 0 || !strings.Contains(problem, "which GPUs") {
		t.Errorf("before its processes are known: %v, problem %q", w.Gauges, problem)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if w, problem = drainGPU(t, g); problem == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(problem)
		}
		time.Sleep(5 * time.Millisecond)
	}
	mine := map[string]float64{fleet.GPUAttributed: 1, fleet.GPUCount: 2, fleet.GPUPowerWatts: 900, fleet.GPUEngineMemoryBytes: 30e9}
	gauges(t, w.Gauges, mine)
	// While the engine is restarted its GPUs hold no process of it, and stay its own.
	l.Close()
	f.status.Record = &gpu.Record{Devices: []gpu.Device{card("strange", 4, 1), card("front", 1), card("worker", 2, 1)}}
	w, problem = drainGPU(t, g)
	delete(mine, fleet.GPUEngineMemoryBytes)
	gauges(t, w.Gauges, mine)
	if _, ok := w.Gauges[fleet.GPUEngineMemoryBytes]; ok || problem != "" {
		t.Errorf("memory of an engine without processes, problem %q", problem)
	}
}

// TestGPULaunched: what descends from the launcher is the engine, wherever its processes are seen.
func TestGPULaunched(t *testing.T) {
	yes, no := true, false
	mine, strange := card("mine", 1, 17), card("strange", 2, 18)
	mine.Processes[0].Launched, strange.Processes[0].Launched = &yes, &no
	f := newFakeGPUs(0, mine, strange)
	w, problem := drainGPU(t, NewGPU(f, GPUOf{Port: 1, Alone: true, Launched: true}))
	gauges(t, w.Gauges, map[string]float64{fleet.GPUAttributed: 1, fleet.GPUCount: 1, fleet.GPUPowerWatts: 300, fleet.GPUEngineMemoryBytes: 10e9})
	if problem != "" {
		t.Error(problem)
	}
	// Beside an agent that started the reader itself it means nothing.
	w, problem = drainGPU(t, NewGPU(f, GPUOf{Port: 1, Alone: true}))
	gauges(t, w.Gauges, map[string]float64{fleet.GPUAttributed: 0, fleet.GPUCount: 2})
	if !strings.Contains(problem, "cannot be seen from here") {
		t.Errorf("the source says %q", problem)
	}
	// The launcher's container may show another's GPU; its process is not the engine's by being alone.
	f.status.Record = &gpu.Record{Devices: []gpu.Device{strange}}
	w, problem = drainGPU(t, NewGPU(f, GPUOf{Port: 1, Alone: true, Launched: true}))
	if v, has := w.Gauges[fleet.GPUEngineMemoryBytes]; has || !strings.Contains(problem, "are others'; its memory is not known") {
		t.Errorf("memory %v of a stranger, the source says %q", v, problem)
	}
}

// TestGPUOnlyProcess: where nobody can tell whose processes are, the only one that computes on each
// GPU is taken as the engine's, and said to be.
func TestGPUOnlyProcess(t *testing.T) {
	const unseen = 1 << 30
	desktop := card("a", 1, unseen, unseen+1)
	desktop.Processes[1].Kind = "graphics"
	silent := card("a", 1, unseen)
	silent.Processes[0].MemoryBytes = nil
	for name, c := range map[string]struct {
		devices []gpu.Device
		held    float64 // 0: not known
		says    string
	}{
		"one on each":        {[]gpu.Device{card("a", 1, unseen), card("b", 2, unseen+1)}, 30e9, "that of the only process on each"},
		"one on one":         {[]gpu.Device{card("a", 1, unseen), card("b", 2)}, 10e9, "only process"},
		"several on one":     {[]gpu.Device{card("a", 1, unseen), card("b", 2, unseen+1, unseen+2)}, 0, "not known"},
		"besides a desktop":  {[]gpu.Device{desktop}, 10e9, "only process"},
		"memory is not told": {[]gpu.Device{silent}, 0, "its memory is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			w, problem := drainGPU(t, NewGPU(newFakeGPUs(0, c.devices...), GPUOf{Port: 1, Alone: true}))
			gauges(t, w.Gauges, map[string]float64{fleet.GPUAttributed: 0, fleet.GPUCount: float64(len(c.devices))})
			if held := w.Gauges[fleet.GPUEngineMemoryBytes]; held != c.held || !strings.Contains(problem, c.says) {
				t.Errorf("memory %v, want %v; the source says %q, want %q", held, c.held, problem, c.says)
			}
		})
	}
}

// TestGPUMovedEngine: what a GPU's counters gained before the engine used it is not the engine's.
func TestGPUMovedEngine(t *testing.T) {
	_, port := listen(t)
	one, two := card("a", 1, os.Getpid()), card("b", 1)
	f := newFakeGPUs(0, one, two)
	g := NewGPU(f, GPUOf{Port: port})
	energy := func(joules float64, first, second []gpu.Process) float64 {
		a, b := card("a", 1), card("b", 1)
		a.Processes, b.Processes = first, second
		a.Values[gpu.EnergyJoules], b.Values[gpu.EnergyJoules] = joules, joules
		f.status.Record = &gpu.Record{Devices: []gpu.Device{a, b}}
		g.look(f.status.Record)
		w, _ := drainGPU(t, g)
		return w.Counters[fleet.GPUEnergyJoules]
	}
	energy(1000, one.Processes, nil)
	if got := energy(1100, one.Processes, nil); got != 100 {
		t.Errorf("gained %v, want 100", got)
	}
	if got := energy(1300, nil, one.Processes); got != 200 {
		t.Errorf("gained %v on the GPU that the engine moved to, want the 200 of this second", got)
	}
}

// TestGPUInstance: memory and activity are of the MIG instance that the engine runs in.
func TestGPUInstance(t *testing.T) {
	_, port := listen(t)
	in := func(id int, used float64) gpu.Instance {
		return gpu.Instance{GPUInstance: id, Reading: gpu.Reading{Values: map[string]float64{gpu.MemoryUsedBytes: used, gpu.GPMSMActive: used / 10e9}}}
	}
	for name, c := range map[string]struct {
		instances []gpu.Instance
		used      float64
	}{
		"the second": {[]gpu.Instance{in(3, 1e9), in(5, 2e9)}, 2e9},
		"the only":   {[]gpu.Instance{in(7, 4e9)}, 4e9},
	} {
		t.Run(name, func(t *testing.T) {
			d := card("a", 1, os.Getpid())
			five := 5
			d.Processes[0].GPUInstance, d.Instances = &five, c.instances
			before := maps.Clone(d.Values)
			g := NewGPU(newFakeGPUs(0, d), GPUOf{Port: port, Alone: true})
			g.look(g.watcher.Status().Record)
			w, _ := drainGPU(t, g)
			gauges(t, w.Gauges, map[string]float64{fleet.GPUMemoryUsedBytes: c.used, fleet.GPUSMActiveRatio: c.used / 10e9, fleet.GPUPowerWatts: 300})
			if _, ok := w.Gauges[fleet.GPUTensorActiveRatio]; ok {
				t.Error("the whole device's activity stands for the instance's")
			}
			if diff := cmp.Diff(before, d.Values); diff != "" {
				t.Errorf("the record was changed:\n%s", diff)
			}
		})
	}
}

// TestGPUOfEngineIsLost: a GPU of the engine that no longer answers, or is no longer shown, is lost to
// it, though it tells of no process.
func TestGPUOfEngineIsLost(t *testing.T) {
	_, port := listen(t)
	a, b, c := card("a", 1, os.Getpid()), card("b", 1, os.Getpid()), card("c", 1, os.Getpid())
	f := newFakeGPUs(0, a, b, c, card("strange", 1))
	g := NewGPU(f, GPUOf{Port: port})
	g.look(g.watcher.Status().Record)
	w, _ := drainGPU(t, g)
	gauges(t, w.Gauges, map[string]float64{fleet.GPUCount: 3, fleet.GPULost: 0})
	for _, devices := range [][]gpu.Device{
		{a, {UUID: "b", Lost: "gone"}, card("strange", 1)},
		{{UUID: "unknown-1", Lost: "gone"}, a, card("strange", 1)},
	} {
		f.status.Record = &gpu.Record{Devices: devices}
		w, _ = drainGPU(t, g)
		gauges(t, w.Gauges, map[string]float64{fleet.GPUCount: 1, fleet.GPULost: 2, fleet.GPUPowerWatts: 300})
	}
	f.status.Record = &gpu.Record{Devices: []gpu.Device{a, b, card("c", 1), card("strange", 1)}}
	w, _ = drainGPU(t, g) // back, and c is used by nobody now
	gauges(t, w.Gauges, map[string]float64{fleet.GPUCount: 2, fleet.GPULost: 0})
}

// FuzzGPU: whatever records say, the window can be sent and is accepted.
func FuzzGPU(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"sampling","devices":[{"uuid":"a","values":{"power_watts":1e308,"energy_joules_total":-1e308}},{"uuid":"b","values":{"power_watts":1e308}}]}`),
		[]byte(`{"version":1,"state":"sampling","devices":[{"uuid":"a","values":{"sm_clock_hertz":1e308,"sm_clock_max_hertz":1e-300,"energy_joules_total":1e308},"processes":[{"pid":1,"memory_bytes":1e308},{"pid":1,"memory_bytes":1e308}],"instances":[{"values":{}}]}]}`))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		fake := &fakeGPUs{}
		g := NewGPU(fake, GPUOf{Alone: true})
		g.kin = map[int]kin{1: engines}
		for _, line := range [][]byte{one, two, one} {
			r, err := gpu.Parse(line)
			if err != nil || r.State != gpu.Sampling {
				continue
			}
			fake.status = gpu.Status{Record: r, Taken: gpuNow}
			w := fleet.NewWindow("", gpuNow)
			g.Drain(w, gpuNow)
			pb, err := w.Proto()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fleet.FromProto(pb); err != nil {
				t.Errorf("%v of %s", err, line)
			}
		}
	})
}
