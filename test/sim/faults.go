package sim

import (
	"github.com/optiinfra/performance-agent/agent/launch"
)

// scheduleFaults lays out what goes wrong until the faults stop.
func (w *world) scheduleFaults() {
	w.every(w.rare(25_000), w.depose)
	w.every(w.rare(12_000), func() { w.someone().crash() })
	w.every(w.rare(15_000), func() { w.partition(w.someone()) })
	w.every(w.rare(25_000), func() { w.engineFault(w.someone()) })
	w.every(w.rare(60_000), func() { w.someone().reboot() })
	w.every(w.rare(40_000), func() { w.fill(w.someone()) })
	w.every(w.rare(8_000), func() { w.oldMail(w.someone()) })
	w.every(w.rare(10_000), w.ramp)
	w.every(w.rare(25_000), w.dropout)
	w.after(w.calmAt-w.now, w.rest)
}

// rare scales a mean pause by the run's rate of faults; 0: never.
func (w *world) rare(mean int64) int64 {
	if w.fault == 0 {
		return 0
	}
	return int64(float64(mean) / w.fault)
}

// every does something again and again, at random pauses of this mean, until the faults stop.
func (w *world) every(mean int64, do func()) {
	if mean == 0 {
		return
	}
	w.after(w.between(0, 2*mean), func() {
		if !w.calm {
			do()
			w.every(mean, do)
		}
	})
}

func (w *world) someone() *agent { return w.agents[w.rng.IntN(len(w.agents))] }

// partition cuts an agent off; its node notices after a while.
func (w *world) partition(a *agent) {
	if a.cut {
		return
	}
	a.cut = true
	w.say("%s is cut off from its node", a.id)
	w.after(2500, func() {
		if a.cut {
			w.detach(a)
		}
	})
	w.after(w.between(500, 30_000), func() { w.heal(a) })
}

func (w *world) heal(a *agent) {
	if a.cut {
		a.cut = false
		w.say("%s can reach its node again", a.id)
	}
	w.attach(a)
}

// engineFault hurts an engine or its launcher.
func (w *world) engineFault(a *agent) {
	switch w.rng.IntN(3) {
	case 0:
		if a.engine.state == launch.Running {
			a.engine.die(a)
		}
	case 1:
		a.engine.dead = true
		w.say("%s: the engine's health turns bad", a.id)
		w.after(w.between(500, 8000), func() { a.engine.dead = false })
	case 2:
		a.engine.relaunch(a)
	}
}

// reboot is a loss of power.
func (a *agent) reboot() {
	a.w.say("%s: the machine reboots", a.id)
	a.crash()
	a.boots++
	a.bootedAt = a.w.now - 20_000
	a.engine.relaunch(a)
}

// fill fills an agent's disk for a while.
func (w *world) fill(a *agent) {
	a.full = true
	w.say("%s: the disk is full", a.id)
	w.after(w.between(500, 15_000), func() { a.full = false })
}

// oldMail delivers a directive of some earlier time again.
func (w *world) oldMail(a *agent) {
	if len(a.mail) == 0 || !a.up || a.cut {
		return
	}
	d := a.mail[w.rng.IntN(len(a.mail))]
	w.say("%s: the directive of fence %d arrives once more", a.id, d.GetFence().GetIndex())
	a.directed(d)
}

// ramp moves a group's load, up to more than it can carry.
func (w *world) ramp() {
	g := w.groups[w.rng.IntN(len(w.groups))]
	g.load = float64(len(g.agents)) * nominal * (0.2 + 0.9*w.rng.Float64())
	w.say("the load of group %s is %.0f tokens/s", g.name, g.load)
}

// dropout silences a group's telemetry for a while.
func (w *world) dropout() {
	g := w.groups[w.rng.IntN(len(w.groups))]
	g.deaf = true
	w.say("the telemetry of group %s stops", g.name)
	w.after(w.between(1000, 20_000), func() { g.deaf = false })
}

// rest stops all faults and mends what they left.
func (w *world) rest() {
	w.calm = true
	w.say("the faults stop")
	for _, g := range w.groups {
		g.deaf, g.load = false, float64(len(g.agents))*nominal*0.2
	}
	for _, a := range w.agents {
		a.full, a.engine.dead = false, false
		if !a.up {
			a.restart()
		}
		w.heal(a)
	}
	w.mend()
	w.resume()
}

// mend restarts the launchers of engines that nobody else would start again.
func (w *world) mend() {
	for _, a := range w.agents {
		stuck := a.engine.state == launch.CrashLoop || a.engine.state == launch.Failed
		if stuck && !w.flavour(a.engine.committed.Hash).crashes {
			a.engine.relaunch(a)
		}
	}
	w.after(20_000, w.mend)
}
