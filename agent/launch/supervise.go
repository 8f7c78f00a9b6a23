package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// supervise is the launcher's main loop: it works towards the newest goal and, while there is
// nothing to do for one, restarts what ends by itself. It returns the exit code when the launcher
// is told to end.
func (l *Launcher) supervise() (int, error) {
	l.endLeftovers()
	if l.endingBy() != nil {
		return 0, nil
	}
	if err := l.startCommitted(); err != nil && l.nothingToRun(err) {
		l.clean()
		var c *commandError
		if errors.As(err, &c) {
			return c.code, err
		}
		return 1, err
	}
	for {
		if sig := l.endingBy(); sig != nil {
			return l.finish(sig), nil
		}
		if g, ok := l.next(); ok {
			l.settle(g.number, l.pursue(g))
			continue
		}
		select {
		case <-l.wake:
		case ws := <-l.exited():
			l.unrequested(ws)
		case <-l.auto.C:
			l.restartByItself()
		}
	}
}

// nothingToRun tells a command line that never can work, which is for the operator to see at once,
// from one that a sidecar may still replace.
func (l *Launcher) nothingToRun(err error) bool {
	_, asked := l.next()
	return errors.Is(err, ErrCommand) && !asked && l.endingBy() == nil
}

func (l *Launcher) endingBy() os.Signal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

func (l *Launcher) exited() <-chan syscall.WaitStatus {
	if l.eng == nil {
		return nil
	}
	return l.eng.exit
}

// pursue makes one goal true. When a newer goal arrives meanwhile it leaves the rest to that one.
func (l *Launcher) pursue(g goal) error {
	if l.eng != nil && g.spec != nil && l.eng.spec.Same(*g.spec) {
		return nil
	}
	l.auto.Stop()
	l.stopEngine(syscall.SIGTERM)
	if l.endingBy() != nil {
		return ErrEnding
	}
	if now, _ := l.next(); now.number != g.number {
		return ErrSuperseded
	}
	if g.spec == nil {
		l.update(func(s *Status) { s.State, s.Error = Stopped, "" })
		return nil
	}
	l.crashes = nil
	l.update(func(s *Status) { s.UnrequestedExits = 0 })
	err := l.startEngine(*g.spec)
	if err != nil && !g.spec.Same(l.Status().Committed) {
		l.auto.Reset(l.cfg.ProbationWait) // the sidecar's turn; its silence is answered as after an exit
	}
	return err
}

// finish ends the engine for good and gives the launcher's exit code.
func (l *Launcher) finish(sig os.Signal) int {
	l.auto.Stop()
	if l.eng != nil {
		l.stopEngine(sig.(syscall.Signal))
		return l.exitCode
	}
	l.clean()
	switch l.Status().State {
	case Stopped:
		return 0
	case Failed:
		return exitNotExecutable
	}
	return l.exitCode
}

// unrequested deals with an engine that ended by itself, code 0 included: what it left behind is
// ended, then the committed configuration gets its turn. An engine that ran something else was on
// probation: what follows is the sidecar's decision, and the committed configuration only the
// answer to its silence.
func (l *Launcher) unrequested(ws syscall.WaitStatus) {
	spec := l.eng.spec
	exit := l.recordExit(ws, false)
	l.clean()
	s := l.Status()
	recent := l.countCrash(exit.At)
	log := l.log.With("epoch", spec.Epoch, "exit", describeExit(exit))
	switch {
	case recent >= l.cfg.CrashLimit:
		log.Error("engine keeps ending by itself; it is not restarted any more", "exits", recent)
		l.update(func(s *Status) {
			s.State = CrashLoop
			s.Error = fmt.Sprintf("the engine ended by itself %d times within %v, last with %s; look at its log, then start it again",
				recent, l.cfg.CrashWindow, describeExit(exit))
		})
	case spec.Same(s.Committed):
		pause := l.backoff(recent)
		log.Warn("engine ended by itself", "restart_in", pause)
		l.startLater(pause, fmt.Sprintf("the engine ended by itself with %s; started again in %v", describeExit(exit), pause))
	default:
		log.Warn("engine ended by itself before its configuration was committed", "waits_for_sidecar", l.cfg.ProbationWait)
		l.startLater(l.cfg.ProbationWait, fmt.Sprintf(
			"the engine ended by itself with %s under epoch %d, which is not committed; without a request within %v the committed epoch %d is started",
			describeExit(exit), spec.Epoch, l.cfg.ProbationWait, s.Committed.Epoch))
	}
}

func (l *Launcher) startLater(pause time.Duration, why string) {
	l.auto.Reset(pause)
	l.update(func(s *Status) { s.State, s.Error = Exited, why })
}

// backoff doubles from BackoffMin with each recent exit.
func (l *Launcher) backoff(recent int) time.Duration {
	pause := l.cfg.BackoffMin
	for range recent - 1 {
		pause = min(2*pause, l.cfg.BackoffMax)
	}
	return pause
}

// countCrash returns how many there were within the crash window, this one included.
func (l *Launcher) countCrash(at time.Time) int {
	l.crashes = append(l.crashes, at)
	l.crashes = slices.DeleteFunc(l.crashes, func(t time.Time) bool { return at.Sub(t) > l.cfg.CrashWindow })
	return len(l.crashes)
}

func (l *Launcher) restartByItself() {
	l.update(func(s *Status) { s.Restarts++ })
	if err := l.startCommitted(); err != nil {
		l.log.Error("engine was not restarted; tried again later", "error", err, "in", l.cfg.BackoffMax)
		l.auto.Reset(l.cfg.BackoffMax)
	}
}

// startCommitted starts what was committed last. When that cannot even be executed, say after a
// change of image, the operator's own command line is better than no engine.
func (l *Launcher) startCommitted() error {
	s := l.Status()
	err := l.startEngine(s.Committed)
	if err == nil || s.Committed.Same(s.Base) {
		return err
	}
	l.log.Error("committed configuration cannot be executed; starting the operator's own command line", "error", err)
	if failed := l.startEngine(s.Base); failed != nil {
		return failed
	}
	l.update(func(s *Status) {
		s.Error = fmt.Sprintf("the operator's own command line runs, because the committed one failed: %v", err)
	})
	return nil
}

// recordExit closes the books on the engine process, which has been reaped.
func (l *Launcher) recordExit(ws syscall.WaitStatus, requested bool) Exit {
	e := Exit{At: time.Now(), PID: l.eng.pid, Code: exitCode(ws), Requested: requested, Epoch: l.eng.spec.Epoch}
	l.exitCode = e.Code
	if ws.Signaled() {
		e.Signal = ws.Signal().String()
		if requested && l.eng.spec.KilledIsClean && !l.eng.killed && ws.Signal() == syscall.SIGKILL {
			l.exitCode = 0
		}
	}
	l.update(func(s *Status) {
		s.PID = 0
		s.Exits = append(s.Exits, e)
		if len(s.Exits) > keptExits {
			s.Exits = s.Exits[len(s.Exits)-keptExits:]
		}
		if !requested {
			s.UnrequestedExits++
		}
	})
	return e
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func describeExit(e Exit) string {
	if e.Signal != "" {
		return "signal " + e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}
