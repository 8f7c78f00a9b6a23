package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper owns every wait of this process: as process 1 or as child subreaper it gets children that
// it never started, and a second waiter (os/exec) would race with it for those that it did. So
// children are started through it alone; it holds the mutex from the fork to the registration,
// hence a child that ends at once is still known when it is reaped.
type reaper struct {
	mu  sync.Mutex
	own map[int]chan syscall.WaitStatus // by process id, until reaped
}

func newReaper() *reaper { return &reaper{own: map[int]chan syscall.WaitStatus{}} }

// becomeSubreaper makes orphaned descendants children of this process instead of process 1.
func becomeSubreaper() error {
	if os.Getpid() == 1 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	return nil
}

// start runs fork and registers the child. Its wait status arrives on the channel, once.
func (r *reaper) start(fork func() (pid int, err error)) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	exit := make(chan syscall.WaitStatus, 1)
	r.own[pid] = exit
	return pid, exit, nil
}

// signal reaches the child only while its process id is certainly its own: before it is reaped.
func (r *reaper) signal(pid int, sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.own[pid]; ok {
		_ = syscall.Kill(pid, sig) // it exists, as a zombie at least, and is ours
	}
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.reap()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reap collects all children that have ended, own and adopted.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if exit, ok := r.own[pid]; ok {
			delete(r.own, pid)
			exit <- ws
		}
	}
}
