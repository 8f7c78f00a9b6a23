package fsm

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

// agentsReport takes in a batch of transitions. One that cannot be used is left out and said, so
// that a single confused agent does not hold up the others.
func (t *tx) agentsReport(cmd *commandv1.AgentsReport) (string, *Refusal) {
	touched := map[string]bool{}
	for _, tr := range cmd.GetTransitions() {
		if group := t.transition(tr); group != "" {
			touched[group] = true
		}
	}
	for _, group := range slices.Sorted(maps.Keys(touched)) {
		t.progress(group)
	}
	return "", nil
}

// transition takes in what changed for one instance and returns its group, empty when nothing did.
func (t *tx) transition(tr *commandv1.AgentTransition) string {
	i := t.instances.edit(tr.GetInstanceId())
	if i == nil {
		if tr.GetEngine() == nil {
			return "" // forgotten; the agent introduces it again at its next connection
		}
		if i = t.register(tr); i == nil {
			return ""
		}
	} else if tr.GetEngine() != nil && !t.describe(i, tr.GetEngine()) {
		return ""
	}
	i.ModifyIndex = t.entry
	i.AgentId = cmp.Or(tr.GetAgentId(), i.GetAgentId())
	if tr.Reachable != nil {
		t.reach(i, tr.GetReachable())
	}
	if tr.GetState() != nil {
		t.report(i, tr.GetState())
	}
	if tr.GetRefused() != "" && tr.GetRefusedIndex() == i.GetAssignment().GetFenceIndex() {
		t.refused(i, tr.GetRefused())
	}
	return i.GetGroup()
}

// register adds an instance seen for the first time, and its group where that is new too.
func (t *tx) register(tr *commandv1.AgentTransition) *commandv1.Instance {
	info := tr.GetEngine()
	i := &commandv1.Instance{
		Id: tr.GetInstanceId(), AgentId: tr.GetAgentId(), Name: info.GetName(),
		Assignment: &commandv1.Assignment{Kind: commandv1.AssignmentKind_ASSIGNMENT_KIND_NONE},
	}
	if tr.GetInstanceId() == "" || !t.describe(i, info) {
		return nil
	}
	t.instances.put(i.GetId(), i)
	t.event("instance", i.GetGroup(), i.GetId(), "replica %s joined group %s: %s %s serving %s on %s",
		i.GetId(), i.GetGroup(), orUnknown(i.GetEngine()), i.GetEngineVersion(), orUnknown(i.GetModel()), orUnknown(i.GetHardware()))
	return i
}

func orUnknown(s string) string { return cmp.Or(s, "unknown") }

// describe takes over an engine's description. It returns false, and says why, when the instance
// cannot be a member of the group that it names.
func (t *tx) describe(i *commandv1.Instance, info *agentv1.EngineInfo) bool {
	engine := cmp.Or(info.GetDescription().GetEngine(), i.GetEngine())
	g := t.groups.edit(info.GetGroup())
	if g == nil {
		var refusal *Refusal
		if g, refusal = t.newGroup(info.GetGroup(), engine); refusal != nil {
			t.event("instance", "", i.GetId(), "replica %s was not taken in: %s", i.GetId(), refusal.Message)
			return false
		}
		t.event("group", g.GetName(), g.GetName(), "group %s begins, in mode advise", g.GetName())
	}
	if g.Engine == "" {
		g.Engine = engine
	}
	if engine != "" && g.Engine != engine {
		t.event("instance", g.GetName(), i.GetId(), "replica %s was not taken in: group %s is made of %s engines and this is %s; give it a group of its own",
			i.GetId(), g.GetName(), g.GetEngine(), engine)
		return false
	}
	if i.GetGroup() != "" && i.GetGroup() != g.GetName() && t.holder(i.GetGroup()) != nil {
		t.event("instance", i.GetGroup(), i.GetId(), "replica %s asks to move to group %s; a rollout holds %s, so it must wait and connect again",
			i.GetId(), g.GetName(), i.GetGroup())
		return false
	}
	d := info.GetDescription()
	i.Group, i.Engine, i.Name = g.GetName(), engine, cmp.Or(info.GetName(), i.GetName())
	i.Url, i.ReadyUrl, i.Hardware, i.Staging = info.GetUrl(), info.GetReadyUrl(), info.GetHardware(), info.GetStaging()
	i.EngineVersion = cmp.Or(d.GetVersion(), i.GetEngineVersion())
	i.Model = cmp.Or(d.GetModel(), i.GetModel())
	i.BaseSettings = info.GetBaseSettings()
	if d != nil {
		i.Effective = d.GetEffective()
		i.RestartEstimateMs = d.GetRestartEstimate().AsDuration().Milliseconds()
		i.KnobTableHash = t.knobTable(i, info)
	}
	return true
}

