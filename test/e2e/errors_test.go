package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commandLine is one call of a program that must fail.
type commandLine struct {
	prog string
	args []string
	code int      // exit status
	says []string // what is wrong and what to do
	// leaves are files below the data folder that a refused start may have made: locks and identity.
	leaves []string
}

func (c commandLine) check(t *testing.T, p *processes, data string) {
	t.Helper()
	got := p.start(strings.ReplaceAll(t.Name(), "/", "-"), c.prog, nil, c.args...)
	if code := got.wait(t, 20*time.Second); code != c.code {
		t.Errorf("exit code %d, want %d", code, c.code)
	}
	says(t, got.text(), c.says...)
	for _, f := range filesIn(t, data) {
		if !slices.Contains(c.leaves, f) {
			t.Errorf("the refused start left %s behind", f)
		}
	}
}

// says fails the test for each part that the text lacks.
func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("the answer does not say %q:\n%s", p, text)
		}
	}
}

// filesIn lists the files below a folder that need not exist.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, name)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}

// agentArgs start a sidecar with nothing around it.
func agentArgs(data, listen string) []string {
	return []string{"run", "--engine-url", "http://127.0.0.1:9", "--engine", "vllm", "--listen", listen, "--data-dir", data}
}

func launchArgs(data string, command ...string) []string {
	return append([]string{"launch", "--state-dir", data, "--"}, command...)
}

// serveArgs start a control-plane node of its own.
func serveArgs(t *testing.T, dir, data string, rest, raft, agents int) []string {
	t.Helper()
	file := filepath.Join(dir, fmt.Sprintf("cp-%d.yaml", rest))
	content := fmt.Sprintf("data_dir: %s\nlisten: 127.0.0.1:%d\nraft: 127.0.0.1:%d\nagents: 127.0.0.1:%d\n", data, rest, raft, agents)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"serve", "--config", file}
}

// agentLeaves and launchLeaves are what a start that was refused after its folder was opened leaves:
// who owns the folder, and no configuration.
var (
	agentLeaves  = []string{"lock", "writable", "agent-id"}
	launchLeaves = []string{"lock", "id", "tail.log"}
)

// TestEngineCommandNotFound: the launcher ends as a shell would, and says where it looked.
func TestEngineCommandNotFound(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	p := newProcesses(t, dir)
	data := filepath.Join(dir, "launch")
	commandLine{
		prog: agentProgram, args: launchArgs(data, "no-such-engine", "serve"), code: 127, leaves: launchLeaves,
		says: []string{`no-such-engine`, "in no folder of PATH", "install the engine, or give the command's full path"},
	}.check(t, p, data)
}

// TestPortTaken: each program that listens says which address is taken and what to change.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	free := freePorts(t, 2)
	dir := tempDir(t)
	p := newProcesses(t, dir)
	data := func(name string) string { return filepath.Join(dir, name) }
	raftLeaves := []string{"raft/lock", "raft/node-id", "raft/raft.db"}
	for name, c := range map[string]commandLine{
		"agent":  {prog: agentProgram, args: agentArgs(data("agent"), taken.Addr().String()), leaves: agentLeaves, says: []string{"set listen to a free address"}},
		"rest":   {prog: controlProgram, args: serveArgs(t, dir, data("rest"), port, free[0], free[1]), says: []string{"REST port", "stop what holds it, or choose another address"}},
		"raft":   {prog: controlProgram, args: serveArgs(t, dir, data("raft"), free[0], port, free[1]), leaves: raftLeaves, says: []string{"taken by another process", "stop it, or set another Raft address"}},
		"agents": {prog: controlProgram, args: serveArgs(t, dir, data("agents"), free[1], free[0], port), says: []string{"agent port", "stop what holds it, or choose another address"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.code, c.says = 1, append(c.says, taken.Addr().String())
			c.check(t, p, data(name))
		})
	}
}

// TestEnginePortTaken: an engine that finds its port taken is not started for ever, and the sidecar
// turns the engine's traceback into words.
func TestEnginePortTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	r := w.add("chat-0", "chat")
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w.startLauncher(r)
	w.startAgent(r, agentProgram)
	eventually(t, "the sidecar says that the port is taken", 40*time.Second, func() (bool, string) {
		s, _ := w.status(r)
		return strings.Contains(s.Reason, "the port is taken by another process: end it or choose another --port"), fmt.Sprintf("%+v", s)
	})
	if s, _ := w.status(r); s.Serving {
		t.Error("an engine that never came up is in rotation")
	}
}

