package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
)

// Limits of waiting. The machine may be busy with other tests.
const (
	upLimit   = 60 * time.Second
	rollLimit = 90 * time.Second
)

// quick are policies that let a rollout end within seconds. The margins are wide: what verdicts make
// of measurements is not the matter here.
const quick = `    max_unavailable: 2
    reserve: 0.01
    steps: [50, 100]
    observe_min_seconds: 1
    observe_max_seconds: 60
    min_requests: 1
    bake_seconds: 1
    probation_seconds: 10
    lease_every_seconds: 2
    wave_deadline_seconds: 60
    margin: 50
    hard_margin: 100
`

// patient is quick, but a wave is observed until somebody decides.
var patient = strings.NewReplacer("observe_min_seconds: 1", "observe_min_seconds: 300", "observe_max_seconds: 60", "observe_max_seconds: 600",
	"wave_deadline_seconds: 60", "wave_deadline_seconds: 900").Replace(quick)

// alone lets a group of one be changed.
const alone = "    allow_outage: true\n"

// world is a control plane and replicas on this machine.
type world struct {
	*processes
	dir      string
	data     string // folder of the servers' data folders
	nodes    []*node
	replicas []*replica
}

// node is one control-plane server.
type node struct {
	id                 string
	rest, raft, agents int
	process            *process
}

// replica is one engine below its launcher, with its sidecar.
type replica struct {
	name, group, dialect string
	port, agentPort      int
	argv                 []string // the engine's command line
	sim                  []string // further options of the simulation
	api                  string   // that traffic uses
	data                 string   // the sidecar's data folder
	hardware             string   // as the operator names it; empty: what NVML says
	env                  []string // of the launcher, and so of engine and GPU reader
	launcher, agent      *process
	socket               *launch.Client
}

func (r *replica) readyURL() string  { return fmt.Sprintf("http://127.0.0.1:%d/ready", r.agentPort) }
func (r *replica) engineURL() string { return fmt.Sprintf("http://127.0.0.1:%d", r.port) }

// newWorld starts n control-plane nodes with policies by group name. Replicas are added by the test.
func newWorld(t *testing.T, n int, policies map[string]string) *world {
	t.Helper()
	dir := tempDir(t)
	return newWorldIn(t, dir, filepath.Join(dir, "data"), n, policies)
}

// newWorldIn is newWorld with the servers' data in a folder of its own.
func newWorldIn(t *testing.T, dir, data string, n int, policies map[string]string) *world {
	t.Helper()
	w := &world{processes: newProcesses(t, dir), dir: dir, data: data}
	ports := freePorts(t, 3*n)
	for i := range n {
		w.nodes = append(w.nodes, &node{id: fmt.Sprintf("cp%d", i+1), rest: ports[3*i], raft: ports[3*i+1], agents: ports[3*i+2]})
	}
	groups := "groups:\n"
	for name, policy := range policies {
		groups += "  " + name + ":\n" + policy
	}
	for _, n := range w.nodes {
		w.write(n.id+".yaml", w.nodeConfig(n)+groups)
		w.startNode(n)
	}
	return w
}

func (w *world) nodeConfig(n *node) string {
	c := fmt.Sprintf("node_id: %s\ndata_dir: %s\nlisten: 127.0.0.1:%d\nraft: 127.0.0.1:%d\nagents: 127.0.0.1:%d\nheartbeat: 500ms\npeers:\n",
		n.id, filepath.Join(w.data, n.id), n.rest, n.raft, n.agents)
	for _, o := range w.nodes {
		c += fmt.Sprintf("  - {id: %s, raft: \"127.0.0.1:%d\", http: \"127.0.0.1:%d\", agents: \"127.0.0.1:%d\"}\n", o.id, o.raft, o.rest, o.agents)
	}
	return c
}

