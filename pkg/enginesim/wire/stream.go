package wire

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/live"
)

// Frames are the parts of one request's event stream, made once so that a token costs a copy.
type Frames struct {
	First string // events before the first token
	Head  string // begin of a token's event, up to its text
	Tail  string // its end
	// LastTail replaces Tail for the last token; End follows it, up to and with [DONE].
	LastTail func(finish string) string
	End      func(finish string) string
	// Token, if set, writes a whole token event instead of Head, text and Tail. last is "" except
	// for the last token, where it is the finish reason.
	Token func(b []byte, n int, text, last string) []byte
}

// Pace says how tokens are grouped into events.
type Pace struct {
	Interval  int           // tokens per event after the first; at least 1
	Single    bool          // one token per event, also when several are ready
	KeepAlive time.Duration // write a comment after this much silence; 0: never
}

// Answer is one generation on its way to the client.
type Answer struct {
	Call   *live.Call
	Finish string // why it ends when it ends by itself
	Word   func(n int) string
}

// Begin writes the headers of an event stream.
func Begin(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	h["Cache-Control"] = []string{"no-cache"}
	w.WriteHeader(http.StatusOK)
}

// Stream writes the answer's events until its end, and flushes once per delivery. The error is the
// client's leaving, or live.ErrStopped when the engine gave up; the stream then has no end.
func Stream(ctx context.Context, w http.ResponseWriter, a Answer, f Frames, p Pace) error {
	s := &stream{w: w, rc: http.NewResponseController(w), a: a, f: f, pace: p}
	var tick <-chan time.Time
	if p.KeepAlive > 0 {
		t := time.NewTicker(p.KeepAlive)
		defer t.Stop()
		tick = t.C
	}
	for {
		fresh, done, err := a.Call.Next(ctx, tick)
		if err != nil {
			return err
		}
		switch {
		case fresh > 0 || done:
			s.tokens(fresh, done)
			s.spoke = true
		case s.spoke:
			s.spoke = false // a tick soon after a token
			continue
		default:
			s.buf = append(s.buf, ":\n\n"...)
		}
		if err := s.flush(); err != nil || done {
			return err
		}
	}
}

type stream struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	a       Answer
	f       Frames
	pace    Pace
	buf     []byte
	text    strings.Builder
	sent    int // tokens written
	pending int // tokens ready but held back for the interval
	spoke   bool
}

// tokens turns newly ready tokens into events.
func (s *stream) tokens(fresh int, done bool) {
	if s.sent == 0 && s.pending == 0 {
		s.buf = append(s.buf, s.f.First...)
	}
	s.pending += fresh
	for s.pending > 0 {
		n := s.pending
		if s.pace.Single {
			n = 1
		}
		last := done && n == s.pending
		if s.sent > 0 && s.pending < s.pace.Interval && !done {
			return
		}
		s.event(n, last)
		s.pending -= n
	}
	if done {
		s.buf = append(s.buf, s.f.End(s.a.Finish)...)
	}
}

func (s *stream) event(n int, last bool) {
	s.text.Reset()
	for i := range n {
		s.text.WriteString(s.a.Word(s.sent + i))
	}
	s.sent += n
	if s.f.Token != nil {
		finish := ""
		if last {
			finish = s.a.Finish
		}
		s.buf = s.f.Token(s.buf, s.sent, s.text.String(), finish)
		return
	}
	s.buf = append(append(s.buf, s.f.Head...), s.text.String()...)
	if last {
		s.buf = append(s.buf, s.f.LastTail(s.a.Finish)...)
	} else {
		s.buf = append(s.buf, s.f.Tail...)
	}
}

func (s *stream) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	_, err := s.w.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return err
	}
	return s.rc.Flush()
}

// Collect waits for the whole answer and returns its text.
func Collect(ctx context.Context, a Answer) (string, error) {
	var text strings.Builder
	for n := 0; ; {
		fresh, done, err := a.Call.Next(ctx, nil)
		if err != nil {
			return "", err
		}
		for range fresh {
			text.WriteString(a.Word(n))
			n++
		}
		if done {
			return text.String(), nil
		}
	}
}

// JSON writes v with a status.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// Recorder remembers the status of an answer.
type Recorder struct {
	http.ResponseWriter
	Status int
}

// Record wraps w.
func Record(w http.ResponseWriter) *Recorder {
	return &Recorder{ResponseWriter: w, Status: http.StatusOK}
}

// WriteHeader implements http.ResponseWriter.
func (r *Recorder) WriteHeader(status int) {
	r.Status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the real writer.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
