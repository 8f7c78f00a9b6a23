package launch

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// engine is the running engine's front process.
type engine struct {
	pid    int
	spec   Spec
	exit   <-chan syscall.WaitStatus
	killed bool // we sent SIGKILL
	copies *copies
}

// startEngine makes the process of a spec exist. Its state is Running or, with ErrCommand, Failed.
func (l *Launcher) startEngine(spec Spec) error {
	l.update(func(s *Status) {
		s.State, s.Current, s.Error, s.LogOffset = Starting, spec, "", l.tail.offset()
	})
	eng, err := l.launch(spec)
	if err != nil {
		l.log.Error("engine cannot be started", "epoch", spec.Epoch, "error", err)
		l.update(func(s *Status) { s.State, s.Error = Failed, err.Error() })
		return err
	}
	l.eng = eng
	l.remember(eng)
	l.update(func(s *Status) {
		s.State, s.PID, s.StartedAt, s.Error = Running, eng.pid, time.Now(), l.survivor
	})
	l.log.Info("engine started", "pid", eng.pid, "epoch", spec.Epoch, "fingerprint", spec.Fingerprint)
	return nil
}

func (l *Launcher) launch(spec Spec) (*engine, error) {
	path, err := resolve(spec.Argv[0])
	if err != nil {
		return nil, err
	}
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("engine's standard input: %w", err)
	}
	defer stdin.Close()
	c, stdout, stderr, err := newCopies()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	defer stderr.Close()
	env := environment(spec, l.mark())
	pid, exit, err := l.reap.start(func() (int, error) {
		return fork(path, spec, env, stdin, stdout, stderr)
	})
	if err != nil {
		c.abandon()
		return nil, err
	}
	c.begin(l.tail, l.cfg.Stdout, l.cfg.Stderr)
	return &engine{pid: pid, spec: spec, exit: exit, copies: c}, nil
}

// remember writes down what the next launcher must end if this one is killed. The mark in the
// environment covers the moment before.
func (l *Launcher) remember(eng *engine) {
	p, err := readProc(eng.pid)
	if err != nil {
		p = proc{PID: eng.pid} // ended already: nothing of that start time will be found
	}
	if err := l.store.setEngine(record{Engine: p, Place: place(), Grace: eng.spec.Grace, Spec: eng.spec}); err != nil {
		l.log.Warn("running engine is not written down; should the launcher be killed, its successor finds the engine by its environment only", "error", err)
	}
}

func (l *Launcher) mark() string { return markName + "=" + l.store.id }

// markName is the environment variable that every process started from one state folder inherits.
const markName = "PERF_LAUNCH_ID"

// copies carries the engine's two output streams to ours and to the tail.
type copies struct {
	readers [2]*os.File
	running sync.WaitGroup
	ended   chan struct{}
}

// newCopies returns the write ends for the engine; the caller closes its own after the fork.
func newCopies() (c *copies, stdout, stderr *os.File, err error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("engine's standard output: %w", err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		outW.Close()
		return nil, nil, nil, fmt.Errorf("engine's standard error: %w", err)
	}
	return &copies{readers: [2]*os.File{outR, errR}, ended: make(chan struct{})}, outW, errW, nil
}

func (c *copies) begin(t *tail, stdout, stderr io.Writer) {
	for i, w := range []io.Writer{stdout, stderr} {
		c.running.Go(func() { copyOutput(c.readers[i], t, w) })
	}
	go func() { c.running.Wait(); close(c.ended) }()
}

// copyOutput goes on when nobody reads our output any more: the engine must not notice.
func copyOutput(from io.Reader, t *tail, to io.Writer) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_, _ = t.Write(buf[:n])  // never fails
			_, _ = to.Write(buf[:n]) // reader gone: the tail has it
		}
		if err != nil {
			return
		}
	}
}

// finish reads what is left. With every writer gone the streams end by themselves; a process that
// could not be ended is not waited for.
func (c *copies) finish(limit time.Duration) {
	select {
	case <-c.ended:
	case <-time.After(limit):
	}
	c.abandon()
	select {
	case <-c.ended:
	case <-time.After(limit): // our own output is blocked
	}
}

func (c *copies) abandon() {
	for _, r := range c.readers {
		r.Close()
	}
}
