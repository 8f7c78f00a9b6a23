package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	agentProgram   = "perf-agent"
	crashingAgent  = "perf-agent-failpoint" // the agent with crash points in its journal
	controlProgram = "perf-controlplane"
	gpuProgram     = "perf-gpu" // only where there is gcc
)

// marker is inherited by every process of a test, in whatever process group: what still carries it at
// the end was left behind.
const marker = "PERF_E2E_RUN"

// stopLimit is how long a process may take to end when asked to.
const stopLimit = 20 * time.Second

// processes are what one test started.
type processes struct {
	t    *testing.T
	logs string
	run  string
	all  []*process
}

// process is one of them; its output goes to a file.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// newProcesses keeps logs in dir. At the end of the test everything is ended, and whatever outlived
// its parent fails the test.
func newProcesses(t *testing.T, dir string) *processes {
	p := &processes{t: t, logs: filepath.Join(dir, "logs"), run: fmt.Sprintf("%s-%d", filepath.Base(dir), os.Getpid())}
	if err := os.MkdirAll(p.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

// start runs a program of ours in a process group of its own. Several starts under one name append to
// one log.
func (p *processes) start(name, prog string, env []string, args ...string) *process {
	p.t.Helper()
	c := &process{name: name, log: filepath.Join(p.logs, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	c.cmd = exec.Command(program(prog), args...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Dir = filepath.Dir(p.logs)
	c.cmd.Env = append(append(os.Environ(), marker+"="+p.run), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		_ = log.Close()  // the process wrote it; nothing of ours is buffered
		close(c.done)
	}()
	p.all = append(p.all, c)
	return c
}

// kill is kill -9 of that process alone.
func (c *process) kill() {
	_ = c.cmd.Process.Kill() // gone already is as good
	<-c.done
}

func (c *process) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	select {
	case <-c.done:
	case <-time.After(stopLimit):
		c.kill()
	}
}

func (c *process) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// wait returns the exit code, -1 when a signal ended it.
func (c *process) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s has not ended after %v:\n%s", c.name, limit, c.text())
		return 0
	}
}

// text is all the process wrote.
func (c *process) text() string {
	raw, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func (p *processes) end() {
	var ended sync.WaitGroup
	for _, c := range slices.Backward(p.all) {
		ended.Go(c.stop)
	}
	ended.Wait()
	left := p.leftovers()
	for _, pid := range left {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		p.t.Errorf("process %d outlived the test: %s", pid, strings.ReplaceAll(string(cmdline), "\x00", " "))
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone meanwhile is as good
	}
	if p.t.Failed() {
		p.t.Logf("logs are kept in %s", p.logs)
	}
}

// leftovers are the processes of this test that still live.
func (p *processes) leftovers() []int {
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && slices.Contains(strings.Split(string(environ), "\x00"), marker+"="+p.run) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// tempDir is removed at the end unless the test failed. It is short, because Unix sockets in it have
// paths of at most 107 bytes.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	return dir
}

// nextPort is where the search for free ports goes on: below the range from which the kernel takes
// ports for outgoing connections, and never back, so that no two tests get one port.
var nextPort = struct {
	sync.Mutex
	n int
}{n: 10_000 + os.Getpid()%100*200}

// freePorts finds n ports on loopback that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	nextPort.Lock()
	defer nextPort.Unlock()
	var ports []int
	for len(ports) < n {
		nextPort.n++
		if nextPort.n > 32_000 {
			t.Fatal("no free port between 10000 and 32000")
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nextPort.n))
		if err != nil {
			continue
		}
		_ = l.Close() // nothing was accepted
		ports = append(ports, nextPort.n)
	}
	return ports
}

// eventually polls until done or the limit; the text says how it stands.
func eventually(t *testing.T, what string, limit time.Duration, done func() (ok bool, state string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, state := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; %s", what, limit, state)
		}
		<-tick.C
	}
}
