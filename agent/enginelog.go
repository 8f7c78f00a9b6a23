package main

import (
	"sync"

	"github.com/optiinfra/performance-agent/agent/probation"
	"github.com/optiinfra/performance-agent/pkg/engine"
)

// engineLog finds an engine's known failures in its log.
type engineLog struct {
	description func() *engine.Description // nil until the engine is described

	mu      sync.Mutex // guards what follows
	matcher *engine.Matcher
	of      *engine.Description // that matcher was made from
}

var _ probation.LogReader = (*engineLog)(nil)

// Fatal returns words for the first fatal line.
func (l *engineLog) Fatal(log string) string {
	for _, f := range l.failures(log) {
		if f.Fatal {
			return f.Words
		}
	}
	return ""
}

// Explain returns words for the most telling failure.
func (l *engineLog) Explain(log string) string {
	for _, f := range l.failures(log) {
		return f.Words
	}
	return ""
}

// Progress returns the steps of a start, in order.
func (l *engineLog) Progress(log string) []string {
	if m, _ := l.current(); m != nil {
		return m.Progress([]byte(log))
	}
	return nil
}

func (l *engineLog) failures(log string) []engine.Explained {
	if log == "" {
		return nil
	}
	m, d := l.current()
	switch {
	case m != nil:
		return m.Failures([]byte(log))
	case d != nil:
		return engine.Explain(d, []byte(log))
	}
	return nil
}

// current is the matcher of the engine as it is described now; nil when a pattern of it is broken, or
// when there is no description yet.
func (l *engineLog) current() (*engine.Matcher, *engine.Description) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.description()
	if d != nil && l.of != d {
		l.of = d
		l.matcher, _ = engine.NewMatcher(d)
	}
	if d == nil {
		return nil, nil
	}
	return l.matcher, d
}
