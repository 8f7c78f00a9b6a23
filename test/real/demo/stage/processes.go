package stage

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit is how long a program may take to end when it is asked to. It is longer than a launcher
// gives its engine: vLLM forgets to end when it is asked during its start.
const stopLimit = 100 * time.Second

// Process is a program that was started.
type Process struct {
	Name string
	Log  string // file with its output; several lives of one name share it

	cmd  *exec.Cmd
	done chan struct{}
}

// processes are all that a stage started.
type processes struct {
	logs string

	mu  sync.Mutex // guards all
	all []*Process
}

// adopt makes this process the parent of its descendants' orphans, so that none escapes being seen.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the subreaper of what is started: %w", err)
	}
	return nil
}

// start runs a program in a process group of its own.
func (p *processes) start(name string, env []string, argv ...string) (*Process, error) {
	c := &Process{Name: name, Log: filepath.Join(p.logs, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	defer log.Close() // the child has its own
	c.cmd = exec.Command(argv[0], argv[1:]...)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env = log, log, env
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		close(c.done)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, c)
	return c, nil
}

// PID of the process.
func (c *Process) PID() int { return c.cmd.Process.Pid }

// Alive reports whether the process has not ended.
func (c *Process) Alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Kill is kill -9 of this process alone.
func (c *Process) Kill() {
	_ = c.cmd.Process.Kill() // gone already is as good
	<-c.done
}

// Stop asks the process to end and waits; it is killed after stopLimit.
func (c *Process) Stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-c.done:
	case <-limit.C:
		c.Kill()
	}
}

// Tail is the end of what the process wrote, at most n bytes.
func (c *Process) Tail(n int) string {
	raw, err := os.ReadFile(c.Log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-n):])
}

// stop ends everything, the newest first; what survives is killed and named in the error.
func (p *processes) stop() error {
	p.mu.Lock()
	all := slices.Clone(p.all)
	p.mu.Unlock()
	var ended sync.WaitGroup
	for _, c := range slices.Backward(all) {
		ended.Go(c.Stop)
	}
	ended.Wait()
	left := Descendants(os.Getpid())
	if len(left) == 0 {
		return nil
	}
	var names []string
	for _, pid := range left {
		names = append(names, fmt.Sprintf("%d (%s)", pid, CommandOf(pid)))
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone meanwhile is as good
	}
	return fmt.Errorf("processes outlived what started them: %s", strings.Join(names, ", "))
}

// Descendants are the live processes below a process, zombies aside.
func Descendants(root int) []int {
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, file := range stats {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		text := string(raw)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(fields) < 2 || fields[0] == "Z" {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		children[parent] = append(children[parent], pid)
	}
	var out []int
	for next := children[root]; len(next) > 0; {
		pid := next[0]
		out, next = append(out, pid), append(next[1:], children[pid]...)
	}
	return out
}

// CommandOf is the command line of a process, its title where it gave itself one.
func CommandOf(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "ended"
	}
	words := strings.ReplaceAll(strings.TrimRight(string(raw), "\x00"), "\x00", " ")
	return words[:min(len(words), 120)]
}

// Gone reports whether no process with that id runs; a zombie does not.
func Gone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	text := string(raw)
	return strings.HasPrefix(text[strings.LastIndexByte(text, ')')+1:], " Z")
}

// freePorts finds n free ports on loopback; all listeners are open at once, so that none is handed
// out twice.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
