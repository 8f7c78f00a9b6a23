package probation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample(phase Phase) Record {
	return Record{
		Instance: "a/e", Group: "chat", Starts: 3, Fence: Fence{1, 20}, Newest: Fence{1, 19}, Phase: phase,
		Current: Config{Epoch: 19, Hash: "h", Engine: "vllm", Settings: map[string]string{"max_num_seqs": "64"}},
		Failed:  Failure{Epoch: 7, Reason: "out of memory", Log: "last\nwords"},
	}
}

func open(t *testing.T) *FileJournal {
	t.Helper()
	j, err := OpenJournal(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJournalKeepsTheNewest(t *testing.T) {
	j := open(t)
	if _, err := j.Load(); !errors.Is(err, ErrNoRecord) {
		t.Fatalf("empty: %v", err)
	}
	for _, p := range []Phase{Accepted, Draining, Probation} {
		if err := j.Append(sample(p), false); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenJournal(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Load()
	if diff := cmp.Diff(sample(Probation), got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestJournalDamage(t *testing.T) {
	cases := []struct {
		name   string
		damage func(dir string) error
		want   Phase // 0: ErrCorrupt
	}{
		{"torn", func(dir string) error { return os.Truncate(filepath.Join(dir, currentFile), 60) }, Accepted},
		{"empty", func(dir string) error { return os.Truncate(filepath.Join(dir, currentFile), 0) }, Accepted},
		{"one bit", func(dir string) error { return flip(filepath.Join(dir, currentFile)) }, Accepted},
		{"crash between the renames", func(dir string) error { return os.Remove(filepath.Join(dir, currentFile)) }, Accepted},
		{"both", func(dir string) error {
			return errors.Join(flip(filepath.Join(dir, currentFile)), flip(filepath.Join(dir, previousFile)))
		}, 0},
		{"a new file left over", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, tempFile), []byte("half"), 0o600)
		}, Draining},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			j := open(t)
			if err := errors.Join(j.Append(sample(Accepted), false), j.Append(sample(Draining), false), c.damage(j.dir)); err != nil {
				t.Fatal(err)
			}
			got, err := j.Load()
			if c.want == 0 {
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "move") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || got.Phase != c.want {
				t.Errorf("%v, %v", got.Phase, err)
			}
		})
	}
}

func flip(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	raw[len(raw)/2] ^= 4
	return os.WriteFile(path, raw, 0o600)
}

// limited fails writes as a full disk does until the reserve has been given up.
func limited(j *FileJournal) {
	j.write = func(f *os.File, b []byte) error {
		if _, err := os.Stat(filepath.Join(j.dir, reserveFile)); err == nil {
			if _, err := f.Write(b[:len(b)/2]); err != nil {
				return err
			}
			return fmt.Errorf("write %s: %w", f.Name(), syscall.ENOSPC)
		}
		return writeAndSync(f, b)
	}
}

func TestJournalOnAFullDisk(t *testing.T) {
	j := open(t)
	if err := j.Append(sample(Idle), false); err != nil {
		t.Fatal(err)
	}
	limited(j)
	err := j.Append(sample(Accepted), false)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("in words: %v", err)
	}
	if got, err := j.Load(); err != nil || got.Phase != Idle {
		t.Errorf("half applied: %v, %v", got.Phase, err)
	}
	if err := j.Append(sample(Reverting), true); err != nil {
		t.Errorf("the reserve did not help a revert: %v", err)
	}
	if got, err := j.Load(); err != nil || got.Phase != Reverting {
		t.Errorf("%v, %v", got.Phase, err)
	}
}

func TestJournalInAFolderThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(filepath.Join(file, "data")); err == nil {
		t.Error("a file was taken for a folder")
	}
	for _, cause := range []error{syscall.EROFS, syscall.EACCES} {
		if err := inWords("/data", cause); !errors.Is(err, cause) || !strings.Contains(err.Error(), "mount it writable") {
			t.Errorf("%v", err)
		}
	}
	if os.Geteuid() == 0 {
		return // root writes anywhere
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(dir); err == nil || !strings.Contains(err.Error(), "cannot be written") {
		t.Errorf("read-only folder: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	raw, err := Encode(sample(Probation))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("perf-journal 1 00000000 0\n\n"))
	f.Add([]byte("perf-journal 9 00000000 2\n{}\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Decode(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("not ErrCorrupt: %v", err)
			}
			return
		}
		again, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again)
		if diff := cmp.Diff(r, back); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
