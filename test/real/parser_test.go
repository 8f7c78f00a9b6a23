//go:build real

package real

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/optiinfra/performance-agent/test/real/engine"
)

// TestParser asks the engine's own argument parser for its options. The file of them, which the
// adapter's test compares the knob table with, must say the same.
func TestParser(t *testing.T) {
	r := recipe(t)
	out := filepath.Join(t.TempDir(), "options.json")
	python := filepath.Join(r.Cache, string(r.Kind), "bin", "python")
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("engines", "parser.py"), string(r.Kind), out)
	cmd.Env = r.Env(0)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("parser.py: %v\n%s", err, said)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "plugins", string(r.Kind), "testdata", fmt.Sprintf("parser-%s.json", engine.Versions[r.Kind]))
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the installed parser has other options than %s (-file +parser); -update writes it anew:\n%s", file, diff)
	}
}
