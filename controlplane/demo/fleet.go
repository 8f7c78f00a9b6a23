package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The chat group: a documented mistake of users, a token budget and a sequence limit far too small.
const (
	chatReplicas = 8
	chatBad      = "--max-num-batched-tokens 12 --max-num-seqs 8"
	chatModel    = "llama-3.1-70b"
	chatSeed     = 3   // of the hidden coefficients: one model of hardware, so one truth for the group
	chatScale    = 0.7 // of the trace's own 5.53 requests/s
	chatRate     = 5.53 * chatScale
	controlNodes = 3
)

// engineSpec is one simulated engine.
type engineSpec struct {
	name, group, dialect string
	port                 int
	argv                 []string // the engine's own command line, after --
	sim                  []string // options of the simulation
}

func (e engineSpec) url() string { return fmt.Sprintf("http://127.0.0.1:%d", e.port) }

// agentSpec is one sidecar, or node agent, with its engines.
type agentSpec struct {
	name    string
	port    int
	engines []engineSpec
}

func (a agentSpec) readyURL(e engineSpec) string {
	return fmt.Sprintf("http://127.0.0.1:%d/ready/%s", a.port, e.name)
}

// fleet is the layout of a run.
type fleet struct {
	dir     string
	opts    Options
	nodes   []nodeSpec
	agents  []agentSpec
	engines []engineSpec
	ref     engineSpec // the engine's own defaults, outside of the fleet
	loads   map[string]*load
	control map[string]*process
}

// nodeSpec is one control-plane node.
type nodeSpec struct {
	id                 string
	rest, raft, agents int
}

// layOut chooses ports and names.
func layOut(dir string, opts Options) (*fleet, error) {
	f := &fleet{dir: dir, opts: opts, loads: map[string]*load{}, control: map[string]*process{}}
	ports, err := freePorts(3*controlNodes + 2*(chatReplicas+4) + 1)
	if err != nil {
		return nil, err
	}
	take := func() int { p := ports[0]; ports = ports[1:]; return p }
	for i := range controlNodes {
		f.nodes = append(f.nodes, nodeSpec{id: fmt.Sprintf("cp%d", i+1), rest: take(), raft: take(), agents: take()})
	}
	for i := range chatReplicas {
		e := chatEngine(fmt.Sprintf("chat-%d", i), take(), chatSeed, strings.Fields(chatBad)...)
		f.agents = append(f.agents, agentSpec{name: e.name, port: take(), engines: []engineSpec{e}})
	}
	f.agents = append(f.agents, agentSpec{name: "node-code", port: take(), engines: []engineSpec{
		sglangEngine("code-0", take(), 21), sglangEngine("code-1", take(), 22),
	}}, agentSpec{name: "node-summarize", port: take(), engines: []engineSpec{
		tgiEngine("summarize-0", take(), 31), tgiEngine("summarize-1", take(), 32),
	}})
	for _, a := range f.agents {
		f.engines = append(f.engines, a.engines...)
	}
	f.ref = chatEngine("defaults", take(), chatSeed)
	return f, nil
}

func chatEngine(name string, port int, seed uint64, flags ...string) engineSpec {
	return engineSpec{
		name: name, group: "chat", dialect: "vllm", port: port,
		sim: []string{"--sim-seed", fmt.Sprint(seed), "--sim-model", chatModel},
		argv: append([]string{
			"vllm", "serve", chatModel, "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--tensor-parallel-size", "4",
			"--quantization", "fp8", "--shutdown-timeout", "60",
		}, flags...),
	}
}

func sglangEngine(name string, port int, seed uint64) engineSpec {
	return engineSpec{
		name: name, group: "code", dialect: "sglang", port: port,
		sim: []string{"--sim-seed", fmt.Sprint(seed), "--sim-model", "qwen3-8b", "--sim-drain-poll", "1s"},
		argv: []string{
			"python", "-m", "sglang.launch_server", "--model-path", "qwen3-8b", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--enable-metrics",
		},
	}
}

func tgiEngine(name string, port int, seed uint64) engineSpec {
	return engineSpec{
		name: name, group: "summarize", dialect: "tgi", port: port,
		sim:  []string{"--sim-seed", fmt.Sprint(seed), "--sim-model", "llama-3.1-8b"},
		argv: []string{"text-generation-launcher", "--model-id", "llama-3.1-8b", "--hostname", "127.0.0.1", "--port", fmt.Sprint(port)},
	}
}

