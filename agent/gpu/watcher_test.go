package gpu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// fast is a watcher's configuration for tests.
func fast() gpu.Config {
	return gpu.Config{
		Silence: 500 * time.Millisecond, BackoffMin: 10 * time.Millisecond, BackoffMax: 100 * time.Millisecond,
		Steady: time.Minute, Absent: time.Hour,
	}
}

// script starts the machine's reader as perf-agent does, and writes down its process id.
func (m *machine) script() (path string, pid func() int) {
	m.t.Helper()
	path, file := filepath.Join(m.t.TempDir(), "perf-gpu"), filepath.Join(m.t.TempDir(), "pid")
	text := fmt.Sprintf("#!/bin/sh\necho $$ > %s.next && mv %s.next %s\nexec %s -interval 20ms -library %s \"$@\"\n", file, file, file, m.reader, m.library)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		m.t.Fatal(err)
	}
	return path, func() int {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
}

// watch runs a watcher until the test ends, and holds that it leaves no reader behind.
func watch(t *testing.T, open gpu.Open, cfg gpu.Config) (*gpu.Watcher, *safeLog) {
	t.Helper()
	log := &safeLog{}
	w := gpu.NewWatcher(open, "here", cfg, slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the watcher does not end")
		}
	})
	return w, log
}

type safeLog struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// gone reports that a process has ended, reaped or not.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func sampling(w *gpu.Watcher) func() bool {
	return func() bool { return w.Status().Problem == "" }
}