func (w *world) startNode(n *node) {
	w.t.Helper()
	n.process = w.start(n.id, controlProgram, nil, "serve", "--config", filepath.Join(w.dir, n.id+".yaml"))
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// baseSeqs is what the operator's own command line sets, and newSeqs what rollouts set instead.
const baseSeqs, newSeqs = "64", "96"

func newSettings() map[string]string { return map[string]string{"max_num_seqs": newSeqs} }

// add makes a vLLM replica without starting anything of it.
func (w *world) add(name, group string) *replica {
	w.t.Helper()
	ports := freePorts(w.t, 2)
	r := &replica{
		name: name, group: group, dialect: "vllm", api: "openai-completions", hardware: "h100-sxm", port: ports[0], agentPort: ports[1],
		argv: []string{"vllm", "serve", "llama-3.1-8b", "--host", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--max-num-seqs", baseSeqs, "--shutdown-timeout", "5"},
	}
	r.data = filepath.Join(w.dir, "data", "agent-"+name)
	r.socket = launch.Dial(filepath.Join(w.dir, name+".sock"))
	w.t.Cleanup(r.socket.Close)
	w.replicas = append(w.replicas, r)
	return r
}

// serve starts n replicas of a group with a plain sidecar and waits until they are in rotation.
func (w *world) serve(group string, n int) []*replica {
	w.t.Helper()
	var added []*replica
	for i := range n {
		r := w.add(fmt.Sprintf("%s-%d", group, i), group)
		w.startLauncher(r)
		w.startAgent(r, agentProgram)
		added = append(added, r)
	}
	w.waitServing(added...)
	return added
}

func (w *world) startLauncher(r *replica) {
	w.t.Helper()
	args := []string{
		"launch", "--socket", filepath.Join(w.dir, r.name+".sock"), "--state-dir", filepath.Join(w.dir, "data", "launch-"+r.name),
		"--backoff-min", "500ms", "--grace", "5s", "--",
		program(agentProgram), "sim-engine", "--dialect", r.dialect, "--sim-start-scale", "0.01", "--sim-children",
	}
	r.launcher = w.start("engine-"+r.name, agentProgram, r.env, append(append(append(args, r.sim...), "--"), r.argv...)...)
}

// startAgent starts the replica's sidecar, always on the same data folder. PERF_CRASH_AT and the like
// come in env.
func (w *world) startAgent(r *replica, prog string, env ...string) {
	w.t.Helper()
	c := fmt.Sprintf("agent_id: %s\ndata_dir: %s\nlisten: 127.0.0.1:%d\ncontrol_plane:\n", r.name, r.data, r.agentPort)
	for _, n := range w.nodes {
		c += fmt.Sprintf("  - 127.0.0.1:%d\n", n.agents)
	}
	c += fmt.Sprintf("engines:\n  - {name: e, group: %s, engine: %s, url: %q, launcher: %s, hardware: %q, drain: {timeout: 10s, settle: 300ms}, ready_grace: 30s}\n",
		r.group, r.dialect, r.engineURL(), filepath.Join(w.dir, r.name+".sock"), r.hardware)
	w.write("agent-"+r.name+".yaml", c)
	r.agent = w.start("agent-"+r.name, prog, env, "run", "--config", filepath.Join(w.dir, "agent-"+r.name+".yaml"))
}

// waitServing waits until the control plane and the sidecars agree that replicas are in rotation.
func (w *world) waitServing(replicas ...*replica) {
	w.t.Helper()
	eventually(w.t, "replicas in rotation", upLimit, func() (bool, string) {
		for _, r := range replicas {
			if e, err := w.engine(r); err != nil || !e.Serving || w.ready(r) != http.StatusOK {
				return false, fmt.Sprintf("%s: phase %s, health %s, /ready %d, %v\n%s", r.name, e.Phase, e.Health, w.ready(r), err, lastLines(r.agent.text(), 8))
			}
		}
		return true, ""
	})
}

// call asks the nodes one after the other until one answers for itself.
func (w *world) call(do func(context.Context, *client.Client) error) error {
	var last error
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		for _, n := range w.nodes {
			if n.process != nil && !n.process.alive() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			last = do(ctx, client.New(fmt.Sprintf("http://127.0.0.1:%d", n.rest)))
			cancel()
			problem := &client.Problem{}
			if last == nil || errors.As(last, &problem) && problem.Status != http.StatusServiceUnavailable {
				return last
			}
		}
		<-time.After(100 * time.Millisecond)
	}
	return last
}

func (w *world) get(path string, out any) error {
	return w.call(func(ctx context.Context, c *client.Client) error { return c.Get(ctx, path, out) })
}

func (w *world) post(path, key string, in, out any) error {
	return w.call(func(ctx context.Context, c *client.Client) error { return c.Post(ctx, path, key, in, out) })
}

// roll starts a rollout.
func (w *world) roll(group string, settings map[string]string) api.Rollout {
	w.t.Helper()
	var r api.Rollout
	in := map[string]any{"group": group, "settings": settings, "reason": "process test"}
	if err := w.post("/rollout/start", "roll-"+group, in, &r); err != nil {
		w.t.Fatalf("start a rollout of %s: %v", group, err)
	}
	return r
}

func (w *world) rollout(id string) api.Rollout {
	w.t.Helper()
	var r api.Rollout
	if err := w.get("/rollout/"+id, &r); err != nil {
		w.t.Fatalf("rollout %s: %v", id, err)
	}
	return r
}

// waitRollout waits until a rollout is in one of the states.
func (w *world) waitRollout(id string, states ...string) api.Rollout {
	w.t.Helper()
	var r api.Rollout
	eventually(w.t, fmt.Sprintf("rollout %v", states), rollLimit, func() (bool, string) {
		r = w.rollout(id)
		for _, s := range states {
			if r.State == s {
				return true, ""
			}
		}
		if r.Ended != nil {
			w.t.Fatalf("rollout ended %s, want %v: %s\n%s", r.State, states, r.EndReason, story(r))
		}
		return false, r.State + "\n" + story(r)
	})
	return r
}

// promote passes each wave in the operator's name, so that the end does not hang on what there is to
// compare with.
func (w *world) promote(id string) api.Rollout {
	w.t.Helper()
	var r api.Rollout
	eventually(w.t, "rollout succeeded", rollLimit, func() (bool, string) {
		r = w.rollout(id)
		w.pass(r)
		if r.Ended != nil && r.State != "succeeded" {
			w.t.Fatalf("rollout ended %s: %s\n%s", r.State, r.EndReason, story(r))
		}
		return r.Ended != nil, r.State + "\n" + story(r)
	})
	return r
}

// story is a rollout's history, one line each.
func story(r api.Rollout) string {
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  %s %s\n", n.At.Format("15:04:05.000"), n.Text)
	}
	return b.String()
}

