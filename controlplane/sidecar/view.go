package sidecar

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// view is what an agent has said about itself, newest first. It is not safe for concurrent use; the
// messages in it are never changed.
type view struct {
	identity *agentv1.Identity
	engines  map[string]*agentv1.EngineInfo
	states   map[string]*agentv1.StateReport
	refusals map[string]*agentv1.Ack // newest REFUSED answer of each instance
}

// newView reads a Hello. Every instance must be one of the agent's own.
func newView(h *agentv1.Hello) (*view, error) {
	id := h.GetIdentity()
	if id.GetAgentId() == "" || id.GetSession() == "" {
		return nil, fmt.Errorf("%w: it has no agent id or no session", errBadHello)
	}
	v := &view{identity: id, engines: map[string]*agentv1.EngineInfo{}, states: map[string]*agentv1.StateReport{}, refusals: map[string]*agentv1.Ack{}}
	for _, e := range h.GetEngines() {
		if !owns(id.GetAgentId(), e.GetInstanceId()) {
			return nil, fmt.Errorf("%w: instance %q is not one of agent %s", errBadHello, e.GetInstanceId(), id.GetAgentId())
		}
		v.engines[e.GetInstanceId()] = e
	}
	for _, s := range h.GetStates() {
		if v.engines[s.GetInstanceId()] == nil {
			return nil, fmt.Errorf("%w: state of instance %q, which is not described", errBadHello, s.GetInstanceId())
		}
		v.states[s.GetInstanceId()] = s
	}
	return v, nil
}

// owns tells whether an instance id is "<agent id>/<name>".
func owns(agent, instance string) bool {
	name, ok := strings.CutPrefix(instance, agent+"/")
	return ok && name != ""
}

// agentOf is the agent part of an instance id.
func agentOf(instance string) string {
	agent, _, _ := strings.Cut(instance, "/")
	return agent
}

// take notes a message and returns the instance it is news about, "" when it is none.
func (v *view) take(m *agentv1.ConnectRequest) (instance string) {
	if e := m.GetEngine(); e != nil && owns(v.identity.GetAgentId(), e.GetInstanceId()) {
		v.engines[e.GetInstanceId()] = e
		return e.GetInstanceId()
	}
	news := ""
	if s := cmp.Or(m.GetState(), m.GetAck().GetState()); s != nil {
		news = v.takeState(s)
	}
	// What refuses a test says nothing about the assignment whose fence it carries.
	if a := m.GetAck(); a.GetResult() == agentv1.AckResult_ACK_RESULT_REFUSED && a.GetTestId() == "" && v.engines[a.GetInstanceId()] != nil {
		v.refusals[a.GetInstanceId()] = a
		news = a.GetInstanceId()
	}
	return news
}

func (v *view) takeState(s *agentv1.StateReport) string {
	id := s.GetInstanceId()
	if v.engines[id] == nil || v.states[id] != nil && s.GetSequence() <= v.states[id].GetSequence() {
		return ""
	}
	v.states[id] = s
	return id
}

// instances in order of their ids.
func (v *view) instances() []string { return slices.Sorted(maps.Keys(v.engines)) }

// hello introduces the agent as it is now.
func (v *view) hello() *agentv1.Hello {
	h := &agentv1.Hello{Identity: v.identity}
	for _, id := range v.instances() {
		h.Engines = append(h.Engines, v.engines[id])
		if s := v.states[id]; s != nil {
			h.States = append(h.States, s)
		}
	}
	return h
}
