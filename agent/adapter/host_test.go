package adapter

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/optiinfra/performance-agent/agent/adapter/manifest"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// TestMain makes this test binary the plugins that the tests need: one is chosen by the name it is
// started under, or by FAKE_PLUGIN for those that a script starts.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FAKE_HOST"); dir != "" {
		hostUntilKilled(dir)
	}
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), manifest.Prefix)
	if fake := os.Getenv("FAKE_PLUGIN"); fake != "" {
		name = fake
	}
	if play, ok := plays[name]; ok {
		play()
		return
	}
	goleak.VerifyTestMain(m)
}

var plays = map[string]func(){
	"good":    func() { engine.Serve(&fake{}) },
	"shy":     func() { engine.Serve(&fake{source: "nothing"}) },
	"hang":    func() { engine.Serve(&fake{act: func() { select {} }}) },
	"frozen":  func() { engine.Serve(&fake{act: func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP); select {} }}) },
	"crash":   func() { engine.Serve(&fake{act: func() { os.Exit(3) }}) },
	"garbage": func() { fmt.Println("Welcome to my plugin!"); block() },
	"mute":    block,
	"exit":    func() { _, _ = io.WriteString(os.Stderr, "no such luck\n"); os.Exit(1) },
	"slow":    func() { engine.Serve(&fake{act: func() { time.Sleep(200 * time.Millisecond) }}) },
	"blank":   func() { engine.Serve(&fake{blank: true}) },
}

// block until killed, without looking like a deadlock to the runtime.
func block() {
	r, _, err := os.Pipe()
	if err == nil {
		_, _ = r.Read(make([]byte, 1))
	}
}

// fake tells what it sees of itself.
type fake struct {
	source string
	act    func()
	blank  bool
}

func (f *fake) Describe(_ context.Context, t *engine.Target) (*engine.Description, error) {
	if f.act != nil && t.GetVersion() != "harmless" {
		f.act()
	}
	if f.blank {
		return &engine.Description{}, nil
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	d := &engine.Description{
		Engine: "fake", Version: strconv.Itoa(os.Getpid()), VersionSource: engine.SourceArgv,
		Warnings: append(os.Environ(), strings.Split(string(status), "\n")...),
	}
	if f.source != "" {
		d.VersionSource = ""
	}
	return d, nil
}

func (f *fake) Validate(context.Context, *engine.Target, engine.Settings) ([]*engine.Problem, error) {
	return nil, nil
}

func (f *fake) Command(context.Context, *engine.Target, engine.Settings) (*engine.CommandLine, error) {
	return nil, errors.New("this line cannot be changed")
}

func (f *fake) Apply(context.Context, *engine.Target, engine.Settings) ([]*engine.KnobResult, error) {
	return nil, nil
}

// folder makes a plugin folder with the named fakes.
func folder(t testing.TB, fakes ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plugins")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range fakes {
		to := filepath.Join(dir, manifest.Prefix+name)
		if err := os.Link(self, to); err != nil {
			copyFile(t, self, to)
		}
	}
	return dir
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, raw, 0o755); err != nil {
		t.Fatal(err)
	}
}

// signed returns a configuration for a folder whose plugins are signed.
func signed(t testing.TB, dir string) Config {
	t.Helper()
	keys := t.TempDir()
	private, public := filepath.Join(keys, "key"), filepath.Join(keys, "key.pub")
	if err := manifest.NewKey(private, public); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(keys, "plugins.manifest")
	if err := manifest.Sign(dir, out, private); err != nil {
		t.Fatal(err)
	}
	key, err := manifest.ReadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: dir, Manifest: out, PublicKey: key}
}

func open(t testing.TB, cfg Config) *Host {
	t.Helper()
	if cfg.RunDir == "" {
		run, err := os.MkdirTemp("", "pa") // short: socket paths are limited
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(run) })
		cfg.RunDir = run
	}
	h := New(cfg)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(cfg.RunDir); len(left) > 0 {
			t.Errorf("socket folders are left behind: %v", left)
		}
	})
	return h
}

