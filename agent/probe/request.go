package probe

import (
	"bytes"
	"net/netip"
	"time"
)

// Class of a request by its path.
type Class uint8

// Classes. Only inference is users' work; the rest asks the engine about itself.
const (
	ClassOther Class = iota
	ClassInference
	ClassHealth
	ClassMetrics
	ClassModels
)

// Outcome of a request.
type Outcome uint8

// Outcomes.
const (
	// Completed: the answer came to its end, whatever it said, or to its [DONE].
	Completed Outcome = iota
	// AbortedByClient: the client closed its side of the connection, or reset it, before.
	AbortedByClient
	// AbortedByServer: the server did.
	AbortedByServer
	// Vanished: the connection was used anew, or was silent for longer than Config.SilenceLimit.
	Vanished
)

// String names the outcome as people write it.
func (o Outcome) String() string {
	return [...]string{"completed", "aborted by client", "aborted by server", "vanished"}[o]
}

// Request is one that has ended. Times that were not reached are zero. All times of one request are
// on one clock, so their differences are exact; as wall-clock times they are good to the
// millisecond.
type Request struct {
	Client, Server netip.AddrPort
	// Conn is unique to the connection while the observer runs; Number counts its requests from 1.
	Conn   uint64
	Number uint32

	Method string
	Class  Class
	Status int // of the final answer; 0: none

	Start      time.Time // first byte of the request line
	RequestEnd time.Time // last byte of the request's body
	FirstByte  time.Time // of the final answer
	FirstChunk time.Time // first part of the answer's body that is no comment and no bare event name
	Last       time.Time // last byte seen of the answer

	RequestBytes, ResponseBytes uint64 // of the bodies; what was announced, where it was cut short
	Parts                       uint32 // chunks of the answer's body; without chunked coding, segments
	Chunks                      uint32 // those with text, after comments, errors and [DONE]
	MaxGap                      time.Duration
	Stream                      bool // text/event-stream
	StreamError                 bool // an event told of an error, although the status is 200
	Done                        bool // data: [DONE] was seen
	Synthetic                   bool // our own: X-Perf-Synthetic
	Outcome                     Outcome
}

// TTFT is the time to the first part of the body; ok is false when there was none.
func (r *Request) TTFT() (d time.Duration, ok bool) {
	return r.FirstChunk.Sub(r.Start), !r.FirstChunk.IsZero()
}

// E2E is the time to the last byte of the answer; ok is false when it did not come to its end.
func (r *Request) E2E() (d time.Duration, ok bool) {
	return r.Last.Sub(r.Start), r.Outcome == Completed
}

// Failed says that the engine did not do what was asked, by its own fault or for lack of room.
func (r *Request) Failed() bool {
	return r.Outcome == AbortedByServer || r.Status >= 500 || r.Status == 429 || r.StreamError
}

// OpenRequest is a request that has not ended.
type OpenRequest struct {
	Client, Server netip.AddrPort
	Age            time.Duration
	// Answering: the first part of the body has come.
	Answering bool
	Class     Class
	Synthetic bool
}

// requestLine takes method and class from a request line that may be cut short.
func requestLine(line []byte) (method string, c Class) {
	verb, rest, _ := bytes.Cut(line, []byte{' '})
	path, _, _ := bytes.Cut(rest, []byte{' '})
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	if i := bytes.Index(path, []byte("://")); i >= 0 { // absolute form
		path = path[i+3:]
		path = path[max(0, bytes.IndexByte(path, '/')):]
	}
	return verbName(verb), classOf(verb, bytes.TrimRight(path, "\r\n"))
}

// verbName is a constant for the usual methods, so that a request costs no allocation.
func verbName(verb []byte) string {
	for _, known := range [...]string{"POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"} {
		if string(verb) == known {
			return known
		}
	}
	return "OTHER"
}

// classOf knows the paths of engines/*.md. What posts to an unknown path is taken for inference: new
// engine versions add such routes, and routes for operators mostly read.
func classOf(verb, path []byte) Class {
	switch string(path) {
	case "/health", "/health_generate", "/ping", "/live", "/ready", "/readyz", "/livez", "/healthz", "/info", "/version", "/server_info", "/get_server_info":
		return ClassHealth
	case "/metrics", "/load", "/v1/loads", "/get_load":
		return ClassMetrics
	case "/v1/models", "/models", "/model_info", "/get_model_info":
		return ClassModels
	case "/tokenize", "/detokenize", "/chat_tokenize", "/flush_cache", "/reset_prefix_cache", "/sleep", "/wake_up",
		"/start_profile", "/stop_profile", "/abort_request", "/pause_generation", "/continue_generation", "/shutdown":
		return ClassOther
	}
	if string(verb) == "POST" || string(verb) == "PUT" {
		return ClassInference
	}
	return ClassOther
}
