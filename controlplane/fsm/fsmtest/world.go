// Package fsmtest runs a state machine with model agents in virtual time, for the tests of fsm and
// of the features that decide on its records. Nothing in it waits, draws numbers or does I/O.
package fsmtest

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// Group that a World's replicas are in.
const Group = "chat"

// Entry is one log entry that a World applied.
type Entry struct {
	Index uint64
	Raw   []byte
}

// World is a machine, its log and the agents attached to it.
type World struct {
	Machine *fsm.Machine
	Term    uint64
	NowMs   int64
	Log     []Entry
	Agents  []*Agent
}

// New returns a world with a named cluster and n replicas in one group.
func New(n int) *World {
	w := &World{Machine: fsm.New(), Term: 1, NowMs: 1_000_000}
	w.Do(commandv1.CommandType_COMMAND_TYPE_INIT_CLUSTER, &commandv1.InitCluster{ClusterId: "c-1"})
	for k := range n {
		w.Join(fmt.Sprintf("agent-%02d", k))
	}
	return w
}

// Now is the world's time.
func (w *World) Now() time.Time { return time.UnixMilli(w.NowMs) }

// Advance time.
func (w *World) Advance(d time.Duration) { w.NowMs += d.Milliseconds() }

// Do applies a command of an operator without a request id.
func (w *World) Do(typ commandv1.CommandType, payload proto.Message) fsm.Result {
	return w.DoAs(typ, payload, "", "operator")
}

// DoAs applies a command.
func (w *World) DoAs(typ commandv1.CommandType, payload proto.Message, requestID, actor string) fsm.Result {
	raw, err := fsm.Encode(typ, payload, requestID, actor, w.NowMs, w.Term)
	if err != nil {
		panic(err) // a test's own command
	}
	e := Entry{Index: uint64(len(w.Log) + 1), Raw: raw}
	w.Log = append(w.Log, e)
	return w.Machine.Apply(e.Index, raw)
}

// Step applies one step of a rollout.
func (w *World) Step(id string, step *commandv1.StepRollout) fsm.Result {
	step.RolloutId = id
	return w.Do(commandv1.CommandType_COMMAND_TYPE_STEP_ROLLOUT, step)
}

// SetPolicy changes the group's policy.
func (w *World) SetPolicy(p *commandv1.Policy) fsm.Result {
	return w.Do(commandv1.CommandType_COMMAND_TYPE_PUT_GROUP, &commandv1.PutGroup{Name: Group, Policy: p})
}

// Create makes a rollout that sets max_num_seqs.
func (w *World) Create(id, maxSeqs string) fsm.Result {
	return w.Do(commandv1.CommandType_COMMAND_TYPE_CREATE_ROLLOUT, &commandv1.CreateRollout{
		Id: id, Group: Group, Body: Body(maxSeqs), Seed: 7,
	})
}

// Body sets max_num_seqs.
func Body(maxSeqs string) *agentv1.Body {
	return &agentv1.Body{Engine: "vllm", Settings: map[string]string{"max_num_seqs": maxSeqs}}
}

// Join adds an agent with one replica, in rotation as launched.
func (w *World) Join(agent string) *Agent {
	a := &Agent{
		ID: agent + "/vllm", agent: agent, Reachable: true,
		State: &agentv1.StateReport{Sequence: 1, Phase: agentv1.Phase_PHASE_IDLE, Serving: true, Fence: &agentv1.Fence{}},
	}
	w.Agents = append(w.Agents, a)
	w.report(&commandv1.AgentTransition{
		InstanceId: a.ID, AgentId: agent, Reachable: proto.Bool(true), State: proto.CloneOf(a.State),
		Engine: &agentv1.EngineInfo{
			InstanceId: a.ID, Name: "vllm", Group: Group, Hardware: "sim", Description: description(),
			BaseSettings: map[string]string{"max_num_seqs": "8"},
		},
	})
	return a
}

func description() *enginev1.Description {
	return &enginev1.Description{
		Engine: "vllm", Version: "0.11.0", Model: "tiny", RestartEstimate: durationpb.New(10 * time.Second),
		Knobs: []*enginev1.Knob{
			{Name: "max_num_seqs", Neutral: "max_num_seqs", Type: enginev1.KnobType_KNOB_TYPE_INT, Min: proto.Float64(1), Max: proto.Float64(4096)},
			{Name: "log_level", Type: enginev1.KnobType_KNOB_TYPE_ENUM, Values: []string{"info", "debug"}, Hot: true},
			{Name: "kv_cache_dtype", Type: enginev1.KnobType_KNOB_TYPE_ENUM, Values: []string{"auto", "fp8"}, Lossy: true},
			{Name: "swap_space", Type: enginev1.KnobType_KNOB_TYPE_INT, IgnoredBecause: "this version has no swap"},
		},
	}
}

func (w *World) report(tr *commandv1.AgentTransition) {
	w.Do(commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, &commandv1.AgentsReport{Transitions: []*commandv1.AgentTransition{tr}})
}

// SetReachable attaches or detaches an agent.
func (w *World) SetReachable(a *Agent, reachable bool) {
	a.Reachable = reachable
	w.report(&commandv1.AgentTransition{InstanceId: a.ID, Reachable: proto.Bool(reachable)})
}

// Deliver hands every attached agent the directive that is due and reports its state.
func (w *World) Deliver() {
	for _, a := range w.Agents {
		w.DeliverTo(a)
	}
}

// DeliverTo hands one agent the directive that is due.
func (w *World) DeliverTo(a *Agent) {
	i := w.Machine.Instance(a.ID)
	if !a.Reachable || i == nil {
		return
	}
	d := fsm.DirectiveFor(w.Machine, i)
	if d == nil {
		return
	}
	tr := &commandv1.AgentTransition{InstanceId: a.ID}
	tr.Refused = a.execute(d, w.NowMs)
	if tr.Refused != "" {
		tr.RefusedIndex = d.GetFence().GetIndex()
	}
	tr.State = proto.CloneOf(a.State)
	w.report(tr)
}

// Work lets every agent take one step of what it is doing, and reports those that can be reached.
func (w *World) Work() {
	for _, a := range w.Agents {
		if a.work(w.NowMs) && a.Reachable {
			w.Report(a)
		}
	}
}

// Report sends an agent's state.
func (w *World) Report(a *Agent) {
	w.report(&commandv1.AgentTransition{InstanceId: a.ID, State: proto.CloneOf(a.State)})
}

// Settle delivers and works until the agents come to rest.
func (w *World) Settle() {
	for range 12 {
		w.Deliver()
		w.Work()
		w.Advance(time.Second)
	}
}
