package sidecar

import (
	"sync"
	"time"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// session is one agent's stream to this node.
type session struct {
	agent string
	since time.Time
	out   chan *agentv1.ConnectResponse
	dead  chan struct{} // closed by kill
	ended chan struct{} // closed when the agent's place is free

	mu       sync.Mutex // guards what follows
	view     *view
	lastSeen time.Time
	sent     map[string]delivery // by instance
	cause    error               // why it was killed
}

// delivery is the last directive with a fence that was sent to an instance.
type delivery struct {
	fence   uint64
	at      time.Time
	refused bool
}

func newSession(v *view, queue int) *session {
	now := time.Now()
	return &session{
		agent: v.identity.GetAgentId(), since: now, view: v, lastSeen: now,
		out:   make(chan *agentv1.ConnectResponse, queue),
		dead:  make(chan struct{}),
		ended: make(chan struct{}),
		sent:  map[string]delivery{},
	}
}

// kill ends the stream; the first cause counts.
func (s *session) kill(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = cause
		close(s.dead)
	}
}

func (s *session) killed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// send queues a message without waiting. An agent whose queue is full is cut off: it learns what it
// missed when it connects again, since directives follow from state.
func (s *session) send(m *agentv1.ConnectResponse) bool {
	select {
	case s.out <- m:
		return true
	default:
		s.kill(errSlow)
		return false
	}
}

func (s *session) directive(d *agentv1.Directive) bool {
	return s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Directive{Directive: d}})
}

// take notes a message; it returns the instance that it is news about, "" when it is none.
func (s *session) take(m *agentv1.ConnectRequest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastSeen = time.Now()
	if a := m.GetAck(); a.GetResult() == agentv1.AckResult_ACK_RESULT_REFUSED && a.GetTestId() == "" {
		if d, ok := s.sent[a.GetInstanceId()]; ok && d.fence == a.GetFence().GetIndex() {
			d.refused = true
			s.sent[a.GetInstanceId()] = d
		}
	}
	return s.view.take(m)
}

func (s *session) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastSeen)
}

func (s *session) hello() *agentv1.Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.hello()
}

func (s *session) instances() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.instances()
}

// state is the newest one reported of an instance, nil when there is none.
func (s *session) state(instance string) *agentv1.StateReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.states[instance]
}

// refusedPause separates attempts after the agent refused a directive: its reason rarely passes
// soon.
const refusedPause = 10 * time.Second

// due tells whether a directive should be sent now, and notes that it is.
func (s *session) due(instance string, fence uint64, resend time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.sent[instance]
	if d.refused {
		resend = refusedPause
	}
	if d.fence == fence && time.Since(d.at) < resend {
		return false
	}
	s.sent[instance] = delivery{fence: fence, at: time.Now(), refused: d.refused && d.fence == fence}
	return true
}