// TestPluginMissingOrChanged: the agent goes on without the adapter, says why, and runs nothing that
// the signed list does not name.
func TestPluginMissingOrChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(plugin string) error
		says  []string
	}{
		"missing": {os.Remove, []string{"there is no", "perf-engine-vllm", "make build"}},
		"changed": {appendByte, []string{"was changed", "perf-engine-vllm", "reinstall it, or sign the plugins anew"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, map[string]string{"chat": quick + alone})
			dir := filepath.Join(w.dir, "plugins")
			if err := os.CopyFS(dir, os.DirFS(program("plugins"))); err != nil {
				t.Fatal(err)
			}
			plugin := filepath.Join(dir, "perf-engine-vllm")
			if err := os.Chmod(plugin, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(plugin); err != nil {
				t.Fatal(err)
			}
			r := w.add("chat-0", "chat")
			w.startLauncher(r)
			w.startAgent(r, agentProgram, "PERF_PLUGINS_DIR="+dir, "PERF_PLUGINS_MANIFEST="+program("plugins.manifest.json"))
			eventually(t, "the agent says what is wrong with the plugin", 20*time.Second, func() (bool, string) {
				text := r.agent.text()
				for _, part := range c.says {
					if !strings.Contains(text, part) {
						return false, text
					}
				}
				return true, ""
			})
			w.waitServing(r) // watched by its health alone
			err := w.post("/rollout/start", "", map[string]any{"group": "chat", "settings": newSettings()}, nil)
			if err == nil {
				t.Fatal("a rollout was started for an engine that no adapter describes")
			}
			says(t, err.Error(), "no replica that has described its settings")
			w.untouched(t, "chat", r)
		})
	}
}

func appendByte(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("x"); err != nil {
		return err
	}
	return f.Close()
}

// untouched: no rollout holds or held the group, and engines run as they were started.
func (w *world) untouched(t *testing.T, group string, replicas ...*replica) {
	t.Helper()
	g := w.group(group)
	if g.LockHolder != "" || g.PromotedEpoch != 0 {
		t.Errorf("group %s is held by %q on epoch %d, want nobody and 0", group, g.LockHolder, g.PromotedEpoch)
	}
	for _, r := range replicas {
		if got := w.starts(r); !slices.Equal(got, []uint64{0}) {
			t.Errorf("%s was started with epochs %v, want the operator's own once", r.name, got)
		}
	}
}

// TestRefusedSettings: settings that the engine does not have or cannot take are refused before any
// engine is touched.
func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	replicas := w.serve("chat", 2)
	for name, c := range map[string]struct {
		group    string
		settings map[string]string
		says     []string
	}{
		"unknown knob":  {"chat", map[string]string{"max_num_seq": "96"}, []string{`no setting "max_num_seq"`, "see the knob table"}},
		"out of range":  {"chat", map[string]string{"max_num_seqs": "0"}, []string{"max_num_seqs", "must be at least 1, not 0"}},
		"not a number":  {"chat", map[string]string{"max_num_seqs": "many"}, []string{"max_num_seqs", `is a number, not "many"`}},
		"unknown group": {"chart", newSettings(), []string{"chart"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.post("/rollout/start", "", map[string]any{"group": c.group, "settings": c.settings}, nil)
			if err == nil {
				t.Fatalf("%v was accepted", c.settings)
			}
			says(t, err.Error(), c.says...)
			w.untouched(t, "chat", replicas...)
		})
	}
}

