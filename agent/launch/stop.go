package launch

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	scanEvery   = 20 * time.Millisecond  // between looks at /proc while processes are being ended
	memoryEvery = 100 * time.Millisecond // between looks at MemAvailable
	memoryStep  = 64 << 20               // a rise below this within memoryEvery is other people's noise
	outputLimit = time.Second            // for the rest of an ended engine's output
)

// stopEngine ends the running engine, if any: the signal to its front process alone, which knows
// how to drain the rest; SIGKILL when the grace is over; then whatever it leaves behind.
func (l *Launcher) stopEngine(sig syscall.Signal) {
	if l.eng == nil {
		return
	}
	l.update(func(s *Status) { s.State = Stopping })
	l.log.Info("stopping engine", "pid", l.eng.pid, "epoch", l.eng.spec.Epoch, "grace", l.graceNow(l.eng.spec.Grace))
	l.reap.signal(l.eng.pid, sig)
	exit := l.recordExit(l.awaitExit(time.Now()), true)
	l.log.Info("engine stopped", "pid", exit.PID, "exit", describeExit(exit))
	l.clean()
}

// awaitExit waits out the grace, which may be shortened or lengthened meanwhile, then kills.
func (l *Launcher) awaitExit(began time.Time) syscall.WaitStatus {
	for {
		left := time.Until(began.Add(l.graceNow(l.eng.spec.Grace)))
		timer := time.NewTimer(left)
		select {
		case ws := <-l.eng.exit:
			timer.Stop()
			return ws
		case <-l.wake:
			timer.Stop()
		case <-timer.C:
			l.log.Warn("engine did not end within its grace; killed", "pid", l.eng.pid)
			l.eng.killed = true
			l.reap.signal(l.eng.pid, syscall.SIGKILL)
			return <-l.eng.exit
		}
	}
}

// clean ends every descendant, waits for the memory, and forgets the engine.
func (l *Launcher) clean() {
	l.survivor = ""
	l.endProcesses("descendants of the engine", l.cfg.OrphanGrace, func(all []proc) []proc {
		return descendants(all, os.Getpid())
	})
	l.awaitMemory()
	if l.eng != nil {
		l.eng.copies.finish(outputLimit)
		l.eng = nil
	}
	if err := l.store.clearEngine(); err != nil {
		l.log.Warn("ended engine is still written down", "error", err)
	}
}

// endLeftovers ends what a launcher that was killed left running. The engine is asked first and
// gets its grace: it may be serving.
func (l *Launcher) endLeftovers() {
	rec, known := l.store.engine()
	known = known && rec.Place == place()
	grace := l.cfg.OrphanGrace
	if known {
		grace = max(grace, rec.Grace)
		l.endProcesses("engine of the former launcher", grace, func(all []proc) []proc {
			return frontProcess(all, rec)
		})
	}
	mark := l.mark()
	ended := l.endProcesses("processes of the former launcher", l.cfg.OrphanGrace, func(all []proc) []proc {
		return leftovers(all, rec, known, func(pid int) bool { return hasEnv(pid, mark) })
	})
	if known || ended {
		l.awaitMemory()
	}
	if err := l.store.clearEngine(); err != nil {
		l.log.Warn("ended engine is still written down", "error", err)
	}
}

func frontProcess(all []proc, rec record) []proc {
	for _, p := range all {
		if p.PID == rec.Engine.PID && p.Start == rec.Engine.Start {
			return []proc{p}
		}
	}
	return nil
}

// leftovers finds a former engine's processes three ways, as each alone has a gap: by descent
// (fails once the front process is gone), by session and group (fails for those that left both),
// and by the mark in the environment (fails for those that write their title over it).
func leftovers(all []proc, rec record, known bool, marked func(pid int) bool) []proc {
	var roots []int
	var found []proc
	add := func(p proc) { roots, found = append(roots, p.PID), append(found, p) }
	self := os.Getpid()
	front := frontProcess(all, rec)
	reused := known && len(front) == 0 && pidTaken(all, rec.Engine.PID)
	for _, p := range all {
		ofEngine := known && !reused && p.Start >= rec.Engine.Start && (p.sid == rec.Engine.PID || p.pgid == rec.Engine.PID)
		if p.PID != self && (ofEngine || marked(p.PID)) {
			add(p)
		}
	}
	for _, p := range descendants(all, roots...) {
		if p.PID != self {
			found = append(found, p)
		}
	}
	return found
}

func pidTaken(all []proc, pid int) bool {
	for _, p := range all {
		if p.PID == pid {
			return true
		}
	}
	return false
}

// endProcesses sends SIGTERM, once, to each process that find yields, SIGKILL to those that are
// left after the grace, and returns when none is or ReleaseWait is over. It reports whether there
// were any.
func (l *Launcher) endProcesses(what string, grace time.Duration, find func(all []proc) []proc) bool {
	began := time.Now()
	asked := map[proc]bool{}
	for {
		all, err := processes()
		if err != nil {
			l.log.Warn("processes cannot be listed, so orphans of the engine cannot be ended: mount /proc", "error", err)
			return false
		}
		left := l.withoutReaders(find(all))
		waited := time.Since(began)
		if len(left) == 0 {
			if len(asked) > 0 {
				l.log.Info("ended "+what, "processes", len(asked), "took", waited.Round(time.Millisecond))
			}
			return len(asked) > 0
		}
		if waited > grace+l.cfg.ReleaseWait {
			l.giveUp(what, left)
			return true
		}
		for _, p := range left {
			id := proc{PID: p.PID, Start: p.Start}
			switch {
			case waited >= grace || l.hurried():
				p.send(syscall.SIGKILL)
			case !asked[id]:
				p.send(syscall.SIGTERM)
			}
			asked[id] = true
		}
		time.Sleep(scanEvery)
	}
}

func (l *Launcher) hurried() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hurry
}

// giveUp says what cannot be ended. The next engine is started all the same: it may fit beside
// them, and a fleet that waits for a hung driver would serve nobody.
func (l *Launcher) giveUp(what string, left []proc) {
	names := make([]string, 0, len(left))
	for _, p := range left {
		names = append(names, fmt.Sprintf("%v state %c", p, p.state))
	}
	text := fmt.Sprintf("%d %s do not end after SIGKILL within %v: %s; they may hold memory and ports of the next engine (state D is a hung driver or disk)",
		len(left), what, l.cfg.ReleaseWait, strings.Join(names, ", "))
	l.log.Error(text)
	l.survivor = text
}

// awaitMemory waits until the machine's free memory no longer rises, twice in a row. With all
// processes reaped their memory has been returned, save what the kernel frees in the background.
func (l *Launcher) awaitMemory() {
	if l.endingBy() != nil {
		return // nothing will be started into it
	}
	deadline := time.Now().Add(l.cfg.MemoryWait)
	before, ok := l.free()
	for still := 0; ok && still < 2; {
		if time.Now().After(deadline) {
			l.log.Info("memory of the ended engine is still coming back", "waited", l.cfg.MemoryWait)
			return
		}
		time.Sleep(memoryEvery)
		var now int64
		now, ok = l.free()
		if now-before < memoryStep {
			still++
		} else {
			still = 0
		}
		before = now
	}
}
