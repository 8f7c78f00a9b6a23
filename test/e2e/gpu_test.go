package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/api"
)

// pretended is a machine with GPUs: a stand-in for NVIDIA's library, in a folder that the dynamic
// loader is told of, and the file with what it answers.
type pretended struct {
	t               *testing.T
	library, values string
}

func pretendGPUs(t *testing.T, dir string) *pretended {
	t.Helper()
	for _, needs := range []string{"gcc", program(gpuProgram)} {
		if _, err := exec.LookPath(needs); err != nil {
			t.Skipf("the GPU reader and the stand-in for NVML link C: %v", err)
		}
	}
	p := &pretended{t, filepath.Join(dir, "nvml", "libnvidia-ml.so.1"), filepath.Join(dir, "nvml", "values")}
	if err := os.MkdirAll(filepath.Dir(p.library), 0o755); err != nil {
		t.Fatal(err)
	}
	p.install()
	return p
}

func (p *pretended) install() {
	p.t.Helper()
	gcc := exec.Command("gcc", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", p.library, "../../agent/gpu/testdata/nvml/nvml.c")
	if out, err := gcc.CombinedOutput(); err != nil {
		p.t.Fatalf("build the stand-in for NVML: %v: %s", err, out)
	}
}

// env is for the launcher, whose container would have the GPUs.
func (p *pretended) env() []string {
	return []string{"LD_LIBRARY_PATH=" + filepath.Dir(p.library), "FAKE_NVML=" + p.values}
}

// set replaces all values at once, as a reader may be reading.
func (p *pretended) set(values string) {
	p.t.Helper()
	if err := os.WriteFile(p.values+".next", []byte(values), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.values+".next", p.values); err != nil {
		p.t.Fatal(err)
	}
}

// gpuSeen is what a sidecar says of GPUs, and of the engine beside them.
type gpuSeen struct {
	Engines []struct {
		Hardware string `json:"hardware"`
		Sources  []struct {
			Name    string `json:"name"`
			Stale   bool   `json:"stale"`
			Problem string `json:"problem"`
		} `json:"sources"`
	} `json:"engines"`
	GPUs []struct {
		Problem  string `json:"problem"`
		Absent   bool   `json:"absent"`
		Restarts int    `json:"restarts"`
		Devices  []struct {
			Processes []struct {
				PID      int   `json:"pid"`
				Launched *bool `json:"launched"`
			} `json:"processes"`
		} `json:"devices"`
	} `json:"gpus"`
}

// source of the engine's windows, as its problem; false while there is none.
func (s gpuSeen) source(name string) (problem string, there bool) {
	for _, e := range s.Engines {
		for _, one := range e.Sources {
			if one.Name == name && !one.Stale {
				return one.Problem, true
			}
		}
	}
	return "", false
}

func (w *world) gpus(r *replica) (out gpuSeen) {
	c := http.Client{Timeout: time.Second}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/status", r.agentPort))
	if err != nil {
		return out
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&out) != nil || len(out.GPUs) != 1 || len(out.Engines) != 1 {
		return gpuSeen{}
	}
	return out
}

// samples waits until a sidecar follows a reader that samples, and returns the reader's process.
func (w *world) samples(r *replica, restarts int) (reader int) {
	w.t.Helper()
	eventually(w.t, "GPUs are sampled", 30*time.Second, func() (bool, string) {
		s, all := w.gpus(r), w.running(gpuProgram)
		if len(all) == 1 {
			reader = all[0]
		}
		return len(all) == 1 && len(s.GPUs) == 1 && s.GPUs[0].Problem == "" && s.GPUs[0].Restarts == restarts && len(s.GPUs[0].Devices) > 0,
			fmt.Sprintf("readers %v, %+v\n%s", all, s, lastLines(r.agent.text(), 5))
	})
	return reader
}

// running are the processes of this test that run a program.
func (p *processes) running(program string) (pids []int) {
	for _, pid := range p.leftovers() {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(name)) == program {
			pids = append(pids, pid)
		}
	}
	return pids
}

// worker is a child of the engine's front process.
func (w *world) worker(r *replica) (pid int) {
	w.t.Helper()
	eventually(w.t, "the engine has a worker", 10*time.Second, func() (bool, string) {
		front := fmt.Sprint(w.launched(r).PID)
		for _, one := range w.leftovers() {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", one))
			_, after, _ := strings.Cut(string(raw), ") ")
			if f := strings.Fields(after); err == nil && len(f) > 1 && f[1] == front {
				pid = one
			}
		}
		return pid > 0, "process " + front + " has no child"
	})
	return pid
}

// measured is what the control plane has of the group's GPUs in the last seconds.
func (w *world) measured(group string) map[string]float64 {
	var out struct {
		Measured map[string]float64 `json:"measured"`
	}
	_ = w.get("/metrics/gpu?window_seconds=5&group="+group, &out) // the next look may tell
	return out.Measured
}

const twoGPUs = `devices 2
name NVIDIA_H100_80GB_HBM3
total 85899345920
used 50000000000
power 301000
power_limit 700000
power_limit_default 700000
gpm2 50
`

