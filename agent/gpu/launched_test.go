package gpu_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// nowhere is a process id that the kernel does not give out.
const nowhere = 1 << 30

// TestLaunched: processes of whoever started the reader are told from others in its namespace, and
// from those that it cannot see.
func TestLaunched(t *testing.T) {
	m := newMachine(t, allValues)
	path, _ := m.script()
	worker := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = worker.Process.Kill(); _ = worker.Wait() }) // it sleeps
	var grandchild int
	if _, err := fmt.Fscan(out, &grandchild); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("kill", fmt.Sprint(grandchild)).Run() })
	stranger := os.Getppid()
	m.set(fmt.Sprintf("compute 4\nmps 0\ncompute_pid0 %d\ncompute_pid1 %d\ncompute_pid2 %d\ncompute_pid3 %d\n", worker.Process.Pid, grandchild, stranger, nowhere))
	r, err := gpu.Look(t.Context(), gpu.Child(path))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Devices[0].Processes {
		switch {
		case p.Launched == nil:
			got = append(got, "not seen")
		default:
			got = append(got, fmt.Sprint(*p.Launched))
		}
	}
	if want := "true true false not seen"; strings.Join(got, " ") != want {
		t.Errorf("launched: %v, want %s", got, want)
	}
	if own, _ := os.Readlink("/proc/self/ns/pid"); r.PIDNamespace != own || own == "" {
		t.Errorf("namespace %q, want %q", r.PIDNamespace, own)
	}
}

// TestLaunchedInNamespace: the reader in an engine's container, whose process 1 is the launcher.
func TestLaunchedInNamespace(t *testing.T) {
	if out, err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("process namespaces need rights that this test does not have: %v: %s", err, out)
	}
	m := newMachine(t, allValues)
	m.set(fmt.Sprintf("compute 2\nmps 0\ncompute_pid0 2\ncompute_pid1 %d\n", os.Getpid()))
	script := fmt.Sprintf("sleep 60 & test $! = 2 || exit 1; read go | %s -interval 20ms -library %s -child; kill $!", m.reader, m.library)
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() }) // the reader ends with its standard input
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	r, err := gpu.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	if own, _ := os.Readlink("/proc/self/ns/pid"); r.PIDNamespace == "" || r.PIDNamespace == own {
		t.Errorf("the reader's namespace is %q, this one's %q", r.PIDNamespace, own)
	}
	p := r.Devices[0].Processes
	if len(p) != 2 || p[0].Launched == nil || !*p[0].Launched || p[1].Launched != nil {
		t.Errorf("processes %+v, want the first launched and the second, of the host, not seen", p)
	}
}

// TestReaderGoesFirst: where memory is short, the kernel is to end the reader and not the engine.
func TestReaderGoesFirst(t *testing.T) {
	path, pid := newMachine(t, allValues).script()
	w, _ := watch(t, gpu.Child(path), fast())
	eventually(t, "it samples", sampling(w))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid()))
	if err != nil || strings.TrimSpace(string(b)) != "1000" {
		t.Errorf("oom_score_adj %q, %v", b, err)
	}
}
