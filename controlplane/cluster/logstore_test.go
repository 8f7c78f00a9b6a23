package cluster

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

// fullStore is a log on a full disk.
type fullStore struct{ *raft.InmemStore }

func (fullStore) StoreLogs([]*raft.Log) error { return syscall.ENOSPC }

// TestFullDiskIsTold: what stands in the server's own log names the cause, through Raft's cache.
func TestFullDiskIsTold(t *testing.T) {
	cache, err := raft.NewLogCache(8, fullStore{raft.NewInmemStore()})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s := &logStore{LogStore: cache, logger: slog.New(slog.NewTextHandler(&out, nil))}
	if s.StoreLog(&raft.Log{Index: 1}) == nil {
		t.Fatal("a write on a full disk succeeded")
	}
	if !strings.Contains(out.String(), "the disk of the data folder is full: free some space") {
		t.Errorf("the log says %s", out.String())
	}
	if s.written.Load() != 0 {
		t.Error("bytes are counted that were not written")
	}
}
