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

func (l *engineLog) failures(log string) []engine.Explained {
	if log == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.description()
	if d == nil {
		return nil
	}
	if l.of != d {
		l.of = d
		l.matcher, _ = engine.NewMatcher(d) // nil when a pattern is broken: then Explain skips it
	}
	if l.matcher == nil {
		return engine.Explain(d, []byte(log))
	}
	return l.matcher.Failures([]byte(log))
}
