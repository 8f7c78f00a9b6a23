package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStopEndsEveryDescendant(t *testing.T) {
	for _, c := range []struct {
		engine    string
		processes int
	}{
		{"vllm", 2}, {"tgi", 4}, {"sglang", 1}, {"deaf", 1}, {"drain:50ms", 1},
	} {
		t.Run(c.engine, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, spec(c.engine, 0))
			r.serving(0)
			r.wantProcesses(c.processes)
			s := must[Status](t)(r.Stop(t.Context(), 300*time.Millisecond))
			if s.State != Stopped || s.PID != 0 {
				t.Errorf("stopped engine is %s with pid %d", s.State, s.PID)
			}
			r.wantProcesses(0)
			if len(s.Exits) != 1 || !s.Exits[0].Requested || s.UnrequestedExits != 0 {
				t.Errorf("exits %+v", s.Exits)
			}
		})
	}
}

// The front process is killed from outside: what it leaves must be gone before the next one runs.
func TestKilledFrontLeavesNoOrphanBesideTheNextEngine(t *testing.T) {
	for _, c := range []struct {
		engine    string
		processes int
	}{
		{"vllm", 2}, {"tgi", 4},
	} {
		t.Run(c.engine, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, spec(c.engine, 0))
			first := r.serving(0)
			old := r.marked()
			if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s := r.until("restart by itself", func(s Status) bool { return s.Restarts == 1 && s.State == Running })
			for _, p := range old {
				if now, err := readProc(p.PID); err == nil && now.Start == p.Start {
					t.Errorf("%v of the killed engine lives beside the new one", p)
				}
			}
			r.serving(0)
			r.wantProcesses(c.processes)
			if s.UnrequestedExits != 1 || s.Exits[0].Code != 137 || s.Exits[0].Requested {
				t.Errorf("exits %+v, %d unrequested", s.Exits, s.UnrequestedExits)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	clean := spec("sglang", 0)
	clean.KilledIsClean = true
	quick := spec("deaf", 0)
	quick.Grace = 50 * time.Millisecond
	quick.KilledIsClean = true
	for _, c := range []struct {
		name string
		base Spec
		sig  os.Signal
		want int
	}{
		{"the engine's own code after its drain", spec("drain:50ms", 0), syscall.SIGTERM, 3},
		{"an interrupt is one order, not two", spec("drain:300ms", 0), os.Interrupt, 3},
		{"an engine that ends by a signal", spec("sglang", 0), syscall.SIGTERM, 137},
		{"an engine whose drains end by SIGKILL", clean, syscall.SIGTERM, 0},
		{"the same, but killed by us", quick, syscall.SIGTERM, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.base)
			r.serving(0)
			r.signal(c.sig)
			if got := r.exitCode(); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
			r.wantProcesses(0)
			if _, err := os.Stat(r.cfg.Socket); err == nil {
				t.Error("the socket is left behind")
			}
			if c.sig == os.Interrupt && !strings.Contains(r.stdout.String(), "draining after") {
				t.Errorf("engine's output copied through: %q", r.stdout)
			}
		})
	}
}

func TestSecondInterruptEndsTheGrace(t *testing.T) {
	t.Parallel()
	base := spec("deaf", 0)
	base.Grace = time.Hour
	r := newRig(t, base)
	r.serving(0)
	r.signal(syscall.SIGTERM)
	r.until("stopping", func(s Status) bool { return s.State == Stopping })
	if _, err := r.Start(t.Context(), base); !errors.Is(err, ErrEnding) {
		t.Errorf("start while ending: %v", err)
	}
	r.signal(os.Interrupt)
	if got := r.exitCode(); got != 137 {
		t.Errorf("exit code %d", got)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		r.signal(s)
		eventually(t, s.String()+" arrives", func() bool { return strings.Contains(r.log(0), "got "+s.String()) })
	}
}

