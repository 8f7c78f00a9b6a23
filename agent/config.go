package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"
	"github.com/joho/godotenv"

	"github.com/optiinfra/performance-agent/agent/probe"
	"github.com/optiinfra/performance-agent/agent/report"
)

// Config of `perf-agent run`. Later sources win: defaults, YAML file, .env, environment, flags.
type Config struct {
	// AgentID is drawn once and kept in the data folder when it is not set.
	AgentID string `yaml:"agent_id" env:"PERF_AGENT_ID"`
	// DataDir holds identity, journals and plugin sockets. One agent at a time may use it.
	DataDir string `yaml:"data_dir" env:"PERF_DATA_DIR"`
	// ControlPlane lists agent ports of control-plane nodes, host:port. Empty: observe and guard
	// alone.
	ControlPlane []string `yaml:"control_plane" env:"PERF_CONTROL_PLANE"`
	TLS          TLS      `yaml:"tls" envPrefix:"PERF_TLS_"`
	// Listen is the address of /ready, /live, /status and /metrics.
	Listen string `yaml:"listen" env:"PERF_LISTEN"`
	// ReadyURL is how others reach this agent's /ready; empty: made from Listen.
	ReadyURL string `yaml:"ready_url" env:"PERF_READY_URL"`
	// ScrapeInterval is the distance between two pages of an engine.
	ScrapeInterval time.Duration `yaml:"scrape_interval" env:"PERF_SCRAPE_INTERVAL"`
	// Wire says how requests are seen on the wire: auto, packet, cgroup or off.
	Wire probe.Mode `yaml:"wire" env:"PERF_WIRE"`
	// GPU says whether GPUs are read: auto or off.
	GPU string `yaml:"gpu" env:"PERF_GPU"`
	// GPUReader is the program that reads them for engines without a launcher.
	GPUReader string   `yaml:"gpu_reader" env:"PERF_GPU_READER"`
	LogLevel  string   `yaml:"log_level" env:"PERF_LOG_LEVEL"`
	Plugins   Plugins  `yaml:"plugins" envPrefix:"PERF_PLUGINS_"`
	Engines   []Engine `yaml:"engines"`
}

// TLS names the files for the control plane's stream; all three or none.
type TLS struct {
	CA   string `yaml:"ca" env:"CA"`
	Cert string `yaml:"cert" env:"CERT"`
	Key  string `yaml:"key" env:"KEY"`
}

// Plugins says where engine adapters are and what vouches for them.
type Plugins struct {
	Dir string `yaml:"dir" env:"DIR"`
	// Manifest is the signed list of plugins and their checksums. It must lie outside Dir.
	Manifest string `yaml:"manifest" env:"MANIFEST"`
	// PublicKey is a PEM file with the key that signed the manifest; empty: the key that was built
	// into this program.
	PublicKey string `yaml:"public_key" env:"PUBLIC_KEY"`
	// AllowUnsigned runs plugins unverified where there is no key; for development.
	AllowUnsigned bool `yaml:"allow_unsigned" env:"ALLOW_UNSIGNED"`
}

// Engine is one engine beside this agent.
type Engine struct {
	// Name within the agent; the instance is "<agent_id>/<name>".
	Name string `yaml:"name" env:"PERF_ENGINE_NAME"`
	// Group of replicas that share a configuration.
	Group string `yaml:"group" env:"PERF_GROUP"`
	// Engine is the adapter's name (vllm, sglang, tgi, …); empty: find out.
	Engine string `yaml:"engine" env:"PERF_ENGINE"`
	// URL of the engine's HTTP server.
	URL string `yaml:"url" env:"PERF_ENGINE_URL"`
	// Launcher is the socket of `perf-agent launch`; empty: observe only.
	Launcher string `yaml:"launcher" env:"PERF_LAUNCHER_SOCKET"`
	// Hardware class, a name of the GPU table; replicas of one class may be compared. Empty: what NVML
	// says.
	Hardware string `yaml:"hardware" env:"PERF_HARDWARE"`
	// Staging says that no user depends on this engine: it may be load-tested while in rotation.
	Staging bool  `yaml:"staging" env:"PERF_STAGING"`
	Drain   Drain `yaml:"drain" envPrefix:"PERF_DRAIN_"`
	// ReadyGrace is how long an engine may take to serve after its start, before that is called a
	// failure; zero: three times its adapter's estimate.
	ReadyGrace time.Duration `yaml:"ready_grace" env:"PERF_READY_GRACE"`
}

// Drain says how an engine is taken out of rotation.
type Drain struct {
	// Timeout is the longest wait for running requests, Settle included.
	Timeout time.Duration `yaml:"timeout" env:"TIMEOUT"`
	// Settle is how long balancers need to notice that /ready says no.
	Settle time.Duration `yaml:"settle" env:"SETTLE"`
}

// DefaultConfig holds every default.
func DefaultConfig() Config {
	return Config{
		DataDir:        "perf-agent-data",
		Listen:         "127.0.0.1:8004",
		ScrapeInterval: time.Second,
		Wire:           probe.ModeAuto,
		GPU:            gpuAuto,
		GPUReader:      besideProgram("perf-gpu"),
		LogLevel:       "info",
		Plugins:        Plugins{Dir: besideProgram("plugins"), Manifest: besideProgram("plugins.manifest.json")},
	}
}