func TestPluginSeesNothingOfTheHost(t *testing.T) {
	t.Setenv("GROQ_API_KEY", "secret-of-the-host")
	cfg := signed(t, folder(t, "good"))
	cfg.Env = map[string]string{"GIVEN": "on purpose"}
	a, err := open(t, cfg).Adapter(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	d, err := a.Describe(t.Context(), &engine.Target{})
	if err != nil {
		t.Fatal(err)
	}
	seen := strings.Join(d.GetWarnings(), "\n")
	if strings.Contains(seen, "secret-of-the-host") || strings.Contains(seen, "HOME=") {
		t.Error("the host's environment reached the plugin")
	}
	for _, want := range []string{"GIVEN=on purpose", "NoNewPrivs:\t1", "Name:\tperf-engine-goo", "PLUGIN_CLIENT_CERT="} {
		if !strings.Contains(seen, want) {
			t.Errorf("the plugin does not see %q", want)
		}
	}
}

func TestAdapterErrors(t *testing.T) {
	if _, err := open(t, Config{Dir: folder(t, "good")}).Adapter(t.Context(), "good"); !errors.Is(err, ErrUntrusted) {
		t.Errorf("without a key: %v", err)
	}
	for _, c := range []struct {
		name   string
		engine string
		spoil  func(t *testing.T, cfg *Config)
		want   error
		words  string
	}{
		{name: "missing", engine: "vlm", want: ErrMissing, words: "make build"},
		{name: "not a name", engine: "../../bin/sh", want: ErrMissing, words: "not an engine's name"},
		{
			name: "changed", engine: "good", want: ErrChanged, words: "reinstall it, or sign the plugins anew",
			spoil: func(t *testing.T, cfg *Config) {
				path := filepath.Join(cfg.Dir, manifest.Prefix+"good")
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "not listed", engine: "late", want: ErrUntrusted, words: "not in the manifest",
			spoil: func(t *testing.T, cfg *Config) {
				copyFile(t, filepath.Join(cfg.Dir, manifest.Prefix+"good"), filepath.Join(cfg.Dir, manifest.Prefix+"late"))
			},
		},
		{
			name: "no manifest", engine: "good", want: ErrUntrusted, words: "perf-agent plugins sign",
			spoil: func(_ *testing.T, cfg *Config) { cfg.Manifest += ".gone" },
		},
		{
			name: "manifest beside the plugins", engine: "good", want: ErrUntrusted, words: "lies in the plugin folder",
			spoil: func(_ *testing.T, cfg *Config) { cfg.Manifest = filepath.Join(cfg.Dir, "manifest") },
		},
		{
			name: "another key", engine: "good", want: manifest.ErrSignature, words: "public key",
			spoil: func(t *testing.T, cfg *Config) {
				other, _, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				cfg.PublicKey = other
			},
		},
		{
			name: "writable by others", engine: "good", want: ErrUntrusted, words: "can be written by others",
			spoil: func(t *testing.T, cfg *Config) {
				if err := os.Chmod(cfg.Dir, 0o777); err != nil {
					t.Fatal(err)
				}
			},
		},
		{name: "talks nonsense", engine: "garbage", want: ErrStart, words: "Welcome to my plugin!"},
		{name: "never ready", engine: "mute", want: ErrStart, words: "timeout"},
		{name: "ends at once", engine: "exit", want: ErrStart},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := signed(t, folder(t, "good", "garbage", "mute", "exit"))
			cfg.StartTimeout = 5 * time.Second
			if c.engine == "mute" {
				cfg.StartTimeout = 300 * time.Millisecond
			}
			if c.spoil != nil {
				c.spoil(t, &cfg)
			}
			_, err := open(t, cfg).Adapter(t.Context(), c.engine)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.words)
			}
		})
	}
}