// freePorts finds n free ports on loopback. All listeners are open at once, so that no port is
// handed out twice.
func freePorts(n int) ([]int, error) {
	var ports []int
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		open = append(open, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func (f *fleet) controlURLs() []string {
	var urls []string
	for _, n := range f.nodes {
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d", n.rest))
	}
	return urls
}

// startControlPlane writes the nodes' configurations and starts them.
func (f *fleet) startControlPlane(p *processes) error {
	for _, n := range f.nodes {
		for _, port := range []int{n.rest, n.raft, n.agents} {
			p.ports = append(p.ports, fmt.Sprintf("127.0.0.1:%d", port))
		}
		if err := f.write(n.id+".yaml", f.nodeConfig(n)); err != nil {
			return err
		}
		if err := f.startNode(p, n.id); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startNode(p *processes, id string) (err error) {
	f.control[id], err = p.start(id, f.opts.ControlPlane, "serve", "--config", filepath.Join(f.dir, id+".yaml"))
	return err
}

func (f *fleet) nodeConfig(n nodeSpec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node_id: %s\ndata_dir: %s\nlisten: 127.0.0.1:%d\nraft: 127.0.0.1:%d\nagents: 127.0.0.1:%d\nheartbeat: 500ms\n",
		n.id, filepath.Join(f.dir, "data", n.id), n.rest, n.raft, n.agents)
	b.WriteString("peers:\n")
	for _, o := range f.nodes {
		fmt.Fprintf(&b, "  - {id: %s, raft: \"127.0.0.1:%d\", http: \"127.0.0.1:%d\", agents: \"127.0.0.1:%d\"}\n", o.id, o.raft, o.rest, o.agents)
	}
	fmt.Fprintf(&b, "workflow: {collect: %s, patience: 60s, verify: %s}\n", collectSpan, afterSpan)
	fmt.Fprintf(&b, `groups:
  chat:
    mode: auto
    max_unavailable: 2
    objective_ttft_seconds: %g
    objective_tpot_seconds: %g
    observe_min_seconds: 6
    observe_max_seconds: 60
    min_requests: 10
    bake_seconds: 6
    probation_seconds: 30
    lease_every_seconds: 5
    wave_deadline_seconds: 120
`, objectiveTTFT, objectiveTPOT)
	return b.String()
}

// startEngines starts each engine below its launcher, and the agents beside them.
func (f *fleet) startEngines(p *processes) error {
	for _, a := range f.agents {
		for _, e := range a.engines {
			if err := f.startEngine(p, e); err != nil {
				return err
			}
		}
		p.ports = append(p.ports, fmt.Sprintf("127.0.0.1:%d", a.port))
		if err := f.write(a.name+".yaml", f.agentConfig(a)); err != nil {
			return err
		}
		if _, err := p.start("agent-"+a.name, f.opts.Agent, "run", "--config", filepath.Join(f.dir, a.name+".yaml")); err != nil {
			return err
		}
	}
	return f.startEngine(p, f.ref)
}

func (f *fleet) startEngine(p *processes, e engineSpec) error {
	p.ports = append(p.ports, fmt.Sprintf("127.0.0.1:%d", e.port))
	args := []string{"launch", "--socket", f.socket(e), "--state-dir", filepath.Join(f.dir, "data", "launch-"+e.name), "--", f.opts.Agent, "sim-engine", "--dialect", e.dialect, "--sim-start-scale", fmt.Sprint(startScale)}
	args = append(append(append(args, e.sim...), "--"), e.argv...)
	_, err := p.start("engine-"+e.name, f.opts.Agent, args...)
	return err
}

func (f *fleet) socket(e engineSpec) string { return filepath.Join(f.dir, e.name+".sock") }

func (f *fleet) agentConfig(a agentSpec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "data_dir: %s\nlisten: 127.0.0.1:%d\ncontrol_plane:\n", filepath.Join(f.dir, "data", "agent-"+a.name), a.port)
	for _, n := range f.nodes {
		fmt.Fprintf(&b, "  - 127.0.0.1:%d\n", n.agents)
	}
	b.WriteString("engines:\n")
	for _, e := range a.engines {
		fmt.Fprintf(&b, "  - {name: %s, group: %s, engine: %s, url: %q, launcher: %s, hardware: h100-sxm, drain: {timeout: 60s, settle: 500ms}, ready_grace: 30s}\n",
			e.name, e.group, e.dialect, e.url(), f.socket(e))
	}
	return b.String()
}

func (f *fleet) write(name, content string) error {
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o640); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// targets of a group's load: engine, readiness, wire form.
func (f *fleet) targets(group, form string) []string {
	var out []string
	for _, a := range f.agents {
		for _, e := range a.engines {
			if e.group == group {
				out = append(out, "--target", strings.Join([]string{e.url(), a.readyURL(e), form}, ","))
			}
		}
	}
	return out
}

// startTraffic starts the load of the three groups, and beside them that of one engine with its
// own defaults under one replica's share of the chat traffic.
func (f *fleet) startTraffic(p *processes) error {
	for _, l := range []*load{
		{name: "defaults", workload: "azure-conv", scale: chatScale / chatReplicas, args: []string{"--target", f.ref.url() + "," + f.ref.url() + "/health,openai-completions"}},
		{name: "chat", workload: "azure-conv", scale: chatScale, args: f.targets("chat", "openai-completions")},
		{name: "code", workload: "azure-code", scale: 0.2, args: f.targets("code", "openai-completions")},
		{name: "summarize", workload: "arxiv", scale: 0.3, args: f.targets("summarize", "tgi-generate_stream")},
	} {
		if err := f.startLoad(p, l); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startLoad(p *processes, l *load) (err error) {
	l.file = filepath.Join(f.dir, l.name+".jsonl")
	args := append([]string{
		"bench", "--workload", l.workload, "--rate-scale", fmt.Sprintf("%g", l.scale), "--duration", "20m", "--seed", "7", "--out", l.file,
	}, l.args...)
	l.process, err = p.start(loadPrefix+l.name, f.opts.Agent, args...)
	f.loads[l.name] = l
	return err
}

// stopTraffic ends the load; each generator waits for its open requests first.
func (f *fleet) stopTraffic(ctx context.Context, p *processes) error {
	for _, l := range f.loads {
		p.stop(l.process, 30*time.Second)
	}
	return ctx.Err()
}