func TestWatcherReplacesKilledReader(t *testing.T) {
	path, pid := newMachine(t, allValues).script()
	w, log := watch(t, gpu.Child(path), fast())
	eventually(t, "it samples", sampling(w))
	first := pid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another reader samples", func() bool { return pid() != first && w.Status().Restarts == 1 && sampling(w)() })
	if v := w.Status().Record.Devices[0].Values[gpu.PowerWatts]; v != 301 {
		t.Errorf("power %v", v)
	}
	if !strings.Contains(log.String(), "ended without a word") {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
}

func TestWatcherReplacesHungReader(t *testing.T) {
	m := newMachine(t, allValues)
	path, pid := m.script()
	w, log := watch(t, gpu.Child(path), fast())
	eventually(t, "it samples", sampling(w))
	first, taken := pid(), time.Time{}
	m.set(allValues + "hang nvmlDeviceGetPowerUsage\n")
	eventually(t, "the age grows", func() bool {
		was := taken
		taken = w.Status().Taken
		return taken.Equal(was) && time.Since(taken) > 200*time.Millisecond
	})
	eventually(t, "the reader is ended", func() bool { return gone(first) })
	eventually(t, "the old record stays, and why there is no newer", func() bool {
		s := w.Status()
		return s.Record != nil && strings.Contains(s.Problem, "said nothing")
	})
	m.set(allValues)
	eventually(t, "another reader samples", func() bool { return sampling(w)() && w.Status().Taken.After(taken) })
	if pid() == first || !strings.Contains(log.String(), "the driver hangs, or the reader is stopped") {
		t.Errorf("reader %d after %d:\n%s", pid(), first, log)
	}
}

func TestWatcherReplacesStoppedReader(t *testing.T) {
	path, pid := newMachine(t, allValues).script()
	w, _ := watch(t, gpu.Child(path), fast())
	eventually(t, "it samples", sampling(w))
	first := pid()
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another reader samples", func() bool { return gone(first) && sampling(w)() })
}

func TestWatcherFollowsLoss(t *testing.T) {
	m := newMachine(t, allValues)
	path, _ := m.script()
	w, log := watch(t, gpu.Child(path), fast())
	eventually(t, "it samples", sampling(w))
	m.set(allValues + "nvmlDeviceGetPowerUsage 15\n")
	eventually(t, "the loss is told", func() bool { return strings.Contains(w.Status().Problem, "GPU_IS_LOST") })
	m.set(allValues)
	eventually(t, "the device is back", func() bool { return sampling(w)() && w.Status().Record.Devices[0].Lost == "" })
	if !strings.Contains(log.String(), "GPU_IS_LOST") {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
}

func TestWatcherEndsItsReader(t *testing.T) {
	path, pid := newMachine(t, allValues).script()
	t.Run("watch", func(t *testing.T) {
		w, _ := watch(t, gpu.Child(path), fast())
		eventually(t, "it samples", sampling(w))
	})
	if !gone(pid()) {
		t.Errorf("reader %d outlives its watcher", pid())
	}
}

// TestNoOrphan: a reader that is stopped, and so cannot see its parent's end, does not outlive it.
func TestNoOrphan(t *testing.T) {
	path, pid := newMachine(t, allValues).script()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+path)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	reader := pid()
	t.Cleanup(func() {
		if !gone(reader) {
			_ = syscall.Kill(reader, syscall.SIGKILL) // it failed: not to be left
		}
	})
	if err := syscall.Kill(reader, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_ = parent.Process.Kill() // it runs
	_ = parent.Wait()         // it was killed
	eventually(t, "the reader ends", func() bool { return gone(reader) })
}

func TestWatcherWithoutLibrary(t *testing.T) {
	m := newMachine(t, allValues)
	m.library = "libno-such-library.so.1"
	path, _ := m.script()
	var opened atomic.Int32
	w, log := watch(t, func(ctx context.Context) (io.ReadCloser, error) {
		opened.Add(1)
		return gpu.Child(path)(ctx)
	}, fast())
	eventually(t, "it says that there is none", func() bool { return w.Status().Absent })
	if p := w.Status().Problem; !strings.Contains(p, "LIBRARY_NOT_FOUND") {
		t.Errorf("problem %q", p)
	}
	time.Sleep(20 * fast().BackoffMin) // time in which a busy retry would show
	if n := opened.Load(); n != 1 {
		t.Errorf("the reader was started %d times", n)
	}
	if n := strings.Count(log.String(), gpu.Cost); n != 1 {
		t.Errorf("what it costs is said %d times:\n%s", n, log)
	}
}

func TestWatcherWithoutReader(t *testing.T) {
	w, _ := watch(t, gpu.Child("/nowhere/perf-gpu"), fast())
	eventually(t, "it says that there is none", func() bool { return w.Status().Absent })
	if _, err := gpu.Look(t.Context(), gpu.Child("/nowhere/perf-gpu")); !errors.Is(err, gpu.ErrNoReader) {
		t.Errorf("error %v, want ErrNoReader", err)
	}
}

// TestReaderWithoutLoader: an image without glibc is told from one without the program.
func TestReaderWithoutLoader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "perf-gpu")
	if err := os.WriteFile(path, []byte("#!/nowhere/ld.so\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := gpu.Look(t.Context(), gpu.Child(path)); !errors.Is(err, gpu.ErrNoReader) || !strings.Contains(err.Error(), "glibc") {
		t.Errorf("error %v, want ErrNoReader that tells of glibc", err)
	}
}

func TestLook(t *testing.T) {
	m := newMachine(t, allValues)
	path, pid := m.script()
	r, err := gpu.Look(t.Context(), gpu.Child(path))
	if err != nil || len(r.Devices) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	if !gone(pid()) {
		t.Error("the reader was not ended")
	}
	m.set("devices 0")
	if _, err := gpu.Look(t.Context(), gpu.Child(path)); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Errorf("error %v", err)
	}
	m.set("hang nvmlInit_v2")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := gpu.Look(ctx, gpu.Child(path)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v of a reader that hangs", err)
	}
}

