package sim

import (
	"cmp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// reportTurn lets the leader put what it has heard from agents into the log.
func (w *world) reportTurn() {
	l := w.lead
	if l.up && !l.sending {
		batch := &commandv1.AgentsReport{}
		var in []*agent
		for _, a := range w.agents {
			if !a.node.dirty {
				continue
			}
			a.node.dirty = false
			if tr := w.transition(a); tr != nil {
				batch.Transitions, in = append(batch.Transitions, tr), append(in, a)
			}
		}
		if len(in) > 0 {
			l.sending = true
			w.propose(commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, batch, proposal{actor: "leader", answer: func(fsm.Result, bool) {
				l.sending = false
				for _, a := range in {
					a.node.dirty = true // until the log says it all
				}
			}})
		}
	}
	for _, a := range w.agents {
		if a.node.owes {
			w.pushTo(a)
		}
	}
	w.after(200, w.reportTurn)
}

// transition is what the log does not say about an agent's instance; nil when it says it all.
func (w *world) transition(a *agent) *commandv1.AgentTransition {
	i, n := w.rec.instances[a.id], &a.node
	tr := &commandv1.AgentTransition{InstanceId: a.id, AgentId: a.name}
	if !n.attached {
		if !i.GetReachable() {
			return nil
		}
		tr.Reachable = proto.Bool(false)
		return tr
	}
	if n.introduce && i == nil {
		tr.Engine = a.info()
	}
	if i.GetState() == nil || n.state.GetSequence() > i.GetState().GetSequence() {
		tr.State = n.state
	}
	if !i.GetReachable() {
		tr.Reachable = proto.Bool(true)
	}
	asked := i.GetAssignment()
	if asked.GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER && asked.GetRefused() == "" && n.refusal == asked.GetFenceIndex() && n.refusal != 0 {
		tr.Refused, tr.RefusedIndex = cmp.Or(n.why, "no reason given"), n.refusal
	}
	if tr.Engine == nil && tr.State == nil && tr.Reachable == nil && tr.Refused == "" {
		return nil
	}
	return tr
}

// restartMs is how long an engine usually takes to start.
const restartMs = 4000

// info introduces the agent's engine.
func (a *agent) info() *agentv1.EngineInfo {
	return &agentv1.EngineInfo{
		InstanceId: a.id, Name: "vllm", Group: a.group.name, Hardware: "sim",
		BaseSettings: map[string]string{"max_num_seqs": "8", "log_level": "info"},
		Description: &enginev1.Description{
			Engine: "vllm", Version: "0.11.0", Model: "tiny", RestartEstimate: durationpb.New(duration(restartMs)),
			Knobs: []*enginev1.Knob{
				{Name: "max_num_seqs", Type: enginev1.KnobType_KNOB_TYPE_INT, Min: proto.Float64(1), Max: proto.Float64(1 << 30)},
				{Name: "log_level", Type: enginev1.KnobType_KNOB_TYPE_ENUM, Values: []string{"info", "debug"}, Hot: true},
			},
		},
	}
}
