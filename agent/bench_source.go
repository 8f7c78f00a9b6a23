package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/optiinfra/performance-agent/agent/loadtest"
	"github.com/optiinfra/performance-agent/pkg/workload"
)

// trafficOptions say which traffic to send.
type trafficOptions struct {
	workload                         string
	trace, prompts                   string
	rate, scale                      float64
	promptTokens, outputTokens       int
	maxPromptTokens, maxOutputTokens int
	sharedGroups, sharedTokens       int
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
	prompts, err := readPrompts(o.prompts)
	if err != nil {
		return nil, err
	}
	return &replay{trace: workload.Scale(trace, o.scale), prompts: prompts, options: o}, nil
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
	if o.sharedGroups > 0 {
		spec.Shared = workload.Shared{Groups: o.sharedGroups, Tokens: o.sharedTokens, Share: 1}
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

// written is a prompt that somebody wrote, in the form that vllm bench serve calls custom.
type written struct {
	Prompt       string `json:"prompt"`
	OutputTokens int    `json:"output_tokens"`
}

// readPrompts reads one prompt a line; without a file there are none.
func readPrompts(file string) (prompts []written, err error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read prompts: %w", err)
	}
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		var w written
		switch err := d.Decode(&w); {
		case errors.Is(err, io.EOF) && len(prompts) > 0:
			return prompts, nil
		case err != nil:
			return nil, fmt.Errorf("prompt %d of %s: %w", len(prompts)+1, file, err)
		case w.Prompt == "":
			return nil, fmt.Errorf("prompt %d of %s is empty", len(prompts)+1, file)
		}
		prompts = append(prompts, w)
	}
}

// replay yields a trace, with prompts in turn where there are any.
type replay struct {
	trace   []workload.Request
	prompts []written
	options trafficOptions
	next    int
}

// Next implements loadtest.Source.
func (r *replay) Next() (loadtest.Request, bool) {
	if r.next >= len(r.trace) {
		return loadtest.Request{}, false
	}
	w := r.trace[r.next]
	q := loadtest.Of(w)
	if len(r.prompts) > 0 {
		p := r.prompts[r.next%len(r.prompts)]
		q.Prompt = p.Prompt
		if p.OutputTokens > 0 {
			q.OutputTokens = p.OutputTokens
		}
	}
	r.next++
	q.PromptTokens = atMost(q.PromptTokens, r.options.maxPromptTokens)
	q.OutputTokens = atMost(q.OutputTokens, r.options.maxOutputTokens)
	return q, true
}

// atMost limits n; a limit of zero is none.
func atMost(n, limit int) int {
	if limit > 0 {
		return min(n, limit)
	}
	return n
}
