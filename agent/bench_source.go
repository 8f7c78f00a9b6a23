package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// trafficOptions say which traffic to send.
type trafficOptions struct {
	workload                         string
	trace                            string
	rate, scale                      float64
	promptTokens, outputTokens       int
	maxPromptTokens, maxOutputTokens int
	duration                         time.Duration
	seed                             uint64
}

// poisson is the workload that the options describe themselves.
const poisson = "poisson"

// source generates or reads the whole traffic beforehand, so that sending it costs nothing.
func (o trafficOptions) source() (loadtest.Source, error) {
	if o.scale <= 0 {
		return nil, fmt.Errorf("--rate-scale %g is not above zero", o.scale)
	}
	trace, err := o.requests()
	if err != nil {
		return nil, err
	}
	return &replay{trace: workload.Scale(trace, o.scale), options: o}, nil
}

func (o trafficOptions) requests() ([]workload.Request, error) {
	if o.trace != "" {
		return readTrace(o.trace)
	}
	spec := workload.Spec{
		Arrivals: workload.Arrivals{Rate: o.rate},
		Prompt:   workload.Fixed(o.promptTokens), Output: workload.Fixed(o.outputTokens),
	}
	if o.workload != poisson {
		name := o.workload
		if name == "arxiv" {
			name = "arxiv-summary"
		}
		var err error
		if spec, err = workload.Named(name); err != nil {
			return nil, err
		}
	}
	if o.duration > 0 {
		spec.Duration = time.Duration(float64(o.duration) * o.scale) // scaling makes it shorter again
	}
	return workload.Generate(spec, o.seed)
}

// readTrace reads a file in one of the known formats, told by its name's ending.
func readTrace(file string) ([]workload.Request, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	defer f.Close()
	if filepath.Ext(file) == ".csv" {
		return workload.ReadAzureCSV(f)
	}
	return workload.ReadMooncakeJSONL(f)
}

// replay yields a trace.
type replay struct {
	trace   []workload.Request
	options trafficOptions
	next    int
}

// Next implements loadtest.Source.
func (r *replay) Next() (loadtest.Request, bool) {
	if r.next >= len(r.trace) {
		return loadtest.Request{}, false
	}
	w := r.trace[r.next]
	r.next++
	return loadtest.Request{
		Offset:       w.Offset,
		PromptTokens: atMost(w.PromptTokens, r.options.maxPromptTokens),
		OutputTokens: atMost(w.OutputTokens, r.options.maxOutputTokens),
	}, true
}

// atMost limits n; a limit of zero is none.
func atMost(n, limit int) int {
	if limit > 0 {
		return min(n, limit)
	}
	return n
}
