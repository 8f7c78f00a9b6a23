package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dataDir is the folder of the measurements, which are not part of the repository.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the measurements are absent: %v", err)
	}
	return dir
}

// TestCommittedFilesAreDerived: the files beside the package are what the command writes.
func TestCommittedFilesAreDerived(t *testing.T) {
	data := dataDir(t)
	for name, from := range files {
		want, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := from(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what `%s` writes now:\n%s", name, command, got)
		}
	}
}

func TestReadAllReduce(t *testing.T) {
	const doc = "size,num_workers,devices_per_node,time_stats.all_reduce.median\n" +
		"2048,8,8,0.04\n4096,2,2,0.02\n4096,2,1,0.9\n8192,8,8,0.05\n"
	got, err := readAllReduce(strings.NewReader(doc))
	if err != nil || len(got) != 2 || got[0].ranks != 2 || len(got[0].bytes) != 1 || got[1].ranks != 8 || got[1].seconds[1] != 5e-5 {
		t.Errorf("%+v (%v), want the two sizes of eight ranks and one of two, without what crosses nodes", got, err)
	}
	for name, doc := range map[string]string{
		"empty": "", "other columns": "a,b\n1,2\n",
		"no number": "size,num_workers,devices_per_node,time_stats.all_reduce.median\nbig,2,2,0.1\n",
	} {
		if _, err := readAllReduce(strings.NewReader(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
