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

	"github.com/optiinfra/performance-agent/test/real/demo/story"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

func main() {
	o := story.Options{Out: os.Stdout}
	kind := flag.String("engine", "vllm", "vllm or sglang")
	report := flag.String("report", "", "write the report as JSON to this file")
	flag.StringVar(&o.Bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&o.Scenario, "scenario", "sequences", "the mistake: sequences, prefix or budget")
	flag.IntVar(&o.Replicas, "replicas", 1, "1 or 2")
	flag.StringVar((*string)(&o.Bad), "bad", string(story.BadRefused), "bad proposals planted at the end: refused by the engine, slower, both or none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	recipe, err := engine.Find(engine.Kind(*kind))
	if errors.Is(err, engine.ErrAbsent) {
		fmt.Println("demo-real skipped:", err)
		return
	}
	if err == nil {
		err = run(ctx, recipe, o, *report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-real:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, recipe engine.Recipe, o story.Options, report string) error {
	r, err := story.Tell(ctx, recipe, o)
	if err != nil {
		return err
	}
	if report != "" {
		if err := r.Write(report); err != nil {
			return err
		}
	}
	return r.Verdict()
}
