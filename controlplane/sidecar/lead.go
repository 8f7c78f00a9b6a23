package sidecar

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// lead is the leader's view: which agents are attached to which node, and what of it the log does
// not say yet. It lives as long as this node leads in one term.
type lead struct {
	hub  *Hub
	over <-chan struct{} // closed when the leadership ends
	// answers of tests, waited for by whoever asked.
	answers answers

	mu sync.Mutex // guards what follows
	// links to the other nodes, by node.
	links map[string]*link
	// nodes holds what each node says about the agents attached to it, by node and agent.
	nodes map[string]map[string]*view
	// owner is the node that an agent is attached to.
	owner map[string]string
	// rivals are agents that two nodes claim with different sessions, by agent.
	rivals map[string]rival
	// dirty instances may differ from the log.
	dirty map[string]struct{}
	// proposed descriptions, so that one which the log refused is not proposed for ever.
	proposed map[string]*agentv1.EngineInfo
	// missing is since when an agent that the log calls reachable has had no stream.
	missing map[string]time.Time
}

// rival is a second process with an agent's identity, attached to another node.
type rival struct {
	node  string
	since time.Time
}

func newLead(h *Hub, over <-chan struct{}) *lead {
	return &lead{
		hub: h, over: over,
		links: map[string]*link{}, nodes: map[string]map[string]*view{}, owner: map[string]string{},
		rivals: map[string]rival{}, dirty: map[string]struct{}{},
		proposed: map[string]*agentv1.EngineInfo{}, missing: map[string]time.Time{},
	}
}

// whileLeading is what the hub does for as long as this node leads.
func (h *Hub) whileLeading(ctx context.Context, term uint64) error {
	l := newLead(h, ctx.Done())
	h.mu.Lock()
	h.lead = l
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.lead = nil
		h.mu.Unlock()
		h.up.resend()
	}()
	for _, s := range h.attached() {
		l.attach(h.cfg.NodeID, s.hello())
	}
	h.logger.Info("agents report to this node", "term", term)
	l.run(ctx)
	return nil
}

// attach notes that an agent is attached to a node, with all that its Hello says.
func (l *lead) attach(node string, hello *agentv1.Hello) {
	v, err := newView(hello)
	if err != nil {
		return // the node it is attached to has checked it
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attachView(node, v)
}

// attachView holds mu.
func (l *lead) attachView(node string, v *view) {
	agent := v.identity.GetAgentId()
	if l.nodes[node] == nil {
		l.nodes[node] = map[string]*view{}
	}
	l.nodes[node][agent] = v
	held, ok := l.owner[agent]
	if ok && held != node && l.nodes[held][agent].identity.GetSession() != v.identity.GetSession() {
		if _, waiting := l.rivals[agent]; !waiting {
			l.rivals[agent] = rival{node: node, since: time.Now()}
		}
		return
	}
	l.own(node, v)
}

// own makes a node the one that an agent is attached to. The caller holds mu.
func (l *lead) own(node string, v *view) {
	agent := v.identity.GetAgentId()
	l.owner[agent] = node
	delete(l.missing, agent)
	for _, id := range v.instances() {
		delete(l.proposed, id)
		l.dirty[id] = struct{}{}
	}
}

// attachAll replaces a node's set of attached agents.
func (l *lead) attachAll(node string, set *agentv1.AttachedAgents) {
	now := map[string]bool{}
	for _, hello := range set.GetAgents() {
		now[hello.GetIdentity().GetAgentId()] = true
		l.attach(node, hello)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for agent := range l.nodes[node] {
		if !now[agent] {
			l.leave(node, agent)
		}
	}
}

// message takes in what an agent attached to a node said.
func (l *lead) message(node, agent string, m *agentv1.ConnectRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.nodes[node][agent]
	if v == nil {
		return
	}
	if ack := m.GetAck(); v.engines[ack.GetInstanceId()] != nil {
		l.answers.take(ack)
	}
	if id := v.take(m); id != "" && l.owner[agent] == node {
		l.dirty[id] = struct{}{}
	}
}

// owned tells whether an agent is attached to a node, which may then speak for it.
func (l *lead) owned(node, agent string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owner[agent] == node
}

// gone notes that an agent's stream to a node ended.
func (l *lead) gone(node, agent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leave(node, agent)
}

// leave holds mu.
func (l *lead) leave(node, agent string) {
	delete(l.nodes[node], agent)
	if l.rivals[agent].node == node {
		delete(l.rivals, agent)
	}
	if l.owner[agent] != node {
		return // it moved on before
	}
	delete(l.owner, agent)
	if r, ok := l.rivals[agent]; ok {
		delete(l.rivals, agent)
		if v := l.nodes[r.node][agent]; v != nil {
			l.own(r.node, v)
			return
		}
	}
	l.missing[agent] = time.Now()
}

// nodeLost notes that a node's stream ended: its agents are on their own until they attach
// elsewhere.
func (l *lead) nodeLost(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for agent := range maps.Clone(l.nodes[node]) {
		l.leave(node, agent)
	}
	delete(l.nodes, node)
}

// refuseRivals turns away processes whose identity another one has used for longer than a crash
// takes to be noticed.
func (l *lead) refuseRivals(now time.Time) {
	l.mu.Lock()
	refused := map[string]string{}
	words := map[string]string{}
	for agent, r := range l.rivals {
		first := l.nodes[l.owner[agent]][agent]
		if first == nil || now.Sub(r.since) < l.hub.cfg.GraceMin {
			continue
		}
		delete(l.rivals, agent)
		refused[agent], words[agent] = r.node, duplicate(agent, first).Error()
	}
	l.mu.Unlock()
	for agent, node := range refused {
		l.deliver(node, &agentv1.RelayResponse{AgentId: agent, Refused: words[agent]})
	}
}

// deliver sends something to an agent through the node it is attached to.
func (l *lead) deliver(node string, m *agentv1.RelayResponse) bool {
	if node == l.hub.cfg.NodeID {
		return l.hub.fromLeader(m)
	}
	l.mu.Lock()
	to := l.links[node]
	l.mu.Unlock()
	return to != nil && to.send(m)
}

// Attachment is one connected agent.
type Attachment struct {
	AgentID   string   `json:"agent_id"`
	NodeID    string   `json:"node_id"`
	Hostname  string   `json:"hostname"`
	Version   string   `json:"version"`
	Instances []string `json:"instances"`
}

// Attached lists connected agents in order of their ids: on the leader those of all nodes,
// elsewhere those attached to this node.
func (h *Hub) Attached() []Attachment {
	if l := h.leading(); l != nil {
		return l.attachments()
	}
	var all []Attachment
	for _, s := range h.attached() {
		s.mu.Lock()
		all = append(all, s.view.attachment(h.cfg.NodeID))
		s.mu.Unlock()
	}
	return sorted(all)
}

func (l *lead) attachments() []Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Attachment
	for agent, node := range l.owner {
		all = append(all, l.nodes[node][agent].attachment(node))
	}
	return sorted(all)
}

func (v *view) attachment(node string) Attachment {
	id := v.identity
	return Attachment{AgentID: id.GetAgentId(), NodeID: node, Hostname: id.GetHostname(), Version: id.GetVersion(), Instances: v.instances()}
}

func sorted(all []Attachment) []Attachment {
	slices.SortFunc(all, func(a, b Attachment) int {
		if a.AgentID < b.AgentID {
			return -1
		}
		return 1
	})
	return all
}
