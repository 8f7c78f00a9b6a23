package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// maxBackoff between two starts of a plugin that keeps failing.
const maxBackoff = time.Minute

// instance is an adapter that outlives its plugin's process: each call goes to the running one,
// and starts one when there is none.
type instance struct {
	host *Host
	name string
	log  *slog.Logger

	mu       sync.Mutex // guards what follows; held while a plugin starts
	current  *process
	calls    int         // under way
	idle     *time.Timer // runs retire once no call has come for Config.Idle
	failures int         // in a row
	fault    error
	notUntil time.Time
	closed   bool
}

var _ engine.Adapter = (*instance)(nil)

func (i *instance) Describe(ctx context.Context, t *engine.Target) (d *engine.Description, err error) {
	err = i.call(ctx, func(ctx context.Context, a engine.Adapter) error {
		d, err = a.Describe(ctx, t)
		return err
	})
	return d, err
}

func (i *instance) Validate(ctx context.Context, t *engine.Target, s engine.Settings) (problems []*engine.Problem, err error) {
	err = i.call(ctx, func(ctx context.Context, a engine.Adapter) error {
		problems, err = a.Validate(ctx, t, s)
		return err
	})
	return problems, err
}

func (i *instance) Command(ctx context.Context, t *engine.Target, s engine.Settings) (line *engine.CommandLine, err error) {
	err = i.call(ctx, func(ctx context.Context, a engine.Adapter) error {
		line, err = a.Command(ctx, t, s)
		return err
	})
	return line, err
}

func (i *instance) Apply(ctx context.Context, t *engine.Target, s engine.Settings) (results []*engine.KnobResult, err error) {
	err = i.call(ctx, func(ctx context.Context, a engine.Adapter) error {
		results, err = a.Apply(ctx, t, s)
		return err
	})
	return results, err
}

// call runs one call, and a second time when the plugin turned out to be gone: all calls are safe
// to repeat.
func (i *instance) call(ctx context.Context, f func(context.Context, engine.Adapter) error) error {
	err := i.once(ctx, f)
	if errors.Is(err, ErrEnded) && ctx.Err() == nil {
		if again := i.once(ctx, f); again == nil || !errors.Is(again, ErrEnded) {
			return again
		}
	}
	return err
}

func (i *instance) once(ctx context.Context, f func(context.Context, engine.Adapter) error) error {
	p, err := i.begin()
	if err != nil {
		return err
	}
	defer i.end()
	limited, cancel := context.WithTimeout(ctx, i.host.cfg.CallTimeout)
	defer cancel()
	deadline, set := ctx.Deadline()
	callers := set && time.Until(deadline) < i.host.cfg.CallTimeout // whose deadline comes first
	err = f(limited, p.adapter)
	if err == nil {
		i.succeeded()
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("adapter %s: %w", i.name, ctx.Err())
	}
	switch code := status.Code(err); {
	case callers && code == codes.DeadlineExceeded: // the plugin's clock rang before ours
		return fmt.Errorf("adapter %s: %w", i.name, context.DeadlineExceeded)
	case limited.Err() != nil || code == codes.DeadlineExceeded:
		return i.failed(p, fmt.Errorf("%w: %s said nothing for %v; it was ended and will be started anew", ErrSilent, i.name, i.host.cfg.CallTimeout))
	case p.client.Exited() || code == codes.Unavailable:
		return i.failed(p, fmt.Errorf("%w: %s, in the middle of a call; its last words are in the agent's log", ErrEnded, i.name))
	case code == codes.Unimplemented:
		return fmt.Errorf("adapter %s does not speak this agent's protocol; build or install it anew: %w", i.name, err)
	}
	return fmt.Errorf("adapter %s: %w", i.name, err)
}

// begin a call to the plugin's process; end must follow.
func (i *instance) begin() (*process, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, err := i.running()
	if err == nil {
		i.calls++
	}
	return p, err
}

func (i *instance) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls--
	i.rest()
}

// rest begins to wait for the next call. i.mu is held.
func (i *instance) rest() {
	if i.idle == nil {
		i.idle = time.AfterFunc(i.host.cfg.Idle, i.retire)
		return
	}
	i.idle.Reset(i.host.cfg.Idle)
}

// retire ends a process that nobody calls: most are of engines that are not here, asked once whether
// they know this one.
func (i *instance) retire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == nil || i.calls > 0 {
		return
	}
	i.log.Debug("plugin is ended until it is needed", "pid", i.current.client.ID())
	i.current.stop()
	i.current = nil
}

// verified starts the plugin when it does not run; an error says why it cannot.
func (i *instance) verified() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, err := i.running()
	i.rest()
	return err
}

// running returns the plugin's process and starts one if there is none. A plugin that keeps
// failing is started at growing intervals; between them the last failure is the answer. i.mu is held.
func (i *instance) running() (*process, error) {
	if i.closed {
		return nil, ErrClosed
	}
	if i.current != nil && !i.current.client.Exited() {
		return i.current, nil
	}
	if i.current != nil {
		i.drop(fmt.Errorf("%w: %s, between two calls; its last words are in the agent's log", ErrEnded, i.name))
	}
	if wait := time.Until(i.notUntil); wait > 0 {
		return nil, fmt.Errorf("%w (failed %d times; next start in %v)", i.fault, i.failures, wait.Round(time.Millisecond))
	}
	p, err := i.host.start(i.name, i.log)
	if err != nil {
		i.note(err)
		return nil, err
	}
	i.log.Info("plugin started", "pid", p.client.ID())
	i.current = p
	return p, nil
}

func (i *instance) succeeded() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failures, i.fault, i.notUntil = 0, nil, time.Time{}
}

// failed ends a process that is of no use any more.
func (i *instance) failed(p *process, fault error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == p { // else another call has noticed before
		i.drop(fault)
	}
	return fault
}

// drop ends the current process. i.mu is held.
func (i *instance) drop(fault error) {
	i.log.Warn("plugin is ended", "reason", fault)
	i.current.kill()
	i.current.stop()
	i.current = nil
	i.note(fault)
}

// note remembers a failure and when to try again: at once after the first. i.mu is held.
func (i *instance) note(fault error) {
	i.failures++
	i.fault = fault
	if i.failures > 1 {
		wait := i.host.cfg.Backoff << min(i.failures-2, 20)
		i.notUntil = time.Now().Add(min(wait, maxBackoff))
	}
}

func (i *instance) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.idle != nil {
		i.idle.Stop()
	}
	if i.current != nil {
		i.current.stop()
		i.current = nil
	}
}