func TestStartAndRestartAreIdempotent(t *testing.T) {
	t.Parallel()
	one, two := spec("drain:1ms", 1), spec("drain:1ms", 2)
	r := newRig(t, spec("drain:1ms", 0))
	r.serving(0)
	if _, err := r.Start(t.Context(), one); !errors.Is(err, ErrRunning) {
		t.Fatalf("start beside a running engine: %v", err)
	}
	first := must[Status](t)(r.Restart(t.Context(), one))
	for range 2 {
		if s := must[Status](t)(r.Restart(t.Context(), one)); s.PID != first.PID {
			t.Fatalf("same restart again gave process %d after %d", s.PID, first.PID)
		}
		if s := must[Status](t)(r.Start(t.Context(), one)); s.PID != first.PID {
			t.Fatalf("same start again gave process %d after %d", s.PID, first.PID)
		}
	}
	if s := must[Status](t)(r.Restart(t.Context(), two)); s.PID == first.PID || s.Current.Epoch != 2 {
		t.Fatalf("restart with another epoch: %+v", s)
	}
	r.wantProcesses(1)
}

// A newer wish displaces an older one, and a stop may shorten the grace of a stop under way.
func TestNewestRequestCounts(t *testing.T) {
	t.Parallel()
	base := spec("deaf", 0)
	base.Grace = time.Hour
	r := newRig(t, base)
	r.serving(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	older, newer := make(chan error, 1), make(chan error, 1)
	go func() { _, err := r.Restart(ctx, spec("echo", 1)); older <- err }()
	r.until("stopping", func(s Status) bool { return s.State == Stopping })
	go func() { _, err := r.Restart(ctx, spec("echo", 2)); newer <- err }()
	if err := <-older; !errors.Is(err, ErrSuperseded) {
		t.Errorf("older request: %v", err)
	}
	if _, err := r.Stop(ctx, 10*time.Millisecond); err != nil {
		t.Errorf("stop that shortened the grace: %v", err)
	}
	if err := <-newer; !errors.Is(err, ErrSuperseded) {
		t.Errorf("restart displaced by a stop: %v", err)
	}
	r.wantProcesses(0)
}

func TestCrashLoopWaitsForAStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("crash:7", 0), func(c *Config) { c.CrashLimit = 3 })
	s := r.until("crash loop", func(s Status) bool { return s.State == CrashLoop })
	if s.UnrequestedExits != 3 || s.Restarts != 2 || !strings.Contains(s.Error, "3 times") || !strings.Contains(s.Error, "exit code 7") {
		t.Errorf("status %+v", s)
	}
	must[Status](t)(r.Start(t.Context(), spec("echo", 1)))
	if s := r.serving(1); s.UnrequestedExits != 0 || s.Error != "" {
		t.Errorf("after a start: %+v", s)
	}
}

func TestCleanExitIsACrashToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("crash:0", 0), func(c *Config) { c.CrashLimit = 2 })
	if s := r.until("crash loop", func(s Status) bool { return s.State == CrashLoop }); s.UnrequestedExits != 2 {
		t.Errorf("status %+v", s)
	}
}

// An engine under an unconfirmed configuration that ends by itself is never started again with it.
func TestUncommittedIsNoRestartSource(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	must[Status](t)(r.Restart(t.Context(), spec("crash:1", 1)))
	s := r.until("exit seen", func(s Status) bool { return s.State == Exited })
	if s.Current.Epoch != 1 || !strings.Contains(s.Error, "not committed") {
		t.Errorf("status %+v", s)
	}
	s = r.serving(0)
	for _, e := range s.Exits[1:] {
		if e.Epoch == 1 && e != s.Exits[1] {
			t.Errorf("epoch 1 ran again: %+v", s.Exits)
		}
	}
}

func TestSidecarMayActBeforeTheCommittedIsStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("deaf", 0), func(c *Config) { c.ProbationWait = time.Hour })
	r.serving(0)
	must[Status](t)(r.Stop(t.Context(), 0))
	must[Status](t)(r.Start(t.Context(), spec("crash:1", 1)))
	r.until("exit seen", func(s Status) bool { return s.State == Exited })
	must[Status](t)(r.Start(t.Context(), spec("echo", 2)))
	r.serving(2)
}

