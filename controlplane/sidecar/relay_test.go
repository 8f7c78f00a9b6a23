package sidecar

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

func TestRelayThroughFollower(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	a := newAgent(t, "a").attach(c.nodes[2])
	a.report(nil)
	a.window(3)
	a.window(2)
	eventually(t, "leader and attached node have the windows", func() bool {
		return c.nodes[0].windows.count("a/e") == 2 && c.nodes[2].windows.count("a/e") == 2
	})
	if c.nodes[1].windows.count("a/e") != 0 {
		t.Error("a node that neither leads nor holds the agent has its windows")
	}
	eventually(t, "the state is in the log", func() bool { return c.instance("a/e").GetState().GetServing() })
	want := []Attachment{{AgentID: "a", NodeID: "cp3", Hostname: "host-of-a", Version: "v0", Instances: []string{"a/e"}}}
	if diff := cmp.Diff(want, c.nodes[0].Attached()); diff != "" {
		t.Error("leader:", diff)
	}
	if diff := cmp.Diff(want, c.nodes[2].Attached()); diff != "" {
		t.Error("attached node:", diff)
	}
	if got := c.nodes[1].Attached(); len(got) != 0 {
		t.Error("other node:", got)
	}
}

func TestLeaseReachesItsAgent(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	near, far := newAgent(t, "near").attach(c.nodes[0]), newAgent(t, "far").attach(c.nodes[1])
	for _, a := range []*agent{near, far} {
		c.reachable(t, a.instance(), true)
		if err := c.nodes[0].Lease(t.Context(), a.instance(), 7, 120*time.Second); err != nil {
			t.Fatal(err)
		}
		d := a.next()
		if d.GetLease().GetEpoch() != 7 || d.GetLease().GetExtend().AsDuration() != 120*time.Second || d.GetInstanceId() != a.instance() || d.GetClusterId() != "c-1" {
			t.Errorf("lease %v", d)
		}
		if err := c.nodes[0].Collect(t.Context(), a.instance()); err != nil {
			t.Fatal(err)
		}
		if d := a.next(); d.GetCollect().GetRequestId() == "" {
			t.Errorf("collect %v", d)
		}
	}
	if err := c.nodes[0].Lease(t.Context(), "nobody/e", 7, time.Second); !errors.Is(err, ErrUnknownInstance) {
		t.Errorf("unknown instance: %v", err)
	}
	if err := c.nodes[1].Lease(t.Context(), "near/e", 7, time.Second); !errors.Is(err, ErrNotLeader) {
		t.Errorf("from a follower: %v", err)
	}
	far.leave()
	eventually(t, "the leader knows that it left", func() bool { return len(c.nodes[0].Attached()) == 1 })
	if err := c.nodes[0].Lease(t.Context(), "far/e", 7, time.Second); !errors.Is(err, ErrNotAttached) {
		t.Errorf("agent that left: %v", err)
	}
}

