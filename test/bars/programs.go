package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/optiinfra/performance-agent/controlplane/client"
)

// programLimit is how long a program may take to end when it is asked to.
const programLimit = 20 * time.Second

// programs are the built programs that a bar runs, each as a process of its own, and their files.
type programs struct {
	bin, dir string
	started  []*program
}

// program is one of them. Its output is in a file.
type program struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

func newPrograms(bin string) (*programs, error) {
	dir, err := os.MkdirTemp("", "bar-") // short, for Unix sockets in it
	if err != nil {
		return nil, err
	}
	return &programs{bin: bin, dir: dir}, nil
}

// start runs a built program with further environment, in a process group of its own.
func (p *programs) start(name string, env []string, prog string, args ...string) (*program, error) {
	c := &program{name: name, log: p.file(name + ".log"), ended: make(chan struct{})}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	c.cmd = exec.Command(filepath.Join(p.bin, prog), args...)
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env = log, log, append(os.Environ(), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		close(c.ended)
	}()
	p.started = append(p.started, c)
	return c, nil
}

func (p *programs) file(name string) string { return filepath.Join(p.dir, name) }

func (p *programs) write(name, text string) (string, error) {
	return p.file(name), os.WriteFile(p.file(name), []byte(text), 0o644)
}

// close ends what still runs, the newest first, and removes the files.
func (p *programs) close() error {
	p.end(slices.Clone(p.started))
	return os.RemoveAll(p.dir)
}

// end some of the programs, the newest first; close has nothing to do with them any more.
func (p *programs) end(some []*program) {
	for _, c := range slices.Backward(some) {
		c.stop()
	}
	p.started = slices.DeleteFunc(p.started, func(c *program) bool { return slices.Contains(some, c) })
}

// check reports a program that ended by itself.
func (p *programs) check() error {
	for _, c := range p.started {
		if !c.alive() {
			return fmt.Errorf("%s ended: %v; its last lines:\n%s", c.name, c.cmd.ProcessState, c.tail())
		}
	}
	return nil
}

func (c *program) pid() int { return c.cmd.Process.Pid }

func (c *program) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

func (c *program) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	select {
	case <-c.ended:
	case <-time.After(programLimit):
		_ = syscall.Kill(-c.pid(), syscall.SIGKILL) // and what it started
		<-c.ended
	}
}

func (c *program) tail() string {
	raw, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-2000):])
}

// wait until done says so; it is given up at the limit, and when a program ends.
func (p *programs) wait(ctx context.Context, what string, limit time.Duration, done func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		if err := p.check(); err != nil {
			return err
		}
		if done(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// answers reports whether a URL answers 200.
func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // its status is all that is asked
	return resp.StatusCode == http.StatusOK
}

// control is a control plane of one node.
type control struct {
	*client.Client
	process *program
	agents  string // address that sidecars connect to
}

// startControl starts one and waits until it leads.
func (p *programs) startControl(ctx context.Context, env ...string) (*control, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	c := &control{agents: loopback(ports[1])}
	file, err := p.write("control.yaml", fmt.Sprintf("data_dir: %s\nlisten: %s\nagents: %s\nraft: %s\nlog_level: warn\n",
		p.file("control"), loopback(ports[0]), c.agents, loopback(ports[2])))
	if err != nil {
		return nil, err
	}
	if c.process, err = p.start("control", env, "perf-controlplane", "serve", "--config", file); err != nil {
		return nil, err
	}
	url := "http://" + loopback(ports[0])
	c.Client = client.New(url)
	return c, p.wait(ctx, "the control plane", 30*time.Second, func(ctx context.Context) bool { return answers(ctx, url+"/health/ready") })
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// freePorts finds n free ports on loopback; all listeners are open at once, so that none is handed out
// twice.
func freePorts(n int) (ports []int, err error) {
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

// usage of processes so far.
type usage struct {
	cpu       time.Duration // in user space and in the kernel, of ended and awaited children too
	rss, peak int64         // bytes resident now, and at most since the start
	anonymous int64         // of those now, what is no part of a file and could be had back in no way
}

// usageOf a process.
func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	u.cpu, err = cpuIn(string(stat))
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "VmRSS":
			u.rss, err = kilobytes(value, err)
		case "RssAnon":
			u.anonymous, err = kilobytes(value, err)
		case "VmHWM":
			u.peak, err = kilobytes(value, err)
		}
	}
	return u, err
}

func (u *usage) add(o usage) {
	u.cpu, u.rss, u.peak, u.anonymous = u.cpu+o.cpu, u.rss+o.rss, u.peak+o.peak, u.anonymous+o.anonymous
}

// tick of the times in /proc on every Linux that this runs on.
const tick = 10 * time.Millisecond

// cpuIn a line of /proc/PID/stat, in which the command's name may hold anything.
func cpuIn(stat string) (time.Duration, error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 15 {
		return 0, errors.New("stat of a process is not understood")
	}
	var ticks int64
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += v
	}
	return time.Duration(ticks) * tick, nil
}

func kilobytes(text string, before error) (int64, error) {
	v, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
	return v << 10, errors.Join(before, err)
}

// descendants of a process by name, zombies aside.
func descendants(root int) (map[int]string, error) {
	type child struct {
		pid  int
		name string
	}
	children := map[int][]child{}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		pid, parent, name, ok := relation(string(raw))
		if ok {
			children[parent] = append(children[parent], child{pid, name})
		}
	}
	found := map[int]string{}
	for next := children[root]; len(next) > 0; next = next[1:] {
		found[next[0].pid] = next[0].name
		next = append(next, children[next[0].pid]...)
	}
	return found, nil
}

// relation in a line of /proc/PID/stat; false for a zombie.
func relation(stat string) (pid, parent int, name string, ok bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return 0, 0, "", false
	}
	f := strings.Fields(stat[end+1:])
	if len(f) < 2 || f[0] == "Z" {
		return 0, 0, "", false
	}
	pid, first := strconv.Atoi(strings.TrimSpace(stat[:open]))
	parent, second := strconv.Atoi(f[1])
	return pid, parent, stat[open+1 : end], errors.Join(first, second) == nil
}

// programName is the program of a process as it was started, "ended" when it has.
func programName(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "ended"
	}
	first, _, _ := strings.Cut(string(raw), "\x00")
	return filepath.Base(first)
}
