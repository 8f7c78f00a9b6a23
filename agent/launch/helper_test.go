package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary plays every part: the launcher, which needs a process of its own because it is a
// subreaper and gets killed, and engines with the habits of real ones.
const (
	roleEnv   = "LAUNCH_TEST_ROLE"
	configEnv = "LAUNCH_TEST_CONFIG"
)

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleEnv), ":")
	if role == "" {
		os.Exit(m.Run())
	}
	os.Exit(play(role, arg))
}

func play(role, arg string) int {
	switch role {
	case "launcher":
		return playLauncher()
	case "crash": // ends by itself with a code
		fmt.Println("crashing")
		code, _ := strconv.Atoi(arg)
		return code
	case "drain": // takes its time to stop, then exits 3
		d, _ := time.ParseDuration(arg)
		term := notify(syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("serving")
		fmt.Println("draining after", <-term)
		time.Sleep(d)
		return 3
	case "deaf": // ignores SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("serving")
	case "vllm": // leaves a child of its group behind when killed; ends it when asked
		child := spawn("deaf", false)
		term := notify(syscall.SIGTERM)
		fmt.Println("serving")
		<-term
		_ = child.Process.Kill()
		return 0
	case "tgi": // children in groups of their own that ignore SIGTERM and are forgotten at the end
		spawn("deaf", true)
		spawn("vllm", true)
		term := notify(syscall.SIGTERM)
		fmt.Println("serving")
		<-term
		return 0
	case "sglang": // kills itself after a clean drain
		term := notify(syscall.SIGTERM)
		fmt.Println("serving")
		<-term
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "daemon": // a child that left the session, then the front goes
		spawn("deaf", true)
		fmt.Println("serving")
		return 0
	case "gpureader": // says its process id until its standard input ends
		go func() {
			for {
				fmt.Println(os.Getpid())
				time.Sleep(20 * time.Millisecond)
			}
		}()
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	case "echo": // tells which signals arrive
		all := notify(syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM)
		fmt.Println("serving")
		for s := range all {
			fmt.Println("got", s)
			if s == syscall.SIGTERM {
				return 0
			}
		}
	}
	select {}
}

func notify(s ...os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 8)
	signal.Notify(c, s...)
	return c
}

// spawn starts another part as a child and returns once that part serves.
func spawn(role string, ownGroup bool) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: ownGroup}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Println("spawn:", err)
		os.Exit(9)
	}
	_, _ = out.Read(make([]byte, 64))
	return cmd
}

type testConfig struct {
	Config
	LogFile string
}

func playLauncher() int {
	var c testConfig
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 98
	}
	os.Unsetenv(roleEnv)
	os.Unsetenv(configEnv)
	f, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 97
	}
	c.Logger = slog.New(slog.NewTextHandler(f, nil))
	// As main does it: the same signals end the context and reach the launcher.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := New(c.Config).Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// rig is one launcher process and its client.
type rig struct {
	*Client
	t      *testing.T
	cfg    testConfig
	cmd    *exec.Cmd
	stdout *safeBuffer
	stderr *safeBuffer
	ended  chan struct{}
}

// spec runs the test binary in a part.
func spec(role string, epoch uint64) Spec {
	return Spec{
		Argv: []string{os.Args[0], "-" + role}, Env: map[string]string{roleEnv: role},
		Fingerprint: fmt.Sprintf("%s-%d", role, epoch), Epoch: epoch, Grace: 5 * time.Second,
	}
}

// newRig starts a launcher over that base with short pauses. Whatever happens, nothing of it
// survives the test.
func newRig(t *testing.T, base Spec, change ...func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	cfg := testConfig{Config: Config{
		Socket: filepath.Join(dir, "s"), StateDir: filepath.Join(dir, "state"), Base: base,
		BackoffMin: 50 * time.Millisecond, BackoffMax: 200 * time.Millisecond, ProbationWait: 300 * time.Millisecond,
		OrphanGrace: 200 * time.Millisecond, ReleaseWait: 5 * time.Second, MemoryWait: time.Second,
	}, LogFile: filepath.Join(dir, "log")}
	for _, c := range change {
		c(&cfg.Config)
	}
	r := &rig{t: t, cfg: cfg, Client: Dial(cfg.Socket)}
	t.Cleanup(func() {
		r.kill()
		r.Close()
		if left := r.marked(); len(left) > 0 {
			t.Logf("cleaning up %v", left)
			for _, p := range left {
				p.send(syscall.SIGKILL)
			}
		}
		if t.Failed() {
			b, _ := os.ReadFile(cfg.LogFile)
			t.Logf("launcher's log:\n%s\nits output:\n%s%s", b, r.stdout, r.stderr)
		}
	})
	r.run()
	return r
}

// run starts the launcher process, again after kill.
func (r *rig) run() {
	r.t.Helper()
	b, err := json.Marshal(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.stdout, r.stderr = &safeBuffer{}, &safeBuffer{}
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), roleEnv+"=launcher", configEnv+"="+string(b))
	r.cmd.Stdout, r.cmd.Stderr = r.stdout, r.stderr
	r.cmd.WaitDelay = 100 * time.Millisecond
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	r.ended = ended
	cmd := r.cmd
	go func() { _ = cmd.Wait(); close(ended) }()
}

func (r *rig) kill() {
	_ = r.cmd.Process.Kill() // may have ended
	<-r.ended
}

// exitCode waits for the launcher's end.
func (r *rig) exitCode() int {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		r.t.Fatal("the launcher does not end")
	}
	return r.cmd.ProcessState.ExitCode()
}

func (r *rig) signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) status() Status {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
	defer cancel()
	s, _ := r.Client.Status(ctx) // zero while the launcher is starting
	return s
}

// until polls the status to a deadline.
func (r *rig) until(what string, ok func(Status) bool) Status {
	r.t.Helper()
	var s Status
	eventually(r.t, what, func() bool { s = r.status(); return ok(s) })
	return s
}

// serving waits until an engine of that epoch runs and has said so.
func (r *rig) serving(epoch uint64) Status {
	r.t.Helper()
	return r.until(fmt.Sprintf("epoch %d serves", epoch), func(s Status) bool {
		return s.State == Running && s.Current.Epoch == epoch && strings.Contains(r.log(s.LogOffset), "serving")
	})
}

func (r *rig) log(since uint64) string {
	l, _ := r.Log(r.t.Context(), since)
	return l.Text
}

// marked lists the living processes that carry this launcher's mark.
func (r *rig) marked() []proc {
	id, err := os.ReadFile(filepath.Join(r.cfg.StateDir, "id"))
	if err != nil {
		return nil
	}
	all, err := processes()
	if err != nil {
		r.t.Fatal(err)
	}
	var found []proc
	for _, p := range all {
		if hasEnv(p.PID, markName+"="+string(id)) {
			found = append(found, p)
		}
	}
	return found
}

func (r *rig) wantProcesses(n int) {
	r.t.Helper()
	if got := r.marked(); len(got) != n {
		r.t.Fatalf("%d processes carry the launcher's mark, want %d: %v", len(got), n, got)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

type safeBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
