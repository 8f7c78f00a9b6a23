package collect

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

// roleEnv makes the test binary another process: an engine, or a sidecar in namespaces of its own.
const roleEnv = "COLLECT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "engine":
		playEngine()
	case "sidecar":
		if err := playSidecar(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// playEngine listens, says where and as which process, and ends with its standard input.
func playEngine() {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer l.Close()
	fmt.Println(l.Addr().(*net.TCPAddr).Port, os.Getpid())
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that matters
}

// role starts the test binary in a role, in new namespaces as flags say. It ends with the test.
func role(t *testing.T, name string, flags uintptr) (in io.Writer, out *bufio.Reader, pid int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), roleEnv+"="+name), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if flags != 0 && (os.Geteuid() != 0 || os.IsPermission(err)) {
			t.Skipf("process namespaces need rights that this test does not have: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() }) // it should have ended
		defer timer.Stop()
		_ = cmd.Wait() // it has nothing to report
	})
	return stdin, bufio.NewReader(stdout), cmd.Process.Pid
}

// engineAt reads what an engine says of itself.
func engineAt(t *testing.T, out io.Reader) (port uint16, pid int) {
	t.Helper()
	if _, err := fmt.Fscan(out, &port, &pid); err != nil {
		t.Fatalf("the engine says nothing: %v", err)
	}
	return port, pid
}

// question to a sidecar: what it makes of a record.
type question struct {
	Record   *gpu.Record
	HostSeen bool // the host's processes are shown to it
}

type answer struct {
	Gauges  map[string]float64
	Problem string
}

// playSidecar looks at an engine in the process namespace that it was started in, with a proc file
// system of that namespace, and at the host's where it may.
func playSidecar() error {
	host, err := os.MkdirTemp("", "host-proc-")
	if err != nil {
		return err
	}
	defer os.Remove(host)
	defer func() { _ = syscall.Unmount(host, syscall.MNT_DETACH) }() // its namespace ends with it
	for _, m := range []struct {
		from, to, kind string
		flags          uintptr
	}{{"", "/", "", syscall.MS_REC | syscall.MS_PRIVATE}, {"/proc", host, "", syscall.MS_BIND}, {"proc", "/proc", "proc", 0}} {
		if err := syscall.Mount(m.from, m.to, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), roleEnv+"=engine"), os.Stderr
	engineIn, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer engineIn.Close()
	engineOut, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var port uint16
	var pid int
	if _, err := fmt.Fscan(engineOut, &port, &pid); err != nil {
		return fmt.Errorf("the engine says nothing: %w", err)
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	fmt.Println(own, pid)
	questions, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q question
		if err := questions.Decode(&q); err != nil {
			return nil // the test ends
		}
		of := GPUOf{Port: port, Alone: true}
		if q.HostSeen {
			of.HostProc = host
		}
		g := NewGPU(newFakeGPUs(0, q.Record.Devices...), of)
		g.look(q.Record)
		g.watcher.(*fakeGPUs).status.Record = q.Record
		w := fleet.NewWindow("", gpuNow)
		s := g.Drain(w, gpuNow)
		if err := answers.Encode(answer{w.Gauges, s.GetError()}); err != nil {
			return err
		}
	}
}

// hostPID finds a child of a process by its id in the child's own namespace.
func hostPID(t *testing.T, parent, inner int) int {
	t.Helper()
	for _, pid := range numbers("/proc") {
		s, err := readStat("/proc", pid)
		if err != nil || s.parent != parent {
			continue
		}
		if all := namespacePIDs("/proc", strconv.Itoa(pid)); len(all) > 1 && all[len(all)-1] == inner {
			return pid
		}
	}
	t.Fatalf("process %d has no child that calls itself %d", parent, inner)
	return 0
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	is, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	if err != nil {
		t.Fatal(err)
	}
	return is
}
