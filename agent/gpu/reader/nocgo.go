//go:build !cgo

package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/optiinfra/performance-agent/agent/gpu"
)

// main of a build without cgo, which cannot load NVML: it says so.
func main() {
	_ = json.NewEncoder(os.Stdout).Encode(gpu.Record{ // nobody listens: nothing is lost
		Version: gpu.FormatVersion, State: gpu.Unusable, At: time.Now(),
		Problem: "this perf-gpu was built without cgo and cannot load NVML: build it with gcc and CGO_ENABLED=1",
	})
	os.Exit(gpu.ExitUnusable)
}
