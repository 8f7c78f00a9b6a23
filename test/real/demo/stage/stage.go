package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/client"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// Group of all replicas on a stage.
const Group = "chat"

// Options of a stage.
type Options struct {
	Recipe   engine.Recipe
	Bin      string        // folder with the built programs
	Replicas int           // 1 or 2: each takes a core of its own
	Flags    []string      // after the recipe's own, the operator's mistakes among them
	Open     int           // requests that the gateway has open at one replica; 32
	Collect  time.Duration // telemetry that a diagnosis looks at, and the result; 25 s
	Policy   string        // further lines of the group's policy, each indented by four spaces
}

// Stage is everything that was started.
type Stage struct {
	Control  *client.Client
	Replicas []*Replica

	opts      Options
	dir       string
	rest      int
	agents    int
	processes *processes
	gateway   *Gateway
	watching  context.CancelFunc
	loads     []*Load
}

// Replica is one engine below its launcher, and its sidecar.
type Replica struct {
	Name              string
	Launcher, Sidecar *Process
	Socket            *launch.Client

	core, port, agentPort int
}

// URL of the engine.
func (r *Replica) URL() string { return "http://127.0.0.1:" + strconv.Itoa(r.port) }

// ReadyURL says whether the engine wants requests.
func (r *Replica) ReadyURL() string {
	return "http://127.0.0.1:" + strconv.Itoa(r.agentPort) + "/ready"
}

// Open starts a control plane, engines and sidecars; WaitServing waits for them, Close ends them.
func Open(o Options) (s *Stage, err error) {
	if o.Replicas < 1 || o.Replicas > 2 {
		return nil, fmt.Errorf("%d replicas: one or two, for each needs a core", o.Replicas)
	}
	if o.Open == 0 {
		o.Open = 32
	}
	if o.Collect == 0 {
		o.Collect = 25 * time.Second
	}
	if err := adopt(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "stage-") // short, for Unix sockets in it
	if err != nil {
		return nil, fmt.Errorf("folder of the stage: %w", err)
	}
	s = &Stage{opts: o, dir: dir, processes: &processes{logs: filepath.Join(dir, "logs")}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	return s, s.open()
}

func (s *Stage) open() error {
	if err := os.MkdirAll(s.processes.logs, 0o755); err != nil {
		return fmt.Errorf("folder for logs: %w", err)
	}
	ports, err := freePorts(3 + 2*s.opts.Replicas)
	if err != nil {
		return err
	}
	s.rest, s.agents = ports[0], ports[1]
	s.Control = client.New(fmt.Sprintf("http://127.0.0.1:%d", s.rest))
	if s.gateway, err = newGateway(s.opts.Open); err != nil {
		return err
	}
	if err := s.startControlPlane(ports[2]); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.watching = cancel
	for i := range s.opts.Replicas {
		r := &Replica{Name: fmt.Sprintf("replica-%d", i), core: (i + 1) % 2, port: ports[3+2*i], agentPort: ports[4+2*i]}
		r.Socket = launch.Dial(filepath.Join(s.dir, r.Name+".sock"))
		s.Replicas = append(s.Replicas, r)
		if err := errors.Join(s.StartLauncher(r), s.StartSidecar(r)); err != nil {
			return err
		}
		s.gateway.add(ctx, r.URL(), r.ReadyURL())
	}
	return nil
}

// policy is meant for engines that start in half a minute and traffic of a few requests a second.
// One replica has nobody to stand in while it restarts: the gateway holds what comes.
const policy = `    mode: auto
    allow_outage: true
    reserve: -1
    steps: [50, 100]
    observe_min_seconds: 15
    observe_max_seconds: 120
    min_requests: 20
    bake_seconds: 10
`

func (s *Stage) startControlPlane(raft int) error {
	text := fmt.Sprintf("node_id: cp\ndata_dir: %s\nlisten: 127.0.0.1:%d\nraft: 127.0.0.1:%d\nagents: 127.0.0.1:%d\nworkflow: {collect: %s, patience: 2m, verify: %s}\ngroups:\n  %s:\n%s%s",
		filepath.Join(s.dir, "control"), s.rest, raft, s.agents, s.opts.Collect, s.opts.Collect, Group, policy, s.opts.Policy)
	file, err := s.write("control.yaml", text)
	if err != nil {
		return err
	}
	_, err = s.processes.start("control", os.Environ(), s.program("perf-controlplane"), "serve", "--config", file)
	return err
}

func (s *Stage) program(name string) string { return filepath.Join(s.opts.Bin, name) }

func (s *Stage) write(name, text string) (string, error) {
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return file, nil
}

// StartLauncher starts the replica's launcher, always on the same state folder.
func (s *Stage) StartLauncher(r *Replica) (err error) {
	argv := []string{
		s.program("perf-agent"), "launch", "--socket", filepath.Join(s.dir, r.Name+".sock"),
		"--state-dir", filepath.Join(s.dir, "launch-"+r.Name), "--",
	}
	argv = append(argv, s.opts.Recipe.Argv(r.port)...)
	if s.opts.Recipe.Kind == engine.VLLM {
		argv = append(argv, "--shutdown-timeout", "60") // its default cuts requests at once
	}
	r.Launcher, err = s.processes.start("engine-"+r.Name, s.opts.Recipe.Env(r.core), append(argv, s.opts.Flags...)...)
	return err
}

// StartSidecar starts the replica's sidecar, always on the same data folder.
func (s *Stage) StartSidecar(r *Replica) error {
	text := fmt.Sprintf("agent_id: %s\ndata_dir: %s\nlisten: 127.0.0.1:%d\ncontrol_plane: [\"127.0.0.1:%d\"]\nengines:\n  - {name: e, group: %s, url: %q, launcher: %s, hardware: cpu, drain: {timeout: 90s, settle: 500ms}}\n",
		r.Name, filepath.Join(s.dir, "sidecar-"+r.Name), r.agentPort, s.agents, Group, r.URL(), filepath.Join(s.dir, r.Name+".sock"))
	file, err := s.write(r.Name+".yaml", text)
	if err != nil {
		return err
	}
	r.Sidecar, err = s.processes.start("sidecar-"+r.Name, os.Environ(), s.program("perf-agent"), "run", "--config", file)
	return err
}

// WaitServing waits until all replicas are in rotation.
func (s *Stage) WaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engine.StartLimit)
	defer cancel()
	for _, r := range s.Replicas {
		err := client.Wait(ctx, 200*time.Millisecond, func(ctx context.Context) (bool, error) { return s.Ready(ctx, r), s.check(r) })
		if err != nil {
			return fmt.Errorf("%s is not in rotation: %w; its engine's last lines:\n%s", r.Name, err, r.Launcher.Tail(2000))
		}
	}
	return nil
}

