package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/agent/gpu"
	"github.com/optiinfra/performance-agent/agent/launch"
	"github.com/optiinfra/performance-agent/agent/probation"
)

func newLaunchCommand() *cobra.Command {
	cfg := launch.Config{}
	grace, level := 75*time.Second, "info"
	killedIsClean, reader := false, ""
	cmd := &cobra.Command{
		Use:   "launch [flags] -- COMMAND [ARGUMENT…]",
		Short: "Start an engine, keep it running, and restart it when the sidecar asks",
		Long: `Start an engine and keep it running, as process 1 of its container or below a supervisor.

It works alone. A sidecar that shares the socket's folder may ask it to restart the engine with
other arguments; what was committed last is started again after a restart of the container.`,
		Example: "  perf-agent launch --socket /run/perf-agent/launch.sock -- vllm serve Qwen/Qwen3-8B",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if cmd.ArgsLenAtDash() != 0 {
				return errors.New("put -- before the engine's command: perf-agent launch [flags] -- vllm serve …")
			}
			if cfg.Socket == "" {
				cfg.Socket = filepath.Join(cfg.StateDir, "launch.sock")
			}
			cfg.Base = launch.Spec{Argv: argv, Fingerprint: probation.BaseFingerprint, Grace: grace, KilledIsClean: killedIsClean}
			if reader != "" {
				cfg.GPUReader = append([]string{reader}, gpu.ReaderArguments()...)
			}
			cfg.Logger = newLogger(level)
			code, err := launch.New(cfg).Run(cmd.Context())
			if err != nil {
				cfg.Logger.Error("the engine cannot be launched", "error", err)
			}
			if code != 0 {
				return exitCode(code)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Socket, "socket", os.Getenv("PERF_LAUNCHER_SOCKET"), "Unix socket for the sidecar (default: launch.sock in the state folder)")
	f.StringVar(&cfg.StateDir, "state-dir", "perf-launch-data", "folder kept across restarts of the container")
	f.IntVar(&cfg.CrashLimit, "crash-limit", 5, "exits nobody asked for within --crash-window that end the restarts")
	f.DurationVar(&cfg.CrashWindow, "crash-window", 5*time.Minute, "see --crash-limit")
	f.DurationVar(&cfg.BackoffMin, "backoff-min", time.Second, "wait before the first restart")
	f.DurationVar(&cfg.BackoffMax, "backoff-max", 30*time.Second, "longest wait before a restart")
	f.DurationVar(&cfg.ProbationWait, "probation-wait", 30*time.Second, "time a sidecar has to act when a configuration on trial ends by itself")
	f.DurationVar(&grace, "grace", grace, "time between SIGTERM and SIGKILL")
	f.BoolVar(&killedIsClean, "killed-is-clean", false, "the engine ends itself by SIGKILL after a clean stop")
	f.StringVar(&reader, "gpu-reader", orElse(os.Getenv("PERF_GPU_READER"), besideProgram("perf-gpu")), "program that reads this container's GPUs for the sidecar; empty: none")
	f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	return cmd
}
