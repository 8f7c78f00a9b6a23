package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// inEmptyFolder keeps a developer's .env and environment out of a test.
func inEmptyFolder(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PERF_") {
			t.Setenv(name, "") // so that it is restored
			os.Unsetenv(name)
		}
	}
}

func TestExampleFile(t *testing.T) {
	file, err := filepath.Abs("../deploy/agent.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inEmptyFolder(t)
	cfg, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.ControlPlane = []string{"127.0.0.1:8003"}
	want.GPUReader = "/usr/local/lib/perf-agent/perf-gpu"
	want.Plugins.Dir, want.Plugins.Manifest = "/usr/local/lib/perf-agent/plugins", "/usr/local/lib/perf-agent/plugins.manifest.json"
	e := defaultEngine()
	e.Group, e.Engine, e.URL, e.Launcher, e.Hardware = "chat", "vllm", "http://127.0.0.1:8000", "/run/perf-agent/launch.sock", "h100-sxm"
	want.Engines = []Engine{e}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("the example differs from the defaults beyond what it says (-want +got):\n%s", diff)
	}
}

func TestConfigOrder(t *testing.T) {
	inEmptyFolder(t)
	write(t, "agent.yaml", "data_dir: from-file\nlisten: 127.0.0.1:1\nlog_level: debug\nscrape_interval: 2s\nengines:\n- url: http://127.0.0.1:8000\n  group: from-file\n  drain: {timeout: 30s}\n")
	write(t, ".env", "PERF_LISTEN=127.0.0.1:2\nPERF_GROUP=from-dotenv\nPERF_LOG_LEVEL=warn\n")
	t.Setenv("PERF_GROUP", "from-env")
	t.Setenv("PERF_CONTROL_PLANE", "127.0.0.1:10,127.0.0.1:11")
	t.Cleanup(func() { os.Unsetenv("PERF_LISTEN"); os.Unsetenv("PERF_LOG_LEVEL") }) // .env set them
	cmd := newRunCommand()
	o := &runOptions{file: "agent.yaml", logLevel: "error"}
	cfg, err := o.config(cmd)
	if err != nil {
		t.Fatal(err)
	}
	e := cfg.Engines[0]
	got := []any{cfg.DataDir, cfg.Listen, cfg.LogLevel, cfg.ScrapeInterval, cfg.ControlPlane, e.Group, e.Name, e.Drain}
	want := []any{
		"from-file", "127.0.0.1:2", "error", 2 * time.Second,
		[]string{"127.0.0.1:10", "127.0.0.1:11"},
		"from-env", "0",
		Drain{Timeout: 30 * time.Second, Settle: 2 * time.Second},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestZeroConfig(t *testing.T) {
	inEmptyFolder(t)
	t.Setenv("PERF_ENGINE_URL", "http://127.0.0.1:8000")
	cfg, err := (&runOptions{}).config(newRunCommand())
	if err != nil {
		t.Fatal(err)
	}
	want := defaultEngine()
	want.URL = "http://127.0.0.1:8000"
	if diff := cmp.Diff([]Engine{want}, cfg.Engines); diff != "" {
		t.Errorf("engines (-want +got):\n%s", diff)
	}
}

func TestConfigFaultsComeTogether(t *testing.T) {
	inEmptyFolder(t)
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Listen, cfg.LogLevel, cfg.ScrapeInterval = "", "nowhere", "loud", 0
	cfg.TLS.CA = "ca.pem"
	cfg.ControlPlane = []string{"nonsense"}
	two := defaultEngine()
	two.URL = "ftp://x"
	two.Group = "a b"
	two.Drain.Settle = time.Hour
	cfg.Engines = []Engine{two, two}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, says := range []string{"data_dir", "listen", "log_level", "scrape_interval", "tls needs all", "host:port", "url", "group", "drain.timeout", "used twice"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("nothing about %q in:\n%v", says, err)
		}
	}
	if err := DefaultConfig().Validate(); err == nil || !strings.Contains(err.Error(), "PERF_ENGINE_URL") {
		t.Errorf("without an engine: %v", err)
	}
	cfg = DefaultConfig()
	cfg.Engines, cfg.ControlPlane = []Engine{{Name: "0", Group: "g", URL: "http://h:1", Drain: Drain{Timeout: 1}}}, []string{"10.0.0.1:8003"}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "plain text is for loopback") {
		t.Errorf("plain text to another machine: %v", err)
	}
}

func TestConfigIsStrict(t *testing.T) {
	inEmptyFolder(t)
	for _, c := range []struct{ name, text string }{
		{"unknown field", "data_dri: x\n"},
		{"unknown field of an engine", "engines:\n- {url: 'http://a:1', gruop: x}\n"},
		{"no duration", "scrape_interval: soon\n"},
		{"no yaml", "\t{"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, "bad.yaml", c.text)
			if _, err := LoadConfig("bad.yaml"); err == nil {
				t.Error("accepted")
			}
		})
	}
	if _, err := LoadConfig("missing.yaml"); err == nil {
		t.Error("a missing file was accepted")
	}
	write(t, "empty.yaml", "\n")
	if _, err := LoadConfig("empty.yaml"); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestReadyURL(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Listen: "127.0.0.1:8004", Engines: make([]Engine, 1)}, "http://127.0.0.1:8004/ready"},
		{Config{Listen: ":8004", Engines: make([]Engine, 1)}, "http://" + host + ":8004/ready"},
		{Config{Listen: "0.0.0.0:8004", Engines: make([]Engine, 2)}, "http://" + host + ":8004/ready/e1"},
		{Config{ReadyURL: "http://pod/ready", Engines: make([]Engine, 2)}, "http://pod/ready/e1"},
	} {
		if got := c.cfg.readyURL("e1"); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
