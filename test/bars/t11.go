package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/optiinfra/performance-agent/controlplane/analysis"
	"github.com/optiinfra/performance-agent/test/real/engine"
)

// cause is one thing done to an engine, and the class that a diagnosis should name for it. The
// label is that of the fault whose removal gives most of the objective back; it was written before
// any figure was seen.
type cause struct {
	name    string
	want    analysis.Class
	because string
	session string // engine that it is recorded on
	// learned are the intensities that thresholds were looked at with, scored those of the bar.
	learned, scored []float64
}

// healthy is the name of the cause that is none.
const healthy = "healthy"

// causes, in the order in which a session goes through them.
var causes = []cause{
	{
		name: healthy, want: analysis.None, session: "base",
		because: "nothing is done; intensity: requests per second",
		learned: []float64{2, 3.5}, scored: []float64{2.5, 4, 3, 2.2},
	},
	{
		name: "cpu_quota", want: analysis.HostBound, session: "base",
		because: "class 6: the engine's processes are kept from a core they could use; intensity: share of a core",
		learned: []float64{0.45, 0.3}, scored: []float64{0.4, 0.25, 0.5, 0.35},
	},
	{
		name: "long_prompts", want: analysis.LongPromptInterference, session: "base",
		because: "class 13: rare prompts of thousands of tokens stall the others' decoding; intensity: tokens of the long ones",
		learned: []float64{2000, 3000}, scored: []float64{2500, 3400, 2200, 2800},
	},
	{
		name: "prefix_churn", want: analysis.PrefixMisses, session: "base",
		because: "class 10: the same traffic with more different beginnings than the cache holds; intensity: beginnings",
		learned: []float64{60, 90}, scored: []float64{75, 120, 70, 100},
	},
	{
		name: "pauses", want: analysis.FailSlow, session: "base",
		because: "class 17: engine core and worker are stopped for moments, for no visible cause in quota, load or clocks; intensity: seconds out of two",
		learned: []float64{0.6, 1}, scored: []float64{0.5, 0.8, 0.7, 0.9},
	},
	{
		name: "noisy_neighbour", want: analysis.HostBound, session: "base",
		because: "class 6: another process takes the engine's core, a faster or own core is the remedy; intensity: busy processes on it",
		learned: []float64{1, 3}, scored: []float64{2, 4, 6, 5},
	},
	{
		name: "burst", want: analysis.QueueBound, session: "base",
		because: "class 1: for a while more arrives than any setting could serve; intensity: requests per second",
		learned: []float64{40, 60}, scored: []float64{50, 35, 45, 55},
	},
	{
		name: "slow_client", want: analysis.NetworkOrClient, session: "base",
		because: "class 12: the engine has answered long before its clients have read; intensity: bytes a client reads per second",
		learned: []float64{800, 1500}, scored: []float64{1000, 600, 1200, 700},
	},
	{
		name: "kv_small", want: analysis.KVBound, session: "kv_small",
		because: "class 5: running requests outgrow the cache and are preempted; intensity: requests per second",
		learned: []float64{4, 7}, scored: []float64{5, 6, 4.5, 8},
	},
	{
		name: "tiny_batch", want: analysis.BatchLimited, session: "tiny_batch",
		because: "class 2: two sequences run, others wait, the cache is empty; intensity: requests per second",
		learned: []float64{4, 8}, scored: []float64{5, 6, 7, 4.5},
	},
	{
		name: "oversized_batch", want: analysis.KVBound, session: "oversized_batch",
		because: "class 5: more sequences than the cache can hold at their length; its remedy is fewer sequences; intensity: requests per second",
		learned: []float64{8, 14}, scored: []float64{10, 12, 9, 16},
	},
	{
		name: "cold_start", want: analysis.ColdStart, session: "cold_start",
		because: "class 18: requests came while the engine was starting; intensity: requests per second",
		learned: []float64{2, 4}, scored: []float64{3, 2.5, 3.5, 4.5},
	},
	{
		name: "log_stats_off", want: analysis.NotEnoughData, session: "log_stats_off",
		because: "no class: the engine tells nothing of itself, and the answer must name the flag; intensity: requests per second",
		learned: []float64{2, 4}, scored: []float64{3, 2.5, 3.5, 4.5},
	},
}

// diagnosisOptions are the bar's environment.
type diagnosisOptions struct {
	kind    engine.Kind
	dir     string // folder of recordings: what is missing there is recorded first
	learn   bool   // use the intensities for thresholds
	repeats int
	only    string // record this session alone and judge nothing
	core    int    // for the engine's worker
	port    int
}

func diagnosisOptionsFromEnv() (o diagnosisOptions, err error) {
	number := func(name string, fallback int) int {
		text := os.Getenv(name)
		if text == "" {
			return fallback
		}
		v, convErr := strconv.Atoi(text)
		if convErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, convErr))
		}
		return v
	}
	o = diagnosisOptions{
		kind: engine.Kind(os.Getenv("ENGINE")), dir: os.Getenv("RECORDINGS"), only: os.Getenv("ONLY"),
		learn: os.Getenv("LEARN") != "", repeats: number("REPEATS", 2), core: number("CORE", 0), port: number("ENGINE_PORT", 0),
	}
	if o.dir == "" {
		set := "scored"
		if o.learn {
			set = "learn"
		}
		o.dir = filepath.Join(".cache", "t11", set)
	}
	return o, err
}

// diagnosisBar measures how often the diagnosis names the cause that was injected into a real engine.
// The faults are made with vLLM's flags, so that it is the engine. What is not recorded yet takes
// half a minute a span.
func diagnosisBar(ctx context.Context, bin string, out io.Writer) error {
	o, err := diagnosisOptionsFromEnv()
	if err != nil {
		return err
	}
	if o.kind != engine.VLLM {
		return fmt.Errorf("say ENGINE=vllm: the faults are injected into a real vLLM, not into %q", o.kind)
	}
	if err := record(ctx, o, bin); err != nil {
		if errors.Is(err, engine.ErrAbsent) {
			_, err = fmt.Fprintf(out, "BAR T11 skipped reason=%q\n", err)
		}
		return err
	}
	if o.only != "" {
		return nil
	}
	return judge(ctx, o, bin, out)
}