// TestNoLeaseFromAnUnconfirmedLeader: a leader that no majority confirms renews nothing.
func TestNoLeaseFromAnUnconfirmedLeader(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a").attach(c.nodes[0])
	c.reachable(t, "a/e", true)
	c.mu.Lock()
	c.verify = errors.New("no majority")
	c.mu.Unlock()
	if err := c.nodes[0].Lease(t.Context(), "a/e", 7, time.Second); !errors.Is(err, ErrNotLeader) {
		t.Errorf("got %v", err)
	}
	select {
	case d := <-a.directives:
		t.Errorf("sent %v", d)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestNewLeaderGetsAgentsAndRecentWindows(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	const windows = 130 // more than two batches
	a, b := newAgent(t, "a").attach(c.nodes[1]), newAgent(t, "b").attach(c.nodes[2])
	eventually(t, "the first leader knows both", func() bool { return len(c.nodes[0].Attached()) == 2 })
	for i := range windows {
		a.window(i + 1)
		b.window(i + 1)
	}
	a.window(3600) // long ago: not evidence for anyone
	eventually(t, "the first leader has all", func() bool {
		return c.nodes[0].windows.count("a/e") == windows+1 && c.nodes[0].windows.count("b/e") == windows
	})
	c.reachable(t, "a/e", true)
	c.reachable(t, "b/e", true)

	c.lead(2)
	eventually(t, "the new leader has the windows of a, which it did not hold", func() bool {
		return c.nodes[2].windows.count("a/e") >= windows
	})
	if n := c.nodes[2].windows.count("a/e"); n != windows {
		t.Errorf("%d windows, want %d", n, windows)
	}
	eventually(t, "the new leader knows all agents", func() bool { return len(c.nodes[2].Attached()) == 2 })
	a.report(func(s *agentv1.StateReport) { s.Health = "new term" })
	eventually(t, "reports reach the log", func() bool { return c.instance("a/e").GetState().GetHealth() == "new term" })
	if err := c.nodes[2].Lease(t.Context(), "a/e", 1, time.Second); err != nil {
		t.Error(err)
	}
	if a.next().GetLease() == nil {
		t.Error("no lease from the new leader")
	}
	if !c.instance("a/e").GetReachable() || !c.instance("b/e").GetReachable() {
		t.Error("an agent became unreachable with the change of leader")
	}
}

// TestChangeWithoutLeaderIsNotLost: what an agent said while no node led is in the log once one does.
func TestChangeWithoutLeaderIsNotLost(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	a := newAgent(t, "a").attach(c.nodes[1])
	c.reachable(t, "a/e", true)
	c.lead(-1)
	a.report(func(s *agentv1.StateReport) { s.Health = "said to nobody" })
	eventually(t, "the attached node has it", func() bool {
		return c.nodes[1].session("a").state("a/e").GetHealth() == "said to nobody"
	})
	c.lead(0)
	eventually(t, "it is in the log", func() bool { return c.instance("a/e").GetState().GetHealth() == "said to nobody" })
}

func TestDeadNodesAgentsMove(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	const n = 10
	var agents []*agent
	for i := range n {
		agents = append(agents, newAgent(t, fmt.Sprintf("a%d", i)).attach(c.nodes[1]))
		c.reachable(t, agents[i].instance(), true)
	}
	c.nodes[1].stop()
	for _, a := range agents[1:] {
		a.attach(c.nodes[2])
	}
	c.reachable(t, "a0/e", false) // the one that did not come back
	for _, a := range agents[1:] {
		if !c.instance(a.instance()).GetReachable() {
			t.Errorf("%s is unreachable although it moved", a.id)
		}
	}
	if got := len(c.nodes[0].Attached()); got != n-1 {
		t.Errorf("%d agents attached", got)
	}
}

// TestNewLeaderMissesAgents: agents that vanished together with the old leader are found missing
// by the new one.
func TestNewLeaderMissesAgents(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	newAgent(t, "a").attach(c.nodes[0])
	c.reachable(t, "a/e", true)
	c.lead(1)
	c.nodes[0].stop()
	eventually(t, "the log says unreachable", func() bool { return !c.nodes[1].machine.Instance("a/e").GetReachable() })
}

func TestFollowerRefusesRelay(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	relay := func(addr string, first *agentv1.RelayRequest) error {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stream, err := agentv1.NewRelayServiceClient(conn).Relay(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(first) // a refusal shows in Recv
		_, err = stream.Recv()
		return err
	}
	if err := relay(c.nodes[1].addr, &agentv1.RelayRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("follower: %v", err)
	}
	eventually(t, "the leader is ready", func() bool { return c.nodes[0].leading() != nil })
	if err := relay(c.nodes[0].addr, &agentv1.RelayRequest{NodeId: "cp9"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a relay that begins otherwise: %v", err)
	}
}

func TestUplinkQueueIsBounded(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	u := newUplink(c.nodes[0].Hub)
	u.message("a", &agentv1.ConnectRequest{})
	if got := u.take(); len(got) != 0 {
		t.Errorf("%d messages kept without a stream", len(got))
	}
	u.begin()
	for range uplinkQueue {
		u.message("a", &agentv1.ConnectRequest{})
	}
	got := u.take()
	if len(got) > uplinkQueue || got[0] != nil {
		t.Errorf("%d messages, the first is %v: must begin with the whole set", len(got), got[0])
	}
	if c.nodes[0].Counts().RelayDropped == 0 {
		t.Error("drops are not counted")
	}
}
