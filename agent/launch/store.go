package launch

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// store is the state folder: an identity that marks every process started from it, the committed
// spec, the engine that runs, and the log tail. One live launcher owns it by a file lock.
type store struct {
	dir  string
	id   string
	lock *os.File
}

// commitment is the committed spec together with the operator's command line it was made for.
type commitment struct {
	Spec     Spec     `json:"spec"`
	BaseArgv []string `json:"base_argv"`
}

// record names the running engine, so that the next launcher finds what this one leaves behind.
type record struct {
	Engine proc          `json:"engine"`
	Place  string        `json:"place"`
	Grace  time.Duration `json:"grace_ns"`
	Spec   Spec          `json:"spec"`
}

// openStore makes the folder when it is missing. It returns ErrInUse when a live launcher owns it
// and ErrState when it cannot be used.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, s.explain("make state folder", err)
	}
	lock, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, s.explain("lock state folder", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state folder %s is %w: stop it, or give this one another folder", dir, ErrInUse)
		}
		return nil, s.explain("lock state folder", err)
	}
	s.lock = lock
	if err := s.identify(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *store) close() error { return s.lock.Close() }

// identify reads the folder's identity or makes one.
func (s *store) identify() error {
	b, err := os.ReadFile(s.path("id"))
	if err == nil && len(b) >= 26 {
		s.id = string(b)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("read identity", err)
	}
	s.id = rand.Text()
	return s.write("id", []byte(s.id))
}

// committed returns the committed spec, or nil when there is none for this command line. The text
// says why a stored one is passed over.
func (s *store) committed(base Spec) (spec *Spec, passedOver string) {
	var c commitment
	err := s.readJSON("committed.json", &c)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ""
	case err != nil:
		return nil, fmt.Sprintf("the committed configuration cannot be read (%v): the operator's own command line is used", err)
	case c.Spec.Validate() != nil:
		return nil, fmt.Sprintf("the committed configuration is %v: the operator's own command line is used", c.Spec.Validate())
	case !slices.Equal(c.BaseArgv, base.Argv):
		return nil, "the operator's command line has changed since the configuration was committed: the new command line is used"
	}
	return &c.Spec, ""
}

func (s *store) commit(spec, base Spec) error {
	return s.writeJSON("committed.json", commitment{Spec: spec, BaseArgv: base.Argv})
}

func (s *store) engine() (record, bool) {
	var r record
	err := s.readJSON("engine.json", &r)
	return r, err == nil && r.Engine.PID > 1
}

func (s *store) setEngine(r record) error { return s.writeJSON("engine.json", r) }

func (s *store) clearEngine() error {
	if err := os.Remove(s.path("engine.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("forget engine", err)
	}
	return nil
}

func (s *store) readJSON(name string, v any) error {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func (s *store) writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return s.write(name, b)
}

// write replaces a file whole or not at all, and returns once that is on disk.
func (s *store) write(name string, b []byte) error {
	tmp := s.path(name + ".new")
	err := writeSynced(tmp, b)
	if err == nil {
		err = os.Rename(tmp, s.path(name))
	}
	if err != nil {
		_ = os.Remove(tmp) // may not exist
		return s.explain("write "+name, err)
	}
	if err := syncDir(s.dir); err != nil {
		return s.explain("write "+name, err)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// explain says in words what is wrong with the folder and what to do.
func (s *store) explain(step string, err error) error {
	advice := "check the folder, or give another one"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		advice = "the disk is full: free some space, or give a folder on another disk"
	case errors.Is(err, syscall.EROFS):
		advice = "the file system is read-only: mount a writable volume there, or give another folder"
	case errors.Is(err, fs.ErrPermission):
		advice = fmt.Sprintf("user %d may not write there: give it the right, or give another folder", os.Getuid())
	case errors.Is(err, syscall.ENOTDIR):
		advice = "a file stands where the folder should be: give another folder"
	}
	return fmt.Errorf("%w: %s in %s: %w (%s)", ErrState, step, s.dir, err, advice)
}
