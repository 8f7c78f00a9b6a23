package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Failure classes. HTTP statuses other than 200 give "http_" and the status.
const (
	FailedNotReady   = "not_ready"    // no target became ready in time; nothing was sent
	FailedTooMany    = "too_many"     // Config.MaxInFlight requests were open; nothing was sent
	FailedConnect    = "connect"      // refused everywhere, reset or unreachable before an answer
	FailedStream     = "stream_error" // an error event or an abort inside a stream of status 200
	FailedCut        = "cut"          // the stream ended before its end
	FailedEmpty      = "empty"        // a complete stream without a token
	FailedTimeout    = "timeout"      // Config.Timeout
	FailedUnfinished = "unfinished"   // still open when the run gave up waiting
)

// Record is one finished request. Times not reached are zero.
type Record struct {
	Number   int       `json:"n"`
	Target   string    `json:"target,omitempty"`
	Intended time.Time `json:"intended"`      // when it was due
	Sent     time.Time `json:"sent,omitzero"` // the last time, where it was sent again
	// FirstToken and LastToken are when the event with it had arrived.
	FirstToken time.Time `json:"first_token,omitzero"`
	LastToken  time.Time `json:"last_token,omitzero"`
	Done       time.Time `json:"done"`
	// GapsUS are the microseconds between events with tokens; an event may carry several tokens.
	GapsUS []int64 `json:"gaps_us,omitempty"`
	// PromptTokens and Tokens are the server's counts where it tells them; otherwise what was asked
	// for, and the number of events with tokens.
	PromptTokens int    `json:"prompt_tokens"`
	Tokens       int    `json:"tokens"`
	Status       int    `json:"status,omitempty"`
	Refused      int    `json:"refused,omitempty"` // ready targets that took no connection, before this one
	Failed       string `json:"failed,omitempty"`  // failure class, empty for a success
	Detail       string `json:"detail,omitempty"`
}

// TTFT is the time to first token from when the request was due.
func (r Record) TTFT() time.Duration { return r.FirstToken.Sub(r.Intended) }

// E2E is the time to the last token from when the request was due.
func (r Record) E2E() time.Duration { return r.LastToken.Sub(r.Intended) }

// TPOT is the mean time per output token after the first; ok is false for fewer than two tokens.
func (r Record) TPOT() (d time.Duration, ok bool) {
	if r.Tokens < 2 {
		return 0, false
	}
	return r.LastToken.Sub(r.FirstToken) / time.Duration(r.Tokens-1), true
}

// First notes that the first token, or what comes together with it, has arrived.
func (r *Record) First(at time.Time) {
	if r.FirstToken.IsZero() {
		r.FirstToken, r.LastToken = at, at
	}
}

// Token notes that an event with tokens has arrived.
func (r *Record) Token(at time.Time) {
	r.First(at)
	if r.Tokens > 0 {
		r.GapsUS = append(r.GapsUS, at.Sub(r.LastToken).Microseconds())
	}
	r.LastToken = at
}

// Fail notes the class of a failure and a detail in words; both empty take it back.
func (r *Record) Fail(class, detail string) { r.Failed, r.Detail = class, detail }

// Log writes records as JSON lines, each at once, so that others can follow the file. It is safe
// for concurrent use.
type Log struct {
	mu  sync.Mutex // guards all below
	w   io.Writer
	err error
}

// NewLog returns a log that writes to w.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// Add writes one line. After the first error it writes nothing more; Err tells that error.
func (l *Log) Add(r Record) {
	b, err := json.Marshal(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	if err == nil {
		_, err = l.w.Write(append(b, '\n'))
	}
	if err != nil {
		l.err = fmt.Errorf("write record %d: %w", r.Number, err)
	}
}

// Err is what kept the log from being complete.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// ReadRecords reads what a Log wrote. A last line without its end is left out: it is being written.
func ReadRecords(from io.Reader) ([]Record, error) {
	var records []Record
	r := bufio.NewReader(from)
	for line := 1; ; line++ {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return records, fmt.Errorf("read records: %w", err)
		}
		var rec Record
		if err := json.Unmarshal(b, &rec); err != nil {
			return records, fmt.Errorf("record in line %d: %w", line, err)
		}
		records = append(records, rec)
	}
}
