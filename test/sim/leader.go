package sim

import (
	"fmt"
	"strings"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/controlplane/rollout"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// leader is one leadership. Nothing of it outlives its term.
type leader struct {
	term    uint64
	up      bool
	skew    int64 // of its clock, milliseconds
	judgeAt map[string]int64
	strikes map[string]int
	busy    map[string]bool // rollouts with a proposal in flight
	renewed map[string]int64
	sending bool // a batch of reports is in flight
}

func newLeader(term uint64, skew int64) *leader {
	return &leader{
		term: term, up: true, skew: skew, judgeAt: map[string]int64{}, strikes: map[string]int{},
		busy: map[string]bool{}, renewed: map[string]int64{},
	}
}

func stepName(s *commandv1.StepRollout) string {
	return strings.TrimPrefix(fmt.Sprintf("%T", s.GetStep()), "*commandv1.StepRollout_")
}

// leaderTurn is one look at all open rollouts.
func (w *world) leaderTurn() {
	pause := int64(2000)
	if w.lead.up {
		for _, r := range w.rec.open {
			pause = 500
			if !w.lead.busy[r.GetId()] {
				w.advance(r)
			}
		}
		w.renew()
	}
	w.after(pause, w.leaderTurn)
}

// advance proposes what the real decision says.
func (w *world) advance(r *commandv1.Rollout) {
	l := w.lead
	o := w.observe(r)
	steps := rollout.Next(r, o)
	w.checkDecision(r, o, steps)
	for _, step := range steps {
		l.busy[r.GetId()] = true
		if step.GetGuardFailed() != nil {
			w.stats.Guards++
		}
		w.propose(commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, step, proposal{actor: "leader", answer: func(res fsm.Result, committed bool) {
			l.busy[r.GetId()] = false
			if committed && res.Refusal != nil && r.GetEpoch() == 0 && res.Refusal.Code != fsm.Locked {
				w.step(r.GetId(), &commandv1.StepRollout{Step: &commandv1.StepRollout_Cancel{Cancel: &commandv1.Cancel{Reason: res.Refusal.Message}}}, "leader", "")
			}
		}})
	}
}

// step proposes one step of a rollout.
func (w *world) step(id string, s *commandv1.StepRollout, actor, requestID string) {
	s.RolloutId = id
	w.propose(commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, s, proposal{actor: actor, requestID: requestID})
}

// renew extends the probation of replicas, as a leader does that has verified its leadership.
func (w *world) renew() {
	for _, r := range w.rec.open {
		if r.GetEpoch() == 0 || fsm.TakingBack(r.GetState()) {
			continue
		}
		for _, i := range w.rec.members[r.GetGroup()] {
			if rollout.OnProbation(r, i) && w.now-w.lead.renewed[i.GetId()] >= r.GetPolicy().GetLeaseEveryMs() {
				w.lead.renewed[i.GetId()] = w.now
				w.lease(w.byID[i.GetId()], i, r)
			}
		}
	}
}
