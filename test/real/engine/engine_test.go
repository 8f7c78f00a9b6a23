package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFindSaysHowToSetUp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PERF_REAL", dir)
	_, err := Find(VLLM)
	if !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "make real-vllm") {
		t.Fatalf("error %v, want ErrAbsent naming the target", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vllm.stamp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(VLLM); err != nil {
		t.Fatal(err)
	}
}

func TestEnvDropsWhatMisleads(t *testing.T) {
	t.Setenv("VLLM_PORT", "tcp://10.0.0.1:8000") // a Kubernetes service called vllm sets this
	t.Setenv("PYTHONDONTWRITEBYTECODE", "1")
	for _, kind := range []Kind{VLLM, SGLang} {
		for _, kv := range (Recipe{Kind: kind, Cache: "/c"}).Env(1) {
			if strings.HasPrefix(kv, "VLLM_PORT=") || strings.HasPrefix(kv, "PYTHONDONTWRITEBYTECODE=") {
				t.Errorf("%s gets %s", kind, kv)
			}
		}
	}
	if !slices.Contains((Recipe{Kind: VLLM}).Env(1), "VLLM_CPU_OMP_THREADS_BIND=1") {
		t.Error("vLLM is not bound to the core asked for")
	}
}

func TestFlagsComeLast(t *testing.T) {
	argv := (Recipe{Kind: SGLang, Cache: "/c"}).Argv(9, "--max-total-tokens", "100")
	if got := argv[len(argv)-1]; got != "100" {
		t.Errorf("the last argument is %q, want the caller's", got)
	}
}