// engine is the control plane's view of a replica.
func (w *world) engine(r *replica) (api.Engine, error) {
	var a api.Agent
	if err := w.get("/agents/"+r.name, &a); err != nil {
		return api.Engine{}, err
	}
	return a.Engines[0], nil
}

// leader is the node that leads.
func (w *world) leader() *node {
	var h api.ClusterHealth
	if w.get("/health/cluster", &h) != nil {
		return nil
	}
	for _, n := range w.nodes {
		if n.id == h.LeaderID && n.process.alive() {
			return n
		}
	}
	return nil
}

// ready is the status of the sidecar's /ready, 0 when nobody answers.
func (w *world) ready(r *replica) int {
	c := http.Client{Timeout: time.Second}
	resp, err := c.Get(r.readyURL())
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// sidecar is what the sidecar itself says of its engine.
type sidecar struct {
	Phase        string `json:"phase"`
	Serving      bool   `json:"serving"`
	Reason       string `json:"reason"`
	RunningEpoch uint64 `json:"running_epoch"`
	LKGEpoch     uint64 `json:"lkg_epoch"`
	FailedEpoch  uint64 `json:"failed_epoch"`
	FailedReason string `json:"failed_reason"`
}

// link is what the sidecar says of its stream to the control plane.
type link struct {
	Connected bool   `json:"connected"`
	Problem   string `json:"problem"`
}

// status asks the sidecar; the zero value while it does not answer.
func (w *world) status(r *replica) (sidecar, link) {
	var out struct {
		ControlPlane link      `json:"control_plane"`
		Engines      []sidecar `json:"engines"`
	}
	c := http.Client{Timeout: time.Second}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/status", r.agentPort))
	if err != nil {
		return sidecar{}, link{}
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&out) != nil || len(out.Engines) == 0 {
		return sidecar{}, link{}
	}
	return out.Engines[0], out.ControlPlane
}

// launched is the launcher's own view of its engine.
func (w *world) launched(r *replica) launch.Status {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s, err := r.socket.Status(ctx)
	if err != nil {
		return launch.Status{Error: err.Error()}
	}
	return s
}

var startedLine = regexp.MustCompile(`msg="engine started".* epoch=(\d+)`)

// starts are the epochs of all starts of a replica's engine, in order, from the launcher's log.
func (w *world) starts(r *replica) []uint64 {
	w.t.Helper()
	var epochs []uint64
	for _, m := range startedLine.FindAllStringSubmatch(r.launcher.text(), -1) {
		n, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		epochs = append(epochs, n)
	}
	return epochs
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// pass passes the wave under observation in the operator's name. The wave may have moved on
// meanwhile: the next look at the rollout tells.
func (w *world) pass(r api.Rollout) {
	if r.State == "observing" || r.State == "holding" {
		_ = w.post("/rollout/promote", "", map[string]string{"id": r.ID, "reason": "process test"}, nil)
	}
}