func TestCommittedSurvivesTheLauncher(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	must[Status](t)(r.Restart(t.Context(), spec("vllm", 1)))
	must[Status](t)(r.Commit(t.Context(), spec("vllm", 1)))
	must[Status](t)(r.Restart(t.Context(), spec("tgi", 2)))
	before := r.serving(2)
	r.wantProcesses(4)
	text := r.log(0)
	old := r.marked()
	r.kill()
	r.run()
	s := r.serving(1)
	if s.Committed.Epoch != 1 || !s.LauncherStartedAt.After(before.LauncherStartedAt) {
		t.Errorf("after the launcher was killed: %+v", s)
	}
	for _, p := range old {
		if now, err := readProc(p.PID); err == nil && now.Start == p.Start && !now.ended() {
			t.Errorf("%v of the former launcher lives on", p)
		}
	}
	r.wantProcesses(2)
	if got := r.log(0); !strings.HasPrefix(got, text) {
		t.Errorf("log before %q, after %q", text, got)
	}
	r.signal(syscall.SIGTERM)
	if code := r.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	r.wantProcesses(0)
}

// A child that changed its session and whose parent is gone is found by its environment alone.
func TestLeftoversAreFoundByTheirMark(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("tgi", 0))
	front := r.serving(0)
	old := r.marked()
	r.kill()
	if err := syscall.Kill(front.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.cfg.StateDir, "engine.json")); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.serving(0)
	for _, p := range old {
		if now, err := readProc(p.PID); err == nil && now.Start == p.Start && !now.ended() {
			t.Errorf("%v of the former launcher lives on", p)
		}
	}
	r.wantProcesses(4)
}

func TestFrontThatEndsAndLeavesADaemon(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("daemon", 0), func(c *Config) { c.CrashLimit = 2 })
	r.until("crash loop", func(s Status) bool { return s.State == CrashLoop })
	r.wantProcesses(0)
}

func TestWhatCannotRunIsSaidInWords(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := file("plain", "x", 0o600)
	text := file("text", "no program", 0o700)
	script := file("script", "#!/nowhere/python\n", 0o700)
	base := func(cmd string) Spec { return Spec{Argv: []string{cmd}, Fingerprint: "base"} }
	for _, c := range []struct {
		name   string
		base   Spec
		change func(*Config)
		code   int
		words  string
	}{
		{"not in PATH", base("no-such-engine"), nil, 127, "install the engine"},
		{"no such file", base("/no/such/engine"), nil, 127, "does not exist"},
		{"interpreter missing", base(script), nil, 127, "interpreter"},
		{"not executable", base(plain), nil, 126, "chmod +x"},
		{"not a program", base(text), nil, 126, "architecture"},
		{"no command at all", Spec{Fingerprint: "base"}, nil, 1, "names no command"},
		{"state folder is a file", base("true"), func(c *Config) { c.StateDir = plain }, 1, "give another folder"},
		{"socket path too long", base("true"), func(c *Config) { c.Socket = filepath.Join(dir, strings.Repeat("x", 120)) }, 1, "shorter"},
		{"socket path is a file", base("true"), func(c *Config) { c.Socket = plain }, 1, "no socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.base, func(cfg *Config) {
				if c.change != nil {
					c.change(cfg)
				}
			})
			if got := r.exitCode(); got != c.code || !strings.Contains(r.stderr.String(), c.words) {
				t.Errorf("exit code %d, want %d; words %q lack %q", got, c.code, r.stderr, c.words)
			}
		})
	}
}

