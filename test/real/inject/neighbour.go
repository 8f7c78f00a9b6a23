package inject

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Neighbour keeps processes busy on one core until ctx ends.
func Neighbour(ctx context.Context, core, processes int) error {
	var cmds []*exec.Cmd
	var errs []error
	for range processes {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			errs = append(errs, fmt.Errorf("start a neighbour: %w", err))
			break
		}
		cmds = append(cmds, cmd)
		var on unix.CPUSet
		on.Set(core)
		if err := unix.SchedSetaffinity(cmd.Process.Pid, &on); err != nil {
			errs = append(errs, fmt.Errorf("put the neighbour on core %d: %w", core, err))
		}
	}
	if len(errs) == 0 {
		<-ctx.Done()
	}
	for _, cmd := range cmds {
		_ = cmd.Process.Kill() // it may have ended with ctx
		_ = cmd.Wait()         // by that signal
	}
	return errors.Join(errs...)
}