// defaultEngine holds the defaults of one engine.
func defaultEngine() Engine {
	return Engine{Name: "0", Group: "default", Drain: Drain{Timeout: 60 * time.Second, Settle: 2 * time.Second}}
}

// besideProgram is a path in the folder of this program.
func besideProgram(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// LoadConfig reads the file, when one is named, then .env and environment over it. It does not
// validate, because flags come later.
func LoadConfig(file string) (Config, error) {
	cfg := DefaultConfig()
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return cfg, fmt.Errorf("read configuration: %w", err)
		}
		if err := decode(raw, &cfg); err != nil {
			return cfg, fmt.Errorf("configuration %s: %w", file, err)
		}
	}
	if err := godotenv.Load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cfg, fmt.Errorf("read .env: %w", err) // values already in the environment stay
	}
	if err := env.Parse(&cfg); err != nil {
		return cfg, fmt.Errorf("environment: %w", err)
	}
	return cfg, engineFromEnv(&cfg)
}

// decode reads YAML strictly; each engine starts from the defaults.
func decode(raw []byte, cfg *Config) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	if err := yaml.UnmarshalWithOptions(raw, cfg, yaml.Strict()); err != nil {
		return err
	}
	for i := range cfg.Engines {
		cfg.Engines[i].fillIn(i)
	}
	return nil
}

// engineFromEnv lets the environment describe the only engine, or change the file's only one.
func engineFromEnv(cfg *Config) error {
	if len(cfg.Engines) > 1 {
		return nil
	}
	e := defaultEngine()
	if len(cfg.Engines) == 1 {
		e = cfg.Engines[0]
	}
	if err := env.Parse(&e); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	if len(cfg.Engines) == 1 || e.URL != "" || e.Launcher != "" {
		cfg.Engines = []Engine{e}
	}
	return nil
}

// fillIn sets what the file left out of the i-th engine.
func (e *Engine) fillIn(i int) {
	d := defaultEngine()
	if e.Name == "" {
		e.Name = fmt.Sprint(i)
	}
	if e.Group == "" {
		e.Group = d.Group
	}
	if e.Drain.Timeout == 0 {
		e.Drain.Timeout = d.Drain.Timeout
	}
	if e.Drain.Settle == 0 {
		e.Drain.Settle = min(d.Drain.Settle, e.Drain.Timeout)
	}
}

// Validate reports all faults together.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.DataDir == "" {
		fault("data_dir is empty; name a folder this agent may write to")
	}
	if c.ScrapeInterval < 100*time.Millisecond || c.ScrapeInterval > time.Minute {
		fault("scrape_interval %v is not between 100ms and 1m", c.ScrapeInterval)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		fault("listen %q is not host:port", c.Listen)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		fault("log_level %q is not debug, info, warn or error", c.LogLevel)
	}
	switch c.Wire {
	case probe.ModeAuto, probe.ModePacket, probe.ModeCgroup, probe.ModeOff:
	default:
		fault("wire %q is not auto, packet, cgroup or off", c.Wire)
	}
	if c.GPU != gpuAuto && c.GPU != gpuOff {
		fault("gpu %q is not auto or off", c.GPU)
	}
	if t := c.TLS; t != (TLS{}) && (t.CA == "" || t.Cert == "" || t.Key == "") {
		fault("tls needs all of ca, cert and key")
	}
	for _, a := range c.ControlPlane {
		if err := report.CheckAddress(a, report.TLS(c.TLS)); err != nil {
			fault("control_plane: %w", err)
		}
	}
	if len(c.Engines) == 0 {
		fault("no engine to look after: set PERF_ENGINE_URL=http://127.0.0.1:8000, or list engines in the file given with --config")
	}
	seen := map[string]bool{}
	for _, e := range c.Engines {
		faults = append(faults, e.faults()...)
		if seen[e.Name] {
			fault("engine %s: the name is used twice", e.Name)
		}
		seen[e.Name] = true
	}
	return errors.Join(faults...)
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (e Engine) faults() (faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("engine "+e.Name+": "+format, args...))
	}
	if !nameForm.MatchString(e.Name) {
		fault("name %q may hold letters, digits, dot, dash and underscore, at most 63", e.Name)
	}
	if !nameForm.MatchString(e.Group) {
		fault("group %q may hold letters, digits, dot, dash and underscore, at most 63", e.Group)
	}
	if u, err := url.Parse(e.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		fault("url %q is not http://host:port", e.URL)
	}
	if e.Drain.Timeout <= 0 || e.Drain.Settle < 0 || e.Drain.Settle > e.Drain.Timeout {
		fault("drain.timeout %v must be above zero and at least drain.settle %v", e.Drain.Timeout, e.Drain.Settle)
	}
	if e.ReadyGrace < 0 {
		fault("ready_grace %v is negative", e.ReadyGrace)
	}
	return faults
}

// readyURL is where others see whether an engine is in rotation.
func (c Config) readyURL(engine string) string {
	base := c.ReadyURL
	if base == "" {
		host, port, _ := net.SplitHostPort(c.Listen) // Validate has looked
		if host == "" || net.ParseIP(host).IsUnspecified() {
			host, _ = os.Hostname() // the best name there is
		}
		base = "http://" + net.JoinHostPort(host, port) + "/ready"
	}
	if len(c.Engines) > 1 {
		return base + "/" + url.PathEscape(engine)
	}
	return base
}
