package sim

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// scheduleOperator lays out what people do.
func (w *world) scheduleOperator() {
	for k := range 1 + w.rng.IntN(3) {
		w.after(w.between(2000, 5000)+int64(k)*w.between(0, 40_000), w.create)
	}
	w.every(15_000, func() { w.operate() })
	w.every(w.rare(6_000), w.stray)
	w.every(w.rare(10_000), w.race)
}

// create asks for a rollout, and asks again under the same request id until it has an answer.
func (w *world) create() {
	g := w.groups[w.rng.IntN(len(w.groups))]
	g.rollouts++
	seqs, level := fmt.Sprint(100+w.rng.IntN(6)), "info"
	if w.rng.IntN(4) == 0 {
		seqs, level = "8", "debug" // can be changed while the engine runs
	}
	body := &agentv1.Body{Engine: "vllm", Settings: map[string]string{"max_num_seqs": seqs, "log_level": level}}
	hash := fleet.BodyHash(body)
	if _, known := w.check.flavours[hash]; !known {
		w.check.flavours[hash] = w.drawFlavour()
	}
	id := fmt.Sprintf("%s-r%d", g.name, g.rollouts)
	w.say("operator asks for rollout %s of group %s: %s, bad %v", id, g.name, seqs, w.flavour(hash).bad())
	w.insist(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{
		Id: id, Group: g.name, Body: body, Seed: w.rng.Uint64(), OverrideQuarantine: w.rng.IntN(2) == 0,
		RollsForwardFrom: w.incomplete(g),
	}, "create-"+id)
}

// incomplete is a rollback that a new rollout may take over, empty when there is none.
func (w *world) incomplete(g *group) string {
	if r := w.rec.holder(g.name); r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_ROLLBACK_INCOMPLETE {
		return r.GetId()
	}
	return ""
}

func (w *world) drawFlavour() flavour {
	switch w.rng.IntN(10) {
	case 0:
		return flavour{crashes: true}
	case 1:
		return flavour{failing: true}
	case 2:
		return flavour{empty: true}
	case 3:
		return flavour{refused: w.rng.IntN(2) == 0}
	case 4, 5, 6:
		return flavour{slow: true, onset: w.between(0, 25_000)}
	}
	return flavour{}
}

// insist proposes a command until its answer is known.
func (w *world) insist(typ commandv1.CommandType, payload proto.Message, requestID string) {
	w.propose(typ, payload, proposal{requestID: requestID, actor: "operator", answer: func(_ fsm.Result, committed bool) {
		if !committed {
			w.after(w.between(200, 2000), func() { w.insist(typ, payload, requestID) })
		}
	}})
}

// operate does something a person might.
func (w *world) operate() {
	if w.rng.IntN(4) == 0 {
		a := w.someone()
		w.drain(a, true)
		w.after(w.between(1000, 20_000), func() { w.drain(a, false) })
		return
	}
	open := w.rec.open
	if len(open) == 0 {
		w.create()
		return
	}
	r := open[w.rng.IntN(len(open))]
	switch w.rng.IntN(8) {
	case 0:
		w.abort(r.GetId())
	case 1:
		w.step(r.GetId(), &commandv1.StepRollout{Step: &commandv1.StepRollout_Promote{Promote: &commandv1.Promote{Reason: "enough"}}}, "operator", "")
	case 2, 3, 4:
		w.step(r.GetId(), &commandv1.StepRollout{Step: &commandv1.StepRollout_Pause{Pause: &commandv1.Pause{Reason: "lunch"}}}, "operator", "")
		id := r.GetId()
		w.after(w.between(1000, 30_000), func() {
			w.step(id, &commandv1.StepRollout{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}}, "operator", "")
		})
	default:
		w.create()
	}
}

func (w *world) drain(a *agent, drained bool) {
	w.say("operator drains %s: %v", a.id, drained)
	w.propose(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: a.id, Drained: drained, Reason: "maintenance"}, proposal{actor: "operator"})
}

func (w *world) abort(id string) {
	w.say("operator aborts %s", id)
	w.step(id, &commandv1.StepRollout{Step: &commandv1.StepRollout_Abort{Abort: &commandv1.Abort{Reason: "changed my mind"}}}, "operator", "")
}

// race aborts a rollout while the leader's decision on it is on its way, so that either may come
// first.
func (w *world) race() {
	for _, p := range w.log.inflight {
		s, ok := p.payload.(*commandv1.StepRollout)
		if ok && (s.GetVerdict() != nil || s.GetNextBatch() != nil || w.rng.IntN(20) == 0) {
			w.abort(s.GetRolloutId())
			return
		}
	}
	w.after(50, func() { // look again while decisions are being made
		if !w.calm && w.rng.IntN(40) > 0 {
			w.race()
		}
	})
}

// stray proposes a step that the rollout's state may not allow: decided on long ago, by a leader
// that measured carelessly, or by a client that calls the interface as it likes.
func (w *world) stray() {
	open := w.rec.open
	if len(open) == 0 {
		return
	}
	r := open[w.rng.IntN(len(open))]
	wave := uint32(max(len(r.GetWaves())-1, 0))
	someone := w.someone().id
	steps := []*commandv1.StepRollout{
		{Step: &commandv1.StepRollout_Start{Start: &commandv1.Start{}}},
		{Step: &commandv1.StepRollout_Start{Start: &commandv1.Start{}}},
		{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{Wave: wave, Instances: fsm.CurrentWave(r).GetSelected(), Headroom: "stray"}}},
		{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{Wave: wave, Instances: []string{someone}, Headroom: "stray"}}},
		{Step: &commandv1.StepRollout_NextBatch{NextBatch: &commandv1.NextBatch{Wave: wave, Instances: fsm.CurrentWave(r).GetSelected(), HeadroomOk: true, Headroom: strayHeadroom}}},
		{Step: &commandv1.StepRollout_WarmDone{WarmDone: &commandv1.WarmDone{Wave: wave}}},
		{Step: &commandv1.StepRollout_Drained{Drained: &commandv1.Drained{}}},
		{Step: &commandv1.StepRollout_BakeDone{BakeDone: &commandv1.BakeDone{}}},
		{Step: &commandv1.StepRollout_Deadline{Deadline: &commandv1.DeadlinePassed{}}},
		{Step: &commandv1.StepRollout_RollbackStalled{RollbackStalled: &commandv1.RollbackStalled{}}},
		{Step: &commandv1.StepRollout_Verdict{Verdict: &commandv1.GiveVerdict{Wave: wave, Verdict: &commandv1.Verdict{
			Outcome: commandv1.Outcome_OUTCOME_PASS, EvidenceHash: "e", Term: w.log.term - 1, EvidenceFromMs: w.now, EvidenceToMs: w.now,
		}}}},
	}
	w.step(r.GetId(), steps[w.rng.IntN(len(steps))], "stray", "")
}

// strayHeadroom marks a batch whose headroom was measured, at another time than it was decided.
const strayHeadroom = "measured before"

// resume lets everything that people paused or drained go on, again and again.
func (w *world) resume() {
	for _, a := range w.agents {
		if i := w.rec.instances[a.id]; i.GetOperatorDrain() {
			w.propose(commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: i.GetId()}, proposal{actor: "operator"})
		}
	}
	for _, r := range w.rec.open {
		if r.GetState() == commandv1.RolloutState_ROLLOUT_STATE_PAUSED {
			w.step(r.GetId(), &commandv1.StepRollout{Step: &commandv1.StepRollout_Resume{Resume: &commandv1.Resume{}}}, "operator", "")
		}
	}
	w.after(5000, w.resume)
}
