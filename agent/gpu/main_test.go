package gpu_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// parentEnv makes the test binary a process that follows the reader named, to be killed.
const parentEnv = "GPU_TEST_PARENT"

func TestMain(m *testing.M) {
	if path := os.Getenv(parentEnv); path != "" {
		os.Exit(playParent(path))
	}
	code := m.Run()
	cleanUp()
	os.Exit(code)
}

func playParent(path string) int {
	s, err := gpu.Child(path)(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b := make([]byte, 1<<16)
	for {
		n, err := s.Read(b)
		if err != nil {
			return 1
		}
		_, _ = os.Stdout.Write(b[:n]) // the test reads it
	}
}
