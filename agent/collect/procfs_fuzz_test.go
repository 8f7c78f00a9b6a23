package collect

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// FuzzProc: whatever the proc file system of a kernel, or of something that stands for one, says, the
// host's figures are finite and nothing breaks.
func FuzzProc(f *testing.F) {
	f.Add("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 12 34 0 0 20 0 1 0 555 0 0", "12 34 5\n", "0::/a/../..\n4:cpu,cpuacct:/b\n", "throttled_usec 12\n",
		"  sl\n 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1\n", "100.5 20\n", "cpu 1 2 3 4 5 6 7 8 9 10\n")
	f.Add("", "", "", "", "", "", "")
	f.Add(") S", "x y", "::::", "throttled_time NaN\n", ":1F90 :1F90 01 FFFFFFFFFFFFFFFFF:", "Inf", "cpu NaN Inf -1 1e999")
	root := f.TempDir()
	for _, dir := range []string{"7/task/7", "7/fd", "net", "group"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, stat, sched, cgroup, throttle, tcp, up, cpu string) {
		for name, text := range map[string]string{
			"7/stat": stat, "7/task/7/schedstat": sched, "7/cgroup": cgroup, "group/cpu.stat": throttle, "net/tcp": tcp, "uptime": up, "stat": cpu,
		} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		finite := func(name string, v float64) {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Errorf("%s is %v", name, v)
			}
		}
		if s, err := readStat(root, 7); err == nil {
			finite("processor time", s.cpu)
			finite("start", s.started)
		}
		waits := map[string]float64{}
		threadWaits(root, 7, waits)
		for _, v := range waits {
			finite("wait", v)
		}
		if v, err := uptime(root); err == nil {
			finite("uptime", v)
		}
		busy, steal := hostCPU(root)
		finite("busy", busy)
		finite("steal", steal)
		if v, ok := throttled(filepath.Join(root, "group")); ok {
			finite("throttled", v)
		}
		if dirs := cpuGroups(root, 7); len(dirs) > 4*(len(cgroup)+2) {
			t.Errorf("%d control groups of %d bytes", len(dirs), len(cgroup))
		}
		if open, backlogged, _ := connections(root, 0x1f90); backlogged > open || open > len(tcp) {
			t.Errorf("%d connections, %d with a backlog", open, backlogged)
		}
		listeners(root, 0x1f90)
		_, _ = findEngine(root, 0x1f90) // there may be none
	})
}
