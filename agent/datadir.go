package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// errShared is returned when another live agent uses the data folder.
var errShared = errors.New("another perf-agent is using this data folder")

// dataDir is the agent's folder: who it is, which cluster it belongs to, journals. It is locked
// while it is open, because two agents with one identity would undo each other's work.
type dataDir struct {
	path string
	lock *os.File

	mu      sync.Mutex // guards cluster
	cluster string
}

// openDataDir makes the folder if need be, locks it and shows that it can be written.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, folderError(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, folderError(path, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w; give each agent its own data_dir", path, errShared)
		}
		return nil, folderError(path, err)
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.write("writable", "yes"); err != nil {
		d.Close()
		return nil, err
	}
	if d.cluster, err = d.read("cluster-id"); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close lets another agent have the folder.
func (d *dataDir) Close() { d.lock.Close() }

// sub is a path inside the folder.
func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// agentID returns the identity: the configured one, the one on disk, or a new one.
func (d *dataDir) agentID(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	id, err := d.read("agent-id")
	if err != nil || id != "" {
		return id, err
	}
	id = uuid.NewString()
	return id, d.write("agent-id", id)
}

// ClusterID is the cluster this agent joined; empty before it has.
func (d *dataDir) ClusterID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cluster
}

// SetClusterID remembers the cluster across restarts.
func (d *dataDir) SetClusterID(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.write("cluster-id", id); err != nil {
		return err
	}
	d.cluster = id
	return nil
}

func (d *dataDir) read(name string) (string, error) {
	raw, err := os.ReadFile(d.sub(name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", folderError(d.path, err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// write replaces a small file so that a crash leaves the old one or the new one.
func (d *dataDir) write(name, content string) error {
	tmp, err := os.CreateTemp(d.path, name+".tmp-*")
	if err != nil {
		return folderError(d.path, err)
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.WriteString(content + "\n")
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), d.sub(name))
	}
	if err != nil {
		return folderError(d.path, err)
	}
	return nil
}

// folderError says in words why a folder cannot be used, and what to do.
func folderError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("data folder %s: the disk is full; free some space, the agent needs a few MB: %w", path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("data folder %s is read-only; mount a writable volume or set data_dir: %w", path, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("data folder %s may not be written by this user; change its owner or set data_dir: %w", path, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("data folder %s is in the way of a file; set data_dir: %w", path, err)
	}
	return fmt.Errorf("data folder %s: %w", path, err)
}
