package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Programs under test; set by TestMain.
var bin string

func program(name string) string { return filepath.Join(bin, name) }

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	bin = os.Getenv("PERF_BIN")
	if bin == "" {
		dir, err := os.MkdirTemp("", "perf-e2e-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "folder for the programs:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
		bin = dir
	}
	for _, name := range []string{agentProgram, crashingAgent, controlProgram, "plugins/perf-engine-vllm"} {
		if _, err := os.Stat(program(name)); err != nil {
			fmt.Fprintf(os.Stderr, "a program is missing (make e2e builds them all): %v\n", err)
			return 1
		}
	}
	return m.Run()
}

// build makes the programs and signs the plugin with a key of this run, which the agents are told by
// the environment.
func build(dir string) error {
	key, pub := filepath.Join(dir, "key"), filepath.Join(dir, "key.pub")
	for _, cmd := range [][]string{
		{"go", "build", "-tags", "nomsgpack", "-o", filepath.Join(dir, agentProgram), "../../agent"},
		{"go", "build", "-tags", "nomsgpack,failpoint", "-o", filepath.Join(dir, crashingAgent), "../../agent"},
		{"go", "build", "-tags", "nomsgpack", "-o", filepath.Join(dir, controlProgram), "../../controlplane"},
		{"go", "build", "-tags", "nomsgpack", "-o", filepath.Join(dir, "plugins", "perf-engine-vllm"), "../../plugins/vllm"},
		{"go", "build", "-tags", "nomsgpack", "-o", filepath.Join(dir, "plugins", "perf-engine-sglang"), "../../plugins/sglang"},
		{"go", "build", "-tags", "nomsgpack", "-o", filepath.Join(dir, "plugins", "perf-engine-tgi"), "../../plugins/tgi"},
		{filepath.Join(dir, agentProgram), "plugins", "keygen", key, pub},
		{filepath.Join(dir, agentProgram), "plugins", "sign", "--key", key, "--dir", filepath.Join(dir, "plugins"), "--manifest", filepath.Join(dir, "plugins.manifest.json")},
	} {
		if err := command(cmd, "CGO_ENABLED=0"); err != nil {
			return err
		}
	}
	if _, err := exec.LookPath("gcc"); err == nil {
		cmd := []string{"go", "build", "-tags", "nomsgpack", "-ldflags", "-extldflags=-Wl,-z,lazy", "-o", filepath.Join(dir, gpuProgram), "../../agent/gpu/reader"}
		if err := command(cmd, "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations"); err != nil {
			return err
		}
	}
	return os.Setenv("PERF_PLUGINS_PUBLIC_KEY", pub)
}

func command(cmd []string, env ...string) error {
	c := exec.Command(cmd[0], cmd[1:]...)
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return nil
}
