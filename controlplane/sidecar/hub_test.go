package sidecar

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

func TestHelloIsChecked(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	for name, x := range map[string]struct {
		change func(*agent)
		code   codes.Code
		words  string
	}{
		"another cluster":    {func(a *agent) { a.cluster = "c-2" }, codes.PermissionDenied, "was joined to c-2 and this is c-1"},
		"no id":              {func(a *agent) { a.id = "" }, codes.InvalidArgument, "no agent id"},
		"no session":         {func(a *agent) { a.session = "" }, codes.InvalidArgument, "no session"},
		"another's instance": {func(a *agent) { a.engines[0].InstanceId = "b/e" }, codes.InvalidArgument, "is not one of agent"},
		"nameless instance":  {func(a *agent) { a.engines[0].InstanceId = a.id + "/" }, codes.InvalidArgument, "is not one of agent"},
	} {
		a := newAgent(t, "a-"+strings.ReplaceAll(name, " ", "-"))
		x.change(a)
		if words := a.refused(c.nodes[0], x.code); !strings.Contains(words, x.words) {
			t.Errorf("%s: %s", name, words)
		}
	}
	newAgent(t, "known").attach(c.nodes[0])
	joined := newAgent(t, "joined")
	joined.cluster = "c-1"
	joined.attach(c.nodes[0])
}

func TestFirstMessageMustBeHello(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a").attach(c.nodes[0]) // for its connection
	stream, err := agentv1.NewAgentServiceClient(a.conn).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Pong{Pong: &agentv1.Pong{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

func TestAgentsAreRegisteredAndOnlyChangesAreLogged(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a")
	a.engines[0].Description = &enginev1.Description{
		Engine: "vllm", Version: "0.11.0", Model: "m", Effective: map[string]string{"k": "v"},
		Knobs: []*enginev1.Knob{{Name: "k"}},
	}
	a.attach(c.nodes[0])
	a.report(nil)
	eventually(t, "the state is in the log", func() bool { return c.instance("a/e").GetState().GetServing() })
	i := c.instance("a/e")
	if !i.GetReachable() || i.GetEngineVersion() != "0.11.0" || i.GetGroup() != "chat" || i.GetKnobTableHash() == "" {
		t.Errorf("instance %v", i)
	}
	c.mu.Lock()
	before := c.reports
	c.mu.Unlock()
	for range 20 {
		a.report(nil) // the same again, under a new sequence
		a.window(1)
		a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Engine{Engine: a.engines[0]}})
	}
	a.report(func(s *agentv1.StateReport) { s.Health = "slow" })
	eventually(t, "the change is in the log", func() bool { return c.instance("a/e").GetState().GetHealth() == "slow" })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reports != before+1 {
		t.Errorf("%d entries for one change", c.reports-before)
	}
}

func TestManyAgentsShareEntries(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, func(cfg *Config) { cfg.ReportEvery = 100 * time.Millisecond })
	const n = 40
	began := time.Now()
	for i := range n {
		newAgent(t, fmt.Sprintf("a%d", i)).attach(c.nodes[0])
	}
	eventually(t, "all are registered", func() bool { return len(c.nodes[0].machine.Instances("")) == n })
	c.mu.Lock()
	defer c.mu.Unlock()
	if most := int(time.Since(began)/(100*time.Millisecond)) + 1; c.reports > most {
		t.Errorf("%d entries for %d agents in %v", c.reports, n, time.Since(began))
	}
}

