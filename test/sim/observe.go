package sim

import (
	"time"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/rollout"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// nominal capacity of a replica, tokens per second.
const nominal = 1000.0

// observe is what the leader sees of a rollout's group now.
func (w *world) observe(r *commandv1.Rollout) rollout.Observation {
	g := w.group(r.GetGroup())
	now := w.now + w.lead.skew
	o := rollout.Observation{
		Now: time.UnixMilli(now), Term: w.lead.term, Incarnation: 1,
		Members: w.rec.members[r.GetGroup()], LockHolder: w.rec.groups[r.GetGroup()].GetLockHolder(), First: w.rec.first(r),
	}
	if r.GetEpoch() == 0 || fsm.TakingBack(r.GetState()) {
		return o
	}
	o.Headroom = w.headroom(g)
	o.Guard = w.guard(g, r, o)
	o.Verdict = w.verdict(g, r, o)
	if o.Verdict.GetOutcome() == commandv1.Outcome_OUTCOME_FAIL {
		o.Guard = nil // the verdict says it better
	}
	return o
}

func (w *world) group(name string) *group {
	for _, g := range w.groups {
		if g.name == name {
			return g
		}
	}
	return nil
}

func (w *world) headroom(g *group) rollout.Headroom {
	h := rollout.Headroom{Load: g.load, Measured: !g.deaf, Capacity: map[string]float64{}}
	for _, a := range g.agents {
		h.Capacity[a.id] = nominal
	}
	return h
}

// harmed tells whether replicas in rotation on the rollout's epoch hurt users by now.
func (w *world) harmed(g *group, r *commandv1.Rollout) bool {
	for _, a := range g.agents {
		if f := w.flavour(r.GetBodyHash()); f.slow && a.routed && a.s.Running().Epoch == r.GetEpoch() && w.now-a.wellAt >= f.onset {
			return true
		}
	}
	return false
}

// guard fires on an engine that ended by itself, and on a regression seen twice in a row.
func (w *world) guard(g *group, r *commandv1.Rollout, o rollout.Observation) *rollout.Guard {
	for _, i := range o.Members {
		if fsm.StageOf(r, i, o.Incarnation) == fsm.Serving && i.GetState().GetUnrequestedExits() > 0 {
			return &rollout.Guard{Reason: "an engine ended by itself", Since: o.Now}
		}
	}
	if g.deaf || !w.harmed(g, r) || len(rollout.Canaries(r, o.Members, o.Incarnation)) == 0 {
		w.lead.strikes[r.GetId()] = 0
		return nil
	}
	if w.lead.strikes[r.GetId()]++; w.lead.strikes[r.GetId()] < 4 {
		return nil
	}
	return &rollout.Guard{Reason: "slower than its controls", Since: o.Now, EvidenceHash: "e"}
}

// verdict is a judge that sees the truth, when there is telemetry; it looks every two seconds.
func (w *world) verdict(g *group, r *commandv1.Rollout, o rollout.Observation) *commandv1.Verdict {
	wave, now := fsm.CurrentWave(r), w.now+w.lead.skew
	looked := r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_OBSERVING || r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_HOLDING
	if !looked || wave.GetConfirmed() || now < w.lead.judgeAt[r.GetId()] || now-wave.GetObserveFromMs() < r.GetPolicy().GetObserveMinMs() {
		return nil
	}
	w.lead.judgeAt[r.GetId()] = now + 2000
	v := &commandv1.Verdict{
		Outcome: commandv1.Outcome_OUTCOME_PASS, EvidenceHash: "e", Summary: "compared", Term: o.Term,
		EvidenceFromMs: wave.GetObserveFromMs(), EvidenceToMs: now,
	}
	switch {
	case g.deaf || len(rollout.Canaries(r, o.Members, o.Incarnation)) == 0:
		v.Outcome = commandv1.Outcome_OUTCOME_INCONCLUSIVE
	case w.harmed(g, r):
		v.Outcome = []commandv1.Outcome{commandv1.Outcome_OUTCOME_FAIL, commandv1.Outcome_OUTCOME_INCONCLUSIVE}[w.rng.IntN(2)]
	case !w.calm && w.rng.IntN(4) == 0:
		v.Outcome = commandv1.Outcome_OUTCOME_INCONCLUSIVE
	}
	return v
}
