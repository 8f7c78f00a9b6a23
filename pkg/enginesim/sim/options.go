// Package sim holds what the simulated engines of all dialects share: the simulation's own options,
// the machine they pretend to run on, start-up time lines, helper processes, and the words that
// stand for tokens.
package sim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// Options are the simulation's own settings; the engine's flags are parsed by its dialect.
type Options struct {
	Dialect string
	Seed    uint64 // draws what the optimizer must not know
	GPU     string // name in perfmodel's table
	GPUs    int    // how many of them
	Model   string // name in perfmodel's table; what the engine is told to serve is only a name
	// StartScale multiplies start-up times. Serving is never scaled.
	StartScale float64
	// DrainPoll replaces the interval at which SGLang looks whether a drain is over.
	DrainPoll time.Duration
	Children  bool // spawn helper processes as the engine does
	Child     string
	Part      string // which part of the engine this process is; empty for the front process
	Faults    live.Faults
}

type list []string

func (l *list) String() string     { return fmt.Sprint(*l) }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// ParseOptions reads the options before "--" and returns them with the engine's own arguments.
func ParseOptions(args []string, stderr io.Writer) (Options, []string, error) {
	o := Options{}
	var faults list
	fs := flag.NewFlagSet("sim-engine", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "Usage: perf-agent sim-engine --dialect vllm|sglang|tgi [options] -- <the engine's own command line>")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.Dialect, "dialect", "", "engine to simulate: vllm, sglang or tgi")
	fs.Uint64Var(&o.Seed, "sim-seed", 1, "seed of hidden coefficients and noise")
	fs.StringVar(&o.GPU, "sim-gpu", "h100-sxm", "GPU to simulate")
	fs.IntVar(&o.GPUs, "sim-gpus", 8, "GPUs in the simulated node")
	fs.StringVar(&o.Model, "sim-model", "llama-3.1-8b", "model whose size and shape set the timing")
	fs.Float64Var(&o.StartScale, "sim-start-scale", 1, "scale of start-up times; serving is never scaled")
	fs.DurationVar(&o.DrainPoll, "sim-drain-poll", 5*time.Second, "how often SGLang checks whether its drain is over")
	fs.BoolVar(&o.Children, "sim-children", false, "spawn helper processes like the engine's")
	fs.StringVar(&o.Child, "sim-child", "", "internal: be such a helper process")
	fs.StringVar(&o.Part, "sim-part", "", "internal: be this part of the engine")
	fs.Var(&faults, "sim-fault", "planted fault: crash@N, hang@N (requests), slow@DURATION:FACTOR, nan, empty; repeatable")
	if err := fs.Parse(args); err != nil {
		return o, nil, err
	}
	var err error
	if o.Faults, err = live.ParseFaults(faults); err != nil {
		return o, nil, err
	}
	if o.StartScale < 0 || o.GPUs < 1 || o.DrainPoll <= 0 {
		return o, nil, errors.New("--sim-start-scale must be at least 0, --sim-gpus at least 1, --sim-drain-poll above 0")
	}
	return o, fs.Args(), nil
}
