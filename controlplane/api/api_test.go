package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/optiinfra/performance-agent/controlplane/fsm"
	"github.com/optiinfra/performance-agent/pkg/fleet"
	"github.com/optiinfra/performance-agent/pkg/stats"
	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
	commandv1 "github.com/optiinfra/performance-agent/proto/command/v1"
	enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"
)

// fakeNode is a cluster of one without Raft: commands are applied as they come.
type fakeNode struct {
	machine *fsm.Machine

	mu        sync.Mutex // guards what follows
	index     uint64
	leader    bool
	leaderURL string
	behind    error // why this node cannot tell yet what was acknowledged
	latest    map[string]*fleet.Window
}

func (n *fakeNode) Propose(_ context.Context, typ commandv1.CommandType, payload proto.Message, id, actor string) (fsm.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	raw, err := fsm.Encode(typ, payload, id, actor, 1_700_000_000_000+int64(n.index), 1)
	if err != nil {
		return fsm.Result{}, err
	}
	return n.machine.Apply(n.index, raw), nil
}

func (n *fakeNode) IsLeader() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.leader }

func (n *fakeNode) LeaderURL() string { n.mu.Lock(); defer n.mu.Unlock(); return n.leaderURL }

func (n *fakeNode) ReadBarrier(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.behind
}

func (n *fakeNode) Health() ClusterHealth {
	h := ClusterHealth{NodeID: "cp1", State: "leader", Term: 1, LeaderID: "cp1"}
	if !n.IsLeader() && n.LeaderURL() == "" {
		h.LeaderID = ""
	}
	return h
}

