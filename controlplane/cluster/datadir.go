package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"
)

// dataDir is the locked data folder of one server.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir creates the folder when missing, proves that it can be written, and locks it against
// a second process.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, dirError(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirError(path, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(lock.Name()) // only to name it
		return nil, errors.Join(fmt.Errorf("%w: %s is in use by another server (process %s): stop it, or give this one a folder of its own",
			ErrDataDir, path, strings.TrimSpace(string(holder))), lock.Close())
	}
	d := &dataDir{path, lock}
	if err := d.sign(); err != nil {
		return nil, errors.Join(dirError(path, err), lock.Close())
	}
	return d, nil
}

// sign leaves the process id in the lock file, which also shows early that there is space.
func (d *dataDir) sign() error {
	if err := d.lock.Truncate(0); err != nil {
		return err
	}
	if _, err := d.lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return err
	}
	return d.lock.Sync()
}

func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// read returns a small text file's content, empty when there is none.
func (d *dataDir) read(name string) (string, error) {
	b, err := os.ReadFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", dirError(d.path, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write replaces a small text file durably.
func (d *dataDir) write(name, content string) error {
	tmp := d.file(name + ".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return dirError(d.path, err)
	}
	_, err = f.WriteString(content + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return dirError(d.path, err)
	}
	if err := os.Rename(tmp, d.file(name)); err != nil {
		return dirError(d.path, err)
	}
	return d.sync()
}

func (d *dataDir) sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return dirError(d.path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// nodeID settles who this server is: as configured, as kept on disk, or new. A folder keeps its
// identity for good, since its log and votes belong to it.
func (d *dataDir) nodeID(configured string) (string, error) {
	kept, err := d.read("node-id")
	if err != nil {
		return "", err
	}
	switch {
	case kept != "" && configured != "" && kept != configured:
		return "", fmt.Errorf("%w: %s belongs to server %q, but this server is configured as %q: start it under its old name, or with an empty folder", ErrDataDir, d.path, kept, configured)
	case kept != "":
		return kept, nil
	case configured == "":
		configured = uuid.NewString()
	}
	return configured, d.write("node-id", configured)
}

// dirError says in words what a file system error about the data folder means.
func dirError(path string, err error) error {
	advice := "check the folder"
	switch {
	case errors.Is(err, syscall.EROFS):
		advice = "it is on a read-only file system: mount it writable, or choose another folder"
	case errors.Is(err, fs.ErrPermission):
		advice = "this user may not write there: change its owner, or choose another folder"
	case errors.Is(err, syscall.ENOSPC):
		advice = "the disk is full: free some space"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		advice = "something that is not a folder is in the way: choose another path"
	}
	return fmt.Errorf("%w: %s: %s (%w)", ErrDataDir, path, advice, err)
}
