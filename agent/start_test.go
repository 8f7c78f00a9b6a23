package main

import (
	"slices"
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine"
)

// TestStartSteps: the log of a start is told in the words of the engine's own adapter, and of none
// before the engine is known.
func TestStartSteps(t *testing.T) {
	var current *engine.Description
	l := &engineLog{description: func() *engine.Description { return current }}
	const log = "INFO loading\nmodel took 3 seconds\nnoise\nserving now\n"
	if got := l.Progress(log); got != nil {
		t.Errorf("steps %q of an unknown engine", got)
	}
	current = &engine.Description{Progress: []*engine.ProgressPattern{
		{Pattern: `took (\d+) seconds`, Words: "weights loaded in $1 s"}, {Pattern: `^serving`, Words: "serving"},
	}}
	if got, want := l.Progress(log), []string{"weights loaded in 3 s", "serving"}; !slices.Equal(got, want) {
		t.Errorf("steps %q, want %q", got, want)
	}
}