func (n *fakeNode) Aggregate(ids []string, from, _ time.Time) (*fleet.Aggregate, error) {
	a := fleet.NewAggregate()
	for _, id := range ids {
		w := fleet.NewWindow(id, from)
		w.Sketches[fleet.TTFT] = stats.NewSketch()
		w.Origin[fleet.TTFT] = fleet.SourceEngine
		if err := w.Sketches[fleet.TTFT].Add(0.25); err != nil {
			return nil, err
		}
		w.Counters[fleet.GenerationTokens] = 100
		w.Gauges[fleet.KVUsage] = 0.5
		if err := a.Add(w); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (n *fakeNode) Latest(instance string) *fleet.Window {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latest[instance]
}

func (n *fakeNode) Findings(_ context.Context, group string) ([]*commandv1.Finding, error) {
	if n.machine.Group(group) == nil {
		return nil, fmt.Errorf("%w: group %s", ErrNotFound, group)
	}
	return []*commandv1.Finding{{Class: "batch_limited", Summary: "full"}}, nil
}

func (n *fakeNode) Recommend(_ context.Context, group string, _ []string) (*commandv1.Recommendation, error) {
	settings := map[string]string{"max_num_seqs": "64"}
	return &commandv1.Recommendation{
		Id: "p-1", Group: group, Status: "open", Title: "max_num_seqs 4 → 64", Settings: settings,
		BodyHash: fleet.BodyHash(&agentv1.Body{Engine: "vllm", Settings: settings}),
	}, nil
}

func (n *fakeNode) Collect(context.Context, string) error { return nil }

func newServer(t *testing.T) (*fakeNode, *httptest.Server) {
	t.Helper()
	n := &fakeNode{machine: fsm.New(), leader: true}
	s := New(Config{Version: "test", NodeID: "cp1", Started: time.Now()}, Deps{
		Machine: n.machine, Log: n, Cluster: n, Telemetry: n, Advisor: n, Collector: n, Logger: slog.New(slog.DiscardHandler),
	})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	n.seed(t, 3)
	return n, srv
}

// seed registers replicas of the group chat.
func (n *fakeNode) seed(t *testing.T, replicas int) {
	t.Helper()
	yes, one := true, 1.0
	var ts []*commandv1.AgentTransition
	for i := range replicas {
		id := fmt.Sprintf("agent-%d/e", i)
		ts = append(ts, &commandv1.AgentTransition{
			InstanceId: id, AgentId: fmt.Sprintf("agent-%d", i), Reachable: &yes,
			Engine: &agentv1.EngineInfo{InstanceId: id, Name: fmt.Sprintf("chat-%d", i), Group: "chat", Hardware: "h100-sxm", Description: &enginev1.Description{
				Engine: "vllm", Version: "0.32.0", Model: "m",
				Knobs: []*enginev1.Knob{{Name: "max_num_seqs", Type: enginev1.KnobType_KNOB_TYPE_INT, Min: &one}},
			}},
			State: &agentv1.StateReport{InstanceId: id, Sequence: 1, Phase: agentv1.Phase_PHASE_IDLE, Serving: true},
		})
	}
	res, err := n.Propose(t.Context(), commandv1.CommandType_COMMAND_TYPE_AGENTS_REPORT, &commandv1.AgentsReport{Transitions: ts}, "", "test")
	if err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
}

func call(t *testing.T, method, url, body string, header ...string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= 400 && resp.Header.Get("Content-Type") != problemType {
		t.Errorf("%s %s answers %d as %q, want a problem", method, url, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s %s: %v: %s", method, url, err, raw)
	}
	return resp.StatusCode, out
}

func TestRoutes(t *testing.T) {
	_, srv := newServer(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // in the answer
	}{
		{"GET", "/health", "", 200, "healthy"},
		{"GET", "/health/detailed", "", 200, "raft"},
		{"GET", "/health/ready", "", 200, "healthy"},
		{"GET", "/health/live", "", 200, "healthy"},
		{"GET", "/health/cluster", "", 200, "cp1"},
		{"GET", "/api/v1/health", "", 200, "uptime_seconds"},
		{"GET", "/version", "", 200, "test"},
		{"GET", "/capabilities", "", 200, "tgi"},
		{"GET", "/agents", "", 200, "chat-1"},
		{"GET", "/agents/agent-1", "", 200, "chat-1"},
		{"GET", "/agents/nobody", "", 404, "there is no agent"},
		{"GET", "/groups", "", 200, "chat"},
		{"GET", "/groups/chat", "", 200, "max_unavailable"},
		{"GET", "/groups/none", "", 404, "there is no group"},
		{"PUT", "/groups/chat", `{"mode":"auto","objective_ttft_seconds":0.5}`, 200, `"mode":"auto"`},
		{"PUT", "/groups/chat", `{"mode":"reckless"}`, 422, "mode"},
		{"PUT", "/groups/chat", `{"steps":[50,10]}`, 422, "steps"},
		{"PUT", "/groups/chat", `{"colour":"red"}`, 422, "colour"},
		{"GET", "/metrics/latency?group=chat", "", 200, "ttft_seconds"},
		{"GET", "/metrics/latency?engine=agent-1%2Fe", "", 200, `"engines":1`},
		{"GET", "/metrics/throughput", "", 200, "generation_tokens_per_second"},
		{"GET", "/metrics/tokens?engine=chat-2", "", 200, "generation_tokens"},
		{"GET", "/metrics/kv-cache", "", 200, "usage_mean"},
		{"GET", "/metrics/latency?group=none", "", 404, "there is no group"},
		{"GET", "/metrics/latency?window=5", "", 422, "window"},
		{"GET", "/metrics/latency?window_seconds=0", "", 422, "window_seconds"},
		{"POST", "/metrics/collect", `{"group":"chat"}`, 200, "agent-0/e"},
		{"GET", "/optimize/bottlenecks?group=chat", "", 200, "batch_limited"},
		{"GET", "/optimize/bottlenecks?group=none", "", 404, "none"},
		{"GET", "/optimize/bottlenecks", "", 422, "group"},
		{"POST", "/optimize/batch", `{"group":"chat"}`, 200, "max_num_seqs"},
		{"GET", "/optimize/recommendations", "", 200, "p-1"},
		{"GET", "/optimize/recommendations/p-1", "", 200, "open"},
		{"POST", "/optimize/recommendations/p-1/reject", `{"reason":"not now"}`, 200, "rejected"},
		{"POST", "/optimize/recommendations/p-1/approve", `{}`, 409, "rejected"},
		{"GET", "/rollout/status", "", 200, "items"},
		{"GET", "/rollout/history", "", 200, "items"},
		{"GET", "/rollout/r-none", "", 404, "there is no rollout"},
		{"POST", "/rollout/start", `{"group":"none","settings":{"max_num_seqs":"8"}}`, 404, "there is no group"},
		{"POST", "/rollout/start", `{"settings":{}}`, 422, "group"},
		{"POST", "/rollout/pause", `{"id":"r-none"}`, 404, "there is no rollout"},
		{"POST", "/workflows", `{"group":"chat"}`, 200, "scheduled"},
		{"GET", "/workflows", "", 200, "chat"},
		{"GET", "/workflows/w-none", "", 404, "there is no workflow"},
		{"POST", "/agents/chat-0/drain", `{"reason":"maintenance"}`, 200, `"operator_drained":true`},
		{"POST", "/agents/chat-0/undrain", `{}`, 200, `"operator_drained":false`},
		{"POST", "/agents/nobody/drain", `{}`, 404, "there is no engine"},
		{"GET", "/nowhere", "", 404, "no such route"},
		{"DELETE", "/health", "", 405, "not supported"},
	} {
		t.Run(c.method+" "+c.path+" "+c.body, func(t *testing.T) {
			status, out := call(t, c.method, srv.URL+c.path, c.body)
			raw := &bytes.Buffer{}
			enc := json.NewEncoder(raw)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(out); err != nil {
				t.Fatal(err)
			}
			if status != c.status || !strings.Contains(raw.String(), c.want) {
				t.Errorf("status %d, want %d; answer %s should have %q", status, c.status, raw, c.want)
			}
		})
	}
}

func TestIdempotencyKeyDoesWorkOnce(t *testing.T) {
	n, srv := newServer(t)
	start := `{"group":"chat","settings":{"max_num_seqs":"8"}}`
	_, first := call(t, "POST", srv.URL+"/rollout/start", start, "Idempotency-Key", "k1")
	_, again := call(t, "POST", srv.URL+"/rollout/start", start, "Idempotency-Key", "k1")
	if first["id"] != again["id"] || len(n.machine.Rollouts("chat")) != 1 {
		t.Fatalf("rollouts %v and %v, %d in all; want one", first["id"], again["id"], len(n.machine.Rollouts("chat")))
	}
	status, _ := call(t, "POST", srv.URL+"/rollout/start", `{"group":"chat","settings":{"max_num_seqs":"9"}}`, "Idempotency-Key", "k1")
	if status != http.StatusConflict && status != http.StatusUnprocessableEntity {
		t.Errorf("another request under the same key answers %d", status)
	}
}

func TestFollowerForwards(t *testing.T) {
	leader, leaderSrv := newServer(t)
	follower, followerSrv := newServer(t)
	follower.mu.Lock()
	follower.leader, follower.leaderURL = false, leaderSrv.URL
	follower.mu.Unlock()
	status, _ := call(t, "POST", followerSrv.URL+"/rollout/start", `{"group":"chat","settings":{"max_num_seqs":"8"}}`)
	if status != 200 || len(leader.machine.Rollouts("chat")) != 1 || len(follower.machine.Rollouts("chat")) != 0 {
		t.Fatalf("status %d; the leader has %d rollouts, the follower %d", status, len(leader.machine.Rollouts("chat")), len(follower.machine.Rollouts("chat")))
	}
	if _, out := call(t, "GET", followerSrv.URL+"/rollout/status", ""); len(out["items"].([]any)) != 1 {
		t.Errorf("a read on a follower must come from the leader: %v", out)
	}
	if _, out := call(t, "GET", followerSrv.URL+"/rollout/status?consistency=stale", ""); len(out["items"].([]any)) != 0 {
		t.Errorf("a stale read must come from the follower's copy: %v", out)
	}
	if status, _ = call(t, "GET", followerSrv.URL+"/groups?consistency=eventually", ""); status != 422 {
		t.Errorf("an unknown level answers %d", status)
	}
	follower.mu.Lock()
	follower.leaderURL = ""
	follower.mu.Unlock()
	if status, _ = call(t, "GET", followerSrv.URL+"/groups?consistency=stale", ""); status != 200 {
		t.Errorf("a stale read without a leader answers %d", status)
	}
	if status, out := call(t, "GET", followerSrv.URL+"/metrics/latency", ""); status != 503 || !strings.Contains(fmt.Sprint(out["detail"]), "no leader") {
		t.Errorf("without a leader: %d %v", status, out["detail"])
	}
}

// A leader that has just won does not deny what it has not applied yet.
func TestNewLeaderCatchesUpFirst(t *testing.T) {
	n, srv := newServer(t)
	n.mu.Lock()
	n.behind = ErrUnavailable
	n.mu.Unlock()
	for _, path := range []string{"/groups/chat", "/rollout/r-none"} {
		if status, _ := call(t, "GET", srv.URL+path, ""); status != 503 {
			t.Errorf("GET %s answers %d, want 503 until the leader has caught up", path, status)
		}
	}
	if status, _ := call(t, "GET", srv.URL+"/groups?consistency=stale", ""); status != 200 {
		t.Errorf("a stale read answers %d", status)
	}
}

func TestEventsResume(t *testing.T) {
	n, srv := newServer(t)
	all := n.machine.Events(0, 0)
	if len(all) == 0 {
		t.Fatal("seeding made no event")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	last := all[len(all)-1].GetIndex()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Last-Event-ID", fmt.Sprint(last))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := n.Propose(ctx, commandv1.CommandType_COMMAND_TYPE_SET_OPERATOR_DRAIN, &commandv1.SetOperatorDrain{InstanceId: "agent-0/e", Drained: true, Reason: "tea"}, "", "test"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	var got string
	for !strings.Contains(got, "chat-0") && !strings.Contains(got, "agent-0") {
		k, err := resp.Body.Read(buf)
		if err != nil {
			t.Fatalf("%v; so far %q", err, got)
		}
		got += string(buf[:k])
	}
	if !strings.Contains(got, fmt.Sprintf("id: %d", last+1)) {
		t.Errorf("the stream does not go on at %d: %q", last+1, got)
	}
}

func TestPanicIsAProblem(t *testing.T) {
	n := &fakeNode{leader: true}
	s := New(Config{}, Deps{Machine: nil, Log: n, Cluster: n, Telemetry: n, Advisor: n, Collector: n, Logger: slog.New(slog.DiscardHandler)})
	broken := httptest.NewServer(s)
	defer broken.Close()
	if status, out := call(t, "GET", broken.URL+"/groups", ""); status != 500 || strings.Contains(fmt.Sprint(out["detail"]), "nil pointer") {
		t.Errorf("status %d, detail %v: internals must stay in the log", status, out["detail"])
	}
}

func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	_, srv := newServer(t)
	status, doc := call(t, "GET", srv.URL+"/openapi.json", "")
	if status != 200 || doc["openapi"] != "3.1.0" {
		t.Fatalf("status %d, openapi %v", status, doc["openapi"])
	}
	paths := doc["paths"].(map[string]any)
	for _, p := range []string{"/health", "/groups/{id}", "/metrics/kv-cache", "/optimize/batch", "/rollout/rollback", "/workflows/{id}/approve", "/events"} {
		if paths[p] == nil {
			t.Errorf("%s is not described", p)
		}
	}
}

// TestStartSteps: an engine's answer tells how far its start has come, as long as that is news.
func TestStartSteps(t *testing.T) {
	n, srv := newServer(t)
	fresh, old := fleet.NewWindow("agent-0/e", time.Now().Add(-2*time.Second)), fleet.NewWindow("agent-1/e", time.Now().Add(-time.Minute))
	fresh.StartSteps, old.StartSteps = []string{"weights loaded", "profiling"}, []string{"weights loaded"}
	n.mu.Lock()
	n.latest = map[string]*fleet.Window{fresh.Instance: fresh, old.Instance: old}
	n.mu.Unlock()
	for agent, want := range map[string][]string{"agent-0": fresh.StartSteps, "agent-1": nil, "agent-2": nil} {
		_, a := call(t, http.MethodGet, srv.URL+"/agents/"+agent, "")
		got, _ := a["engines"].([]any)[0].(map[string]any)["start_steps"].([]any)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: steps %q, want %q", agent, got, want)
		}
	}
}
