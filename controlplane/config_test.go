package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExampleFile(t *testing.T) {
	c, err := LoadConfig("../deploy/controlplane.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID != "cp1" || len(c.Peers) != 1 || c.Workflow.Patience != 10*time.Minute || c.Groups["chat"].MaxUnavailable != 1 {
		t.Errorf("read %+v", c)
	}
	if p := c.Groups["chat"].Proto(); p.GetObserveMinMs() != 120_000 || p.GetObjectives().GetTtftSeconds() != 0.5 {
		t.Errorf("policy %v", p)
	}
	if cc := c.cluster(); cc.NodeID != "cp1" || len(cc.Peers) != 1 || cc.Peers[0].AgentAddr != "127.0.0.1:8003" {
		t.Errorf("cluster %+v", cc)
	}
}

func TestConfigOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:9000\nlog_level: warn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PERF_LOG_LEVEL", "debug")
	t.Setenv("PORT", "9100")
	c, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:9100" || c.LogLevel != "debug" || c.Raft != DefaultConfig().Raft {
		t.Errorf("listen %s, log %s, raft %s", c.Listen, c.LogLevel, c.Raft)
	}
}

func TestConfigFaults(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown field":    {"lissten: 127.0.0.1:1\n", "lissten"},
		"open address":     {"listen: 0.0.0.0:8002\n", "loopback"},
		"no port":          {"raft: localhost\n", "host:port"},
		"nameless peer":    {"peers: [{id: a, raft: \"127.0.0.1:1\"}]\n", "node_id"},
		"unknown mode":     {"groups: {chat: {mode: reckless}}\n", "advise, approve or auto"},
		"no data folder":   {"data_dir: \"\"\n", "data_dir"},
		"faults in one go": {"listen: 0.0.0.0:1\nagents: x\n", "agents"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(file, []byte(c.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadConfig(file); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
	if _, err := LoadConfig("nowhere.yaml"); err == nil || !strings.Contains(err.Error(), "nowhere.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestEvidenceIsAddressedByHash(t *testing.T) {
	e, err := openEvidence(filepath.Join(t.TempDir(), "evidence"))
	if err != nil {
		t.Fatal(err)
	}
	hash, err := e.Put([]byte("what was seen"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Put([]byte("what was seen"))
	if err != nil || again != hash || len(hash) != 64 {
		t.Errorf("%s and %s, %v", hash, again, err)
	}
	if raw, err := os.ReadFile(filepath.Join(e.dir, hash+".json")); err != nil || string(raw) != "what was seen" {
		t.Errorf("%q, %v", raw, err)
	}
	if _, err := openEvidence("/proc/nowhere"); err == nil || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("a folder that cannot be made: %v", err)
	}
}
