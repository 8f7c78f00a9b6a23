package sidecar

import (
	"errors"
	"strings"
	"testing"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
)

type tested struct {
	result string
	err    error
}

// loadTest asks for a test on the leader and returns where its result comes.
func (n *node) loadTest(t *testing.T, instance, id string) <-chan tested {
	got := make(chan tested, 1)
	go func() {
		b, err := n.LoadTest(t.Context(), instance, &agentv1.LoadTest{TestId: id})
		got <- tested{string(b), err}
	}()
	return got
}

func (a *agent) answer(d *agentv1.Directive, id string, result agentv1.AckResult, json string) {
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Ack{Ack: &agentv1.Ack{
		InstanceId: a.instance(), Fence: d.GetFence(), TestId: id, Result: result, ResultJson: []byte(json), Detail: json,
	}}})
}

// TestLoadTestAnswers: the result finds its way from any node; that a test was asked for again, or
// what another says, is none; a refusal is an error, and says nothing about the engine's assignment.
func TestLoadTestAnswers(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	far := newAgent(t, "far").attach(c.nodes[1])
	c.reachable(t, far.instance(), true)
	got := c.nodes[0].loadTest(t, far.instance(), "t-1/1")
	d := far.next()
	if d.GetLoadTest().GetTestId() != "t-1/1" {
		t.Fatalf("directive %v", d)
	}
	far.answer(d, "t-1/0", agentv1.AckResult_ACK_RESULT_ACCEPTED, "an old one")
	far.answer(d, "t-1/1", agentv1.AckResult_ACK_RESULT_DUPLICATE, "asked again")
	far.answer(d, "t-1/1", agentv1.AckResult_ACK_RESULT_ACCEPTED, "figures")
	if r := <-got; r.err != nil || r.result != "figures" {
		t.Errorf("%+v", r)
	}

	got = c.nodes[0].loadTest(t, far.instance(), "t-1/2")
	far.answer(far.next(), "t-1/2", agentv1.AckResult_ACK_RESULT_REFUSED, "it serves users")
	if r := <-got; !errors.Is(r.err, ErrTestRefused) || !strings.Contains(r.err.Error(), "it serves users") {
		t.Errorf("%+v", r)
	}
	if a := c.instance(far.instance()).GetAssignment(); a.GetRefused() != "" || a.GetKind() > commandv1.AssignmentKind_ASSIGNMENT_KIND_NONE {
		t.Errorf("a refused test reads as a refused assignment: %v", a)
	}
	if err := c.nodes[0].CancelTest(t.Context(), far.instance(), "t-1/9"); err != nil {
		t.Error(err)
	}
	if d := far.next(); d.GetCancelTest().GetTestId() != "t-1/9" {
		t.Errorf("cancel %v", d)
	}
	for _, b := range []struct {
		node     int
		instance string
		want     error
	}{{0, "nobody/e", ErrUnknownInstance}, {1, "far/e", ErrNotLeader}} {
		if r := <-c.nodes[b.node].loadTest(t, b.instance, "t-2/1"); !errors.Is(r.err, b.want) {
			t.Errorf("%s from node %d: %v", b.instance, b.node, r.err)
		}
	}
}

// TestNewLeaderAsksAgain: a leader that was replaced gives up; its successor asks under the same id
// and gets what the agent has.
func TestNewLeaderAsksAgain(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	a := newAgent(t, "a").attach(c.nodes[1])
	c.reachable(t, a.instance(), true)
	got := c.nodes[0].loadTest(t, a.instance(), "t-1/1")
	a.next()
	c.lead(1)
	if r := <-got; !errors.Is(r.err, ErrNotLeader) {
		t.Errorf("on the old leader: %+v", r)
	}
	eventually(t, "the new one leads", func() bool { return c.nodes[1].leading() != nil })
	got = c.nodes[1].loadTest(t, a.instance(), "t-1/1")
	a.answer(a.next(), "t-1/1", agentv1.AckResult_ACK_RESULT_ACCEPTED, "figures")
	if r := <-got; r.err != nil || r.result != "figures" {
		t.Errorf("%+v", r)
	}
}
