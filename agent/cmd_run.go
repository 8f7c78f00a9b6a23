package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/optiinfra/performance-agent/agent/probe"
)

func newRunCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Look after one engine (sidecar) or several (node agent)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return run(ctx, cfg, newLogger(cfg.LogLevel))
		},
	}
	o.bind(cmd)
	return cmd
}

// runOptions are the flags of run and doctor; a flag that was given wins over file and environment.
type runOptions struct {
	file, agentID, dataDir, listen, logLevel, wire, gpu string
	controlPlane                                        []string
	name, engineURL, engine, group, launcher, hardware  string
	pluginsDir, pluginsManifest, pluginsKey             string
	allowUnsigned                                       bool
}

func (o *runOptions) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.file, "config", "", "configuration file (YAML)")
	f.StringVar(&o.engineURL, "engine-url", "", "URL of the only engine")
	f.StringVar(&o.engine, "engine", "", "adapter of the only engine; empty: find out")
	f.StringVar(&o.name, "engine-name", "", "name of the only engine")
	f.StringVar(&o.group, "group", "", "group of the only engine")
	f.StringVar(&o.hardware, "hardware", "", "hardware class of the only engine; empty: what NVML says")
	f.StringVar(&o.launcher, "launcher", "", "launcher socket of the only engine")
	f.StringSliceVar(&o.controlPlane, "control-plane", nil, "agent ports of control-plane nodes, host:port")
	f.StringVar(&o.agentID, "agent-id", "", "identity; empty: drawn once and kept")
	f.StringVar(&o.dataDir, "data-dir", "", "folder for identity and journals")
	f.StringVar(&o.listen, "listen", "", "address of /ready, /live, /status and /metrics")
	f.StringVar(&o.wire, "wire", "", "see requests on the wire by eBPF: auto, packet, cgroup or off")
	f.StringVar(&o.gpu, "gpu", "", "read GPUs: auto or off")
	f.StringVar(&o.logLevel, "log-level", "", "debug, info, warn or error")
	o.bindPlugins(f)
}

func (o *runOptions) bindPlugins(f *pflag.FlagSet) {
	f.StringVar(&o.pluginsDir, "plugins-dir", "", "folder of engine adapters")
	f.StringVar(&o.pluginsManifest, "plugins-manifest", "", "signed list of engine adapters")
	f.StringVar(&o.pluginsKey, "plugins-public-key", "", "key that signed the list; empty: the built-in one")
	f.BoolVar(&o.allowUnsigned, "allow-unsigned-plugins", false, "run adapters unverified where there is no key")
}

// applyPlugins sets what flags say of the plugins.
func (o *runOptions) applyPlugins(cmd *cobra.Command, cfg *Config) {
	set(&cfg.Plugins.Dir, o.pluginsDir)
	set(&cfg.Plugins.Manifest, o.pluginsManifest)
	set(&cfg.Plugins.PublicKey, o.pluginsKey)
	if cmd.Flags().Changed("allow-unsigned-plugins") {
		cfg.Plugins.AllowUnsigned = o.allowUnsigned
	}
}

// config is the whole configuration, validated.
func (o *runOptions) config(cmd *cobra.Command) (Config, error) {
	cfg, err := LoadConfig(o.file)
	if err != nil {
		return cfg, err
	}
	set(&cfg.AgentID, o.agentID)
	set(&cfg.DataDir, o.dataDir)
	set(&cfg.Listen, o.listen)
	set(&cfg.LogLevel, o.logLevel)
	set(&cfg.GPU, o.gpu)
	if o.wire != "" {
		cfg.Wire = probe.Mode(o.wire)
	}
	if len(o.controlPlane) > 0 {
		cfg.ControlPlane = o.controlPlane
	}
	o.applyPlugins(cmd, &cfg)
	if err := o.applyEngine(&cfg); err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

// applyEngine sets what flags say of the only engine.
func (o *runOptions) applyEngine(cfg *Config) error {
	if o.engineURL+o.engine+o.group+o.launcher+o.hardware+o.name == "" {
		return nil
	}
	switch len(cfg.Engines) {
	case 0:
		cfg.Engines = []Engine{defaultEngine()}
	case 1:
	default:
		return errors.New("the flags for one engine cannot be used with a file that lists several")
	}
	e := &cfg.Engines[0]
	set(&e.URL, o.engineURL)
	set(&e.Engine, o.engine)
	set(&e.Group, o.group)
	set(&e.Launcher, o.launcher)
	set(&e.Hardware, o.hardware)
	set(&e.Name, o.name)
	return nil
}

func set(field *string, flag string) {
	if flag != "" {
		*field = flag
	}
}

// run is the life of a sidecar or node agent.
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s, which readiness needs: %w; set listen to a free address", cfg.Listen, err)
	}
	defer listener.Close()
	host, err := newAdapters(cfg, log)
	if err != nil {
		return err
	}
	defer func() { _ = host.Close() }() // it has nothing to report
	a, err := newAgent(cfg, dir, host, log)
	if err != nil {
		return err
	}
	if len(cfg.ControlPlane) == 0 {
		log.Warn("no control plane is configured: engines are observed and guarded, and nothing is tuned")
	}
	log.Info("perf-agent runs", "agent", a.id, "engines", len(a.instances), "listen", listener.Addr().String(), "data_dir", cfg.DataDir)
	return a.run(ctx, listener)
}
