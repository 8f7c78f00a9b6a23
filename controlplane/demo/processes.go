package demo

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// marker is an environment variable that every process of a run inherits, in whatever process
// group it is: what still carries it after the end was left behind.
const marker = "PERF_DEMO_RUN"

// loadPrefix begins the names of load generators.
const loadPrefix = "load-"

// stopLimit is how long a child may take to end: an engine finishes its requests first.
const stopLimit = 20 * time.Second

// processes are the children of a run.
type processes struct {
	logs  string
	run   string
	ports []string // addresses that must be free at the end

	mu  sync.Mutex // guards all
	all []*process
}

// process is one child.
type process struct {
	name     string
	cmd      *exec.Cmd
	done     chan struct{} // closed when it has been waited for
	err      error         // valid once done is closed
	expected bool          // its end is part of the story
}

func newProcesses(logs string) *processes {
	return &processes{logs: logs, run: fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())}
}

// start runs a program with its output in a log file of its own, in a process group of its own so
// that a ^C reaches the demo alone.
func (p *processes) start(name, program string, args ...string) (*process, error) {
	if err := os.MkdirAll(p.logs, 0o750); err != nil {
		return nil, fmt.Errorf("folder for logs: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(p.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), marker+"="+p.run)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	c := &process{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		_ = log.Close() // the child wrote it; nothing of ours is buffered
		close(c.done)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, c)
	return c, nil
}

// check reports a child that ended although the story did not end it.
func (p *processes) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.all {
		if c.expected {
			continue
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s ended: %w; last lines:\n%s", c.name, errors.Join(c.err), p.tail(c.name))
		default:
		}
	}
	return nil
}

// tail of a child's log.
func (p *processes) tail(name string) string {
	raw, err := os.ReadFile(filepath.Join(p.logs, name+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-6):], "\n  ")
}

// kill ends a child at once, as a crash would.
func (p *processes) kill(c *process) {
	p.expect(c)
	_ = c.cmd.Process.Kill() // already gone is as good
	<-c.done
}

func (p *processes) expect(c *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.expected = true
}

// stop asks a child to end and waits; it is killed after the limit.
func (p *processes) stop(c *process, limit time.Duration) {
	p.expect(c)
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // already gone is as good
	select {
	case <-c.done:
	case <-time.After(limit):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// stopAll ends the children in the reverse order of their start, then whatever still carries the
// marker, and reports leftovers and ports still held.
func (p *processes) stopAll() error {
	p.mu.Lock()
	all := slices.Clone(p.all)
	p.mu.Unlock()
	for _, c := range all {
		if strings.HasPrefix(c.name, loadPrefix) {
			p.stop(c, 0) // engines need not finish what nobody waits for
		}
	}
	var ended sync.WaitGroup
	for _, c := range slices.Backward(all) {
		ended.Go(func() { p.stop(c, stopLimit) })
	}
	ended.Wait()
	var faults []error
	if left := p.leftovers(); len(left) > 0 {
		faults = append(faults, fmt.Errorf("%d processes had outlived their parents and were killed: %v", len(left), left))
		p.clear()
	}
	for _, addr := range p.ports {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			faults = append(faults, fmt.Errorf("port still held: %w", err))
			continue
		}
		_ = l.Close()
	}
	return errors.Join(faults...)
}

// clear kills what was left behind until nothing is.
func (p *processes) clear() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		left := p.leftovers()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone meanwhile is as good
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leftovers are the processes of this run that still live, zombies aside.
func (p *processes) leftovers() []int {
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	want := marker + "=" + p.run
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && slices.Contains(strings.Split(string(environ), "\x00"), want) {
			pids = append(pids, pid)
		}
	}
	return pids
}
