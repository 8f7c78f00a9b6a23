package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDataDirKeepsIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	d, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.agentID("")
	if err != nil || id == "" {
		t.Fatalf("id %q, error %v", id, err)
	}
	if err := d.SetClusterID("c1"); err != nil {
		t.Fatal(err)
	}
	if configured, err := d.agentID("mine"); configured != "mine" || err != nil {
		t.Errorf("configured id came back as %q, %v", configured, err)
	}
	d.Close()
	again, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if same, err := again.agentID(""); same != id || err != nil {
		t.Errorf("after a restart the id is %q (%v), want %q", same, err, id)
	}
	if again.ClusterID() != "c1" {
		t.Errorf("cluster %q", again.ClusterID())
	}
	left, err := filepath.Glob(filepath.Join(path, "*.tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestTwoAgentsCannotShareAFolder(t *testing.T) {
	path := t.TempDir()
	first, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(path); !errors.Is(err, errShared) || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("second agent: %v", err)
	}
	first.Close()
	second, err := openDataDir(path)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	second.Close()
}

func TestFolderTroubleIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		says string
	}{
		{syscall.ENOSPC, "the disk is full"},
		{syscall.EROFS, "is read-only"},
		{syscall.EACCES, "may not be written by this user"},
		{syscall.ENOTDIR, "in the way"},
	} {
		if got := folderError("/data", &os.PathError{Op: "open", Path: "/data/x", Err: c.err}); !strings.Contains(got.Error(), c.says) || !errors.Is(got, c.err) {
			t.Errorf("%v: %v", c.err, got)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	if _, err := openDataDir(file); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file as data folder: %v", err)
	}
}
