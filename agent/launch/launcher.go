package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Config of a launcher. Zero durations and counts take the defaults named beside them.
type Config struct {
	Socket   string // path of the Unix socket, mode 0660
	StateDir string // kept across container restarts; one per launcher
	Base     Spec   // the operator's own command line

	CrashLimit    int           // 5 unrequested exits within CrashWindow end the restarts
	CrashWindow   time.Duration // 5 min
	BackoffMin    time.Duration // 1 s before the first restart, doubled by each further exit
	BackoffMax    time.Duration // 30 s
	ProbationWait time.Duration // 30 s: time a sidecar has to act when a configuration that was not committed ends by itself
	OrphanGrace   time.Duration // 2 s between SIGTERM and SIGKILL for what the front process leaves behind
	ReleaseWait   time.Duration // 30 s limit for killed processes to vanish
	MemoryWait    time.Duration // 5 s limit for their memory to come back

	// GPUReader is the command of the program that reads the GPUs of this container, which is started
	// when a sidecar asks for its output; empty: none.
	GPUReader []string

	Stdout, Stderr io.Writer // where the engine's output is copied; nil is this process's own
	Logger         *slog.Logger
}

func (c Config) withDefaults() Config {
	c.CrashLimit = or(c.CrashLimit, 5)
	c.CrashWindow = or(c.CrashWindow, 5*time.Minute)
	c.BackoffMin = or(c.BackoffMin, time.Second)
	c.BackoffMax = max(or(c.BackoffMax, 30*time.Second), c.BackoffMin)
	c.ProbationWait = or(c.ProbationWait, 30*time.Second)
	c.OrphanGrace = or(c.OrphanGrace, 2*time.Second)
	c.ReleaseWait = or(c.ReleaseWait, 30*time.Second)
	c.MemoryWait = or(c.MemoryWait, 5*time.Second)
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// keptExits bounds Status.Exits.
const keptExits = 32

// Launcher runs one engine. A process holds at most one, and starts no children but through its
// launcher, which reaps everything.
type Launcher struct {
	cfg   Config
	log   *slog.Logger
	reap  *reaper
	wake  chan struct{}                 // the goal has changed; holds one
	free  func() (bytes int64, ok bool) // the machine's available memory
	store *store
	tail  *tail

	mu      sync.Mutex // guards all below
	status  Status
	goal    goal
	settled uint64 // number of the last goal that was reached or failed
	waiters []waiter
	ending  os.Signal // why the launcher is to end; nil while it is not
	hurry   bool      // end without grace
	readers []int     // process ids of GPU readers

	// Owned by the supervising goroutine.
	eng      *engine
	auto     *time.Timer // fires when the committed configuration is to be started by itself
	crashes  []time.Time // unrequested exits since the last start by request
	exitCode int         // what the newest exit makes of the launcher's own
	survivor string      // words on processes that could not be ended before the next start
}

// New allocates a launcher.
func New(cfg Config) *Launcher {
	cfg = cfg.withDefaults()
	auto := time.NewTimer(time.Hour)
	auto.Stop()
	return &Launcher{
		cfg: cfg, log: cfg.Logger.With("component", "launch"), reap: newReaper(),
		wake: make(chan struct{}, 1), free: availableMemory, auto: auto,
	}
}

// Run starts the committed configuration, or the operator's command line when there is none, and
// keeps an engine going until SIGTERM, SIGINT or the end of ctx, which stop it gracefully. The exit
// code is the engine's own, 128+n when signal n ended it, as a shell would give it; a stop that ends
// as the engine's clean drains do (Spec.KilledIsClean) gives 0. An error says why nothing could be
// run: ErrInUse, ErrState and whatever keeps the socket from opening come with code 1, ErrCommand
// with 126 or 127. Run may be called once.
func (l *Launcher) Run(ctx context.Context) (exitCode int, err error) {
	if err := l.cfg.Base.Validate(); err != nil {
		return 1, fmt.Errorf("the operator's command line: %w", err)
	}
	if l.store, err = openStore(l.cfg.StateDir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, l.store.close()) }()
	listener, err := listen(l.cfg.Socket)
	if err != nil {
		return 1, err
	}
	if l.tail, err = openTail(l.store.path("tail.log")); err != nil {
		l.log.Warn("log tail is kept in memory only", "error", l.store.explain("keep log tail", err))
	}
	defer func() {
		if err := l.tail.close(); err != nil {
			l.log.Warn("log tail was not kept", "error", l.store.explain("keep log tail", err))
		}
	}()
	if err := becomeSubreaper(); err != nil {
		l.log.Warn("orphans of the engine cannot be adopted; those in other sessions may survive it", "error", err)
	}
	l.begin()
	return l.serveAndSupervise(ctx, listener)
}

// begin fills in what is known before anything runs.
func (l *Launcher) begin() {
	committed, passedOver := l.store.committed(l.cfg.Base)
	if passedOver != "" {
		l.log.Warn(passedOver)
	}
	if committed == nil {
		committed = &l.cfg.Base
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = Status{
		State: Starting, Current: *committed, Base: l.cfg.Base, Committed: *committed,
		LauncherStartedAt: time.Now(), LogOffset: l.tail.offset(),
	}
}

// serveAndSupervise runs the reaper, the signal handler, the API and, in this goroutine, the
// supervisor. All have ended when it returns.
func (l *Launcher) serveAndSupervise(ctx context.Context, listener *socket) (int, error) {
	signals := make(chan os.Signal, 8)
	// SIGPIPE is taken and dropped: a reader of our output that goes away must not end the launcher,
	// and ignoring it would be inherited by the engine.
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	defer signal.Stop(signals)

	helpers, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { l.reap.run(helpers) })
	running.Go(func() { l.handleSignals(helpers, ctx.Done(), signals) })
	running.Go(func() { listener.serve(helpers, l) })
	code, err := l.supervise()
	l.endWaiters()
	stop()
	running.Wait()
	return code, err
}

// handleSignals passes signals on: those that end a program end the engine first.
func (l *Launcher) handleSignals(ctx context.Context, cancelled <-chan struct{}, signals <-chan os.Signal) {
	told := false // by a signal: ctx may well end by the same one
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT:
				l.end(s, told && s == syscall.SIGINT)
				told = true
			case syscall.SIGPIPE:
			default:
				l.forward(s.(syscall.Signal))
			}
		case <-cancelled:
			l.end(syscall.SIGTERM, false)
			cancelled = nil
		case <-ctx.Done():
			return
		}
	}
}

// end asks the supervisor to stop the engine and return. An interrupt after another signal is a
// person who does not want to wait.
func (l *Launcher) end(s os.Signal, hurry bool) {
	l.mu.Lock()
	if l.ending == nil {
		l.ending = s
	}
	l.hurry = l.hurry || hurry
	l.mu.Unlock()
	l.nudge()
}

func (l *Launcher) forward(s syscall.Signal) {
	if pid := l.Status().PID; pid != 0 {
		l.reap.signal(pid, s)
	}
}

func (l *Launcher) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Status is a copy of how it is now.
func (l *Launcher) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Exits = slices.Clone(s.Exits)
	return s
}

func (l *Launcher) update(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

// commit makes spec what a restarted launcher starts, once it is on disk.
func (l *Launcher) commit(spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	l.mu.Lock() // across the write: the file and the status never tell two stories
	defer l.mu.Unlock()
	if err := l.store.commit(spec, l.cfg.Base); err != nil {
		return err
	}
	l.status.Committed = spec
	l.log.Info("configuration committed", "epoch", spec.Epoch, "fingerprint", spec.Fingerprint)
	return nil
}
