package enginesim

import (
	"fmt"
	"io"
	"net/http"
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
				eventually(t, fmt.Sprintf("helper %d leads a group of its own, or not: %v", pid, c.ownGroup), func() bool {
					group, _ := syscall.Getpgid(pid)
					return (group == pid) == c.ownGroup
				})
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

// tree is a simulated TGI of three processes, ready to serve.
type tree struct {
	t             *testing.T
	front         *exec.Cmd
	out           *buffer
	url           string
	shard, router int
}

func startTGI(t *testing.T, flags ...string) *tree {
	t.Helper()
	port := freePort(t)
	args := append([]string{"--dialect", "tgi", "--sim-start-scale", "0", "--sim-children", "--"}, command("tgi", port, flags...)...)
	e := &tree{t: t, front: exec.Command(os.Args[0], args...), out: &buffer{}, url: fmt.Sprintf("http://127.0.0.1:%s", port)}
	e.front.Env = append(os.Environ(), asEngine+"=1")
	e.front.Stdout, e.front.Stderr = e.out, e.out
	e.front.WaitDelay = time.Second // orphans hold the pipes
	if err := e.front.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it serves", func() bool { return e.health() == http.StatusOK })
	for _, pid := range childrenOf(e.front.Process.Pid) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		switch {
		case strings.HasPrefix(string(cmdline), "text-generation-router"):
			e.router = pid
		case strings.HasPrefix(string(cmdline), "text-generation-server"):
			e.shard = pid
		default:
			t.Errorf("helper %s %q", comm, cmdline)
		}
	}
	t.Cleanup(func() {
		for _, pid := range []int{e.front.Process.Pid, e.router, e.shard} {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if e.router == 0 || e.shard == 0 {
		t.Fatalf("router %d, shard %d", e.router, e.shard)
	}
	return e
}

// health is the status of /health, 0 when nobody answers.
func (e *tree) health() int {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	res, err := client.Get(e.url + "/health")
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// stream opens a long stream and returns what it says to its end.
func (e *tree) stream(tokens int) (whole <-chan string) {
	e.t.Helper()
	res, err := http.Post(e.url+"/generate_stream", "application/json", strings.NewReader(fmt.Sprintf(`{"inputs":"a b c","parameters":{"max_new_tokens":%d,"ignore_eos_token":true}}`, tokens)))
	if err != nil {
		e.t.Fatal(err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		e.t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		defer res.Body.Close()
		rest, _ := io.ReadAll(res.Body)
		said <- string(first) + string(rest)
	}()
	return said
}

// ends waits for the launcher's end and checks its code and last words.
func (e *tree) ends(code int, words string) {
	e.t.Helper()
	_ = e.front.Wait()
	if got := e.front.ProcessState.ExitCode(); got != code || !strings.Contains(e.out.String(), words) {
		e.t.Errorf("exit code %d, want %d and %q in\n%s", got, code, words, e.out.String())
	}
}

// TestTGIProcesses: what the end of each of TGI's processes does to the others.
func TestTGIProcesses(t *testing.T) {
	t.Run("launcher killed", func(t *testing.T) {
		t.Parallel()
		e := startTGI(t)
		e.front.Process.Kill()
		_ = e.front.Wait()
		if got := e.health(); got != http.StatusOK {
			t.Errorf("health answers %d: the router should serve on", got)
		}
		syscall.Kill(e.shard, syscall.SIGTERM)
		syscall.Kill(e.router, syscall.SIGTERM)
		eventually(t, "the router ends", func() bool { return !alive(e.router) })
		if !alive(e.shard) {
			t.Error("the orphaned shard obeyed SIGTERM")
		}
	})
	t.Run("router killed", func(t *testing.T) {
		t.Parallel()
		e := startTGI(t)
		syscall.Kill(e.router, syscall.SIGKILL)
		e.ends(1, "Error: WebserverFailed")
		if alive(e.shard) {
			t.Error("the shard lives on")
		}
	})
	t.Run("router ends", func(t *testing.T) {
		t.Parallel()
		e := startTGI(t)
		said := e.stream(50)
		syscall.Kill(e.router, syscall.SIGTERM)
		if got := <-said; !strings.Contains(got, `"generated_text":"`) {
			t.Errorf("the stream did not finish: %s", got)
		}
		e.ends(1, "Error: WebserverFailed")
	})
	t.Run("shard killed", func(t *testing.T) {
		t.Parallel()
		e := startTGI(t)
		said := e.stream(4000)
		syscall.Kill(e.shard, syscall.SIGKILL)
		if got := <-said; !strings.Contains(got, `{"error":"Request failed during generation: Server error: transport error","error_type":"generation"}`) {
			t.Errorf("the stream ended with %s", got[max(0, len(got)-300):])
		}
		e.ends(1, "Error: ShardFailed")
		if alive(e.router) {
			t.Error("the router lives on")
		}
	})
	t.Run("grace over", func(t *testing.T) {
		t.Parallel()
		e := startTGI(t, "--graceful-termination-timeout", "1")
		said := e.stream(4000)
		e.front.Process.Signal(syscall.SIGTERM)
		if got := <-said; strings.Contains(got, `"generated_text":"`) {
			t.Error("the stream was not cut")
		}
		e.ends(0, "Shutting down shards")
	})
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
