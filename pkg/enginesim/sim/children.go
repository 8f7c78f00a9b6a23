package sim

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// orphanLimit is how long a helper process lives when nobody ends it.
const orphanLimit = 10 * time.Minute

// Bond is what ties a helper process to the engine's front process.
type Bond string

// The bonds of the three engines.
const (
	SameGroup Bond = "same-group" // shares its process group, outlives it
	OwnGroup  Bond = "own-group"  // leads a process group of its own, outlives it
	DiesWith  Bond = "dies-with"  // ends when it ends, however it ends
)

// Children are the processes beside the engine's front process: helpers, which hold a place in the
// process tree and nothing else, and parts of the engine that do some of its work.
type Children struct {
	all   []*Child
	ended chan *Child
}

// Child is one of them.
type Child struct {
	cmd  *exec.Cmd
	pipe io.Closer     // its standard input
	done chan struct{} // closed when it has ended
}

// Spawn starts one helper per title when Options.Children is on; End must be called.
func (e *Env) Spawn(bond Bond, titles ...string) (*Children, error) {
	c := &Children{ended: make(chan *Child, 8)}
	if !e.Children {
		return c, nil
	}
	for _, title := range titles {
		cmd := e.command(title, "--sim-child", string(bond)+","+title)
		if _, err := c.start(cmd, bond); err != nil {
			c.End()
			return nil, fmt.Errorf("spawn helper %s: %w", title, err)
		}
	}
	return c, nil
}

// Part starts this program once more with its own arguments, to be one part of the engine. It writes
// to the same log.
func (c *Children) Part(e *Env, bond Bond, part string) (*Child, error) {
	cmd := e.command(part, append([]string{"--sim-part", part}, e.Args...)...)
	cmd.Stdout, cmd.Stderr = e.Stdout, e.Stderr
	p, err := c.start(cmd, bond)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	return p, nil
}

// command runs this program again under another name.
func (e *Env) command(title string, args ...string) *exec.Cmd {
	cmd := exec.Command(e.Self[0], append(e.Self[1:len(e.Self):len(e.Self)], args...)...)
	cmd.Args[0] = title
	return cmd
}

func (c *Children) start(cmd *exec.Cmd, bond Bond) (*Child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: bond == OwnGroup}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		pipe.Close()
		return nil, err
	}
	p := &Child{cmd, pipe, make(chan struct{})}
	c.all = append(c.all, p)
	go func() {
		cmd.Wait()
		close(p.done)
		c.ended <- p
	}()
	return p, nil
}

// Ended tells of each one that has ended.
func (c *Children) Ended() <-chan *Child { return c.ended }

// Signal sends a signal; one that has ended gets none.
func (p *Child) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Wait waits for its end until ctx ends, then kills it. clean says that it ended by itself.
func (p *Child) Wait(ctx context.Context) (clean bool) {
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
		p.Signal(os.Kill)
		<-p.done
		return false
	}
}

// End kills those that still run and waits for them.
func (c *Children) End() {
	for _, p := range c.all {
		p.Signal(os.Kill)
	}
	for _, p := range c.all {
		<-p.done
		p.pipe.Close()
	}
	c.all = nil
}

// Title names this process in the process list, as far as the system has it.
func Title(title string) { os.WriteFile("/proc/self/comm", []byte(title), 0) }

// BeChild is a helper's life: wait to be ended, or for the front process to go if bound to it. Once
// its front process is gone, one with a process group of its own no longer obeys SIGTERM.
func BeChild(ctx context.Context, spec string) int {
	bond, title, _ := strings.Cut(spec, ",")
	Title(title)
	parent := os.Getppid()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)
	var parentGone chan struct{}
	if Bond(bond) == DiesWith {
		parentGone = make(chan struct{})
		go func() { io.Copy(io.Discard, os.Stdin); close(parentGone) }()
	}
	limit := time.NewTimer(orphanLimit)
	defer limit.Stop()
	for {
		select {
		case <-signals:
			if Bond(bond) == OwnGroup && os.Getppid() != parent {
				continue
			}
		case <-parentGone:
		case <-limit.C:
		case <-ctx.Done():
		}
		return 0
	}
}
