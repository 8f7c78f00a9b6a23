package enginesim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledFrontProcess shows what kill -9 of each engine's front process leaves behind.
func TestKilledFrontProcess(t *testing.T) {
	for _, c := range []struct {
		dialect  string
		survive  bool
		ownGroup bool
	}{{"vllm", true, false}, {"sglang", false, false}, {"tgi", true, true}} {
		t.Run(c.dialect, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--dialect", c.dialect, "--sim-start-scale", "0", "--sim-children", "--"}, command(c.dialect, freePort(t))...)
			front := exec.Command(os.Args[0], args...)
			front.Env = append(os.Environ(), asEngine+"=1")
			front.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := front.Start(); err != nil {
				t.Fatal(err)
			}
			var children []int
			eventually(t, "two helpers run", func() bool { children = childrenOf(front.Process.Pid); return len(children) == 2 })
			defer func() {
				for _, pid := range children {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}()
			for _, pid := range children {
				group, _ := syscall.Getpgid(pid)
				if own := group == pid; own != c.ownGroup {
					t.Errorf("helper %d leads a group of its own: %v, want %v", pid, own, c.ownGroup)
				}
			}
			front.Process.Kill()
			front.Wait()
			if !c.survive {
				eventually(t, "the helpers are gone", func() bool { return !alive(children[0]) && !alive(children[1]) })
				return
			}
			for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
				if !alive(children[0]) || !alive(children[1]) {
					t.Fatal("a helper died with its front process")
				}
			}
		})
	}
}

func TestStoppedEngineLeavesNoHelper(t *testing.T) {
	args := append([]string{"--dialect", "tgi", "--sim-start-scale", "0", "--sim-children", "--"}, command("tgi", freePort(t))...)
	front := exec.Command(os.Args[0], args...)
	front.Env = append(os.Environ(), asEngine+"=1")
	if err := front.Start(); err != nil {
		t.Fatal(err)
	}
	var children []int
	eventually(t, "two helpers run", func() bool { children = childrenOf(front.Process.Pid); return len(children) == 2 })
	front.Process.Signal(syscall.SIGTERM)
	if err := front.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	for _, pid := range children {
		if alive(pid) {
			t.Errorf("helper %d is left", pid)
		}
	}
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !yes(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// stat returns the fields of /proc/PID/stat after the command name: state, parent, …
func stat(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.Fields(rest)
}

func alive(pid int) bool {
	f := stat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return len(f) > 0 && f[0] != "Z"
}

func childrenOf(parent int) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		if f := stat(path); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}