// check reports a program that ended by itself.
func (s *Stage) check(r *Replica) error {
	for _, p := range []*Process{r.Launcher, r.Sidecar} {
		if !p.Alive() {
			return fmt.Errorf("%s ended; its last lines:\n%s", p.Name, p.Tail(1000))
		}
	}
	return nil
}

// Ready asks a sidecar whether its engine is in rotation.
func (s *Stage) Ready(ctx context.Context, r *Replica) bool { return s.gateway.poll(ctx, r.ReadyURL()) }

// Gateway before the replicas.
func (s *Stage) Gateway() *Gateway { return s.gateway }

// Sidecar is what a sidecar says of its engine.
type Sidecar struct {
	Phase        string `json:"phase"`
	Serving      bool   `json:"serving"`
	RunningEpoch uint64 `json:"running_epoch"`
	LKGEpoch     uint64 `json:"lkg_epoch"`
	FailedEpoch  uint64 `json:"failed_epoch"`
	FailedReason string `json:"failed_reason"`
}

// Status asks a sidecar.
func (s *Stage) Status(ctx context.Context, r *Replica) (Sidecar, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(r.ReadyURL(), "ready")+"status", nil)
	if err != nil {
		return Sidecar{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Sidecar{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return Sidecar{}, err
	}
	var out struct {
		Engines []Sidecar `json:"engines"`
	}
	if err := json.Unmarshal(raw, &out); err != nil || len(out.Engines) == 0 {
		return Sidecar{}, fmt.Errorf("status of %s: %w: %.200s", r.Name, errors.Join(err), raw)
	}
	return out.Engines[0], nil
}

// Engine as the control plane shows it.
func (s *Stage) Engine(ctx context.Context, r *Replica) (api.Engine, error) {
	var agents api.List[api.Agent]
	if err := s.Control.Get(ctx, "/agents", &agents); err != nil {
		return api.Engine{}, err
	}
	for _, a := range agents.Items {
		if a.ID == r.Name && len(a.Engines) == 1 {
			return a.Engines[0], nil
		}
	}
	return api.Engine{}, fmt.Errorf("the control plane knows no engine %s", r.Name)
}

// Close ends everything and says what outlived its parent. Logs are kept in LogDir when it fails.
func (s *Stage) Close() error {
	for _, l := range s.loads {
		l.cancel()
	}
	if s.watching != nil {
		s.watching()
	}
	if s.gateway != nil {
		s.gateway.close() // SGLang takes new requests while it drains: nobody may send any
	}
	for _, l := range s.loads {
		<-l.ended
	}
	err := s.processes.stop()
	for _, r := range s.Replicas {
		r.Socket.Close()
	}
	return err
}

// Remove the stage's files.
func (s *Stage) Remove() error { return os.RemoveAll(s.dir) }

// LogDir is the folder with the programs' logs.
func (s *Stage) LogDir() string { return s.processes.logs }
