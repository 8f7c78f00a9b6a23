package main

import (
	"testing"
	"time"

	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/engine"
	"github.com/optiinfra/performance-agent/pkg/fleet"
)

func TestTrafficSample(t *testing.T) {
	var tr traffic
	if _, known := tr.Sample(time.Second); known {
		t.Error("known before the first window")
	}
	for i := range 20 {
		w := fleet.NewWindow("a/0", time.Unix(int64(i), 0))
		w.Counters[fleet.RequestsFinished], w.Counters[fleet.RequestsFailed] = 3, 1
		w.Counters[fleet.RequestsAborted], w.Counters[fleet.Preemptions] = 1, 2
		tr.add(w)
	}
	want := probation.Sample{Span: 10 * time.Second, Requests: 50, Errors: 10, Preemptions: 20}
	if got, known := tr.Sample(10 * time.Second); got != want || !known {
		t.Errorf("sample %+v, known %v; want %+v", got, known, want)
	}
	if len(tr.last) != keepWindows {
		t.Errorf("%d windows kept", len(tr.last))
	}
}

func TestEngineLog(t *testing.T) {
	d := &engine.Description{Failures: []*engine.FailureSignature{
		{Pattern: `bad flag (\S+)`, Words: "the flag $1 is not known"},
		{Pattern: `CUDA out of memory`, Words: "the GPU's memory is full", Fatal: true},
	}}
	var current *engine.Description
	l := &engineLog{description: func() *engine.Description { return current }}
	const log = "starting\nbad flag --x\nCUDA out of memory\n"
	if l.Fatal(log) != "" || l.Explain(log) != "" {
		t.Error("recognised before the engine was described")
	}
	current = d
	if got := l.Fatal(log); got != "the GPU's memory is full" {
		t.Errorf("fatal: %q", got)
	}
	if got := l.Explain(log); got != "the flag --x is not known" {
		t.Errorf("explained: %q", got)
	}
	if l.Fatal("all is well\n") != "" || l.Explain("") != "" {
		t.Error("found something in nothing")
	}
	current = &engine.Description{Failures: append(d.Failures, &engine.FailureSignature{Pattern: "("})}
	if got := l.Fatal(log); got != "the GPU's memory is full" {
		t.Errorf("with a broken signature beside it: %q", got)
	}
}
