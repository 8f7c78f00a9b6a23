package collect

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// TestGPUEngineInInnerNamespace: a node agent sees an engine in a container, and the reader runs in
// that container too. The driver names the engine by its id there, or by its id on the host.
func TestGPUEngineInInnerNamespace(t *testing.T) {
	_, out, onHost := role(t, "engine", syscall.CLONE_NEWPID)
	port, inner := engineAt(t, out)
	own, container := namespaceOf(t, os.Getpid()), namespaceOf(t, onHost)
	if inner != 1 || own == container {
		t.Fatalf("the engine calls itself %d in %s; this is %s", inner, container, own)
	}
	stranger := os.Getpid()
	for name, c := range map[string]struct {
		pid     int
		reader  string // namespace
		initial string
		mine    bool
	}{
		"newer driver":                              {inner, container, own, true},
		"older driver":                              {onHost, container, own, true},
		"newer driver, reader beside the agent":     {onHost, own, own, true},
		"newer driver, a stranger on the host":      {stranger, own, own, false},
		"older driver, a stranger on the host":      {stranger, container, own, false},
		"an id of neither the reader's nor host's":  {onHost, container, "pid:[1]", false},
		"an id of the container, read on the host":  {inner, own, own, false},
		"newer driver, agent in a namespace itself": {inner, container, "pid:[1]", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeGPUs(0, card("a", 1, c.pid), card("b", 2))
			f.status.Record.PIDNamespace = c.reader
			g := NewGPU(f, GPUOf{Port: port})
			g.view.initial = c.initial
			g.look(f.status.Record)
			w, problem := drainGPU(t, g)
			if !c.mine {
				if len(w.Gauges) != 0 || !strings.Contains(problem, "there are other engines") {
					t.Errorf("taken for the engine's: %v, %q", w.Gauges, problem)
				}
				return
			}
			gauges(t, w.Gauges, map[string]float64{fleet.GPUAttributed: 1, fleet.GPUCount: 1, fleet.GPUPowerWatts: 300, fleet.GPUEngineMemoryBytes: 10e9})
			if problem != "" {
				t.Error(problem)
			}
		})
	}
}

// TestGPUSidecarInNamespace: sidecar and engine share a process namespace that is not the host's.
func TestGPUSidecarInNamespace(t *testing.T) {
	in, out, sidecar := role(t, "sidecar", syscall.CLONE_NEWPID|syscall.CLONE_NEWNS)
	var own string
	var inner int
	if _, err := fmt.Fscan(out, &own, &inner); err != nil {
		t.Skipf("no proc file system of its own can be mounted: %v", err)
	}
	onHost, stranger := hostPID(t, sidecar, inner), os.Getpid()
	questions, answers := json.NewEncoder(in), json.NewDecoder(out)
	ask := func(t *testing.T, hostSeen bool, devices ...gpu.Device) answer {
		t.Helper()
		var a answer
		if err := questions.Encode(question{&gpu.Record{PIDNamespace: own, Devices: devices}, hostSeen}); err != nil {
			t.Fatal(err)
		}
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	for name, c := range map[string]struct {
		hostSeen   bool
		devices    []gpu.Device
		attributed float64
		held       float64 // 0: not known
		says       string
	}{
		"newer driver":                               {false, []gpu.Device{card("a", 1, inner), card("b", 2)}, 1, 10e9, ""},
		"newer driver, the host is seen":             {true, []gpu.Device{card("a", 1, inner), card("b", 2)}, 1, 10e9, ""},
		"older driver, the host is seen":             {true, []gpu.Device{card("a", 1, onHost), card("b", 2, stranger)}, 1, 10e9, ""},
		"a stranger on the host":                     {true, []gpu.Device{card("a", 1, stranger)}, 0, 0, "are others'; its memory is not known"},
		"older driver":                               {false, []gpu.Device{card("a", 1, onHost)}, 0, 10e9, fmt.Sprintf("by their ids on the host or in another namespace (%d); its memory is that of the only process", onHost)},
		"older driver, several processes on a GPU":   {false, []gpu.Device{card("a", 1, onHost, stranger)}, 0, 0, "its memory is not known, because device 0 holds"},
		"older driver, one process on each of two":   {false, []gpu.Device{card("a", 1, onHost), card("b", 2, stranger)}, 0, 30e9, "only process"},
		"another process of the sidecar's namespace": {false, []gpu.Device{card("a", 1, 1)}, 0, 0, "are others'"},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, c.hostSeen, c.devices...)
			if a.Gauges[fleet.GPUAttributed] != c.attributed || a.Gauges[fleet.GPUEngineMemoryBytes] != c.held || !strings.Contains(a.Problem, c.says) || (a.Problem == "") != (c.says == "") {
				t.Errorf("attributed %v, memory %v, the source says %q; want %v, %v, %q",
					a.Gauges[fleet.GPUAttributed], a.Gauges[fleet.GPUEngineMemoryBytes], a.Problem, c.attributed, c.held, c.says)
			}
		})
	}
}

// TestGPUHostProcThatIsNone: a folder that only looks like it is not asked.
func TestGPUHostProcThatIsNone(t *testing.T) {
	for name, dir := range map[string]string{"none": "", "a folder": t.TempDir(), "this namespace's own": "/proc", "missing": "/nowhere"} {
		if v := newPIDView("/proc", dir); v.host != "" {
			t.Errorf("%s: %s is taken for the host's", name, v.host)
		}
	}
}