// TestControlPlaneUnreachable: the client says what to look at; the agent says so too and looks after
// its engine all the same.
func TestControlPlaneUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	w.nodes[0].process.kill()
	c := w.start("perfctl", controlProgram, nil, "status", "--addr", fmt.Sprintf("http://127.0.0.1:%d", w.nodes[0].rest))
	if code := c.wait(t, 10*time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	says(t, c.text(), "control plane unreachable", "is it running, and is PERF_ADDR right?")
	r := w.add("chat-0", "chat")
	w.startLauncher(r)
	w.startAgent(r, agentProgram)
	eventually(t, "the engine is in rotation without a control plane", upLimit, func() (bool, string) {
		s, l := w.status(r)
		return s.Serving && l.Problem != "" && !l.Connected, fmt.Sprintf("%+v %+v", s, l)
	})
	_, l := w.status(r)
	says(t, l.Problem, fmt.Sprintf("127.0.0.1:%d", w.nodes[0].agents))
	says(t, r.agent.text(), "not connected to the control plane", "observed and guarded all the same")
}

// TestTwoAgentsOneIdentity: in one data folder the second does not start; with a copy of the folder
// the control plane keeps the first and tells the second what to do.
func TestTwoAgentsOneIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, map[string]string{"chat": quick})
	first := w.serve("chat", 1)[0]
	t.Run("one folder", func(t *testing.T) {
		ports := freePorts(t, 1)
		c := w.start("second", agentProgram, nil, agentArgs(first.data, fmt.Sprintf("127.0.0.1:%d", ports[0]))...)
		if code := c.wait(t, 10*time.Second); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		says(t, c.text(), "another perf-agent is using this data folder", "give each agent its own data_dir")
	})
	t.Run("a copy", func(t *testing.T) {
		second := w.add("copy", "chat")
		w.startLauncher(second)
		w.startAgent(second, agentProgram, "PERF_AGENT_ID="+first.name)
		eventually(t, "the second is told", 30*time.Second, func() (bool, string) {
			_, l := w.status(second)
			return strings.Contains(l.Problem, "another agent with the identity chat-0 is connected") && strings.Contains(l.Problem, "remove agent-id from the copy"), fmt.Sprintf("%+v", l)
		})
		if _, l := w.status(first); !l.Connected {
			t.Errorf("the first lost its place: %+v", l)
		}
		if g := w.group("chat"); g.Replicas != 1 {
			t.Errorf("the group has %d replicas, want the first alone", g.Replicas)
		}
	})
	w.untouched(t, "chat", first)
}

// mountTmpfs mounts a small file system and takes it away at the end.
func mountTmpfs(t *testing.T, dir string, flags uintptr, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("e2e", dir, "tmpfs", flags, options); err != nil {
		t.Skipf("a full or read-only file system needs a mount, and a mount needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all space of a file system; the result gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	file := filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	_ = f.Close() // full, as intended
	return func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

// TestUnwritableDataFolder: nothing starts half on a disk that is full or read-only.
func TestUnwritableDataFolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags                         uintptr
		full                          bool
		agentSays, launchSays, cpSays []string
	}{
		"read-only": {
			syscall.MS_RDONLY, false,
			[]string{"is read-only", "mount a writable volume or set data_dir"},
			[]string{"read-only", "mount a writable volume there, or give another folder"},
			[]string{"read-only", "choose another data_dir"},
		},
		"full": {
			0, true,
			[]string{"the disk is full", "free some space"},
			[]string{"the disk is full", "free some space, or give a folder on another disk"},
			[]string{"the disk is full", "free some space"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			p := newProcesses(t, dir)
			disk := filepath.Join(dir, "disk")
			mountTmpfs(t, disk, c.flags, "size=64k")
			if c.full {
				fill(t, disk)
			}
			ports := freePorts(t, 4)
			data := func(name string) string { return filepath.Join(disk, name) }
			for prog, cl := range map[string]commandLine{
				"agent":  {prog: agentProgram, args: agentArgs(data("agent"), fmt.Sprintf("127.0.0.1:%d", ports[0])), leaves: []string{"lock"}, says: c.agentSays},
				"launch": {prog: agentProgram, args: launchArgs(data("launch"), "sleep", "60"), leaves: []string{"lock"}, says: c.launchSays},
				"serve":  {prog: controlProgram, args: serveArgs(t, dir, data("serve"), ports[1], ports[2], ports[3]), leaves: []string{"raft/lock"}, says: c.cpSays},
			} {
				t.Run(prog, func(t *testing.T) {
					cl.code = 1
					cl.check(t, p, data(prog))
				})
			}
		})
	}
}
