package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/optiinfra/performance-agent/test/real/demo/story"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// realBar plays the loop on real engines, each mistake with one and with two replicas: on the engine
// that ENGINE names, else on both; of the mistake that SCENARIO names, else of all; with the REPLICAS
// asked for, else with one and with two. A story takes four minutes, of two replicas up to ten; they go
// to standard error.
func realBar(ctx context.Context, bin string, out io.Writer) error {
	kinds := []engine.Kind{engine.VLLM, engine.SGLang}
	if name := os.Getenv("ENGINE"); name != "" {
		kinds = []engine.Kind{engine.Kind(name)}
	}
	scenarios := story.Scenarios
	if name := os.Getenv("SCENARIO"); name != "" {
		scenarios = []string{name}
	}
	replicas := []int{1, 2}
	if text := os.Getenv("REPLICAS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("REPLICAS: %w", err)
		}
		replicas = []int{n}
	}
	var played []story.Report
	var faults []error
	for _, kind := range kinds {
		recipe, err := engine.Find(kind)
		if errors.Is(err, engine.ErrAbsent) {
			fmt.Fprintf(out, "BAR M1r.%s skipped reason=%q\n", kind, err)
			continue
		}
		if err != nil {
			return err
		}
		for _, scenario := range scenarios {
			for _, n := range replicas {
				r, err := story.Tell(ctx, recipe, story.Options{Bin: bin, Scenario: scenario, Replicas: n, Bad: story.NoBad, Out: os.Stderr})
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err = errors.Join(err, r.Verdict()); err != nil {
					faults = append(faults, fmt.Errorf("%s %s with %d replicas: %w", kind, scenario, n, err))
				}
				printReal(out, r)
				played = append(played, r)
			}
		}
	}
	printWorst(out, played)
	return errors.Join(faults...)
}

// printReal prints one story's lines. Goodput with the mistake is often nothing at all, so that its
// factor has no value; throughput's has.
func printReal(out io.Writer, r story.Report) {
	id := fmt.Sprintf("M1r.%s.%s.%d", r.Engine, r.Scenario, r.Replicas)
	fmt.Fprintf(out, "BAR %s value=%.2f unit=factor target>=3 of=throughput real=%s-%s e2e_p95_change=%.0f%% requests_per_s=%.1f->%.1f goodput_per_s=%.1f->%.1f e2e_p95_s=%.1f->%.1f lost=%d requests=%d predicted_within=%d/%d bad_flags=%q change=%q loop_s=%.0f\n",
		id, r.Factor(), r.Engine, r.Version, 100*r.E2EChange(), r.Before.RequestsPerSecond, r.After.RequestsPerSecond, r.Before.Good, r.After.Good,
		r.Before.E2EP95, r.After.E2EP95, r.Lost, r.Requests, r.Covered(), len(r.Compared), strings.Join(r.Flags, " "), r.Proposal, r.LoopSeconds)
	for _, c := range r.Compared {
		fmt.Fprintf(out, "BAR %s.%s value=%.4g unit=%s before=%.4g predicted=%.4g low=%.4g high=%.4g\n", id, c.Name, c.Obtained, c.Unit, c.Before, c.Predicted, c.Low, c.High)
	}
}

// printWorst prints the bar's own line: of all stories, the smallest factor of throughput.
func printWorst(out io.Writer, played []story.Report) {
	if len(played) == 0 {
		return
	}
	worst, reached, lost := played[0].Factor(), 0, 0
	for _, r := range played {
		worst, lost = min(worst, r.Factor()), lost+r.Lost
		reached += count(r.Verdict() == nil)
	}
	fmt.Fprintf(out, "BAR M1r value=%.2f unit=factor target>=3 of=throughput worst_of=%d reached=%d lost=%d\n", worst, len(played), reached, lost)
}
