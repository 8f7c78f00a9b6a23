package launch

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// goal is what the requests so far want: the newest counts. Requests set it, the supervisor works
// towards it, and every request waits until the supervisor has settled its goal.
type goal struct {
	number uint64
	spec   *Spec          // nil: stopped
	grace  *time.Duration // nil: the running spec's own
}

func (g goal) same(o goal) bool {
	if g.spec == nil || o.spec == nil {
		return g.spec == nil && o.spec == nil
	}
	return g.spec.Same(*o.spec)
}

type waiter struct {
	number uint64
	done   chan error // holds one
}

// start asks for a spec; unlike restart it does not displace a running engine.
func (l *Launcher) start(ctx context.Context, spec Spec) error {
	return l.pursueSpec(ctx, spec, true)
}

func (l *Launcher) restart(ctx context.Context, spec Spec) error {
	return l.pursueSpec(ctx, spec, false)
}

func (l *Launcher) pursueSpec(ctx context.Context, spec Spec, onlyIfFree bool) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if _, err := resolve(spec.Argv[0]); err != nil {
		return err // before anything that runs is stopped for it
	}
	return l.request(ctx, goal{spec: &spec}, onlyIfFree)
}

func (l *Launcher) stop(ctx context.Context, grace *time.Duration) error {
	if grace != nil && *grace < 0 {
		return fmt.Errorf("%w: grace %v is negative", ErrInvalidSpec, *grace)
	}
	return l.request(ctx, goal{grace: grace}, false)
}

// request sets the goal and waits until it is settled, superseded, or ctx ends; in the last case
// it is still pursued.
func (l *Launcher) request(ctx context.Context, g goal, onlyIfFree bool) error {
	w, err := l.submit(g, onlyIfFree)
	if err != nil {
		return err
	}
	l.nudge()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Launcher) submit(g goal, onlyIfFree bool) (waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending != nil {
		return waiter{}, ErrEnding
	}
	pending := l.goal.number != l.settled
	if onlyIfFree {
		if err := l.occupied(*g.spec, pending); err != nil {
			return waiter{}, err
		}
	}
	w := waiter{done: make(chan error, 1)}
	if pending && l.goal.same(g) {
		if g.grace != nil {
			l.goal.grace = g.grace // the same stop, in another time
		}
	} else {
		l.settleLocked(ErrSuperseded)
		g.number = l.goal.number + 1
		l.goal = g
	}
	w.number = l.goal.number
	l.waiters = append(l.waiters, w)
	return w, nil
}

// occupied says why spec may not be started beside what runs or is about to.
func (l *Launcher) occupied(spec Spec, pending bool) error {
	other := Spec{}
	switch {
	case pending && l.goal.spec != nil:
		other = *l.goal.spec
	case !pending && l.status.PID != 0:
		other = l.status.Current
	default:
		return nil
	}
	if other.Same(spec) {
		return nil
	}
	return fmt.Errorf("%w: epoch %d (%s); ask for a restart to replace it", ErrRunning, other.Epoch, other.Fingerprint)
}

// settle answers all requests for the goal with that number, unless a newer one has come.
func (l *Launcher) settle(number uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.goal.number == number {
		l.settleLocked(err)
	}
}

func (l *Launcher) settleLocked(err error) {
	l.settled = l.goal.number
	for _, w := range l.waiters {
		w.done <- err
	}
	l.waiters = nil
}

func (l *Launcher) endWaiters() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending == nil {
		l.ending = syscall.SIGTERM // whoever asks from now on is refused
	}
	l.settleLocked(ErrEnding)
}

// next is the goal to work on; ok is false when the newest is settled.
func (l *Launcher) next() (g goal, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.goal, l.goal.number != l.settled
}

// graceNow is the grace for ending the running engine as wishes stand at this moment.
func (l *Launcher) graceNow(own time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.hurry:
		return 0
	case l.ending == nil && l.goal.number != l.settled && l.goal.grace != nil:
		return *l.goal.grace
	}
	return own
}
