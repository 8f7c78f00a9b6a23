package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/des"
	"github.com/optiinfra/performance-agent/pkg/workload"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// starts is how often each setting of startSettings is started.
const starts = 3

// startSettings are those that pkg/calibrate's constants are learned from. T6 evaluates none of them.
func startSettings(kind engine.Kind) []setting {
	s, budget := vllmSetting, "192"
	if kind == engine.SGLang {
		s = sglangSetting
	}
	return []setting{
		s("seqs6", "6", "2048", des.Config{MaxNumSeqs: 6, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs12", "12", "2048", des.Config{MaxNumSeqs: 12, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs24", "24", "2048", des.Config{MaxNumSeqs: 24, MaxBatchedTokens: 2048, PrefixCaching: true}),
		s("seqs12-budget192", "12", budget, des.Config{MaxNumSeqs: 12, MaxBatchedTokens: 192, PrefixCaching: true}),
	}
}

// startLoads are the traffic of each start: one like that which a calibration sees, and one that fills
// batches, with lengths and rates that T6 has not.
func startLoads(kind engine.Kind) []load {
	rate := 4.0
	if kind == engine.SGLang {
		rate = 2
	}
	return []load{
		{"steady", workload.Spec{
			Arrivals: workload.Arrivals{Rate: rate, CV: 1.5}, Prompt: between(16, 512), Output: between(8, 64), Count: liveRequests,
		}},
		{"swarm", workload.Spec{
			Arrivals: workload.Arrivals{Rate: 6, BatchMean: 12, BatchGap: 5 * time.Millisecond},
			Prompt:   between(24, 200), Output: between(24, 72), Duration: 12 * time.Second,
		}},
	}
}

// startsBar measures how much one start of an engine differs from the next. ENGINE names the engine.
// What is not recorded yet below RECORDINGS (.cache/t6/….starts) takes one to two minutes a start; ONLY=name,…
// records those and computes nothing.
func startsBar(ctx context.Context, _ string, out io.Writer) error {
	kind := engine.Kind(os.Getenv("ENGINE"))
	recipe, err := engine.Find(kind)
	if errors.Is(err, engine.ErrAbsent) {
		_, err = fmt.Fprintf(out, "BAR T6.starts skipped reason=%q\n", err)
		return err
	}
	if err != nil {
		return err
	}
	dir := os.Getenv("RECORDINGS")
	if dir == "" {
		dir = filepath.Join(".cache", "t6", fmt.Sprintf("%s-%s.starts", kind, engine.Versions[kind]))
	}
	only := os.Getenv("ONLY")
	for n := range starts {
		for _, s := range startSettings(kind) {
			name := fmt.Sprintf("%s-%d", s.name, n)
			if only == "" || slices.Contains(strings.Split(only, ","), name) {
				if err := recordStart(ctx, recipe, s, dir, name, startLoads(kind)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
