// Package engine starts the real engines whose Python environments `make real-vllm` and
// `make real-sglang` set up: the command lines and environments that work on a CPU with the tiny
// random-weight model, and processes that leave nothing behind.
package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Kind of engine.
type Kind string

// The engines that run here.
const (
	VLLM   Kind = "vllm"
	SGLang Kind = "sglang"
)

// Model is the name under which the tiny model is served.
const Model = "tiny"

// Versions that the locks install.
var Versions = map[Kind]string{VLLM: "0.32.0", SGLang: "0.5.23"}

// ErrAbsent says that an environment is not set up; its text says how to make it.
var ErrAbsent = errors.New("not set up")

// Recipe starts one kind of engine.
type Recipe struct {
	Kind  Kind
	Cache string // folder that holds the environments and the model
}

// Find looks for the environment of kind in PERF_REAL, or in .cache/real of the checkout that the
// working folder belongs to. The error is ErrAbsent where it is not set up.
func Find(kind Kind) (Recipe, error) {
	cache := os.Getenv("PERF_REAL")
	if cache == "" {
		root, err := checkout()
		if err != nil {
			return Recipe{}, err
		}
		cache = filepath.Join(root, ".cache", "real")
	}
	if _, err := os.Stat(filepath.Join(cache, string(kind)+".stamp")); err != nil {
		return Recipe{}, fmt.Errorf("the environment of %s is %w: run `make real-%s`", kind, ErrAbsent, kind)
	}
	return Recipe{Kind: kind, Cache: cache}, nil
}

// checkout is the folder above the working folder that holds go.mod.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the checkout: no go.mod above the working folder; set PERF_REAL to the folder of the environments")
		}
	}
}

// Python is the environment's interpreter.
func (r Recipe) Python() string {
	return filepath.Join(r.Cache, string(r.Kind), "bin", "python")
}

// ModelPath is the folder of the tiny model.
func (r Recipe) ModelPath() string { return filepath.Join(r.Cache, "tinymodel") }

// Argv is the engine's command line on a loopback port, with further flags after the recipe's own:
// where a flag is given twice, both engines obey the last.
func (r Recipe) Argv(port int, flags ...string) []string {
	var argv []string
	switch r.Kind {
	case VLLM:
		argv = []string{
			filepath.Join(r.Cache, "vllm", "bin", "vllm"), "serve", r.ModelPath(),
			"--served-model-name", Model, "--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager",
		}
	case SGLang:
		argv = []string{
			r.Python(), "-m", "sglang.launch_server", "--model-path", r.ModelPath(),
			"--served-model-name", Model, "--load-format", "dummy", "--dtype", "bfloat16", "--device", "cpu",
			"--attention-backend", "torch_native", "--sampling-backend", "pytorch", "--grammar-backend", "none",
			"--enable-metrics", "--max-total-tokens", "65536", "--context-length", "2048", "--sleep-on-idle",
		}
	}
	argv = append(argv, "--host", "127.0.0.1", "--port", strconv.Itoa(port))
	return append(argv, flags...)
}

// Env is the engine's environment: the caller's, less what would mislead the engine, plus what a
// CPU start needs. core is the processor that vLLM's worker runs on; SGLang uses one thread on any.
func (r Recipe) Env(core int) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name == "PYTHONDONTWRITEBYTECODE" || name == "PYTHONPATH" || name == "VLLM_PORT" || strings.HasPrefix(name, "PYENV") {
			continue
		}
		env = append(env, kv)
	}
	env = append(env, "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "DO_NOT_TRACK=1")
	switch r.Kind {
	case VLLM:
		env = append(env, "VLLM_NO_USAGE_STATS=1", "VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND="+strconv.Itoa(core))
	case SGLang:
		env = append(env, "SGLANG_USE_CPU_ENGINE=1", "OMP_NUM_THREADS=1", "PYTHONPATH="+filepath.Join(r.Cache, "sglang", "stand-in"))
	}
	return env
}