func TestDirectiveIsPushedUntilJournaled(t *testing.T) {
	t.Parallel()
	for _, at := range []int{0, 1} { // attached to the leader, to a follower
		t.Run(fmt.Sprintf("node%d", at), func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 2)
			a := newAgent(t, "a").attach(c.nodes[at])
			a.report(nil)
			c.reachable(t, "a/e", true)
			c.drain(t, "a/e", true)
			first := a.next()
			if first.GetDrain() == nil || !first.GetDrain().GetDrained() || first.GetClusterId() != "c-1" || first.GetGroup() != "chat" {
				t.Fatalf("got %v", first)
			}
			if again := a.next(); again.GetFence().GetIndex() != first.GetFence().GetIndex() { // not journaled: sent again
				t.Errorf("%v after %v", again, first)
			}
			a.leave()
			a.session = "s-2"
			a.attach(c.nodes[at])
			if resent := a.next(); resent.GetFence().GetIndex() != first.GetFence().GetIndex() { // lost with the connection
				t.Errorf("after reconnect: %v", resent)
			}
			a.sequence++
			a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Ack{Ack: &agentv1.Ack{
				InstanceId: "a/e", Fence: first.GetFence(), Result: agentv1.AckResult_ACK_RESULT_ACCEPTED,
				State: &agentv1.StateReport{InstanceId: "a/e", Sequence: a.sequence, Fence: first.GetFence(), Phase: agentv1.Phase_PHASE_IDLE, Drained: true},
			}}})
			eventually(t, "the ack's state is in the log", func() bool {
				return c.instance("a/e").GetState().GetFence().GetIndex() == first.GetFence().GetIndex()
			})
			for len(a.directives) > 0 {
				<-a.directives // sent before the ack
			}
			select {
			case d := <-a.directives:
				t.Errorf("sent although journaled: %v", d)
			case <-time.After(300 * time.Millisecond):
			}
		})
	}
}

func TestRefusedDirectiveIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a").attach(c.nodes[0])
	a.report(nil)
	c.reachable(t, "a/e", true)
	c.drain(t, "a/e", true)
	d := a.next()
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Ack{Ack: &agentv1.Ack{
		InstanceId: "a/e", Fence: d.GetFence(), Result: agentv1.AckResult_ACK_RESULT_REFUSED, Detail: "disk error",
	}}})
	s := c.nodes[0].session("a")
	eventually(t, "the refusal is noted", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.sent["a/e"].refused
	})
	for len(a.directives) > 0 {
		<-a.directives
	}
	select {
	case d := <-a.directives:
		t.Errorf("sent again at once: %v", d)
	case <-time.After(300 * time.Millisecond):
	}
	c.drain(t, "a/e", false) // a new fence is a new question
	if n := a.next(); n.GetDrain().GetDrained() || n.GetFence().GetIndex() <= d.GetFence().GetIndex() {
		t.Errorf("got %v", n)
	}
}

func TestSameProcessReplacesItsStream(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	first := newAgent(t, "a").attach(c.nodes[0])
	c.reachable(t, "a/e", true)
	second := newAgent(t, "a").attach(c.nodes[0])
	if err := first.end(); status.Code(err) != codes.Aborted {
		t.Errorf("first stream: %v", err)
	}
	second.report(nil)
	eventually(t, "the second stream counts", func() bool { return c.instance("a/e").GetState().GetServing() })
	if !c.instance("a/e").GetReachable() {
		t.Error("became unreachable in between")
	}
}

func TestSecondProcessWithOneIdentity(t *testing.T) {
	t.Parallel()
	for _, nodes := range [][2]int{{0, 0}, {1, 1}, {0, 1}, {1, 0}, {1, 2}} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 3)
			first := newAgent(t, "a").attach(c.nodes[nodes[0]])
			c.reachable(t, "a/e", true)
			second := newAgent(t, "a")
			second.session, second.host = "s-2", "copy"
			second.dial(c.nodes[nodes[1]])
			err := second.end()
			if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "host-of-a") || !strings.Contains(err.Error(), "delete agent-id") {
				t.Errorf("second process: %v", err)
			}
			first.report(func(s *agentv1.StateReport) { s.Health = "still me" })
			eventually(t, "the first process still counts", func() bool { return c.instance("a/e").GetState().GetHealth() == "still me" })
		})
	}
}

