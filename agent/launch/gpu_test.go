package launch

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// withReader gives the launcher a reader: a script with the habits of perf-gpu. Each line it says is
// its process id.
func withReader(t *testing.T, loop string) func(*Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reader")
	script := "#!/bin/sh\n" + loop
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.GPUReader = []string{path} }
}

// talks until its standard input ends, as one process.
var talks = "exec env " + roleEnv + "=gpureader " + os.Args[0]

// follow opens the stream and reads its first line.
func (r *rig) follow() (stream interface{ Close() error }, lines *bufio.Scanner, pid string) {
	r.t.Helper()
	var s interface {
		Read([]byte) (int, error)
		Close() error
	}
	eventually(r.t, "the launcher streams", func() bool {
		var err error
		s, err = r.GPU(r.t.Context())
		return err == nil
	})
	lines = bufio.NewScanner(s)
	if !lines.Scan() {
		r.t.Fatalf("the stream ends before its first line: %v", lines.Err())
	}
	return s, lines, lines.Text()
}

func gonePID(pid string) func() bool {
	return func() bool {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(b), ") Z ")
	}
}

func TestGPUReaderSurvivesTheEngine(t *testing.T) {
	r := newRig(t, spec("vllm", 0), withReader(t, talks))
	r.serving(0)
	stream, lines, pid := r.follow()
	defer stream.Close()
	if _, err := r.Restart(t.Context(), spec("tgi", 1)); err != nil {
		t.Fatal(err)
	}
	r.serving(1)
	for range 5 {
		if !lines.Scan() || lines.Text() != pid {
			t.Fatalf("the reader did not survive a restart of the engine: %q, %v", lines.Text(), lines.Err())
		}
	}
}

func TestGPUReaderEnds(t *testing.T) {
	t.Run("with its client", func(t *testing.T) {
		r := newRig(t, spec("vllm", 0), withReader(t, talks))
		stream, _, pid := r.follow()
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "the reader ends", gonePID(pid))
		r.serving(0)
	})
	t.Run("with the launcher", func(t *testing.T) {
		r := newRig(t, spec("vllm", 0), withReader(t, talks))
		stream, lines, pid := r.follow()
		defer stream.Close()
		r.serving(0)
		r.signal(syscall.SIGTERM)
		if code := r.exitCode(); code != 0 {
			t.Errorf("exit code %d, want the engine's 0", code)
		}
		for lines.Scan() {
		}
		eventually(t, "the reader ends", gonePID(pid))
	})
	t.Run("with a launcher that is killed", func(t *testing.T) {
		r := newRig(t, spec("vllm", 0), withReader(t, talks))
		stream, _, pid := r.follow()
		defer stream.Close()
		r.kill()
		eventually(t, "the reader ends", gonePID(pid))
	})
	t.Run("deaf", func(t *testing.T) {
		r := newRig(t, spec("vllm", 0), withReader(t, `trap "" TERM; echo $$; while :; do sleep 1; done`))
		stream, _, pid := r.follow()
		stream.Close()
		eventually(t, "the reader ends", gonePID(pid))
	})
}

func TestGPUReaderEndsByItself(t *testing.T) {
	r := newRig(t, spec("vllm", 0), withReader(t, "echo $$; exit 3"))
	for range 2 * maxGPUReaders { // each frees its place
		stream, lines, _ := r.follow()
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
		}
		stream.Close()
	}
}

func TestGPUReadersAreBounded(t *testing.T) {
	r := newRig(t, spec("vllm", 0), withReader(t, talks))
	for range maxGPUReaders {
		stream, _, _ := r.follow()
		defer stream.Close()
	}
	if s, err := r.GPU(t.Context()); err == nil {
		s.Close()
		t.Error("one reader more than allowed was started")
	}
}

func TestNoGPUReader(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"none":    func(*Config) {},
		"missing": func(c *Config) { c.GPUReader = []string{"/nowhere/perf-gpu"} },
		"no interpreter": func(c *Config) {
			path := filepath.Join(filepath.Dir(c.StateDir), "reader")
			if err := os.WriteFile(path, []byte("#!/nowhere/ld.so\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			c.GPUReader = []string{path}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, spec("vllm", 0), change)
			r.serving(0)
			if _, err := r.GPU(t.Context()); !errors.Is(err, ErrNoGPUReader) {
				t.Errorf("error %v, want ErrNoGPUReader", err)
			}
		})
	}
}

// TestGPUStreamOfDeadLauncher: a launcher that is stopped gives no stream, and does not hold its
// client.
func TestGPUStreamOfDeadLauncher(t *testing.T) {
	r := newRig(t, spec("vllm", 0), withReader(t, talks))
	r.serving(0)
	r.signal(syscall.SIGSTOP)
	defer r.signal(syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), 4*beginLimit)
	defer cancel()
	began := time.Now()
	if _, err := r.GPU(ctx); !errors.Is(err, ErrUnreachable) || time.Since(began) > 2*beginLimit {
		t.Errorf("error %v after %v, want ErrUnreachable within %v", err, time.Since(began), beginLimit)
	}
}
