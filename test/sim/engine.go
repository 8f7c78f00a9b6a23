package sim

import (
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
)

// flavour is what a configuration does to an engine and to its users.
type flavour struct {
	slow    bool  // hurts users, some time after it came into rotation
	onset   int64 // that time, milliseconds
	crashes bool  // ends by itself soon after its start
	failing bool  // fails most requests
	empty   bool  // answers the probe prompt with nothing
	refused bool  // not allowed by the agents
}

func (f flavour) bad() bool { return f.slow || f.crashes || f.failing || f.empty || f.refused }

// flavour of a body, by its hash; the operator's own command line is harmless.
func (w *world) flavour(hash string) flavour { return w.check.flavours[hash] }

// engine is a launcher and the engine process below it.
type engine struct {
	state     launch.State
	spec      probation.Config // of the process, as it was started
	runs      probation.Config // of the process, changes while it ran included
	committed probation.Config // what a restarted launcher starts
	pid       int
	startedAt int64
	readyAt   int64
	dieAt     int64 // 0: not
	againAt   int64 // when the launcher starts it again; 0: not
	exits     int
	crashes   int
	dead      bool // it runs and its health endpoint says it is not well
}

func (e *engine) status() probation.Engine {
	return probation.Engine{
		State: e.state, Epoch: e.spec.Epoch, Fingerprint: e.spec.Fingerprint(), PID: e.pid,
		StartedAt: time.UnixMilli(e.startedAt).UTC(), Exits: e.exits,
		CommittedEpoch: e.committed.Epoch, CommittedFingerprint: e.committed.Fingerprint(),
	}
}

// spawn begins a process.
func (e *engine) spawn(a *agent, c probation.Config) {
	e.pid++
	e.state, e.spec, e.runs, e.dead = launch.Running, c, c, false
	e.startedAt, e.againAt, e.dieAt = a.w.now, 0, 0
	e.readyAt = a.w.now + a.w.between(restartMs/4, restartMs)
	if a.w.chance(0.05) {
		e.readyAt += a.w.between(5_000, 40_000)
	}
	if a.w.flavour(c.Hash).crashes || a.w.chance(0.03) {
		e.dieAt = a.w.now + a.w.between(500, 8_000)
	}
	a.inFlight = 0
}

// start is the launcher's answer to a request; its error is empty when the process runs.
func (e *engine) start(a *agent, c probation.Config) string {
	e.exits, e.crashes = 0, 0
	a.w.say("%s: the launcher starts epoch %d", a.id, c.Epoch)
	e.spawn(a, c)
	if a.w.chance(0.04) {
		e.state = launch.Failed
		return "the engine could not be started"
	}
	return ""
}

// change applies a configuration to the running process.
func (e *engine) change(a *agent, c probation.Config) string {
	a.w.say("%s: epoch %d is applied to the running engine", a.id, c.Epoch)
	if a.w.chance(0.05) {
		return "the engine did not take it"
	}
	e.runs = c
	if a.w.flavour(c.Hash).crashes {
		e.dieAt = a.w.now + a.w.between(500, 8_000)
	}
	return ""
}

// age lets the process die, and the launcher start the committed configuration again.
func (e *engine) age(a *agent) {
	switch {
	case e.state == launch.Running && e.dieAt != 0 && a.w.now >= e.dieAt:
		e.die(a)
	case e.againAt != 0 && a.w.now >= e.againAt:
		a.w.say("%s: the launcher starts epoch %d again", a.id, e.committed.Epoch)
		e.spawn(a, e.committed)
	}
}

// die ends the process by itself.
func (e *engine) die(a *agent) {
	e.exits++
	e.crashes++
	e.dieAt, e.state = 0, launch.Exited
	a.w.say("%s: the engine of epoch %d ends by itself", a.id, e.spec.Epoch)
	if e.crashes >= 3 {
		e.state, e.againAt = launch.CrashLoop, 0
		return
	}
	e.againAt = a.w.now + 1000
	if e.spec.Epoch != e.committed.Epoch {
		e.againAt = a.w.now + 10_000 // what follows is the agent's decision
	}
}

// relaunch restarts the launcher: it starts what was committed.
func (e *engine) relaunch(a *agent) {
	e.exits, e.crashes = 0, 0
	e.spawn(a, e.committed)
	a.w.say("%s: the launcher was restarted and starts epoch %d", a.id, e.committed.Epoch)
	a.checkRelaunch()
}

func (e *engine) health(a *agent) (probation.Health, string) {
	switch {
	case e.state != launch.Running || a.w.now < e.readyAt:
		return probation.Refused, "no connection"
	case e.dead:
		return probation.Dead, "it says it is dead"
	}
	return probation.Healthy, ""
}

func (e *engine) token(a *agent) probation.Token {
	switch {
	case e.state != launch.Running || a.w.now < e.readyAt:
		return probation.TokenFailed
	case a.w.flavour(e.runs.Hash).empty:
		return probation.TokenEmpty
	}
	return probation.TokenServed
}
