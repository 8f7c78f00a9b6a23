//go:build real

package real

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/optiinfra/performance-agent/test/real/engine"
)

// kind of engine that ENGINE names.
func kind(t testing.TB) engine.Kind {
	t.Helper()
	switch k := engine.Kind(os.Getenv("ENGINE")); k {
	case engine.VLLM, engine.SGLang:
		return k
	default:
		t.Fatalf("ENGINE is %q: say vllm or sglang", k)
		return ""
	}
}

// only skips a test that is about another kind of engine.
func only(t testing.TB, want engine.Kind) {
	t.Helper()
	if k := kind(t); k != want {
		t.Skipf("this is about %s, the engine is %s", want, k)
	}
}

// recipe of the engine under test; skips where it is not set up.
func recipe(t testing.TB) engine.Recipe {
	t.Helper()
	r, err := engine.Find(kind(t))
	if errors.Is(err, engine.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs an engine until the test ends and waits until it serves.
func start(t testing.TB, o engine.Options) *engine.Process {
	t.Helper()
	p, err := recipe(t).Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the engine's last lines:\n%s", p.Tail(3000))
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// bin is the folder with the product's programs.
func bin(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("PERF_BIN")
	if dir == "" {
		t.Fatal("PERF_BIN is not set: run `make e2e-vllm` or `make e2e-sglang`")
	}
	return dir
}

func TestMain(m *testing.M) {
	if os.Getenv("ENGINE") == "" {
		fmt.Fprintln(os.Stderr, "say which engine: ENGINE=vllm or ENGINE=sglang")
		os.Exit(2)
	}
	os.Exit(m.Run())
}