func TestRestartedProcessTakesItsPlace(t *testing.T) {
	t.Parallel()
	for _, nodes := range [][2]int{{0, 0}, {1, 1}, {1, 2}} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 3)
			first := newAgent(t, "a").attach(c.nodes[nodes[0]])
			c.reachable(t, "a/e", true)
			second := newAgent(t, "a")
			second.session = "s-2"
			second.dial(c.nodes[nodes[1]]) // before anyone has noticed that the first one died
			first.leave()
			second.report(func(s *agentv1.StateReport) { s.Health = "restarted" })
			eventually(t, "the new process counts", func() bool { return c.instance("a/e").GetState().GetHealth() == "restarted" })
			if !c.instance("a/e").GetReachable() {
				t.Error("became unreachable although it came back within the grace")
			}
		})
	}
}

func TestSilentAgentBecomesUnreachable(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	a := newAgent(t, "a")
	a.mute = true
	a.attach(c.nodes[1])
	c.reachable(t, "a/e", true)
	if err := a.end(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "did not answer pings") {
		t.Errorf("got %v", err)
	}
	c.reachable(t, "a/e", false)
	newAgent(t, "a").attach(c.nodes[0])
	c.reachable(t, "a/e", true)
}

func TestGoneAgentHasGrace(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2, func(cfg *Config) { cfg.GraceMin = 700 * time.Millisecond })
	a := newAgent(t, "a").attach(c.nodes[1])
	c.reachable(t, "a/e", true)
	a.leave()
	began := time.Now()
	c.reachable(t, "a/e", false)
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("unreachable after %v, within the grace", took)
	}
}

func TestInstanceThatItsAgentDropped(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a")
	a.engines = append(a.engines, &agentv1.EngineInfo{InstanceId: "a/f", Name: "f", Group: "chat"})
	a.attach(c.nodes[0])
	c.reachable(t, "a/f", true)
	a.engines = a.engines[:1]
	a.attach(c.nodes[0])
	c.reachable(t, "a/f", false)
	c.reachable(t, "a/e", true)
}

func TestSlowAgentIsCutOffAndBlocksNobody(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, func(cfg *Config) { cfg.SilentAfter = time.Minute })
	deaf := newAgent(t, "deaf").attach(c.nodes[0])
	c.reachable(t, "deaf/e", true)
	deaf.sending.Lock() // it cannot answer the next ping, and so reads no further
	s := c.nodes[0].session("deaf")
	large := &agentv1.Directive{InstanceId: strings.Repeat("x", 32<<10)}
	eventually(t, "the queue is full", func() bool { return !s.directive(large) })
	eventually(t, "its stream is ended", func() bool { return c.nodes[0].session("deaf") == nil })
	if err := s.killed(); !errors.Is(err, errSlow) || c.nodes[0].Counts().Slow != 1 {
		t.Errorf("ended because %v", err)
	}
	deaf.sending.Unlock()
	for range len(deaf.directives) {
		<-deaf.directives
	}
	other := newAgent(t, "other").attach(c.nodes[0])
	if err := c.nodes[0].Collect(t.Context(), "other/e"); err == nil {
		other.next()
	}
}

func TestStoppingNodeTellsItsAgents(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	a := newAgent(t, "a").attach(c.nodes[1])
	c.nodes[1].stop()
	if err := a.end(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connect to another one") {
		t.Errorf("got %v", err)
	}
}

func TestWindowsOfOthersAreDropped(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1)
	a := newAgent(t, "a").attach(c.nodes[0])
	start := time.Now().Truncate(time.Second).UnixMilli()
	a.send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Windows{Windows: &agentv1.WindowBatch{Windows: []*agentv1.Window{
		{InstanceId: "b/e", StartUnixMs: start},
		{InstanceId: "a/e", StartUnixMs: start, Counters: map[string]float64{"x": -1}},
		{InstanceId: "a/e", StartUnixMs: start, Sketches: []*agentv1.Sketch{{Metric: "m", Ddsketch: []byte("junk")}}},
		{InstanceId: "a/e", StartUnixMs: start},
	}}}})
	eventually(t, "they are counted", func() bool {
		n := c.nodes[0].Counts()
		return n.Windows == 1 && n.BadWindows == 3
	})
	if c.nodes[0].windows.count("b/e") != 0 || c.nodes[0].windows.count("a/e") != 1 {
		t.Error("wrong windows kept")
	}
}