func TestUnsignedForDevelopment(t *testing.T) {
	h := open(t, Config{Dir: folder(t, "good"), AllowUnsigned: true})
	if _, err := h.Adapter(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsCheckedIsRun exchanges a plugin between opening and starting it.
func TestWhatIsCheckedIsRun(t *testing.T) {
	dir := folder(t, "good")
	h := open(t, signed(t, dir))
	b, err := h.open("good")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.file.Close() }()
	swapped := filepath.Join(t.TempDir(), "swapped")
	if err := os.WriteFile(swapped, []byte("#!/bin/sh\nexit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(swapped, filepath.Join(dir, b.name)); err != nil {
		t.Fatal(err)
	}
	path, done := descriptorPath(b, h.log)
	defer done()
	run, err := h.startBinary(b, path, h.log)
	if err != nil {
		t.Fatalf("the file that was checked did not run: %v", err)
	}
	run.stop()
}

func TestScriptPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	script := "#!/bin/sh\nFAKE_PLUGIN=good exec \"$REAL\"\n"
	if err := os.WriteFile(filepath.Join(dir, manifest.Prefix+"script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := signed(t, dir)
	cfg.Env = map[string]string{"REAL": self}
	a, err := open(t, cfg).Adapter(t.Context(), "script")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := a.Describe(t.Context(), &engine.Target{}); err != nil || d.GetEngine() != "fake" {
		t.Fatalf("%v, %v", d, err)
	}
}

func TestCallFaults(t *testing.T) {
	for _, c := range []struct {
		engine string
		want   error
	}{
		{"hang", ErrSilent},
		{"frozen", ErrSilent},
		{"crash", ErrEnded},
		{"blank", engine.ErrBadAnswer},
	} {
		t.Run(c.engine, func(t *testing.T) {
			cfg := signed(t, folder(t, c.engine))
			cfg.CallTimeout = 500 * time.Millisecond
			cfg.Backoff = time.Hour
			a, err := open(t, cfg).Adapter(t.Context(), c.engine)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Describe(t.Context(), &engine.Target{}); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestRestart kills a plugin between calls; the next call does not notice.
func TestRestart(t *testing.T) {
	cfg := signed(t, folder(t, "good"))
	a, err := open(t, cfg).Adapter(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	first := pidOf(t, a)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, first)
	if second := pidOf(t, a); second == first {
		t.Error("the plugin was not started anew")
	}
}

// TestIdlePluginIsEnded: a plugin that nobody calls takes no memory, is there again when it is called, and
// is not ended in the middle of a call.
func TestIdlePluginIsEnded(t *testing.T) {
	cfg := signed(t, folder(t, "good", "slow"))
	cfg.Idle = 20 * time.Millisecond
	h := open(t, cfg)
	a, err := h.Adapter(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		waitGone(t, pidOf(t, a))
	}
	slow, err := h.Adapter(t.Context(), "slow") // a call takes ten times as long
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, pidOf(t, slow))
	i := slow.(*instance)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failures != 0 {
		t.Errorf("%d calls failed: %v", i.failures, i.fault)
	}
}

// TestBackoff: a plugin that dies at each call is not started in a tight loop, and is given another
// chance when its time has come.
func TestBackoff(t *testing.T) {
	cfg := signed(t, folder(t, "crash"))
	cfg.Backoff = time.Hour
	h := open(t, cfg)
	a, err := h.Adapter(t.Context(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first call tries twice
		_, err = a.Describe(t.Context(), &engine.Target{})
	}
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "failed 2 times; next start in") {
		t.Fatalf("got %v, want the last failure and when it is tried again", err)
	}
	i := a.(*instance)
	i.mu.Lock()
	i.notUntil = time.Now()
	i.mu.Unlock()
	if _, err := a.Describe(t.Context(), &engine.Target{Version: "harmless"}); err != nil {
		t.Fatalf("after the wait: %v", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failures != 0 {
		t.Errorf("%d failures are remembered after a success", i.failures)
	}
}

func TestOwnErrorsArePlain(t *testing.T) {
	a, err := open(t, signed(t, folder(t, "good"))).Adapter(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Command(t.Context(), &engine.Target{}, nil)
	if err == nil || err.Error() != "adapter good: command: this line cannot be changed" {
		t.Errorf("got %v", err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	cfg := signed(t, folder(t, "hang"))
	h := open(t, cfg)
	a, err := h.Adapter(t.Context(), "hang")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.Describe(ctx, &engine.Target{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if i := a.(*instance); i.failures != 0 {
		t.Error("a caller without patience was taken for a plugin without an answer")
	}
}

func TestDetect(t *testing.T) {
	h := open(t, signed(t, folder(t, "exit", "good", "shy")))
	_, d, err := h.Detect(t.Context(), &engine.Target{})
	if err != nil || d.GetEngine() != "fake" {
		t.Errorf("got %v, %v", d, err)
	}
	if _, _, err := open(t, signed(t, folder(t, "shy"))).Detect(t.Context(), &engine.Target{}); !errors.Is(err, ErrUnknownEngine) || !strings.Contains(err.Error(), "asked shy") {
		t.Errorf("got %v", err)
	}
	if _, _, err := open(t, Config{Dir: t.TempDir()}).Detect(t.Context(), &engine.Target{}); !errors.Is(err, ErrUnknownEngine) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v", err)
	}
}

func TestClosed(t *testing.T) {
	h := New(signed(t, folder(t, "good")))
	a, err := h.Adapter(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, a)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	if _, err := a.Describe(t.Context(), &engine.Target{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
	if _, err := h.Adapter(t.Context(), "good"); !errors.Is(err, ErrClosed) {
		t.Errorf("an adapter after Close: %v", err)
	}
}

// TestPluginDiesWithHost kills a host as the kernel would.
func TestPluginDiesWithHost(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := t.TempDir()
	host := exec.CommandContext(t.Context(), self)
	host.Env = append(os.Environ(), "FAKE_HOST="+folder(t, "good"), "TMPDIR="+run)
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait() // killed
	waitGone(t, pid)
}

// hostUntilKilled runs a host with one plugin and prints the plugin's process id.
func hostUntilKilled(dir string) {
	_ = os.Unsetenv("FAKE_HOST")
	a, err := New(Config{Dir: dir, AllowUnsigned: true}).Adapter(context.Background(), "good")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	d, err := a.Describe(context.Background(), &engine.Target{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(d.GetVersion())
	block()
}

func pidOf(t *testing.T, a engine.Adapter) int {
	t.Helper()
	d, err := a.Describe(t.Context(), &engine.Target{})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(d.GetVersion())
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitGone polls until a process has ended; a zombie that nobody reaps counts.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Fatalf("process %d lives on", pid)
}

// TestRealPlugin builds the vLLM adapter and opens it as production does.
func TestRealPlugin(t *testing.T) {
	dir := folder(t)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, manifest.Prefix+"vllm"), "../../plugins/vllm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/version":
			_, _ = io.WriteString(w, `{"version":"0.32.0"}`)
		case "/v1/models":
			_, _ = io.WriteString(w, `{"data":[{"id":"tiny","owned_by":"vllm"}]}`)
		default:
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
		}
	}))
	defer server.Close()
	a, d, err := open(t, signed(t, dir)).Detect(t.Context(), &engine.Target{BaseUrl: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if d.GetEngine() != "vllm" || d.GetVersion() != "0.32.0" || d.GetModel() != "tiny" {
		t.Errorf("described as %s %s serving %s", d.GetEngine(), d.GetVersion(), d.GetModel())
	}
	line, err := a.Command(t.Context(), &engine.Target{Argv: []string{"vllm", "serve", "tiny"}, Version: "0.32.0"}, engine.Settings{"max_num_seqs": "32"})
	if err != nil || strings.Join(line.Argv, " ") != "vllm serve tiny --max-num-seqs 32 --shutdown-timeout 60" {
		t.Errorf("command line %v, %v", line, err)
	}
}