// TestWatcherBacksOff: readers that end at once are started ever more slowly; garbage is refused.
func TestWatcherBacksOff(t *testing.T) {
	for name, says := range map[string]string{
		"ends":    "",
		"garbage": "hello\n",
		"lost":    `{"version":1,"state":"lost","problem":"gone"}` + "\n",
		"other":   `{"version":9,"state":"sampling"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var starts []time.Duration
				began := time.Now()
				w := gpu.NewWatcher(func(context.Context) (io.ReadCloser, error) {
					starts = append(starts, time.Since(began))
					return io.NopCloser(strings.NewReader(says)), nil
				}, "", gpu.DefaultConfig(), slog.New(slog.DiscardHandler))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				if err := w.Run(ctx); err != nil {
					t.Error(err)
				}
				// 1, 2, 4, 8, 16, 32, then every 60 s.
				if len(starts) < 14 || len(starts) > 16 || starts[1] != time.Second || starts[2] != 3*time.Second || starts[8]-starts[7] != time.Minute {
					t.Errorf("started at %v", starts)
				}
				if s := w.Status(); s.Problem == "" || s.Record != nil || s.Restarts != 0 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// endless says the same for ever, as fast as it is read.
type endless struct {
	line []byte
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.line[e.at:])
	e.at = (e.at + n) % len(e.line)
	return n, nil
}

// TestWatcherEndsFloods: a reader that says too much is ended and started ever more slowly, so that it
// costs nothing.
func TestWatcherEndsFloods(t *testing.T) {
	const record = `{"version":1,"state":"sampling","devices":[{"values":{}}],"driver":"`
	for name, c := range map[string]struct{ line, says string }{
		"short records":  {record + "\"}\n", "more than"},
		"long records":   {record + strings.Repeat("x", 3<<20) + "\"}\n", "more than"},
		"no end of line": {strings.Repeat("x", 64<<10), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Int32
			cfg := fast()
			cfg.BackoffMin, cfg.Silence = time.Hour, time.Minute
			w, _ := watch(t, func(context.Context) (io.ReadCloser, error) {
				opened.Add(1)
				return io.NopCloser(&endless{line: []byte(c.line)}), nil
			}, cfg)
			eventually(t, "it is ended", func() bool { return strings.Contains(w.Status().Problem, c.says) })
			if n := opened.Load(); n != 1 || !w.Status().Looked {
				t.Errorf("%d readers, status %+v", n, w.Status())
			}
		})
	}
}

// TestComplaintsAreBounded: a reader that complains for ever fills no log, and is read all the same.
func TestComplaintsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "perf-gpu")
	text := "#!/bin/sh\nyes 'a complaint' >&2 &\ntrap 'kill $!' EXIT\n" + `echo '{"version":1,"state":"sampling","devices":[{"values":{}}]}'; read end` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(os.Args[0])
	parent.Env, parent.Stderr = append(os.Environ(), parentEnv+"="+path), log
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = parent.Process.Kill(); _ = parent.Wait() }) // it waits for records
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	size := func() int64 { s, _ := log.Stat(); return s.Size() }
	eventually(t, "its complaints are heard", func() bool { return size() > 0 })
	time.Sleep(200 * time.Millisecond) // time in which an endless complaint would show
	if n := size(); n > 32<<10 {
		t.Errorf("%d bytes of complaints were passed on", n)
	}
}

// TestWatcherForgivesAfterSteadyTime: one that sampled for long is replaced at once.
func TestWatcherForgivesAfterSteadyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		var readers sync.WaitGroup
		defer readers.Wait()
		began := time.Now()
		w := gpu.NewWatcher(func(context.Context) (io.ReadCloser, error) {
			starts = append(starts, time.Since(began))
			r, out := io.Pipe()
			readers.Go(func() {
				for range 90 {
					if _, err := io.WriteString(out, `{"version":1,"state":"sampling","devices":[{"values":{}}]}`+"\n"); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
				out.Close()
			})
			return r, nil
		}, "", gpu.DefaultConfig(), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(starts) != 4 || starts[3] != 3*91*time.Second {
			t.Errorf("started at %v, want 90 s of samples and 1 s of pause each", starts)
		}
	})
}
