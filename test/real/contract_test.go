//go:build real

package real

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/optiinfra/performance-agent/test/contract"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

var update = flag.Bool("update", false, "write what the real engine shows to the golden files of the contract and the adapters")

// TestContract plays the script to the real engine. What it shows is the golden file that the
// simulated one is held to, so it has to show it again.
func TestContract(t *testing.T) {
	k := kind(t)
	p, err := recipe(t).Start(engine.Options{Flags: contract.Flags(string(k))})
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
	seen := contract.Play(t.Context(), contract.Subject{
		Kind: string(k), URL: p.URL, Exited: p.Exited(), ExitCode: p.ExitCode,
		Log: func() string { return p.Tail(1 << 24) },
		Terminate: func() {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		},
	})
	file := filepath.Join("..", "contract", "testdata", string(k)+".golden")
	if *update {
		head := fmt.Sprintf("# What %s %s shows when the script of package contract is played to it: go test -tags real ./test/real/ -run TestContract -update\n", k, engine.Versions[k])
		if err := os.WriteFile(file, []byte(head+seen.Format()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := contract.ReadGolden(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range contract.Compare(want, seen, nil) {
		t.Error(complaint)
	}
}
