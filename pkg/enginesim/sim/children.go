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

// Children are helper processes: they hold a place in the process tree and nothing else.
type Children struct {
	cmds  []*exec.Cmd
	pipes []io.Closer
}

// Spawn starts one helper per title when Options.Children is on; End must be called.
func (e *Env) Spawn(bond Bond, titles ...string) (*Children, error) {
	c := &Children{}
	if !e.Children {
		return c, nil
	}
	for _, title := range titles {
		if err := c.spawn(e.Self, bond, title); err != nil {
			c.End()
			return nil, fmt.Errorf("spawn helper %s: %w", title, err)
		}
	}
	return c, nil
}

func (c *Children) spawn(self []string, bond Bond, title string) error {
	cmd := exec.Command(self[0], append(self[1:len(self):len(self)], "--sim-child", string(bond)+","+title)...)
	cmd.Args[0] = title
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: bond == OwnGroup}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		pipe.Close()
		return err
	}
	c.cmds, c.pipes = append(c.cmds, cmd), append(c.pipes, pipe)
	return nil
}

// End stops the helpers and waits for them.
func (c *Children) End() {
	for _, cmd := range c.cmds {
		cmd.Process.Kill()
	}
	for i, cmd := range c.cmds {
		cmd.Wait()
		c.pipes[i].Close()
	}
	c.cmds, c.pipes = nil, nil
}

// BeChild is a helper's life: wait to be ended, or for the front process to go if bound to it.
func BeChild(ctx context.Context, spec string) int {
	bond, title, _ := strings.Cut(spec, ",")
	os.WriteFile("/proc/self/comm", []byte(title), 0) // as far as the system has it
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
	select {
	case <-signals:
	case <-parentGone:
	case <-limit.C:
	case <-ctx.Done():
	}
	return 0
}
