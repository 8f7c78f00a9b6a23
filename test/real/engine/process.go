package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// StartLimit bounds a start: three processes import in turn, on a busy machine in minutes.
const StartLimit = 4 * time.Minute

// Process is a running engine. Close it.
type Process struct {
	Recipe Recipe
	URL    string // base URL of its HTTP server
	Log    string // file with its standard output and error

	port   int
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// Options of a start.
type Options struct {
	Port  int      // 0 takes a free one
	Core  int      // for vLLM's worker
	Flags []string // after the recipe's own
	Env   []string // after the recipe's own
	Log   string   // file for its output; empty takes one in a new temporary folder
}

// Start runs an engine and returns at once; Ready waits until it serves.
func (r Recipe) Start(o Options) (*Process, error) {
	if err := adopt(); err != nil {
		return nil, err
	}
	if o.Port == 0 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		o.Port = port
	}
	if o.Log == "" {
		dir, err := os.MkdirTemp("", "real-"+string(r.Kind)+"-")
		if err != nil {
			return nil, fmt.Errorf("make a folder for the engine's log: %w", err)
		}
		o.Log = filepath.Join(dir, "engine.log")
	}
	log, err := os.Create(o.Log)
	if err != nil {
		return nil, fmt.Errorf("open the engine's log: %w", err)
	}
	defer log.Close()
	argv := r.Argv(o.Port, o.Flags...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(r.Env(o.Core), o.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", r.Kind, err)
	}
	p := &Process{Recipe: r, URL: "http://127.0.0.1:" + strconv.Itoa(o.Port), Log: o.Log, port: o.Port, cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// adopt makes this process the parent of its descendants' orphans, so that Close finds them:
// vLLM's engine core outlives a killed API server.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the subreaper of the engine's processes: %w", err)
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Port of its HTTP server.
func (p *Process) Port() int { return p.port }

// PID of the front process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the front process has ended; ExitCode is its code then.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode of the ended front process, -1 after a signal.
func (p *Process) ExitCode() int {
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

// Ready waits until /health answers 200, the engine ends, StartLimit passes or ctx ends.
func (p *Process) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, StartLimit)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before it served (%v); its last lines:\n%s", p.Recipe.Kind, p.err, p.Tail(2000))
		case <-ctx.Done():
			return fmt.Errorf("%s did not serve: %w; its last lines:\n%s", p.Recipe.Kind, ctx.Err(), p.Tail(2000))
		case <-tick.C:
			if p.healthy(ctx) {
				return nil
			}
		}
	}
}

// healthy allows 25 s: SGLang generates a token for each answer.
func (p *Process) healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/health", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode == http.StatusOK
}

// Tail is the end of the log, at most n bytes.
func (p *Process) Tail(n int) string {
	raw, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-n):])
}

// Signal sends sig to the front process.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Close kills the engine with all its processes and waits until they are gone.
func (p *Process) Close() error {
	var errs []error
	limit := time.Now().Add(20 * time.Second)
	for {
		left := p.Members()
		if len(left) == 0 {
			<-p.exited
			return errors.Join(errs...)
		}
		if time.Now().After(limit) {
			return fmt.Errorf("processes of %s survive SIGKILL: %v", p.Recipe.Kind, left)
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, err)
			}
			reap(pid, p.PID())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// reap collects an orphan of the engine; its front process is collected by Start's waiter.
func reap(pid, front int) {
	if pid != front {
		_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
	}
}

// Members are the live processes of the engine: its process group and all their descendants,
// orphans included. The front process counts while it is not reaped.
func (p *Process) Members() []int {
	parents, groups := processes()
	in := map[int]bool{}
	for pid, group := range groups {
		in[pid] = group == p.PID()
	}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if in[parent] && !in[pid] {
				in[pid], grown = true, true
			}
		}
	}
	var out []int
	for pid, member := range in {
		if member {
			out = append(out, pid)
		}
	}
	return out
}

// processes reads parent and process group of every process that is not a zombie.
func processes() (parents, groups map[int]int) {
	parents, groups = map[int]int{}, map[int]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return parents, groups
	}
	for _, file := range stats {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		text := string(raw)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(fields) < 3 || fields[0] == "Z" {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		groups[pid], _ = strconv.Atoi(fields[2])
	}
	return parents, groups
}
