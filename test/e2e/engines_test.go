package e2e

import (
	"os"
	"slices"
	"strconv"
	"testing"
)

// TestOtherEngines rolls a setting out to each engine that is not vLLM, and kills the engine
// afterwards: what comes back is the promoted configuration.
func TestOtherEngines(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		dialect  string
		argv     func(port int) []string
		sim      []string
		settings map[string]string
		api      string
	}{
		{
			dialect: "sglang", sim: []string{"--sim-drain-poll", "200ms"}, settings: map[string]string{"max_running_requests": "48"}, api: "openai-completions",
			argv: func(port int) []string {
				return []string{"python", "-m", "sglang.launch_server", "--model-path", "llama-3.1-8b", "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--enable-metrics", "--max-running-requests", "32"}
			},
		},
		{
			dialect: "tgi", settings: map[string]string{"max_concurrent_requests": "256"}, api: "tgi-generate_stream",
			argv: func(port int) []string {
				return []string{"text-generation-launcher", "--model-id", "llama-3.1-8b", "--hostname", "127.0.0.1", "--port", strconv.Itoa(port)}
			},
		},
	} {
		t.Run(e.dialect, func(t *testing.T) {
			if _, err := os.Stat(program("plugins/perf-engine-" + e.dialect)); err != nil {
				t.Fatalf("the adapter is missing: %v", err)
			}
			w := newWorld(t, 1, map[string]string{"chat": patient + alone})
			r := w.add("chat-0", "chat")
			r.dialect, r.argv, r.sim, r.api = e.dialect, e.argv(r.port), e.sim, e.api
			w.startLauncher(r)
			w.startAgent(r, agentProgram)
			w.waitServing(r)
			roll := w.roll("chat", e.settings)
			roll = w.promote(roll.ID)
			w.waitServing(r)
			noneFailed(t, w.send(4, r).end())
			killEngine(w, r)
			outOfRotation(w, r)
			w.waitServing(r)
			if got, want := w.starts(r), []uint64{0, roll.Epoch, roll.Epoch}; !slices.Equal(got, want) {
				t.Errorf("epochs started: %v, want %v", got, want)
			}
		})
	}
}
