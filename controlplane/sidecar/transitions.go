package sidecar

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

const (
	// entryBytes aimed at for one entry about agents.
	entryBytes = 64 << 10
	// sweepEvery is how often the log is compared with what is attached.
	sweepEvery = 500 * time.Millisecond
	// handshakeTime expected for one agent when many attach at once.
	handshakeTime = 4 * time.Millisecond
)

// run puts what changed about agents into the log until ctx ends: at most one entry per
// Config.ReportEvery, and only what the log does not say already.
func (l *lead) run(ctx context.Context) {
	report := time.NewTicker(l.hub.cfg.ReportEvery)
	defer report.Stop()
	sweep := time.NewTicker(min(sweepEvery, l.hub.cfg.GraceMin/2))
	defer sweep.Stop()
	for {
		select {
		case <-report.C:
			l.report(ctx)
		case now := <-sweep.C:
			l.sweep(now)
			l.refuseRivals(now)
		case <-ctx.Done():
			return
		}
	}
}

// sweep finds instances whose reachability in the log is not what is seen.
func (l *lead) sweep(now time.Time) {
	records := l.hub.machine.Instances("")
	l.mu.Lock()
	defer l.mu.Unlock()
	missing := map[string]time.Time{}
	for _, r := range records {
		agent := r.GetAgentId()
		node, attached := l.owner[agent]
		if !attached && r.GetReachable() {
			missing[agent] = now // attached before this node led, unless it is known better
			if since, known := l.missing[agent]; known {
				missing[agent] = since
			}
		}
		present := attached && l.nodes[node][agent].engines[r.GetId()] != nil
		if present != r.GetReachable() {
			l.dirty[r.GetId()] = struct{}{}
		}
	}
	l.missing = missing
}

// grace for agents without a stream: the more there are, the longer attaching elsewhere takes.
func (l *lead) grace() time.Duration {
	c := l.hub.cfg
	return min(max(c.GraceMin, 2*handshakeTime*time.Duration(len(l.missing))), c.GraceMax)
}

// report proposes one entry with as many transitions as fit. What could not be committed is found
// again, since transitions are computed from the difference to the log.
func (l *lead) report(ctx context.Context) {
	batch := l.batch(time.Now())
	if len(batch.GetTransitions()) == 0 {
		return
	}
	_, err := l.hub.log.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, batch, "", "agents")
	if err != nil {
		l.hub.logger.Debug("report about agents was not committed; it is made again", "error", err)
		l.again(batch)
	}
}

func (l *lead) again(batch *commandv1.AgentsReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range batch.GetTransitions() {
		l.dirty[t.GetInstanceId()] = struct{}{}
		if t.GetEngine() != nil {
			delete(l.proposed, t.GetInstanceId())
		}
	}
}

// batch takes dirty instances, in order, until the entry is full.
func (l *lead) batch(now time.Time) *commandv1.AgentsReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := &commandv1.AgentsReport{}
	size := 0
	for _, id := range slices.Sorted(maps.Keys(l.dirty)) {
		t := l.transition(id, now)
		n := 0
		if t != nil {
			n = proto.Size(t)
		}
		if size > 0 && size+n > entryBytes {
			break // it stays dirty
		}
		delete(l.dirty, id)
		if t == nil {
			continue
		}
		size += n
		batch.Transitions = append(batch.Transitions, t)
		if t.GetEngine() != nil {
			l.proposed[id] = t.GetEngine()
		}
	}
	return batch
}

// transition is what the log does not say about an instance; nil when it says it all. The caller
// holds mu.
func (l *lead) transition(id string, now time.Time) *commandv1.AgentTransition {
	agent := agentOf(id)
	record := l.hub.machine.Instance(id)
	t := &commandv1.AgentTransition{InstanceId: id, AgentId: agent}
	node, attached := l.owner[agent]
	if !attached {
		since, ok := l.missing[agent]
		if record == nil || !record.GetReachable() || !ok || now.Sub(since) < l.grace() {
			return nil // the next sweep asks again
		}
		t.Reachable = proto.Bool(false)
		return t
	}
	v := l.nodes[node][agent]
	engine, state := v.engines[id], v.states[id]
	if engine == nil { // its agent no longer looks after it
		if !record.GetReachable() {
			return nil
		}
		t.Reachable = proto.Bool(false)
		return t
	}
	if l.describes(record, engine) && !proto.Equal(l.proposed[id], engine) {
		t.Engine = engine
	}
	if news(record.GetState(), state) {
		t.State = state
	}
	if !record.GetReachable() {
		t.Reachable = proto.Bool(true)
	}
	if a := record.GetAssignment(); a.GetKind() == commandv1.AssignmentKind_ASSIGNMENT_KIND_OFFER && a.GetRefused() == "" &&
		v.refusals[id].GetFence().GetIndex() == a.GetFenceIndex() {
		t.Refused, t.RefusedIndex = cmp.Or(v.refusals[id].GetDetail(), "no reason given"), a.GetFenceIndex()
	}
	if t.Engine == nil && t.State == nil && t.Reachable == nil && t.Refused == "" || record == nil && t.Engine == nil {
		return nil
	}
	return t
}

// news tells whether a state says more than the log does; a higher sequence alone does not.
func news(logged, now *agentv1.StateReport) bool {
	if now == nil || logged != nil && now.GetSequence() <= logged.GetSequence() {
		return false
	}
	if logged == nil {
		return true
	}
	same := proto.CloneOf(now)
	same.Sequence, same.FailedLog = logged.GetSequence(), logged.GetFailedLog()
	return !proto.Equal(same, logged)
}

// describes tells whether a description differs from the record.
func (l *lead) describes(r *commandv1.Instance, e *agentv1.EngineInfo) bool {
	d := e.GetDescription()
	if r == nil || r.GetGroup() != e.GetGroup() || r.GetName() != e.GetName() || r.GetUrl() != e.GetUrl() ||
		r.GetReadyUrl() != e.GetReadyUrl() || r.GetHardware() != e.GetHardware() || !maps.Equal(r.GetBaseSettings(), e.GetBaseSettings()) {
		return true
	}
	if d == nil {
		return false
	}
	if r.GetEngine() != d.GetEngine() || r.GetEngineVersion() != d.GetVersion() || r.GetModel() != d.GetModel() ||
		r.GetRestartEstimateMs() != d.GetRestartEstimate().AsDuration().Milliseconds() || !maps.Equal(r.GetEffective(), d.GetEffective()) {
		return true
	}
	table := l.hub.machine.KnobTable(r.GetKnobTableHash()).GetDescription()
	shared := proto.CloneOf(d)
	shared.Effective, shared.Model, shared.RestartEstimate = nil, "", nil
	return len(d.GetKnobs()) > 0 && !proto.Equal(shared, table)
}
