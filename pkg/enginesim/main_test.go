package enginesim

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// asEngine makes the test binary a sim-engine: its arguments follow.
const asEngine = "ENGINESIM_TEST_AS_ENGINE"

func TestMain(m *testing.M) {
	if os.Getenv(asEngine) != "" {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}
