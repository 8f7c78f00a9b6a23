package sim

import (
	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/controlplane/fsm"
)

// patience is how long, after the faults have stopped, everything has to come to its end.
const patience = 30 * 60_000

// settleMs of rest in a row are the end of a run.
const settleMs = 15_000

// finished reports whether a run has come to its end, or had all its time.
func (w *world) finished() bool {
	if !w.calm || w.now < w.calmAt+settleMs {
		return false
	}
	if w.now > w.calmAt+patience {
		return true
	}
	if w.now < w.check.lookAt {
		return false
	}
	w.check.lookAt = w.now + settleMs
	if w.unrest() != "" {
		w.check.restless = w.now
	}
	return w.now-w.check.restless >= settleMs
}

// unrest says what has not come to its end, empty when all has.
func (w *world) unrest() string {
	for _, r := range w.rec.open {
		return r.GetId() + " is " + fsm.StateName(r.GetState())
	}
	for _, a := range w.agents {
		if words := a.unrest(); words != "" {
			return a.id + " " + words
		}
	}
	return ""
}

// unrest of an agent: it rests idle on the promoted epoch of its group, in rotation unless drained.
// One that took that epoch or a newer one back, or refused it, rests on an older one.
func (a *agent) unrest() string {
	promoted := a.w.rec.groups[a.group.name].GetPromotedEpoch()
	i := a.w.rec.instances[a.id]
	serving, why := a.s.Serving()
	refused := i.GetAssignment().GetRefused() != "" && i.GetAssignment().GetEpoch() == promoted
	switch {
	case !a.up || !i.GetReachable():
		return "is away"
	case a.s.Phase == probation.Quarantined:
		if a.w.flavour(a.s.LKG.Hash).crashes {
			return ""
		}
		return "is quarantined: " + a.s.Trouble
	case a.s.Phase != probation.Idle:
		return "is " + phase(a.s.Phase)
	case a.engine.runs.Epoch != a.s.LKG.Epoch:
		return "runs another epoch than its last-known-good"
	case a.s.LKG.Epoch != promoted && a.s.Failed.Epoch < promoted && !refused && !i.GetOperatorDrain():
		return "was forgotten: it is behind its group"
	case !serving && !i.GetOperatorDrain() && !a.w.flavour(a.s.LKG.Hash).crashes:
		return "is out of rotation: " + why
	case serving && i.GetOperatorDrain():
		return "is in rotation against the operator's will"
	}
	return ""
}

// checkEnd holds the end of a run to what must be: everything came to its end (I10), and the log
// replayed gives the same state (I3).
func (w *world) checkEnd() {
	if words := w.unrest(); words != "" {
		w.broke("I10", "half an hour after the faults stopped, %s", words)
		return
	}
	if w.seed%8 != 0 {
		return
	}
	again := fsm.New()
	for k, raw := range w.log.entries {
		again.Apply(uint64(k+1), raw)
	}
	if again.Hash() != w.machine.Hash() {
		w.broke("I3", "the log replayed gives another state")
	}
}
