package collect

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// listen makes this process the engine: it listens on a port of its own.
func listen(t *testing.T) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

// child runs beside this process until the test ends.
func child(t *testing.T, script string) int {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Skipf("no shell here: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// seen drains a running host source until enough says so, and returns all it gave.
func seen(t *testing.T, h *Host, enough func(*fleet.Window) bool) *fleet.Window {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	go func() { _ = h.Run(ctx) }() // ends with ctx
	all := fleet.NewWindow("", time.Time{})
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		w := fleet.NewWindow("", time.Time{})
		if s := h.Drain(w, time.Now()); s.GetStale() {
			t.Fatal("the host calls itself stale: windows without it are good windows")
		}
		for k, v := range w.Counters {
			all.Counters[k] += v
		}
		for k, v := range w.Gauges {
			all.Gauges[k] = v
		}
		if enough(all) {
			tick.Stop()
			return all
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("saw only %v %v", all.Counters, all.Gauges)
		}
	}
}

func TestHostSeesWorkOfDescendants(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no proc file system here")
	}
	_, port := listen(t)
	child(t, "while :; do :; done")
	w := seen(t, NewHost(port), func(w *fleet.Window) bool { return w.Counters[fleet.EngineCPUSeconds] > 0.3 })
	if w.Gauges[fleet.EngineAgeSeconds] <= 0 || w.Gauges[fleet.HostCores] < 1 || w.Counters[fleet.HostCPUSeconds] <= 0 {
		t.Errorf("age, cores and host time are %v %v", w.Gauges, w.Counters)
	}
	if front, told := w.Counters[fleet.EngineFrontCPUSeconds]; !told || front > w.Counters[fleet.EngineCPUSeconds]-0.2 {
		t.Errorf("the front process, which listens, is said to use %v of %v s, which its child uses", front, w.Counters[fleet.EngineCPUSeconds])
	}
}

func TestHostSeesStops(t *testing.T) {
	_, port := listen(t)
	pid := child(t, "sleep 60")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	seen(t, NewHost(port), func(w *fleet.Window) bool { return w.Counters[fleet.EngineStoppedSeconds] > 0.2 })
}

func TestHostSeesClientsThatDoNotRead(t *testing.T) {
	l, port := listen(t)
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { _, _ = server.Write(make([]byte, 64<<20)) }() // more than any buffer holds; ends with the connection
	w := seen(t, NewHost(port), func(w *fleet.Window) bool { return w.Counters[fleet.ClientBacklogSeconds] > 0.5 })
	if w.Counters[fleet.ClientSeconds] < w.Counters[fleet.ClientBacklogSeconds] {
		t.Errorf("more backlogs than connections: %v", w.Counters)
	}
}

func TestHostSaysWhatItCannotSee(t *testing.T) {
	l, port := listen(t)
	l.Close()
	h := NewHost(port)
	h.find(time.Now())
	h.count(time.Now())
	w := fleet.NewWindow("", time.Time{})
	if s := h.Drain(w, time.Now()); s.GetError() == "" || s.GetStale() || len(w.Counters) > 0 {
		t.Errorf("nobody listens, and it says %v with %v", s, w.Counters)
	}
}

func TestGainedTakesTheLongestWait(t *testing.T) {
	was := hostTotals{cpu: 5, front: 2, waits: map[string]float64{"1": 1, "2": 10}, throttled: 1, throttledKnown: true}
	is := hostTotals{cpu: 4, front: 2.75, waits: map[string]float64{"1": 1.5, "2": 10.2, "3": 90}, throttled: 1.25, throttledKnown: true}
	got := was.gained(is)
	if d := got[fleet.EngineRunWaitSeconds]; d < 0.49 || d > 0.51 {
		t.Errorf("longest wait %v, want 0.5: a thread first seen now counts from now on", d)
	}
	if got[fleet.EngineCPUSeconds] != 0 || got[fleet.EngineFrontCPUSeconds] != 0.75 || got[fleet.EngineThrottledSeconds] != 0.25 {
		t.Errorf("gained %v", got)
	}
	is.throttledKnown = false
	if _, known := was.gained(is)[fleet.EngineThrottledSeconds]; known {
		t.Error("throttling is told although no group tells it")
	}
}

func TestThrottledReadsBothVersions(t *testing.T) {
	for text, want := range map[string]float64{
		"nr_periods 21\nnr_throttled 20\nthrottled_time 956047060\n": 0.956047060,
		"usage_usec 5\nthrottled_usec 250000\n":                      0.25,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "cpu.stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := throttled(dir); !ok || got != want {
			t.Errorf("throttled %v, %v of %q, want %v", got, ok, text, want)
		}
	}
	if _, ok := throttled(t.TempDir()); ok {
		t.Error("a folder without cpu.stat tells a time")
	}
}

func TestReadStatWithParenthesesInName(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "42"), 0o700); err != nil {
		t.Fatal(err)
	}
	fields := make([]string, 50)
	for i := range fields {
		fields[i] = strconv.Itoa(i + 3)
	}
	fields[0] = "T"
	line := "42 (VLLM::a) (b)) " + strings.Join(fields, " ")
	if err := os.WriteFile(filepath.Join(root, "42", "stat"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readStat(root, 42)
	if err != nil || s.state != 'T' || s.parent != 4 || s.cpu != (14+15)/100.0 || s.started != 0.22 {
		t.Errorf("read %+v, %v", s, err)
	}
}
