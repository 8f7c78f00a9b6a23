// Command demo shows the whole loop on one real engine: documented bad flags, open-loop load, an
// unattended workflow that finds what is wrong, proposes, applies, verifies and promotes, and a bad
// proposal that is taken back. It tells what happens, leaves a report and ends by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/optiinfra/performance-agent/test/real/engine"
)

func main() {
	var o options
	kind := flag.String("engine", "vllm", "vllm or sglang")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&o.scenario, "scenario", "sequences", "the mistake: sequences, prefix or budget")
	flag.IntVar(&o.replicas, "replicas", 1, "1 or 2")
	flag.StringVar(&o.bad, "bad", "refused", "bad proposals planted at the end: refused by the engine, slower, both or none")
	flag.StringVar(&o.report, "report", "", "write the report as JSON to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	recipe, err := engine.Find(engine.Kind(*kind))
	if errors.Is(err, engine.ErrAbsent) {
		fmt.Println("demo-real skipped:", err)
		return
	}
	if err == nil {
		err = tell(ctx, recipe, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-real:", err)
		os.Exit(1)
	}
}
