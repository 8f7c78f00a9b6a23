package contract

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/enginesim"
)

// showIn is where to write what the simulated engines show.
var showIn = flag.String("show", "", "folder for the facts that the simulated engines show")

// TestSimulated plays the script to the simulated engines: they have to show what the real ones do,
// but for the known differences.
func TestSimulated(t *testing.T) {
	for _, kind := range []string{"vllm", "sglang", "tgi"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			seen := Play(t.Context(), simulated(t, kind))
			if *showIn != "" {
				if err := os.WriteFile(filepath.Join(*showIn, kind+".seen"), []byte(seen.Format()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := ReadGolden(filepath.Join("testdata", kind+".golden"))
			if err != nil {
				t.Fatal(err)
			}
			if kind == "tgi" { // written by hand: it knows less than the script asks
				seen = slices.DeleteFunc(seen, func(f Fact) bool { _, known := want.find(f.Step, f.Name); return !known })
			}
			for _, complaint := range Compare(want, seen, differences[kind]) {
				t.Error(complaint)
			}
		})
	}
}

// output collects what an engine prints.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// commands start the simulated engines as the real ones are started.
var commands = map[string]string{
	"vllm":   "vllm serve /models/tiny --served-model-name tiny --host 127.0.0.1 --enforce-eager --load-format dummy --dtype bfloat16",
	"sglang": "python -m sglang.launch_server --model-path /models/tiny --served-model-name tiny --host 127.0.0.1 --enable-metrics --context-length 2048 --max-total-tokens 65536 --disable-cuda-graph",
	"tgi":    "text-generation-launcher --model-id /models/tiny --hostname 127.0.0.1",
}

// startScale makes a start long enough for its states to be seen.
const startScale = "0.1"

func simulated(t *testing.T, kind string) Subject {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	ctx, terminate := context.WithCancel(t.Context())
	exited, code, out := make(chan struct{}), 0, &output{}
	argv := append(strings.Fields(commands[kind]), "--port", port)
	argv = append([]string{"--dialect", kind, "--sim-start-scale", startScale, "--sim-drain-poll", "500ms", "--"}, append(argv, Flags(kind)...)...)
	go func() {
		code = enginesim.Main(ctx, argv, out, out)
		close(exited)
	}()
	t.Cleanup(func() { terminate(); <-exited })
	return Subject{
		Kind: kind, URL: "http://127.0.0.1:" + port, Log: out.String, Terminate: terminate,
		Exited: exited, ExitCode: func() int { return code },
	}
}