// knobTable stores the part of a description that all instances of an engine version share, and
// returns its hash.
func (t *tx) knobTable(i *commandv1.Instance, info *agentv1.EngineInfo) string {
	d := proto.CloneOf(info.GetDescription())
	d.Effective, d.Model, d.RestartEstimate = nil, "", nil
	if len(d.GetKnobs()) == 0 {
		return i.GetKnobTableHash()
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		return i.GetKnobTableHash() // cannot happen for a message that was just decoded
	}
	sum := sha256.Sum256(raw)
	hash := hex.EncodeToString(sum[:])
	if _, known := t.knobs.get(hash); !known {
		t.knobs.put(hash, &commandv1.KnobTable{Hash: hash, Description: d})
	}
	return hash
}

func (t *tx) reach(i *commandv1.Instance, reachable bool) {
	if i.GetReachable() == reachable {
		return
	}
	i.Reachable, i.ReachableSinceMs = reachable, t.now
	if reachable {
		t.event("instance", i.GetGroup(), i.GetId(), "replica %s is connected", i.GetId())
		return
	}
	t.event("instance", i.GetGroup(), i.GetId(), "replica %s is unreachable; it keeps serving, and counts as unavailable", i.GetId())
}

// report takes over a newer state; one that is not newer is a repetition or came late.
func (t *tx) report(i *commandv1.Instance, st *agentv1.StateReport) {
	old := i.GetState()
	if old != nil && st.GetSequence() <= old.GetSequence() {
		return
	}
	i.State = proto.CloneOf(st)
	i.State.InstanceId = i.GetId()
	i.State.FailedLog = tail(st.GetFailedLog(), 4096)
	if st.GetFailedEpoch() != 0 && st.GetFailedEpoch() != old.GetFailedEpoch() {
		t.event("instance", i.GetGroup(), i.GetId(), "replica %s took epoch %d back: %s", i.GetId(), st.GetFailedEpoch(), orUnknown(st.GetFailedReason()))
	}
	if st.GetPhase() != old.GetPhase() && st.GetPhase() == agentv1.Phase_PHASE_QUARANTINED {
		t.event("instance", i.GetGroup(), i.GetId(), "replica %s needs a person: its last-known-good configuration does not start (%s)", i.GetId(), orUnknown(st.GetHealth()))
	}
	if st.GetCutRequests() > old.GetCutRequests() {
		t.event("instance", i.GetGroup(), i.GetId(), "replica %s: a drain reached its limit and cut %d requests", i.GetId(), st.GetCutRequests())
	}
	if a := i.GetAssignment(); a.GetEpoch() != 0 && st.GetFailedEpoch() == a.GetEpoch() && moot(a.GetKind()) {
		a.Kind = commandv1.AssignmentKind_ASSIGNMENT_KIND_NONE
	}
	if t.drainDiffers(i) {
		i.OperatorDrainIndex = t.entry // say it again under a new fence
	}
}

// moot reports whether an assignment has lost its object once the epoch was taken back: the agent
// answers REVERTED to it and will never journal its fence.
func moot(k commandv1.AssignmentKind) bool {
	return k == commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER || k == commandv1.AssignmentKind_ASSIGNMENT_KIND_CONFIRM ||
		k == commandv1.AssignmentKind_ASSIGNMENT_KIND_PROMOTE
}

// refused notes that the agent will not carry out its assignment. A refused offer makes the replica
// one that failed; other assignments are said again.
func (t *tx) refused(i *commandv1.Instance, why string) {
	a := i.GetAssignment()
	if a.GetKind() != commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER || a.GetRefused() != "" {
		return
	}
	a.Refused = tail(why, 1024)
	t.event("instance", i.GetGroup(), i.GetId(), "replica %s refuses epoch %d: %s", i.GetId(), a.GetEpoch(), a.GetRefused())
}

// drainDiffers reports whether an idle instance is held out of rotation, or is in it, against the
// operator's will: the drain that mitigated a change outlived it, or a revert lifted an operator's.
func (t *tx) drainDiffers(i *commandv1.Instance) bool {
	st := i.GetState()
	return st.GetPhase() == agentv1.Phase_PHASE_IDLE && st.GetDrained() != i.GetOperatorDrain() &&
		i.GetAssignment().GetKind() != commandv1.AssignmentKind_ASSIGNMENT_KIND_MITIGATE &&
		!Pending(i, t.incarnation) && !drainPending(i, t.incarnation)
}

// tail keeps the end of a text, which is where an engine says why it ended.
func tail(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[len(s)-most:], "")
}

// progress lets a group's rollout, or its stragglers, follow what the agents reported.
func (t *tx) progress(group string) {
	if r := t.holder(group); r != nil {
		t.follow(t.rollouts.edit(r.GetId()))
	}
	t.settle(group)
}
