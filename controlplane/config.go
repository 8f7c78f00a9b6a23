package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"
	"github.com/joho/godotenv"

	"github.com/optiinfra/performance-agent/controlplane/api"
	"github.com/optiinfra/performance-agent/controlplane/cluster"
	"github.com/optiinfra/performance-agent/controlplane/telemetry/history"
)

// Config of the control plane. Order: defaults, YAML file, .env, environment, flags.
type Config struct {
	// NodeID names this server for good; needed where several run.
	NodeID string `yaml:"node_id" env:"PERF_NODE_ID"`
	// DataDir holds the log, snapshots and evidence of this server.
	DataDir string `yaml:"data_dir" env:"PERF_DATA_DIR"`
	// Listen is the REST address; Raft and Agents the ports for other servers and for agents.
	Listen string `yaml:"listen" env:"PERF_LISTEN"`
	Raft   string `yaml:"raft" env:"PERF_RAFT"`
	Agents string `yaml:"agents" env:"PERF_AGENTS"`
	// Port replaces the port of Listen; the name the first release used.
	Port int `yaml:"-" env:"PORT"`
	// Peers are all servers, this one included; empty for a cluster of one.
	Peers []Peer `yaml:"peers" env:"-"`
	// Heartbeat of Raft, also its election timeout.
	Heartbeat time.Duration `yaml:"heartbeat" env:"PERF_HEARTBEAT"`
	LogLevel  string        `yaml:"log_level" env:"PERF_LOG_LEVEL"`
	// Groups sets policies that the leader writes when they differ from what is replicated.
	Groups   map[string]api.PolicyChange `yaml:"groups" env:"-"`
	Workflow WorkflowConfig              `yaml:"workflow" env:"-"`
	History  HistoryConfig               `yaml:"history" env:"-"`
	// Tables names YAML files with GPUs and models, merged over the built-in ones.
	Tables []string `yaml:"tables" env:"PERF_TABLES"`
}

// Peer is one control-plane server.
type Peer struct {
	ID     string `yaml:"id"`
	Raft   string `yaml:"raft"`
	HTTP   string `yaml:"http"`
	Agents string `yaml:"agents"`
}

// WorkflowConfig times the pipeline.
type WorkflowConfig struct {
	Collect  time.Duration `yaml:"collect"`
	Patience time.Duration `yaml:"patience"`
	Verify   time.Duration `yaml:"verify"`
	// Every starts workflows by itself for groups in auto mode; 0: only when asked.
	Every time.Duration `yaml:"every"`
}

// HistoryConfig bounds what the fleet's measurements may take in this server's memory.
type HistoryConfig struct {
	// Raw is how long samples of every ten seconds are kept, Long how long those of every five minutes.
	Raw  time.Duration `yaml:"raw"`
	Long time.Duration `yaml:"long"`
	// MiB bounds the memory; over it both become shorter.
	MiB int `yaml:"mib"`
}

func (c HistoryConfig) head() history.Config {
	return history.Config{Raw: c.Raw, Long: c.Long, Bytes: c.MiB << 20}
}

// DefaultConfig is one server on this machine, data in a local folder.
func DefaultConfig() Config {
	return Config{
		DataDir:   "data/controlplane",
		Listen:    "127.0.0.1:8002",
		Raft:      "127.0.0.1:8005",
		Agents:    "127.0.0.1:8003",
		Heartbeat: 500 * time.Millisecond,
		LogLevel:  "info",
		Workflow:  WorkflowConfig{Collect: time.Minute, Patience: 10 * time.Minute, Verify: time.Minute},
		History:   HistoryConfig{Raw: 24 * time.Hour, Long: 30 * 24 * time.Hour, MiB: 256},
	}
}

// LoadConfig reads file, where one is named, then .env and the environment over it.
func LoadConfig(file string) (Config, error) {
	c := DefaultConfig()
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := yaml.UnmarshalWithOptions(raw, &c, yaml.Strict()); err != nil {
			return c, fmt.Errorf("configuration %s: %w", file, err)
		}
	}
	if err := godotenv.Load(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("read .env: %w", err)
	}
	if err := env.Parse(&c); err != nil {
		return c, fmt.Errorf("environment: %w", err)
	}
	if c.Port != 0 {
		host, _, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return c, fmt.Errorf("listen %q: %w", c.Listen, err)
		}
		c.Listen = net.JoinHostPort(host, fmt.Sprint(c.Port))
	}
	return c, c.Validate()
}

// Validate reports all faults together.
func (c Config) Validate() error {
	var faults []error
	if c.DataDir == "" {
		faults = append(faults, errors.New("data_dir is empty: name a folder for this server alone"))
	}
	for name, addr := range map[string]string{"listen": c.Listen, "raft": c.Raft, "agents": c.Agents} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %q is not host:port: %w", name, addr, err))
			continue
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			faults = append(faults, fmt.Errorf("%s %q is reachable from other machines, but this release has neither TLS nor tokens: use a loopback address", name, addr))
		}
	}
	if len(c.Peers) > 0 && c.NodeID == "" {
		faults = append(faults, errors.New("node_id is empty: with peers, each server needs its own id from the list"))
	}
	if h := c.History; h.Raw < time.Minute || h.Long < h.Raw || h.MiB < 1 {
		faults = append(faults, fmt.Errorf("history %v, %v, %d MiB: raw must be a minute or more, long no less than raw, mib one or more", h.Raw, h.Long, h.MiB))
	}
	for name, g := range c.Groups {
		if g.Mode != "" && g.Mode != "advise" && g.Mode != "approve" && g.Mode != "auto" {
			faults = append(faults, fmt.Errorf("groups.%s.mode %q: use advise, approve or auto", name, g.Mode))
		}
	}
	return errors.Join(faults...)
}

// cluster returns the part of the configuration that Raft needs.
func (c Config) cluster() cluster.Config {
	cc := cluster.Config{
		NodeID: c.NodeID, DataDir: filepath.Join(c.DataDir, "raft"),
		RaftAddr: c.Raft, HTTPAddr: c.Listen, AgentAddr: c.Agents, Heartbeat: c.Heartbeat,
	}
	for _, p := range c.Peers {
		cc.Peers = append(cc.Peers, cluster.Peer{ID: p.ID, RaftAddr: p.Raft, HTTPAddr: p.HTTP, AgentAddr: p.Agents})
	}
	return cc
}