// What turns out to be no program only when it is executed has displaced the running engine by
// then: it is answered like an exit on probation.
func TestCommandThatFailsLateGivesWayToTheCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	broken := spec("echo", 1)
	broken.Argv = []string{filepath.Join(t.TempDir(), "text")}
	if err := os.WriteFile(broken.Argv[0], []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Restart(t.Context(), broken); !errors.Is(err, ErrCommand) {
		t.Fatalf("restart: %v", err)
	}
	if s := r.status(); s.State != Failed || s.Current.Epoch != 1 || !strings.Contains(s.Error, "architecture") {
		t.Errorf("status %+v", s)
	}
	r.serving(0)
}

// A new image may lack the committed command: the operator's own then serves.
func TestCommittedCommandThatIsGoneGivesWayToTheBase(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	gone := spec("echo", 1)
	gone.Argv = []string{"/no/such/engine"}
	must[Status](t)(r.Commit(t.Context(), gone))
	r.kill()
	r.run()
	if s := r.serving(0); s.Committed.Epoch != 1 || !strings.Contains(s.Error, "operator's own command line runs") {
		t.Errorf("status %+v", s)
	}
}

func TestLiveLauncherIsDetected(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	for name, change := range map[string]func(*Config){
		"socket": func(c *Config) { c.Socket = r.cfg.Socket },
		"folder": func(c *Config) { c.StateDir = r.cfg.StateDir },
	} {
		second := newRigBeside(t, r, change)
		if got := second.exitCode(); got != 1 || !strings.Contains(second.stderr.String(), "in use by a live launcher") {
			t.Errorf("second launcher on the same %s: code %d, %q", name, got, second.stderr)
		}
	}
	r.serving(0)
	if fi := must[os.FileInfo](t)(os.Stat(r.cfg.Socket)); fi.Mode().Perm() != 0o660 {
		t.Errorf("socket mode %v", fi.Mode())
	}
}

// newRigBeside starts a launcher that shares something with r, and leaves r's processes alone.
func newRigBeside(t *testing.T, r *rig, change func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	second := &rig{t: t, cfg: r.cfg}
	second.cfg.Socket, second.cfg.StateDir = filepath.Join(dir, "s"), filepath.Join(dir, "state")
	change(&second.cfg.Config)
	second.run()
	return second
}

func TestBadRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	before := r.serving(0)
	missing := spec("echo", 1)
	missing.Argv = []string{"/no/such/engine"}
	for name, c := range map[string]struct {
		do   func() (Status, error)
		want error
	}{
		"no command":      {func() (Status, error) { return r.Restart(t.Context(), Spec{Fingerprint: "x"}) }, ErrInvalidSpec},
		"missing command": {func() (Status, error) { return r.Restart(t.Context(), missing) }, ErrCommand},
		"empty commit":    {func() (Status, error) { return r.Commit(t.Context(), Spec{}) }, ErrInvalidSpec},
	} {
		if _, err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := r.status(); s.PID != before.PID || s.Committed.Epoch != 0 {
		t.Errorf("status after bad requests %+v", s)
	}
	if _, err := Dial(filepath.Join(t.TempDir(), "none")).Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no launcher: %v", err)
	}
}

func TestCommitOnABrokenDiskKeepsTheFormer(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	blocked := filepath.Join(r.cfg.StateDir, "committed.json.new", "in-the-way")
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := r.Commit(t.Context(), spec("echo", 1))
	if !errors.Is(err, ErrState) {
		t.Fatalf("commit: %+v, %v", s, err)
	}
	if got := r.status().Committed.Epoch; got != 0 {
		t.Errorf("committed epoch %d", got)
	}
}

func TestLogCanBeFollowed(t *testing.T) {
	t.Parallel()
	r := newRig(t, spec("echo", 0))
	r.serving(0)
	first := must[Log](t)(r.Log(t.Context(), 0))
	r.signal(syscall.SIGUSR1)
	var more Log
	eventually(t, "more output", func() bool {
		more = must[Log](t)(r.Log(t.Context(), first.Next))
		return more.Text != ""
	})
	if more.Offset != first.Next || more.Text != fmt.Sprintf("got %v\n", syscall.SIGUSR1) {
		t.Errorf("log %+v after %+v", more, first)
	}
}
