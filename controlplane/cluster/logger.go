package cluster

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter bounds how often one message of Raft's is passed on: it repeats some at every
// heartbeat for as long as a server is down.
const repeatAfter = 10 * time.Second

// sink passes Raft's warnings and errors on. What it says below that level is either logged by us
// in our own words (who leads, who joined) or only of use to its developers.
type sink struct {
	logger *slog.Logger

	mu   sync.Mutex // guards said
	said map[string]*repetition
}

type repetition struct {
	at         time.Time
	suppressed int
}

func raftLogger(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: io.Discard})
	l.RegisterSink(&sink{logger: logger.With("part", "raft"), said: map[string]*repetition{}})
	return l
}

// Accept implements hclog.SinkAdapter.
func (s *sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < hclog.Warn {
		return
	}
	suppressed, due := s.due(msg, time.Now())
	if !due {
		return
	}
	to := slog.LevelWarn
	if level >= hclog.Error {
		to = slog.LevelError
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = f[0]
		}
	}
	if suppressed > 0 {
		args = append(args, "repeated", suppressed)
	}
	s.logger.Log(context.Background(), to, msg, args...)
}

// due tells whether a message may be passed on, and how many like it were not since the last one.
func (s *sink) due(msg string, now time.Time) (suppressed int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.said[msg]
	switch {
	case r == nil:
		s.said[msg] = &repetition{at: now}
		return 0, true
	case now.Sub(r.at) < repeatAfter:
		r.suppressed++
		return 0, false
	}
	suppressed, r.at, r.suppressed = r.suppressed, now, 0
	return suppressed, true
}
