package inject

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Pauses stops processes for a while, again and again, until ctx ends. They run when it returns.
func Pauses(ctx context.Context, pids []int, stopped, every time.Duration) (err error) {
	defer func() { err = errors.Join(err, signal(pids, syscall.SIGCONT)) }()
	for {
		if err := signal(pids, syscall.SIGSTOP); err != nil {
			return err
		}
		if !wait(ctx, stopped) {
			return nil
		}
		if err := signal(pids, syscall.SIGCONT); err != nil {
			return err
		}
		if !wait(ctx, every-stopped) {
			return nil
		}
	}
}

func signal(pids []int, s syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send %v to %d: %w", s, pid, err)
		}
	}
	return nil
}

// wait is false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
