package launch

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const statLine = "42 (a (b) c) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 123456 1000 200"

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte(statLine))
	want := proc{PID: 42, Start: 123456, ppid: 7, pgid: 8, sid: 9, state: 'S', threads: 3, comm: "a (b) c"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if self, err := readProc(os.Getpid()); err != nil || self.ppid != os.Getppid() || self.threads < 1 {
		t.Errorf("own process is %+v, %v", self, err)
	}
}

func FuzzParseStat(f *testing.F) {
	for _, s := range []string{statLine, "", "1 (", ") (", "1 () S", "x (y) S 1 2 3", strings.Replace(statLine, "123456", "-1", 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseStat(b); err != nil && p != (proc{}) {
			t.Errorf("%q gives both %+v and %v", b, p, err)
		}
	})
}

func TestDescendants(t *testing.T) {
	all := []proc{{PID: 1}, {PID: 2, ppid: 1}, {PID: 3, ppid: 2, pgid: 3}, {PID: 4, ppid: 3, sid: 4}, {PID: 5, ppid: 1}, {PID: 6, ppid: 6}}
	var got []int
	for _, p := range descendants(all, 2, 6) {
		got = append(got, p.PID)
	}
	if diff := cmp.Diff([]int{3, 4}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLeftovers(t *testing.T) {
	rec := record{Engine: proc{PID: 50, Start: 1000}}
	front := proc{PID: 50, Start: 1000, pgid: 50, sid: 50, ppid: 1}
	group := proc{PID: 51, Start: 1001, pgid: 50, sid: 50, ppid: 1}
	ownGroup := proc{PID: 52, Start: 1001, pgid: 52, sid: 50, ppid: 1}
	ownSession := proc{PID: 53, Start: 1001, pgid: 53, sid: 53, ppid: 1}
	grandchild := proc{PID: 54, Start: 1002, pgid: 54, sid: 54, ppid: 52}
	reused := proc{PID: 50, Start: 2000, pgid: 50, sid: 50, ppid: 1}
	older := proc{PID: 40, Start: 900, pgid: 50, sid: 50, ppid: 1}
	for _, c := range []struct {
		name   string
		all    []proc
		known  bool
		marked int
		want   []int
	}{
		{"front alive", []proc{front, group, ownSession}, true, 0, []int{50, 51}},
		{"front gone", []proc{group, ownGroup, grandchild}, true, 0, []int{51, 52, 54}},
		{"only the mark tells", []proc{ownSession, {PID: 60}}, true, 53, []int{53}},
		{"process id given out again", []proc{reused, group}, true, 0, nil},
		{"older than the engine", []proc{older}, true, 0, nil},
		{"record of another boot", []proc{front, group}, false, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := map[int]bool{}
			for _, p := range leftovers(c.all, rec, c.known, func(pid int) bool { return pid == c.marked }) {
				found[p.PID] = true
			}
			want := map[int]bool{}
			for _, pid := range c.want {
				want[pid] = true
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSendSparesAReusedProcessID(t *testing.T) {
	self, err := readProc(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	got := notify(syscall.SIGUSR1)
	self.send(syscall.SIGUSR1)
	<-got
	self.Start++
	self.send(syscall.SIGKILL) // would end this test
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tail")
	all := make([]byte, 5*TailBytes)
	for i := range all {
		all[i] = 'a' + byte(i%23)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	tl := must[*tail](t)(openTail(path))
	written := 0
	for written < len(all) {
		n := min(1+rng.IntN(20000), len(all)-written)
		if rng.IntN(10) == 0 {
			n = min(TailBytes+rng.IntN(TailBytes), len(all)-written)
		}
		if _, err := tl.Write(all[written : written+n]); err != nil {
			t.Fatal(err)
		}
		written += n
		if rng.IntN(3) == 0 { // as after kill -9: not closed
			tl = must[*tail](t)(openTail(path))
		}
		from := uint64(rng.IntN(written + 1))
		start := max(from, uint64(max(written-TailBytes, 0)))
		want := Log{Offset: start, Next: uint64(written), Text: string(all[start:written])}
		if got := tl.since(from); got != want {
			t.Fatalf("since %d of %d: offset %d next %d, %d bytes", from, written, got.Offset, got.Next, len(got.Text))
		}
	}
	if got := tl.since(1 << 60); got.Text != "" || got.Next != uint64(written) {
		t.Errorf("beyond the end: %+v", got)
	}
	if fi := must[os.FileInfo](t)(os.Stat(path)); fi.Size() != tailHeader+TailBytes {
		t.Errorf("file has %d bytes", fi.Size())
	}
}

func TestTailGoesOnWithoutItsDisk(t *testing.T) {
	tl := must[*tail](t)(openTail(filepath.Join(t.TempDir(), "tail")))
	tl.file.Close()
	if n, err := tl.Write([]byte("still here")); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if got := tl.since(0).Text; got != "still here" {
		t.Errorf("kept %q", got)
	}
	if tl.close() == nil {
		t.Error("the disk's failure is not told")
	}
	if tl, err := openTail("/dev/full"); err == nil || tl == nil {
		t.Errorf("full disk gives %v, %v", tl, err)
	}
}

func TestStoreCommitted(t *testing.T) {
	base, other := Spec{Argv: []string{"serve"}, Fingerprint: "base"}, Spec{Argv: []string{"serve", "-x"}, Fingerprint: "base"}
	managed := Spec{Argv: []string{"serve", "-n", "8"}, Fingerprint: "abc", Epoch: 4}
	for _, c := range []struct {
		name   string
		before func(*store) error
		base   Spec
		want   *Spec
		words  string
	}{
		{"none", func(*store) error { return nil }, base, nil, ""},
		{"one", func(s *store) error { return s.commit(managed, base) }, base, &managed, ""},
		{"operator changed the command line", func(s *store) error { return s.commit(managed, base) }, other, nil, "has changed"},
		{"damaged", func(s *store) error { return s.write("committed.json", []byte("{")) }, base, nil, "cannot be read"},
		{"empty", func(s *store) error { return s.write("committed.json", []byte("{}")) }, base, nil, "names no command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := must[*store](t)(openStore(t.TempDir()))
			defer s.close()
			if err := c.before(s); err != nil {
				t.Fatal(err)
			}
			got, words := s.committed(c.base)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if words != c.words && !(c.words != "" && strings.Contains(words, c.words)) {
				t.Errorf("words %q", words)
			}
		})
	}
}

func TestStoreIdentityStays(t *testing.T) {
	dir := t.TempDir()
	s := must[*store](t)(openStore(dir))
	id := s.id
	if _, err := openStore(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("second owner: %v", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if again := must[*store](t)(openStore(dir)); again.id != id || id == "" {
		t.Errorf("identity %q, then %q", id, again.id)
	}
}

func TestStoreExplains(t *testing.T) {
	s := &store{dir: "/state"}
	for err, words := range map[error]string{
		syscall.ENOSPC: "free some space", syscall.EROFS: "read-only", syscall.EACCES: "may not write", syscall.ENOTDIR: "a file stands", syscall.EIO: "check the folder",
	} {
		if got := s.explain("write x", err); !errors.Is(got, ErrState) || !errors.Is(got, err) || !strings.Contains(got.Error(), words) || !strings.Contains(got.Error(), "/state") {
			t.Errorf("%v gives %v", err, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("LAUNCH_TEST_A", "ours")
	t.Setenv("LAUNCH_TEST_B", "ours")
	t.Setenv(markName, "of an outer launcher")
	env := environment(Spec{Env: map[string]string{"LAUNCH_TEST_B": "spec's"}}, markName+"=mine")
	var got []string
	for _, a := range env {
		if strings.HasPrefix(a, "LAUNCH_TEST_") || strings.HasPrefix(a, markName) {
			got = append(got, a)
		}
	}
	if diff := cmp.Diff([]string{"LAUNCH_TEST_A=ours", "LAUNCH_TEST_B=spec's", markName + "=mine"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMemAvailable(t *testing.T) {
	if got, ok := parseMemAvailable("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"); got != 2<<20 || !ok {
		t.Error(got, ok)
	}
	if _, ok := parseMemAvailable("MemTotal: 9 kB\n"); ok {
		t.Error("found in a page without it")
	}
}

func TestBackoff(t *testing.T) {
	l := New(Config{})
	for recent, want := range map[int]string{1: "1s", 2: "2s", 3: "4s", 6: "30s", 1000: "30s"} {
		if got := l.backoff(recent).String(); got != want {
			t.Errorf("after %d exits %s, want %s", recent, got, want)
		}
	}
}

func TestFailuresTravel(t *testing.T) {
	for _, c := range codes {
		status, f := encodeFailure(c.err)
		if got := decodeFailure(status, f); !errors.Is(got, c.err) {
			t.Errorf("%v arrives as %v", c.err, got)
		}
	}
	status, f := encodeFailure(errors.New("odd"))
	if got := decodeFailure(status, f); status != 500 || !strings.Contains(got.Error(), "odd") {
		t.Errorf("%d %v", status, got)
	}
}

func TestCopyOutputOutlivesItsReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	tl := &tail{}
	copyOutput(bytes.NewReader([]byte("line")), tl, w)
	if got := tl.since(0).Text; got != "line" {
		t.Errorf("tail has %q", got)
	}
}

func TestSubmit(t *testing.T) {
	one, other := spec("echo", 1), spec("echo", 2)
	second := time.Second
	l := New(Config{})
	ask := func(g goal) waiter {
		t.Helper()
		return must[waiter](t)(l.submit(g, false))
	}
	first, again := ask(goal{spec: &one}), ask(goal{spec: &one})
	if first.number != again.number {
		t.Errorf("the same wish twice is goals %d and %d", first.number, again.number)
	}
	if _, err := l.submit(goal{spec: &other}, true); !errors.Is(err, ErrRunning) {
		t.Errorf("start beside a pending one: %v", err)
	}
	stop := ask(goal{})
	for _, w := range []waiter{first, again} {
		if err := <-w.done; !errors.Is(err, ErrSuperseded) {
			t.Errorf("older request: %v", err)
		}
	}
	ask(goal{grace: &second})
	if got := l.graceNow(time.Hour); got != second {
		t.Errorf("grace of the pending stop %v", got)
	}
	l.settle(first.number, nil) // too late: answers nobody
	l.settle(stop.number, nil)
	if err := <-stop.done; err != nil {
		t.Errorf("stop: %v", err)
	}
	if got := l.graceNow(time.Hour); got != time.Hour {
		t.Errorf("grace after the stop %v", got)
	}
	l.endWaiters()
	if _, err := l.submit(goal{}, false); !errors.Is(err, ErrEnding) {
		t.Errorf("request after the end: %v", err)
	}
}

func TestAwaitMemory(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name string
		free []int64 // at each look; the last repeats
		want time.Duration
	}{
		{"nothing comes back", []int64{gib}, 200 * time.Millisecond},
		{"comes back in steps", []int64{gib, 2 * gib, 3 * gib}, 400 * time.Millisecond},
		{"a pause amid", []int64{gib, 2 * gib, 2 * gib, 3 * gib}, 500 * time.Millisecond},
		{"others take it", []int64{3 * gib, 2 * gib, gib}, 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, look := New(Config{}), 0
				l.free = func() (int64, bool) {
					look++
					return c.free[min(look, len(c.free))-1], true
				}
				began := time.Now()
				l.awaitMemory()
				if took := time.Since(began); took != c.want {
					t.Errorf("waited %v, want %v", took, c.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l, bytes := New(Config{MemoryWait: 2 * time.Second}), int64(0)
		l.free = func() (int64, bool) { bytes += gib; return bytes, true }
		began := time.Now()
		l.awaitMemory()
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("waited %v for memory that rises for ever", took)
		}
	})
}

// What cannot be ended is named, and does not keep the launcher for ever.
func TestEndProcessesGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{OrphanGrace: time.Second, ReleaseWait: 4 * time.Second})
		stuck := proc{PID: 1 << 30, Start: 1, comm: "VLLM::Worker", state: 'D'}
		began := time.Now()
		if !l.endProcesses("descendants of the engine", l.cfg.OrphanGrace, func([]proc) []proc { return []proc{stuck} }) {
			t.Error("found nothing")
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("gave up after %v", took)
		}
		for _, words := range []string{"VLLM::Worker", "state D", "4s"} {
			if !strings.Contains(l.survivor, words) {
				t.Errorf("%q lacks %q", l.survivor, words)
			}
		}
	})
}