// TestGPU follows the counters of an engine's GPUs from the library that its launcher's container has
// to the control plane, kills the reader, and takes the library away.
func TestGPU(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"gpu": quick})
	machine := pretendGPUs(t, w.dir)
	r := w.add("gpu-0", "gpu")
	r.hardware, r.env = "", machine.env()
	machine.set(twoGPUs)
	w.startLauncher(r)
	w.startAgent(r, agentProgram)
	w.waitServing(r)
	reader := w.samples(r, 0)

	worker := w.worker(r)
	machine.set(twoGPUs + fmt.Sprintf("compute.0 1\ncompute_pid0.0 %d\ncompute_memory0.0 30000000000\ncompute.1 1\ncompute_pid0.1 %d\n", worker, os.Getpid()))
	load := w.send(4, r)
	arrive(w, r)

	for restarts := 1; restarts <= 2; restarts++ {
		at := time.Now()
		if err := syscall.Kill(reader, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		next := w.samples(r, restarts)
		// It waits one second before the first restart and two before the second.
		if pause := time.Since(at); next == reader || pause < time.Duration(restarts)*time.Second {
			t.Errorf("reader %d took the place of %d after %v, restart %d", next, reader, pause, restarts)
		}
		reader = next
	}

	if err := os.Remove(machine.library); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(reader, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	absent(w, r, load)
	undisturbed(w, r, load)

	machine.install()
	outlive(w, r)
}

// arrive waits until the control plane has the GPU's figures, the engine's own alone, and its hardware.
func arrive(w *world, r *replica) {
	w.t.Helper()
	eventually(w.t, "the engine is known on its GPU", 20*time.Second, func() (bool, string) {
		s := w.gpus(r)
		problem, there := s.source("gpu")
		return there && problem == "" && w.measured(r.group)["gpu_attributed"] == 1, fmt.Sprintf("%q, %+v, %v", problem, s.GPUs, w.measured(r.group))
	})
	got := w.measured(r.group)
	for name, want := range map[string]float64{
		"gpu_count": 1, "gpu_attributed": 1, "gpu_power_watts": 301, "gpu_sm_active_ratio": .5, "gpu_engine_memory_bytes": 30e9, "gpu_memory_total_bytes": 85899345920,
	} {
		if v, there := got[name]; !there || v != want {
			w.t.Errorf("%s is %v (%v) at the control plane, want %v", name, v, there, want)
		}
	}
	if e, err := w.engine(r); err != nil || e.Hardware != "h100-sxm" {
		w.t.Errorf("the control plane's hardware is %q (%v), want the table's name of what NVML says", e.Hardware, err)
	}
	s := w.gpus(r)
	if p := s.GPUs[0].Devices[0].Processes; len(p) != 1 || p[0].Launched == nil || !*p[0].Launched {
		w.t.Errorf("processes of the first GPU: %+v", p)
	}
}

// absent: that there is no GPU any more is said in words, once, and the engine's own metrics go on.
func absent(w *world, r *replica, load *traffic) {
	w.t.Helper()
	eventually(w.t, "the GPU's absence is told", 30*time.Second, func() (bool, string) {
		s := w.gpus(r)
		problem, there := s.source("gpu")
		return len(s.GPUs) == 1 && s.GPUs[0].Absent && strings.Contains(s.GPUs[0].Problem, "LIBRARY_NOT_FOUND") && there && strings.Contains(problem, "LIBRARY_NOT_FOUND"),
			fmt.Sprintf("%+v, source %q", s.GPUs, problem)
	})
	if n := strings.Count(r.agent.text(), "no GPU is seen; "); n != 1 {
		w.t.Errorf("the sidecar's log says %d times that there is no GPU:\n%s", n, lastLines(r.agent.text(), 20))
	}
	eventually(w.t, "its figures are no longer the window's", 20*time.Second, func() (bool, string) {
		got := w.measured(r.group)
		_, power := got["gpu_power_watts"]
		return !power, fmt.Sprint(got)
	})
	load.goesOn(4)
	eventually(w.t, "the engine's metrics go on", 20*time.Second, func() (bool, string) {
		var tokens api.Tokens
		err := w.get("/metrics/tokens?window_seconds=5&group="+r.group, &tokens)
		return err == nil && tokens.Generated > 0, fmt.Sprintf("%+v, %v", tokens, err)
	})
	if e, err := w.engine(r); err != nil || e.Hardware != "h100-sxm" || !e.Serving {
		w.t.Errorf("the engine's hardware is %q, serving %v, %v", e.Hardware, e.Serving, err)
	}
}

// undisturbed: what the GPU's reader went through is none of the engine's business.
func undisturbed(w *world, r *replica, load *traffic) {
	w.t.Helper()
	noneFailed(w.t, load.end())
	if n := w.launched(r).UnrequestedExits; n != 0 || !slices.Equal(w.starts(r), []uint64{0}) {
		w.t.Errorf("%d exits, epochs started %v", n, w.starts(r))
	}
}

// outlive: no reader outlives the sidecar that asked for it, nor the launcher that started it.
func outlive(w *world, r *replica) {
	w.t.Helper()
	gone := func(what string) {
		eventually(w.t, what, 10*time.Second, func() (bool, string) {
			all := w.running(gpuProgram)
			return len(all) == 0, fmt.Sprintf("readers %v", all)
		})
	}
	for _, end := range []struct {
		what string
		do   func()
	}{
		{"no reader outlives a sidecar that is killed", func() { r.agent.kill() }},
		{"no reader outlives a sidecar that is told to end", func() { r.agent.stop() }},
	} {
		if r.agent.alive() { // which looks anew in ten minutes alone
			r.agent.stop()
		}
		w.startAgent(r, agentProgram)
		w.samples(r, 0)
		end.do()
		gone(end.what)
	}
	w.startAgent(r, agentProgram)
	w.samples(r, 0)
	r.launcher.stop()
	gone("no reader outlives the launcher")
}
